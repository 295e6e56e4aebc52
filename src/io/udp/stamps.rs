//! Transmit timestamps: which mechanism matches a timestamp to its datagram, and the memory that one of them needs.
//!
//! A timestamp is evidence, so it must never be matched to another datagram. The kernel's own ids
//! (`SOF_TIMESTAMPING_OPT_ID`) are of no use: whether a failed send uses one up differs between versions. Since Linux
//! 6.13 the sender may set the id, and a timestamp comes back with nothing else. Before, the whole packet comes back
//! and is found by its bytes: our datagrams begin with a counter under a key and never repeat. A packet that was
//! changed on the way (encrypted by IPsec, with a trailer of a switch port) is not found: its timestamp is counted and
//! not reported. The same holds for all timestamps where `sysctl net.core.tstamp_allow_data` is 0 and the process has
//! no `CAP_NET_RAW`. This file neither sends nor reads.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{Switch, UdpOptions, UdpSocket, control};

/// Which mechanism to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StampChoice {
    /// The best one that works in a trial.
    #[default]
    Auto,
    /// The one for kernels before 6.13, on any kernel.
    LoopedData,
    /// No timestamps.
    Off,
}

/// How a timestamp is matched to its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampState {
    /// It has the id that we set.
    OwnId,
    /// It brings back the packet, which is found by its bytes.
    LoopedData,
    /// There are none.
    Off(StampsOff),
}

/// Why there are no timestamps. Numbers are errno values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampsOff {
    /// The caller wants none.
    Configured,
    /// The kernel does not know them.
    Unsupported(i32),
    /// A datagram that requested one was refused, and went through without.
    Refused(i32),
}

impl std::fmt::Display for StampState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errno = |number| io::Error::from_raw_os_error(number);
        match *self {
            Self::OwnId => f.write_str("by number"),
            Self::LoopedData => f.write_str("by content"),
            Self::Off(StampsOff::Configured) => f.write_str("off (configured)"),
            Self::Off(StampsOff::Unsupported(number)) => write!(f, "off (not in this kernel: {})", errno(number)),
            Self::Off(StampsOff::Refused(number)) => write!(f, "off (refused when sending: {})", errno(number)),
        }
    }
}

/// Prepares a socket for the chosen mechanism, if it works.
pub(super) fn settle(socket: BorrowedFd<'_>, is_v6: bool, choice: StampChoice) -> StampState {
    let state = match choice {
        StampChoice::Off => return StampState::Off(StampsOff::Configured),
        StampChoice::Auto if own_ids_work(is_v6) => StampState::OwnId,
        StampChoice::Auto | StampChoice::LoopedData => StampState::LoopedData,
    };
    match report(socket, state) {
        Ok(()) => state,
        Err(error) => StampState::Off(StampsOff::Unsupported(error.raw_os_error().unwrap_or(0))),
    }
}

/// Makes the socket report timestamps. Each datagram requests its own.
fn report(socket: BorrowedFd<'_>, state: StampState) -> io::Result<()> {
    let flags = libc::SOF_TIMESTAMPING_SOFTWARE
        | match state {
            StampState::OwnId => libc::SOF_TIMESTAMPING_OPT_ID | libc::SOF_TIMESTAMPING_OPT_TSONLY,
            StampState::LoopedData | StampState::Off(_) => 0,
        };
    control::set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags.cast_signed())
}

/// Ids that the kernel, which counts from 0, would not use by itself.
const TRIAL_IDS: [u32; 2] = [0xffff_ffff, 0x5a5a_0001];

/// Sends two datagrams to itself over the loopback device and checks that exactly their own ids come back. Anything
/// that makes the trial fail, also a loopback device that is down, means no: the other mechanism works everywhere.
fn own_ids_work(is_v6: bool) -> bool {
    let trial = || {
        let address: SocketAddr = if is_v6 { (Ipv6Addr::LOCALHOST, 0).into() } else { (Ipv4Addr::LOCALHOST, 0).into() };
        let options = UdpOptions { gso: Switch::Off, stamps: StampChoice::Off, buffer_bytes: 64 << 10, classes: false };
        let mut socket = UdpSocket::bind(address, options)?;
        socket.stamps = StampState::OwnId;
        report(socket.as_fd(), socket.stamps)?;
        let to = socket.local_addr();
        let mut ids = Vec::new();
        for id in TRIAL_IDS {
            // Tells a refusal from a full queue: only a refusal changes the state.
            if socket.send_stamped(to, b"onwire", 0, id).sent == 0 || socket.stamps != StampState::OwnId {
                return Ok(false);
            }
        }
        // The loopback device stamps within the send, unless it was given a slow queue.
        for _ in 0..TRIAL_TURNS {
            socket.drain_errors(&mut |id| ids.push(id));
            if ids.len() >= TRIAL_IDS.len() {
                break;
            }
            std::thread::sleep(TRIAL_TURN);
        }
        io::Result::Ok(ids == TRIAL_IDS)
    };
    trial().unwrap_or(false)
}

const TRIAL_TURNS: u32 = 10;
const TRIAL_TURN: Duration = Duration::from_millis(1);

/// Datagrams in flight that are remembered. When there are more, the oldest is forgotten and its timestamp is not
/// reported. At 10,000 blocks a second this covers 0.4 s of waiting in queues of this host.
const MAX_ON_THEIR_WAY: usize = 4096;

/// Bytes that are remembered of a datagram: in ours, the counter and the beginning of the sealed part.
const PREFIX: usize = 16;

/// Room for the longest packet with its link header.
const PACKET_BYTES: usize = 65_536 + 256;

/// Bytes of a UDP header, and the offset of the length in it.
const UDP_HEADER: usize = 8;
const UDP_LENGTH: usize = 4;

/// The datagrams whose requested timestamp has not come. Empty, and without memory, where timestamps have ids.
#[derive(Debug)]
pub(super) struct InFlight {
    datagrams: VecDeque<Sent>,
    packet: Box<[u8]>,
}

#[derive(Debug)]
struct Sent {
    stamp: u32,
    len: u32,
    /// Bytes of the first datagram of a train; for a single datagram, its length.
    first: u32,
    prefix: [u8; PREFIX],
}

impl InFlight {
    pub(super) fn new(state: StampState) -> Self {
        let (datagrams, bytes) = match state {
            StampState::LoopedData => (MAX_ON_THEIR_WAY, PACKET_BYTES),
            StampState::OwnId | StampState::Off(_) => (0, 0),
        };
        Self { datagrams: VecDeque::with_capacity(datagrams), packet: vec![0; bytes].into() }
    }

    /// Buffer for a packet that comes back; empty where none does.
    #[inline]
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.packet
    }

    /// Remembers what the kernel took of a train of datagrams of `segment` bytes: one packet that it cuts itself, or
    /// each datagram.
    pub(super) fn push_all(&mut self, stamp: u32, train: &[u8], segment: usize, packets: usize) {
        if packets == 1 {
            return self.push(stamp, train, segment);
        }
        let datagrams = train.chunks(segment).take(packets);
        (0..).zip(datagrams).for_each(|(number, datagram)| self.push(stamp.wrapping_add(number), datagram, segment));
    }

    /// A train comes back as its first datagram where the kernel cuts it, and whole where the device does.
    fn push(&mut self, stamp: u32, datagram: &[u8], segment: usize) {
        let Ok(len) = u32::try_from(datagram.len()) else { return };
        let first = len.min(u32::try_from(segment).unwrap_or(len));
        if self.datagrams.len() >= MAX_ON_THEIR_WAY {
            self.datagrams.pop_front();
        }
        self.datagrams.push_back(Sent { stamp, len, first, prefix: prefix(datagram) });
    }

    /// Returns and forgets the stamp of the datagram at the end of the first `len` bytes of the buffer. `None` unless
    /// exactly one matches.
    pub(super) fn claim(&mut self, len: usize) -> Option<u32> {
        let packet = self.packet.get(..len)?;
        let mut matching = self.datagrams.iter().enumerate().filter(|(_, sent)| sent.ends(packet));
        let (at, _) = matching.next()?;
        // Two look alike: which of them left is unknown.
        if matching.next().is_some() {
            return None;
        }
        self.datagrams.remove(at).map(|sent| sent.stamp)
    }
}

impl Sent {
    /// Whether a packet ends with this datagram behind the headers of link, IP and UDP. The lengths of the link and IP
    /// headers are unknown, so the match starts from the end; the length in the UDP header must agree.
    #[inline]
    fn ends(&self, packet: &[u8]) -> bool {
        self.is_at_end(self.len as usize, packet) || self.is_at_end(self.first as usize, packet)
    }

    #[inline]
    fn is_at_end(&self, len: usize, packet: &[u8]) -> bool {
        let Some(udp) = packet.len().checked_sub(len + UDP_HEADER) else { return false };
        let (header, datagram) = packet[udp..].split_at(UDP_HEADER);
        let udp_len = usize::from(u16::from_be_bytes([header[UDP_LENGTH], header[UDP_LENGTH + 1]]));
        udp_len == len + UDP_HEADER && prefix(datagram) == self.prefix
    }
}

/// The first bytes; a shorter datagram is filled with zeros.
#[inline]
fn prefix(datagram: &[u8]) -> [u8; PREFIX] {
    let mut bytes = [0; PREFIX];
    let len = datagram.len().min(PREFIX);
    bytes[..len].copy_from_slice(&datagram[..len]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(headers: usize, datagram: &[u8], trailer: usize) -> Vec<u8> {
        let mut bytes = vec![0x45; headers];
        bytes.extend([0x1b, 0xcd, 0x1b, 0xcd]);
        bytes.extend(((datagram.len() + UDP_HEADER) as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(datagram);
        bytes.extend(vec![0; trailer]);
        bytes
    }

    fn claim(sent: &mut InFlight, packet: &[u8]) -> Option<u32> {
        sent.buffer()[..packet.len()].copy_from_slice(packet);
        sent.claim(packet.len())
    }

    #[test]
    fn a_packet_finds_its_datagram_once_and_no_other() {
        let datagram = |byte: u8, len: usize| -> Vec<u8> { (0..len).map(|at| byte ^ at as u8).collect() };
        let (long, short, tiny) = (datagram(1, 1452), datagram(2, 40), datagram(3, 5));
        for headers in [0, 20, 34, 40, 54, 60, 200] {
            let mut sent = InFlight::new(StampState::LoopedData);
            for (stamp, bytes) in [(u32::MAX, &long), (0, &short), (1, &tiny)] {
                sent.push_all(stamp, bytes, bytes.len(), 1);
            }
            for (what, bytes) in [
                ("another", packet(headers, &datagram(9, 1452), 0)),
                ("shorter", packet(headers, &long[..1451], 0)),
                ("longer", packet(headers, &datagram(1, 1453), 0)),
                ("padded", packet(headers, &short, 6)),
                ("nothing", vec![]),
                ("without header", short.clone()),
                ("headers alone", packet(headers, &[], 0)),
            ] {
                assert_eq!(claim(&mut sent, &bytes), None, "{what}");
            }
            // In another order than they were sent.
            for (stamp, bytes) in [(1, &tiny), (u32::MAX, &long), (0, &short)] {
                assert_eq!(claim(&mut sent, &packet(headers, bytes, 0)), Some(stamp));
                assert_eq!(claim(&mut sent, &packet(headers, bytes, 0)), None);
            }
        }
    }

    #[test]
    fn a_train_is_found_by_its_first_datagram_or_as_a_whole_and_one_cut_by_us_by_each_datagram() {
        let train: Vec<u8> = (0..2500u32).map(|at| (at * at) as u8).collect();
        for (packets, found) in [(1, [&train[..1000], &[], &[]]), (1, [&train[..], &[], &[]])] {
            let mut sent = InFlight::new(StampState::LoopedData);
            sent.push_all(7, &train, 1000, packets);
            assert_eq!(claim(&mut sent, &packet(28, &train[1000..2000], 0)), None, "a later one says nothing");
            assert_eq!(claim(&mut sent, &packet(28, found[0], 0)), Some(7));
            assert_eq!(claim(&mut sent, &packet(28, found[0], 0)), None);
        }
        let mut sent = InFlight::new(StampState::LoopedData);
        sent.push_all(8, &train, 1000, 3);
        for (number, datagram) in (8..).zip(train.chunks(1000)) {
            assert_eq!(claim(&mut sent, &packet(28, datagram, 0)), Some(number));
        }
    }

    #[test]
    fn of_two_datagrams_that_look_alike_neither_is_reported() {
        let mut sent = InFlight::new(StampState::LoopedData);
        sent.push(1, b"the same sixteen bytes, and more", 32);
        sent.push(2, b"the same sixteen bytes, and else", 32);
        sent.push(3, b"others are not affected by that.", 32);
        assert_eq!(claim(&mut sent, &packet(34, b"the same sixteen bytes, and more", 0)), None);
        assert_eq!(claim(&mut sent, &packet(34, b"others are not affected by that.", 0)), Some(3));
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let mut sent = InFlight::new(StampState::LoopedData);
        let capacity = sent.datagrams.capacity();
        let datagram = |number: u32| [number.to_be_bytes(), [7; 4], [7; 4], [7; 4], [7; 4]].concat();
        for number in 0..MAX_ON_THEIR_WAY as u32 + 2 {
            sent.push(number, &datagram(number), 20);
        }
        assert_eq!(sent.datagrams.capacity(), capacity);
        for (number, expected) in [(0, None), (1, None), (2, Some(2)), (4097, Some(4097))] {
            assert_eq!(claim(&mut sent, &packet(28, &datagram(number), 0)), expected);
        }
    }

    #[test]
    fn each_state_has_its_text() {
        for (state, words) in [
            (StampState::OwnId, "by number"),
            (StampState::LoopedData, "by content"),
            (StampState::Off(StampsOff::Configured), "off (configured)"),
            (StampState::Off(StampsOff::Unsupported(libc::ENOPROTOOPT)), "not in this kernel: Protocol not available"),
            (StampState::Off(StampsOff::Refused(libc::EINVAL)), "refused when sending: Invalid argument"),
        ] {
            assert!(state.to_string().contains(words), "{state}");
        }
    }
}
