//! Reads a link's counters of what it did not send; made to be read often: one request, and a few fields of the answer.

use std::io;

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::attributes::{HEADER, attributes, message_parts};

/// Bytes of an `ifinfomsg`.
const LINK_MESSAGE: usize = 16;
/// From `include/uapi/linux/rtnetlink.h`.
const GET_LINK: u16 = 18;
const NEW_LINK: u16 = 16;

/// Counters that change when a link has dropped something, or may have: if they are unchanged, it has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Flags of the link: up, running and others (`include/uapi/linux/if.h`).
    pub flags: u32,
    /// How often its carrier came or went. The kernel counts a change at once, and reports it later.
    pub carrier_changes: u32,
    /// It has a carrier.
    pub carrier: bool,
    /// Packets that its driver dropped or could not send.
    pub tx_dropped: u64,
    /// The same, counted as errors.
    pub tx_errors: u64,
}

/// Reads counters of links in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct CounterReader {
    socket: Socket,
    answer: Vec<u8>,
    sequence: u32,
}

impl CounterReader {
    /// Opens the socket. A read never waits: the kernel answers within the call that sends the request.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, answer: Vec::with_capacity(8192), sequence: 0 })
    }

    /// The counters of the link with this index; an error if it is gone or the kernel does not answer.
    pub fn read(&mut self, index: u32) -> io::Result<LinkCounters> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = [0; HEADER + LINK_MESSAGE];
        request[..4].copy_from_slice(&((HEADER + LINK_MESSAGE) as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&GET_LINK.to_ne_bytes());
        request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        request[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        request[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
        self.socket.send(&request, 0)?;
        loop {
            self.answer.clear();
            self.socket.recv(&mut self.answer, libc::MSG_DONTWAIT)?;
            // The answer to an earlier request that failed half-way may still be there.
            if self.answer.get(8..12) == Some(&self.sequence.to_ne_bytes()) {
                return parse(&self.answer, index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV));
            }
        }
    }
}

fn parse(bytes: &[u8], index: u32) -> Option<LinkCounters> {
    /// Attributes of `include/uapi/linux/if_link.h`, and the indices of fields in a `rtnl_link_stats64`.
    const STATISTICS: u16 = 23;
    const CARRIER: u16 = 33;
    const CARRIER_CHANGES: u16 = 35;
    const TX_ERRORS: usize = 5;
    const TX_DROPPED: usize = 7;
    let (kind, body, _) = message_parts(bytes)?;
    let word = |bytes: &[u8]| bytes.first_chunk().map(|field| u32::from_ne_bytes(*field));
    if kind != NEW_LINK || word(body.get(4..)?)? != index {
        return None;
    }
    let mut counters = LinkCounters { flags: word(body.get(8..)?)?, ..LinkCounters::default() };
    let mut found = 0;
    for (kind, data) in attributes(body.get(LINK_MESSAGE..)?) {
        match kind {
            STATISTICS => {
                let field = |at: usize| Some(u64::from_ne_bytes(data.get(8 * at..8 * at + 8)?.try_into().ok()?));
                (counters.tx_errors, counters.tx_dropped) = (field(TX_ERRORS)?, field(TX_DROPPED)?);
            }
            CARRIER => counters.carrier = *data.first()? != 0,
            CARRIER_CHANGES => counters.carrier_changes = word(data)?,
            _ => continue,
        }
        found += 1;
    }
    // A kernel that leaves a counter out cannot be trusted.
    (found == 3).then_some(counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::namespace::NetworkNamespace;
    use crate::io::netlink::Netlink;
    use std::net::UdpSocket;
    use std::process::Command;

    fn run(program: &str, arguments: &str) {
        let status = Command::new(program).args(arguments.split(' ')).status();
        let status = status.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install iproute2"));
        assert!(status.success(), "{program} {arguments}");
    }

    #[test]
    fn a_far_end_that_goes_down_is_counted_at_once() {
        let inside = || {
            for command in [
                "link set lo up",
                "link add owc0 type veth peer name owc1",
                "link set owc0 up",
                "link set owc1 up",
                "address add 10.98.0.1/24 dev owc0",
                "neighbor add 10.98.0.2 lladdr 02:00:00:00:00:02 dev owc0",
            ] {
                run("ip", command);
            }
            let index = Netlink::open().unwrap().link_index("owc0").unwrap();
            let mut reader = CounterReader::open().unwrap();
            let up = reader.read(index).unwrap();
            assert!(up.carrier && up.flags & libc::IFF_UP as u32 != 0, "{up:?}");
            let socket = UdpSocket::bind("10.98.0.1:0").unwrap();
            socket.send_to(&[0; 100], "10.98.0.2:9").unwrap();
            assert_eq!(reader.read(index).unwrap(), up, "a datagram that is sent changes nothing");
            run("ip", "link set owc1 down");
            let down = reader.read(index).unwrap();
            assert!(!down.carrier && down.carrier_changes == up.carrier_changes + 1, "{up:?} {down:?}");
            run("ip", "link set owc1 up");
            assert_eq!(reader.read(index).unwrap().carrier_changes, up.carrier_changes + 2);
            run("ip", "link del owc0");
            assert_eq!(reader.read(index).unwrap_err().raw_os_error(), Some(libc::ENODEV));
            let lo = Netlink::open().unwrap().link_index("lo").unwrap();
            assert!(reader.read(lo).unwrap().carrier);
        };
        NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
    }
}
