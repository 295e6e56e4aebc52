//! Which datagrams left the primary's host, and which of them arrived at the other end of the cable: a packet socket at
//! each end records them.
//!
//! A tap sees the packets given to the driver, and the packets that the router's stack receives. It knows nothing of
//! timestamps. The kernel's counters cannot replace it: they do not separate drops before the driver from drops after
//! it.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::Ipv4Addr,
    num::NonZero,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with,
    sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
};

use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
    wire::datagram::{DatagramType, Header, count_of, lane_of},
};

/// `ETH_P_ALL`, in network order.
const EVERY_PROTOCOL: u32 = 0x0003u16.to_be() as u32;
const UDP: u8 = 17;
/// Source address, port and TTL of the appliance's datagrams; the TTL is the one before the first router.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 7117;
const LIFE: u8 = 64;
/// How many bytes of each packet are read.
const LOOK: usize = 128;
const BUFFER: usize = 32 << 20;
const STEP: Duration = Duration::from_millis(20);
/// How late a tap on a busy machine may read a packet.
const MARGIN: Duration = Duration::from_millis(100);

/// A datagram: its receiver index, and its counter.
type Id = (u32, u64);

/// What a tap recorded: the time, and whether it was a symbol of a block.
type Seen = Arc<Mutex<HashMap<Id, (Instant, bool)>>>;

/// The two taps.
#[derive(Debug)]
pub struct Taps {
    is_over: Arc<AtomicBool>,
    near: (Seen, JoinHandle<()>),
    far: (Seen, JoinHandle<()>),
}

/// The result of both taps.
#[derive(Debug, Default)]
pub struct Losses {
    /// When the datagrams left that did not arrive at the other end.
    lost: Vec<Instant>,
    /// Datagrams that were lost after the cable: the time they left is unknown.
    behind: u64,
    /// Datagrams that never left: refused with an error, or dropped silently.
    pub never_left: u64,
}

impl Taps {
    /// Starts the taps in these nodes.
    pub fn start(network: &Network<'_>, near: &str, far: &str) -> Result<Self, LabError> {
        let is_over = Arc::<AtomicBool>::default();
        let start = |node: &str| -> Result<_, LabError> {
            let socket =
                open(&network.namespace(node)).map_err(LabError::doing(format!("look at what {node} sends")))?;
            let (seen, over) = (Seen::default(), is_over.clone());
            let notes = seen.clone();
            Ok((seen, thread::spawn(move || look(&socket, &notes, &over))))
        };
        Ok(Self { near: start(near)?, far: start(far)?, is_over })
    }

    /// Ends the taps; `behind` datagrams were lost after the second one.
    pub fn finish(self, behind: u64) -> Losses {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in [self.near.1, self.far.1] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        Losses::of(&lock(&self.near.0), &lock(&self.far.0).keys().copied().collect(), behind)
    }
}

impl Losses {
    fn of(left: &HashMap<Id, (Instant, bool)>, came: &HashSet<Id>, behind: u64) -> Self {
        let lost = left.iter().filter(|(id, (_, is_symbol))| *is_symbol && !came.contains(*id));
        let lost = lost.map(|(_, (at, _))| *at).collect();
        let mut lines = HashMap::<(u32, u8), (u64, u64, u64)>::new();
        for (session, counter) in left.keys() {
            let count = count_of(*counter);
            let line = lines.entry((*session, lane_of(*counter))).or_insert((count, count, 0));
            *line = (line.0.min(count), line.1.max(count), line.2 + 1);
        }
        // Counters are consecutive, so a gap is a datagram that never left.
        let never_left = lines.values().map(|(first, last, seen)| last - first + 1 - seen).sum();
        Self { lost, behind, never_left }
    }

    /// Symbols that left and were lost on the path.
    pub fn total(&self) -> u64 {
        self.lost.len() as u64 + self.behind
    }

    /// Lost symbols that may have left between two moments.
    pub fn between(&self, from: Instant, to: Instant) -> u64 {
        self.behind + self.lost.iter().filter(|at| **at >= from && **at <= to + MARGIN).count() as u64
    }
}

fn open(namespace: &str) -> io::Result<OwnedFd> {
    let protocol = NonZero::new(EVERY_PROTOCOL).map(Protocol::from_raw);
    let open = || socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol);
    let socket = NetworkNamespace::named(namespace)?.run(open)??;
    set_socket_timeout(&socket, Timeout::Recv, Some(STEP))?;
    set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    Ok(socket)
}

fn look(socket: &OwnedFd, seen: &Mutex<HashMap<Id, (Instant, bool)>>, is_over: &AtomicBool) {
    let mut packet = [0; LOOK];
    loop {
        // Both ends send reports all the time, so at the end only packets that are already there are read.
        let over = is_over.load(Ordering::Relaxed);
        match recv(socket, &mut packet[..], if over { RecvFlags::DONTWAIT } else { RecvFlags::empty() }) {
            Ok((length, _)) => {
                if let Some((id, is_symbol)) = parse(&packet[..length]) {
                    lock(seen).entry(id).or_insert((Instant::now(), is_symbol));
                }
            }
            Err(_) if over => return,
            Err(_) => {}
        }
    }
}

/// Parses a datagram of the primary's appliance before its first router, in an IPv4 packet.
fn parse(packet: &[u8]) -> Option<(Id, bool)> {
    let header = usize::from(*packet.first()? & 15) * 4;
    let source = packet.get(12..)?.first_chunk::<4>()?;
    let is_ours = packet[0] >> 4 == 4 && packet[9] == UDP && packet[8] == LIFE && *source == OWN.octets();
    let port = u16::from_be_bytes(*packet.get(header + 2..)?.first_chunk()?);
    let datagram = packet.get(header + 8..).filter(|_| is_ours && port == PORT)?;
    let header = Header::parse(datagram)?;
    let is_symbol = matches!(header.datagram_type, DatagramType::Source | DatagramType::Repair);
    Some(((header.receiver_index, header.counter), is_symbol))
}

fn lock(seen: &Mutex<HashMap<Id, (Instant, bool)>>) -> MutexGuard<'_, HashMap<Id, (Instant, bool)>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::datagram;

    #[test]
    fn a_symbol_that_did_not_arrive_is_lost_and_a_gap_never_left() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let id = |count| (7, datagram::counter(1, count));
        // 12 and 14 never left; 13 and 15 left and did not arrive, and 15 is a report, not a symbol.
        let left = HashMap::from([
            (id(10), (at(0), true)),
            (id(11), (at(1), true)),
            (id(13), (at(3), true)),
            (id(15), (at(5), false)),
            ((8, datagram::counter(1, 900)), (at(9), true)),
        ]);
        let came = HashSet::from([id(10), id(11), (8, datagram::counter(1, 900))]);
        let losses = Losses::of(&left, &came, 0);
        assert_eq!((losses.total(), losses.never_left), (1, 2));
        assert_eq!((losses.between(at(2), at(2)), losses.between(at(4), at(9))), (1, 0));
        let losses = Losses::of(&left, &came, 5);
        assert_eq!((losses.total(), losses.between(at(4), at(9))), (6, 5));
    }

    #[test]
    fn only_the_appliances_datagrams_before_the_first_router_are_parsed() {
        let header = Header { datagram_type: DatagramType::Repair, receiver_index: 7, counter: 9 };
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, LIFE, UDP, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2];
        packet.extend_from_slice(&[0x1b, 0xcd, 0x1b, 0xcd, 0, 0, 0, 0]);
        packet.extend_from_slice(&header.emit());
        packet.resize(packet.len() + datagram::TAG_LEN, 0);
        assert_eq!(parse(&packet), Some(((7, 9), true)));
        for (at, value) in [(0, 0x65), (8, LIFE - 1), (9, 6), (15, 77), (23, 0xce), (28, 1)] {
            let mut other = packet.clone();
            other[at] = value;
            assert_eq!(parse(&other), None, "{at}");
        }
        for length in 0..packet.len() {
            assert_eq!(parse(&packet[..length]), None);
        }
    }
}
