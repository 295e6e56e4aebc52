//! UDP flows of numbered packets, and which of them have arrived: nothing is sent again, so what the code does not rebuild is
//! missing.
//!
//! Each flow has its own source port. Sockets are made inside the nodes; the threads are the lab's.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
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
/// The longest packet; each begins with its number.
pub const LONGEST: usize = 1400;
const NUMBER: usize = 4;
/// How often the receiver checks whether it must end.
const STEP: Duration = Duration::from_millis(20);
/// The receive buffer: packets that this program reads late must not count as lost on the way.
const BUFFER: usize = 8 << 20;

/// What has arrived, by source port.
type Arrived = Arc<Mutex<HashMap<u16, Arrivals>>>;

/// What has arrived of one flow.
#[derive(Debug)]
struct Arrivals {
    numbers: HashSet<u32>,
    /// Packets whose number had arrived before.
    twice: u64,
    /// When the last one came, and the longest time without one since somebody asked.
    last: Instant,
    longest_gap: Duration,
}

impl Arrivals {
    fn new() -> Self {
        Self { numbers: HashSet::new(), twice: 0, last: Instant::now(), longest_gap: Duration::ZERO }
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
        Ok(Self { at, from: (near, from.1), arrived, is_over, reading })
    }

    /// Begins a flow from a new port.
    pub fn open(&self) -> Result<NumberedFlow, LabError> {
        let open = || -> io::Result<NumberedFlow> {
            let socket = self.from.0.run(|| UdpSocket::bind((self.from.1, 0)))??;
            socket.connect(self.at)?;
            let key = FlowKey { protocol: UDP, source: socket.local_addr()?, destination: self.at };
            lock(&self.arrived).insert(key.source.port(), Arrivals::new());
            Ok(NumberedFlow { key, packets: 0, bytes: 0, socket })
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
        let mut packet = [7; LONGEST];
        packet[..NUMBER].copy_from_slice(&self.packets.to_be_bytes());
        let length = length.clamp(NUMBER, LONGEST);
        self.socket.send(&packet[..length]).map_err(LabError::doing("send a UDP packet"))?;
        self.packets += 1;
        self.bytes += length as u64;
        Ok(())
    }
}

fn read(socket: &UdpSocket, arrived: &Mutex<HashMap<u16, Arrivals>>, is_over: &AtomicBool) {
    let mut packet = [0; 2 * LONGEST];
    while !is_over.load(Ordering::Relaxed) {
        // The timeout lets the loop check whether it must end.
        let Ok((NUMBER.., from)) = socket.recv_from(&mut packet) else { continue };
        let Some(number) = packet.first_chunk() else { continue };
        if let Some(of) = lock(arrived).get_mut(&from.port()) {
            of.add(u32::from_be_bytes(*number));
        }
    }
}

fn lock(arrived: &Mutex<HashMap<u16, Arrivals>>) -> MutexGuard<'_, HashMap<u16, Arrivals>> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}
