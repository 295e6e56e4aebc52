//! The load during the faults: short UDP flows of numbered packets, and TCP in bursts.
//!
//! The senders never wait for the network, so that there are always new bytes that could be called protected. A UDP
//! flow is not tracked after one of its blocks has failed, so each flow is short, and the next one has a new source
//! port.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::net::sockopt;

use crate::{
    io::namespace::NetworkNamespace,
    lab::{
        error::LabError,
        network::Network,
        workload::stream::{Sink, Stream},
    },
    notify::message::FlowKey,
};

const UDP: u8 = 17;
const STREAMS: usize = 2;
const TICK: Duration = Duration::from_millis(5);
/// Packets come in bursts; `PACKETS` is the length of a flow.
const PACKET: usize = 400;
const BURST: u32 = 12;
const PACKETS: u32 = 6 * BURST;
/// Time between bursts, of UDP and of each stream; about 8 Mbit/s in all, with repair symbols.
const UDP_PACE: Duration = Duration::from_millis(25);
static TCP_BURST: [u8; 24 * 1024] = [7; 24 * 1024];
const TCP_PACE: std::ops::Range<u64> = 40..140;
/// Source ports of UDP flows; a port is used again only after a long time.
const PORTS: std::ops::Range<u16> = 1024..32_768;
/// The receive buffer of a socket.
pub const BUFFER: usize = 8 << 20;
/// How often a receiver checks whether it must end.
const STEP: Duration = Duration::from_millis(20);

/// The source ports of UDP flows, and when each flow began.
type FlowStarts = Vec<(u16, Instant)>;

/// The numbers of the packets that arrived at the mirror, by source port.
type Arrived = Arc<Mutex<HashMap<u16, HashSet<u32>>>>;

/// Traffic until [`stop`](Self::stop), and what of it arrived at the mirror.
#[derive(Debug)]
pub struct Load {
    /// The TCP connections.
    pub streams: Vec<Stream>,
    ends: [SocketAddr; 2],
    is_over: Arc<AtomicBool>,
    is_eased: Arc<AtomicBool>,
    is_closed: Arc<AtomicBool>,
    sending: Option<JoinHandle<io::Result<FlowStarts>>>,
    receiving: JoinHandle<()>,
    arrived: Arrived,
}

impl Load {
    /// Starts the traffic; `first_port` numbers the source port of the first UDP flow.
    pub fn start(
        network: &Network<'_>,
        sink: &Sink,
        [from, to]: [IpAddr; 2],
        (first_port, seed): (u32, u64),
    ) -> Result<Self, LabError> {
        let streams = (0..STREAMS).map(|_| sink.open(None)).collect::<Result<Vec<_>, _>>()?;
        let enter = |node: &str| NetworkNamespace::named(&network.namespace(node));
        let open = || -> io::Result<_> {
            let far = enter("mirror")?.run(|| UdpSocket::bind((to, 0)))??;
            far.set_read_timeout(Some(STEP))?;
            // Packets that this program reads too slowly must not count as lost on the way.
            sockopt::set_socket_recv_buffer_size_force(&far, BUFFER)?;
            let writers = streams.iter().map(|stream| stream.near.try_clone()).collect::<io::Result<Vec<_>>>()?;
            writers.iter().try_for_each(|writer| writer.set_nonblocking(true))?;
            Ok((far, writers, enter("primary")?))
        };
        let (far, writers, near) = open().map_err(LabError::doing("begin to send from primary to mirror"))?;
        let at = far.local_addr().map_err(LabError::doing("ask for the port of a socket"))?;
        let [is_over, is_eased, is_closed] = [(); 3].map(|()| Arc::<AtomicBool>::default());
        let arrived = Arrived::default();
        let (over, eased, closed, notes) = (is_over.clone(), is_eased.clone(), is_closed.clone(), arrived.clone());
        let source = SocketAddr::new(from, 0);
        let sending = thread::spawn(move || {
            near.enter()?;
            let datagrams = Datagrams { source, to: at, next_port: first_port, current: None, ports: Vec::new() };
            send(datagrams, writers, SmallRng::seed_from_u64(seed), [&over, &eased])
        });
        let receiving = thread::spawn(move || receive(&far, &notes, &closed));
        let sending = Some(sending);
        Ok(Self { streams, ends: [source, at], is_over, is_eased, is_closed, sending, receiving, arrived })
    }

    /// Sends a quarter of the rate from now on, so that a long queue can empty; no link is trusted until then.
    pub fn ease(&self) {
        self.is_eased.store(true, Ordering::Relaxed);
    }

    /// Stops sending; returns the UDP flows, and when each began.
    pub fn stop(&mut self) -> Result<Vec<(FlowKey, Instant)>, LabError> {
        self.is_over.store(true, Ordering::Relaxed);
        let Some(sending) = self.sending.take() else { return Ok(Vec::new()) };
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let ports = sent.map_err(LabError::doing("send from primary to mirror"))?;
        let [from, to] = self.ends;
        let key = |port| FlowKey { protocol: UDP, source: SocketAddr::new(from.ip(), port), destination: to };
        Ok(ports.into_iter().map(|(port, began)| (key(port), began)).collect())
    }

    /// Waits until nothing has arrived at the mirror for `quiet`.
    pub fn wait_quiet(&self, quiet: Duration) {
        let count = || {
            let packets = lock(&self.arrived).values().map(|numbers| numbers.len() as u64).sum::<u64>();
            packets + self.streams.iter().map(Stream::received).sum::<u64>()
        };
        let (mut last, mut since) = (count(), Instant::now());
        while since.elapsed() < quiet {
            thread::sleep(STEP);
            let now = count();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// How many of the first `packets` packets of a UDP flow have not arrived at the mirror.
    pub fn missing(&self, key: &FlowKey, packets: u64) -> u64 {
        let arrived = lock(&self.arrived);
        let numbers = arrived.get(&key.source.port());
        let there = numbers.map_or(0, |numbers| numbers.iter().filter(|number| u64::from(**number) < packets).count());
        packets.saturating_sub(there as u64)
    }

    /// Stops sending and receiving.
    pub fn end(mut self) -> Result<(), LabError> {
        self.stop()?;
        self.is_closed.store(true, Ordering::Relaxed);
        self.streams.into_iter().for_each(Stream::abort);
        self.receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(())
    }
}

/// Flows of numbered packets, one after the other.
struct Datagrams {
    source: SocketAddr,
    to: SocketAddr,
    next_port: u32,
    current: Option<(UdpSocket, u32)>,
    ports: FlowStarts,
}

impl Datagrams {
    fn burst(&mut self) -> io::Result<()> {
        if self.current.as_ref().is_none_or(|(_, number)| *number >= PACKETS) {
            let width = u32::from(PORTS.end - PORTS.start);
            let port = PORTS.start + (self.next_port % width) as u16;
            self.next_port += 1;
            let socket = UdpSocket::bind(SocketAddr::new(self.source.ip(), port))?;
            socket.set_nonblocking(true)?;
            socket.connect(self.to)?;
            self.ports.push((port, Instant::now()));
            self.current = Some((socket, 0));
        }
        let Some((socket, number)) = &mut self.current else { return Ok(()) };
        for _ in 0..BURST {
            let mut packet = [0; PACKET];
            packet[..4].copy_from_slice(&number.to_be_bytes());
            // A packet that the kernel does not accept gets no number.
            if socket.send(&packet).is_ok() {
                *number += 1;
            }
        }
        Ok(())
    }
}

fn send(
    mut datagrams: Datagrams,
    mut writers: Vec<TcpStream>,
    mut rng: SmallRng,
    [is_over, is_eased]: [&AtomicBool; 2],
) -> io::Result<FlowStarts> {
    let mut next_burst = Instant::now();
    let mut next_writes = vec![next_burst; writers.len()];
    while !is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        let slower = if is_eased.load(Ordering::Relaxed) { 4 } else { 1 };
        if now >= next_burst {
            datagrams.burst()?;
            next_burst = now + UDP_PACE * slower;
        }
        for (writer, next) in writers.iter_mut().zip(&mut next_writes) {
            if now >= *next {
                // Bytes for which the socket has no room are not written; the next burst is due soon.
                let _ = writer.write(&TCP_BURST);
                *next = now + Duration::from_millis(rng.random_range(TCP_PACE)) * slower;
            }
        }
        thread::sleep(TICK);
    }
    Ok(datagrams.ports)
}

fn receive(socket: &UdpSocket, arrived: &Mutex<HashMap<u16, HashSet<u32>>>, is_closed: &AtomicBool) {
    let mut packet = [0; 2 * PACKET];
    while !is_closed.load(Ordering::Relaxed) {
        // The timeout lets the loop check whether it must end.
        let Ok((PACKET, from)) = socket.recv_from(&mut packet) else { continue };
        if let Some(number) = packet.first_chunk() {
            lock(arrived).entry(from.port()).or_default().insert(u32::from_be_bytes(*number));
        }
    }
}

fn lock(arrived: &Mutex<HashMap<u16, HashSet<u32>>>) -> MutexGuard<'_, HashMap<u16, HashSet<u32>>> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}
