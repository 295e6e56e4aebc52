//! UDP flows of numbered packets, and which of them have arrived as they were sent: nothing is sent again, so what the code does
//! not rebuild is missing.
//!
//! Each flow has its own source port and its own number: a port is used again, and packets of the flow that had it before may
//! still come, from an appliance that stood still. Sockets are made inside the nodes; the threads are the lab's.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
    notify::message::FlowKey,
};

const UDP: u8 = 17;
/// The longest packet; each begins with its flow, its number and its length, which decide every further byte.
pub const LONGEST: usize = 1400;
const HEAD: usize = 10;
/// How often the receiver checks whether it must end.
const STEP: Duration = Duration::from_millis(20);
/// The receive buffer: packets that this program reads late must not count as lost on the way.
const BUFFER: usize = 8 << 20;

/// What has arrived, by source port.
type Arrived = Arc<Mutex<HashMap<u16, Arrivals>>>;

/// What has arrived of one flow.
#[derive(Debug)]
struct Arrivals {
    flow: u32,
    numbers: HashSet<u32>,
    /// Packets whose number had arrived before.
    twice: u64,
    /// Packets that were not sent like this.
    wrong: u64,
    /// When the last one came, and the longest time without one since somebody asked.
    last: Instant,
    longest_gap: Duration,
}

impl Arrivals {
    fn new(flow: u32) -> Self {
        Self { flow, numbers: HashSet::new(), twice: 0, wrong: 0, last: Instant::now(), longest_gap: Duration::ZERO }
    }

    fn add(&mut self, number: u32) {
        let now = Instant::now();
        self.twice += u64::from(!self.numbers.insert(number));
        self.longest_gap = self.longest_gap.max(now - self.last);
        self.last = now;
    }
}

/// The receiver of the flows.
#[derive(Debug)]
pub struct NumberedSink {
    at: SocketAddr,
    from: (NetworkNamespace, IpAddr),
    arrived: Arrived,
    /// The number of the next flow.
    next_flow: AtomicU32,
    is_over: Arc<AtomicBool>,
    reading: JoinHandle<()>,
}

/// A flow.
#[derive(Debug)]
pub struct NumberedFlow {
    /// As an appliance sees it.
    pub key: FlowKey,
    /// Packets sent.
    pub packets: u32,
    /// Bytes of payload sent.
    pub bytes: u64,
    /// Its own number: no other flow to this sink has it.
    number: u32,
    socket: UdpSocket,
}

impl NumberedSink {
    /// Listens in the node `to`; flows begin in the node `from`.
    pub fn listen(network: &Network<'_>, from: (&str, IpAddr), to: (&str, IpAddr)) -> Result<Self, LabError> {
        let enter = |node: &str| NetworkNamespace::named(&network.namespace(node));
        let open = || -> io::Result<_> {
            let socket = enter(to.0)?.run(|| UdpSocket::bind((to.1, 0)))??;
            socket.set_read_timeout(Some(STEP))?;
            sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
            Ok((socket.local_addr()?, socket, enter(from.0)?))
        };
        let (at, socket, near) = open().map_err(LabError::doing(format!("listen in {}", to.0)))?;
        let (arrived, is_over) = (Arrived::default(), Arc::<AtomicBool>::default());
        let (notes, over) = (arrived.clone(), is_over.clone());
        let reading = thread::spawn(move || read(&socket, &notes, &over));
        Ok(Self { at, from: (near, from.1), arrived, next_flow: AtomicU32::new(0), is_over, reading })
    }

    /// Begins a flow from a new port.
    pub fn open(&self) -> Result<NumberedFlow, LabError> {
        let open = || -> io::Result<NumberedFlow> {
            let socket = self.from.0.run(|| UdpSocket::bind((self.from.1, 0)))??;
            socket.connect(self.at)?;
            let key = FlowKey { protocol: UDP, source: socket.local_addr()?, destination: self.at };
            let number = self.next_flow.fetch_add(1, Ordering::Relaxed);
            lock(&self.arrived).insert(key.source.port(), Arrivals::new(number));
            Ok(NumberedFlow { key, packets: 0, bytes: 0, number, socket })
        };
        open().map_err(LabError::doing("open a UDP flow"))
    }

    /// How many packets of a flow have not arrived.
    pub fn missing(&self, flow: &NumberedFlow) -> u64 {
        let arrived = lock(&self.arrived).get(&flow.key.source.port()).map_or(0, |of| of.numbers.len());
        u64::from(flow.packets).saturating_sub(arrived as u64)
    }

    /// How many packets of a flow have arrived more than once.
    pub fn twice(&self, flow: &NumberedFlow) -> u64 {
        lock(&self.arrived).get(&flow.key.source.port()).map_or(0, |of| of.twice)
    }

    /// How many packets of a flow have arrived otherwise than they were sent, or were never sent.
    pub fn wrong(&self, flow: &NumberedFlow) -> u64 {
        let never_sent = |of: &Arrivals| of.numbers.iter().filter(|number| **number >= flow.packets).count() as u64;
        lock(&self.arrived).get(&flow.key.source.port()).map_or(0, |of| of.wrong + never_sent(of))
    }

    /// How many of the first `packets` packets of a flow have not arrived.
    pub fn missing_of(&self, flow: &FlowKey, packets: u32) -> u64 {
        let arrived = lock(&self.arrived);
        let Some(of) = arrived.get(&flow.source.port()) else { return packets.into() };
        (0..packets).filter(|number| !of.numbers.contains(number)).count() as u64
    }

    /// The longest time without a packet of a flow since the last call, also if it still lasts.
    pub fn take_longest_gap(&self, flow: &FlowKey) -> Duration {
        let mut arrived = lock(&self.arrived);
        let Some(of) = arrived.get_mut(&flow.source.port()) else { return Duration::ZERO };
        std::mem::take(&mut of.longest_gap).max(of.last.elapsed())
    }

    /// Waits until all packets of a flow have arrived, or none has come for `quiet`; returns how many are missing.
    pub fn drain(&self, flow: &NumberedFlow, quiet: Duration) -> u64 {
        let (mut last, mut since) = (self.missing(flow), Instant::now());
        while last > 0 && since.elapsed() < quiet {
            thread::sleep(Duration::from_millis(1));
            let now = self.missing(flow);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }

    /// Forgets a flow, whose port may be used again.
    pub fn forget(&self, flow: NumberedFlow) {
        lock(&self.arrived).remove(&flow.key.source.port());
    }

    /// Stops listening.
    pub fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

impl NumberedFlow {
    /// Sends the next packet, of `length` bytes.
    pub fn send(&mut self, length: usize) -> Result<(), LabError> {
        let mut packet = [0; LONGEST];
        let packet = &mut packet[..length.clamp(HEAD, LONGEST)];
        fill(packet, self.number, self.packets);
        let length = packet.len();
        self.socket.send(packet).map_err(LabError::doing("send a UDP packet"))?;
        self.packets += 1;
        self.bytes += length as u64;
        Ok(())
    }
}

fn read(socket: &UdpSocket, arrived: &Mutex<HashMap<u16, Arrivals>>, is_over: &AtomicBool) {
    let mut packet = [0; 2 * LONGEST];
    while !is_over.load(Ordering::Relaxed) {
        // The timeout lets the loop check whether it must end.
        let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
        let numbers = numbers_of(&packet[..length]);
        if let Some(of) = lock(arrived).get_mut(&from.port()) {
            match numbers {
                Some((flow, number)) if flow == of.flow => of.add(number),
                Some((flow, _)) if flow < of.flow => {}
                _ => of.wrong += 1,
            }
        }
    }
}

/// Writes packet number `number` of a flow, of this length.
fn fill(packet: &mut [u8], flow: u32, number: u32) {
    let length = packet.len() as u16;
    let (head, body) = packet.split_at_mut(HEAD);
    head[..4].copy_from_slice(&flow.to_be_bytes());
    head[4..8].copy_from_slice(&number.to_be_bytes());
    head[8..].copy_from_slice(&length.to_be_bytes());
    // Each bit of both numbers changes the highest byte of its product.
    let seed = (number.wrapping_mul(0x9e37_79b1) >> 24 ^ flow.wrapping_mul(0x85eb_ca6b) >> 24) as u8;
    for (at, byte) in body.iter_mut().enumerate() {
        *byte = seed ^ (at as u8).wrapping_mul(7);
    }
}

/// The flow and the number of a packet; `None` if some byte is not as it was sent.
fn numbers_of(packet: &[u8]) -> Option<(u32, u32)> {
    let number_at = |at: usize| Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    let (flow, number) = (number_at(0)?, number_at(4)?);
    let mut sent = [0; LONGEST];
    let sent = sent.get_mut(..packet.len()).filter(|sent| sent.len() >= HEAD)?;
    fill(sent, flow, number);
    (sent == packet).then_some((flow, number))
}

fn lock(arrived: &Mutex<HashMap<u16, Arrivals>>) -> MutexGuard<'_, HashMap<u16, Arrivals>> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_was_not_sent_so_has_no_number() {
        let mut packet = [0; 40];
        fill(&mut packet, 9, 70_000);
        assert_eq!(numbers_of(&packet), Some((9, 70_000)));
        assert_eq!(numbers_of(&packet[..39]), None);
        assert_eq!(numbers_of(&[&packet[..], &[0]].concat()), None);
        assert_eq!(numbers_of(&packet[..9]), None);
        for at in 0..packet.len() {
            let mut damaged = packet;
            damaged[at] ^= 0x10;
            assert_eq!(numbers_of(&damaged), None, "byte {at}");
        }
    }
}
