//! What local TCP sockets have been given to send, those of other programs too: one `sock_diag` dump, no privilege.
//!
//! It sees the network namespace of the calling thread and nothing of connections that have ended: what such a socket
//! had sent was acknowledged, or the connection failed. Knows neither flows nor what is protected.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::explain;
use crate::notify::tcp_info::{self, Written};

/// A local TCP socket that is, or was until just now, connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own address; an IPv4 address that is mapped into IPv6 is given as IPv4.
    pub local: SocketAddr,
    /// The other side's.
    pub remote: SocketAddr,
    /// The state of the connection.
    pub state: TcpState,
    /// What it has sent. `None`: the kernel has forgotten how much, because the other side has acknowledged all of it and
    /// the end too.
    pub sent: Option<Sent>,
}

/// Bytes of the stream toward the other side, counted from the beginning of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Written into the socket so far, sent or not; never less. While the end of a closed socket's stream waits to be sent it
    /// counts as one byte more, and so may the SYN after a send has failed on this host.
    pub written: u64,
    /// Acknowledged by the other side; never more, and one less while something is not acknowledged.
    pub acknowledged: u64,
}

/// The state of a connection, as in RFC 9293.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    CloseWait,
    LastAck,
    Closing,
}

impl TcpState {
    /// The kernel's numbers (`net/tcp_states.h`). Those left out have no stream toward the other side.
    const NUMBERS: [(u8, TcpState); 9] = [
        (1, TcpState::Established),
        (2, TcpState::SynSent),
        (3, TcpState::SynReceived),
        (4, TcpState::FinWait1),
        (5, TcpState::FinWait2),
        (6, TcpState::TimeWait),
        (8, TcpState::CloseWait),
        (9, TcpState::LastAck),
        (11, TcpState::Closing),
    ];

    /// Those with a stream toward the other side.
    fn all() -> StateFlags {
        TcpState::NUMBERS
            .iter()
            .fold(StateFlags::empty(), |all, (number, _)| all | StateFlags::from_bits_retain(1 << number))
    }

    fn from_kernel(number: u8) -> Option<TcpState> {
        TcpState::NUMBERS.iter().find(|(known, _)| *known == number).map(|(_, state)| *state)
    }
}

/// The kernel sends dumps in pieces of at most 32 KiB.
const ANSWER_BYTES: usize = 64 * 1024;

/// The TCP sockets of this network namespace whose other side `is_wanted`.
pub fn tcp_sockets(is_wanted: impl Fn(SocketAddr) -> bool) -> io::Result<Vec<TcpSocket>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(family as u8, &mut |response| {
            if let Some(socket) = describe(response)?
                && is_wanted(socket.remote)
            {
                found.push(socket);
            }
            Ok(())
        })
        .map_err(|error| explain(&error, format_args!("cannot ask the kernel for its TCP sockets")))?;
    }
    Ok(found)
}

fn dump(family: u8, take: &mut impl FnMut(&InetResponse) -> io::Result<()>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = 1;
    let request = InetRequest {
        family,
        protocol: libc::IPPROTO_TCP as u8,
        extensions: ExtensionFlags::INFO,
        states: TcpState::all(),
        // In a dump it names no socket.
        socket_id: if i32::from(family) == libc::AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    };
    let mut request = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        let mut rest = &answer[..];
        while let Some(length) = rest.first_chunk().map(|field| u32::from_ne_bytes(*field) as usize) {
            let cut = || invalid("the kernel's answer is cut");
            let message = rest.get(..length).filter(|message| message.len() >= 16).ok_or_else(cut)?;
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(message);
            match message.map_err(|error| invalid(&error.to_string()))?.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => take(&response)?,
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages are aligned to four bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// What is of interest of a socket; `None` for a state without a stream toward the other side.
fn describe(response: &InetResponse) -> io::Result<Option<TcpSocket>> {
    let header = &response.header;
    let Some(state) = TcpState::from_kernel(header.state) else {
        return Ok(None);
    };
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    });
    // A request to connect that no program has accepted; with TCP Fast Open a program may, and may have written.
    if info.is_none() && state == TcpState::SynReceived {
        return Ok(None);
    }
    let sent = match info {
        Some(info) => {
            // Its queue is read before the numbers.
            let Written { written, acknowledged, .. } = tcp_info::written_in(info, header.send_queue.into())?;
            Some(Sent { written, acknowledged })
        }
        None => None,
    };
    // What remains of a socket after its end was acknowledged has no numbers; everywhere else they must be there.
    if sent.is_none() && !matches!(state, TcpState::TimeWait | TcpState::FinWait2) {
        let text = "the kernel does not say how much a TCP socket has sent: Linux 4.19 or later is needed";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let id = &header.socket_id;
    let local = SocketAddr::new(id.source_address.to_canonical(), id.source_port);
    let remote = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
    Ok(Some(TcpSocket { local, remote, state, sent }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use netlink_packet_core::Parseable;

    use super::*;

    fn socket_of(local: SocketAddr, remote: SocketAddr) -> Option<TcpSocket> {
        let found = tcp_sockets(|it| it == remote).unwrap();
        found.into_iter().find(|socket| socket.local == local)
    }

    fn until<T>(mut check: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(value) = check() {
                return value;
            }
            assert!(Instant::now() < deadline, "not within ten seconds");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn every_byte_is_counted_sent_or_not_over_both_versions_and_mapped() {
        for (listen, dial) in [("127.0.0.1:0", None), ("[::1]:0", None), ("[::]:0", Some("::ffff:127.0.0.1"))] {
            let listener = TcpListener::bind(listen).unwrap();
            let at = listener.local_addr().unwrap();
            let at = dial.map_or(at, |ip: &str| SocketAddr::new(ip.parse().unwrap(), at.port()));
            let mut stream = TcpStream::connect(at).unwrap();
            let (mut other, _) = listener.accept().unwrap();
            let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
            let (local, remote) = (plain(stream.local_addr().unwrap()), plain(at));
            stream.write_all(b"hello").unwrap();
            let acknowledged = |count| {
                until(|| socket_of(local, remote).and_then(|it| it.sent).filter(|it| it.acknowledged == count));
            };
            acknowledged(5);
            stream.set_nonblocking(true).unwrap();
            let mut total = 5;
            while let Ok(count) = stream.write(&[7; 100_000]) {
                total += count as u64;
            }
            let socket = socket_of(local, remote).unwrap();
            let sent = socket.sent.unwrap();
            assert_eq!((socket.state, sent.written), (TcpState::Established, total), "{listen}");
            assert!(sent.acknowledged < total, "nothing waits in the socket: {sent:?}");
            other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            other.read_exact(&mut vec![0; total as usize]).unwrap();
            acknowledged(total);
        }
    }

    #[test]
    fn a_closed_socket_with_data_still_counts_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let mut stream = TcpStream::connect(remote).unwrap();
        let local = stream.local_addr().unwrap();
        let (mut other, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut total = 0;
        while let Ok(count) = stream.write(&[7; 100_000]) {
            total += count as u64;
        }
        drop(stream);
        let socket = socket_of(local, remote).unwrap();
        assert_eq!(socket.state, TcpState::FinWait1);
        let sent = socket.sent.unwrap();
        // The end waits behind the data and counts as a byte.
        assert_eq!(sent.written, total + 1);
        assert!(sent.acknowledged < total);
        other.read_exact(&mut vec![0; total as usize]).unwrap();
        let socket = until(|| socket_of(local, remote).filter(|it| it.state == TcpState::FinWait2));
        assert!(socket.sent.is_none_or(|sent| sent == Sent { written: total, acknowledged: total }), "{socket:?}");
        drop(other);
        let socket = until(|| socket_of(local, remote).filter(|it| it.state == TcpState::TimeWait));
        assert_eq!(socket.sent, None);
    }

    #[test]
    fn the_side_that_closes_last_is_counted_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let mut stream = TcpStream::connect(remote).unwrap();
        let local = stream.local_addr().unwrap();
        let (other, _) = listener.accept().unwrap();
        other.shutdown(Shutdown::Write).unwrap();
        stream.write_all(b"more").unwrap();
        let socket = until(|| socket_of(local, remote).filter(|it| it.state == TcpState::CloseWait));
        assert_eq!(socket.sent.map(|sent| sent.written), Some(4));
    }

    #[test]
    fn a_description_that_is_cut_is_an_error_and_no_panic() {
        let (header, info) = (72, 224);
        let mut whole = vec![0; header];
        whole[..2].copy_from_slice(&[libc::AF_INET as u8, 1]);
        whole.extend([228u16.to_ne_bytes(), 2u16.to_ne_bytes()].concat());
        whole.resize(header + 4 + info, 0);
        let read = |bytes: &[u8]| {
            let response = InetResponse::parse(bytes).map_err(|error| invalid(&error.to_string()))?;
            describe(&response)
        };
        assert!(read(&whole).unwrap().is_some());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        whole[1] = 3;
        assert_eq!(read(&whole).unwrap().map(|socket| socket.state), Some(TcpState::SynReceived), "fast open");
        assert_eq!(read(&whole[..header]).unwrap(), None, "nobody has accepted it");
        whole[1] = 10;
        assert_eq!(read(&whole).unwrap(), None, "a listener");
    }
}
