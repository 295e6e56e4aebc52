//! Echo requests (ICMP) that no router may fragment: whether a host answers, and packets of which sizes pass to it and
//! back.
//!
//! Where the system lets everybody ask (`net.ipv4.ping_group_range`), this needs no privilege; else `CAP_NET_RAW`. What
//! the answers mean is not decided here.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover, set_socket_recv_buffer_size,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use super::explain;

/// What became of the requests of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// Nothing came back in time.
    Silent,
    /// The device of this host refused the size.
    TooBig,
    /// At least one answer came.
    Came,
}

/// Bytes of an echo header.
const HEADER: usize = 8;

/// Sends `each` requests of each of `sizes`, in bytes of the whole IP packet, and waits until one of each size is
/// answered, at most for `patience`. `from` is the source address; with `None` the kernel chooses.
///
/// # Errors
/// This process may not send echo requests, or there is no route.
pub fn probe(
    to: IpAddr,
    from: Option<IpAddr>,
    sizes: &[u16],
    each: u16,
    patience: Duration,
) -> io::Result<BTreeMap<u16, Answer>> {
    let socket = EchoSocket::open(to, from)?;
    let mut answers: BTreeMap<u16, Answer> = sizes.iter().map(|size| (*size, Answer::Silent)).collect();
    let mut asked = Vec::new();
    let deadline = Instant::now() + patience;
    // Small ones first: they are what all else is compared with.
    for repeat in 0..each {
        for (size, answer) in &mut answers {
            match socket.send(asked.len() as u16, *size) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => *answer = Answer::TooBig,
                // What a router has said of an earlier request; and a full queue is no answer either.
                Err(error) if repeat > 0 || error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_of_the_path(&error) => {}
                Err(error) => return Err(explain(&error, format_args!("cannot send an echo request to {to}"))),
            }
            asked.push(*size);
        }
        socket.collect(&asked, &mut answers, deadline.min(Instant::now() + Duration::from_millis(1)));
    }
    socket.collect(&asked, &mut answers, deadline);
    Ok(answers)
}

/// Routers and hosts have said this of a request; later ones may pass.
fn is_of_the_path(error: &io::Error) -> bool {
    let said = [libc::EHOSTUNREACH, libc::ECONNREFUSED, libc::EPROTO, libc::EHOSTDOWN];
    error.raw_os_error().is_some_and(|code| said.contains(&code))
}

struct EchoSocket {
    socket: OwnedFd,
    is_v6: bool,
    /// Raw: this process makes the checksum of IPv4, and is given the headers of IPv4 and the answers of others too.
    is_raw: bool,
    ident: u16,
}

impl EchoSocket {
    fn open(to: IpAddr, from: Option<IpAddr>) -> io::Result<Self> {
        let is_v6 = to.is_ipv6();
        let (family, protocol) = match is_v6 {
            false => (AddressFamily::INET, ipproto::ICMP),
            true => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let open = |kind| rustix::net::socket_with(family, kind, flags, Some(protocol)).map_err(io::Error::from);
        let (socket, is_raw) = match open(SocketType::DGRAM) {
            Ok(socket) => (socket, false),
            Err(_) => {
                let advice = "this needs root, CAP_NET_RAW, or a group in `sysctl net.ipv4.ping_group_range`";
                (open(SocketType::RAW).map_err(|error| explain(&error, format_args!("{advice}")))?, true)
            }
        };
        // PROBE: no router fragments, and what the kernel remembers of the path does not matter.
        match is_v6 {
            false => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?,
            true => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?,
        }
        // Room for the answers to all requests at once.
        let _ = set_socket_recv_buffer_size(&socket, 1 << 20);
        if let Some(from) = from {
            rustix::net::bind(&socket, &SocketAddr::new(from, 0))
                .map_err(|error| explain(&error.into(), format_args!("cannot send from {from}")))?;
        }
        rustix::net::connect(&socket, &SocketAddr::new(to, 0))
            .map_err(|error| explain(&error.into(), format_args!("there is no route to {to}")))?;
        Ok(Self { socket, is_v6, is_raw, ident: std::process::id() as u16 })
    }

    fn send(&self, sequence: u16, size: u16) -> io::Result<()> {
        let ip_header = if self.is_v6 { 40 } else { 20 };
        let mut message = vec![0u8; usize::from(size).saturating_sub(ip_header).max(HEADER)];
        message[0] = if self.is_v6 { 128 } else { 8 };
        message[4..6].copy_from_slice(&self.ident.to_be_bytes());
        message[6..8].copy_from_slice(&sequence.to_be_bytes());
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let send = || rustix::net::send(&self.socket, &message, SendFlags::empty()).map(drop);
        // What a router has said of an earlier request is reported here too, once.
        Ok(send().or_else(|_| send())?)
    }

    /// Takes what comes until everything is answered or the deadline is there.
    fn collect(&self, asked: &[u16], answers: &mut BTreeMap<u16, Answer>, deadline: Instant) {
        let mut bytes = vec![0u8; 65_536];
        while answers.values().any(|answer| *answer == Answer::Silent) {
            match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((length, _)) => {
                    let size = self.sequence(&bytes[..length]).and_then(|at| asked.get(usize::from(at)));
                    if let Some(answer) = size.and_then(|size| answers.get_mut(size)) {
                        *answer = Answer::Came;
                    }
                }
                Err(rustix::io::Errno::AGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.is_readable(left) {
                        return;
                    }
                }
                // An error of the path, such as "fragmentation needed": each is reported once.
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return,
            }
        }
    }

    fn is_readable(&self, within: Duration) -> bool {
        let Ok(timeout) = Timespec::try_from(within) else { return false };
        let mut wanted = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut wanted, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    /// The number of the request that this answers, if it is one of ours.
    fn sequence(&self, packet: &[u8]) -> Option<u16> {
        let message = match self.is_raw && !self.is_v6 {
            true => packet.get(usize::from(packet.first()? & 0x0f) * 4..)?,
            false => packet,
        };
        let is_answer = *message.first()? == if self.is_v6 { 129 } else { 0 };
        let word = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
        // Without a raw socket the kernel sets the number of the asker, and delivers no other.
        let is_ours = !self.is_raw || word(4)? == self.ident;
        if is_answer && is_ours { word(6) } else { None }
    }
}

/// The internet checksum. The kernel makes that of IPv6, and of a socket that is not raw.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::namespace::NetworkNamespace;
    use std::process::Command;

    fn run(program: &str, arguments: &str) {
        let status = Command::new(program).args(arguments.split(' ')).status();
        let status = status.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install iproute2 procps"));
        assert!(status.success(), "{program} {arguments}");
    }

    #[test]
    fn the_checksum_of_a_message_with_its_checksum_is_zero() {
        let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 7, 0xff, 0xff, 1];
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&message), 0);
    }

    #[test]
    fn sizes_that_pass_are_answered_with_and_without_a_raw_socket() {
        for may_ask in [false, true] {
            let inside = || {
                run("ip", "link set lo mtu 1400 up");
                run("ip", "-6 address add fd97::1/128 dev lo nodad");
                if may_ask {
                    run("sysctl", "-qw net.ipv4.ping_group_range=0\t2147483647");
                }
                for to in ["127.0.0.1", "fd97::1"] {
                    let found =
                        probe(to.parse().unwrap(), None, &[1401, 100, 1400], 3, Duration::from_secs(5)).unwrap();
                    let wanted = [(100, Answer::Came), (1400, Answer::Came), (1401, Answer::TooBig)];
                    // A large packet of IPv6 that leaves in fragments would be answered too.
                    assert_eq!(found.into_iter().collect::<Vec<_>>(), wanted, "{to}, everybody may ask: {may_ask}");
                }
                let error = probe("192.0.2.1".parse().unwrap(), None, &[100], 1, Duration::from_secs(5)).unwrap_err();
                assert!(error.to_string().contains("no route"), "{error}");
            };
            NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
        }
    }

    #[test]
    fn a_host_that_does_not_answer_is_silent_within_the_time() {
        let inside = || {
            run("ip", "link add owe0 type veth peer name owe1");
            run("ip", "link set owe0 up");
            run("ip", "link set owe1 up");
            run("ip", "address add 10.97.0.1/24 dev owe0");
            run("ip", "neighbor add 10.97.0.2 lladdr 02:00:00:00:00:02 dev owe0");
            let begun = Instant::now();
            let found = probe("10.97.0.2".parse().unwrap(), None, &[100], 2, Duration::from_millis(200)).unwrap();
            assert_eq!(found[&100], Answer::Silent);
            assert!((200..5000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
        };
        NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
    }
}
