//! Sends forged datagrams from the WAN, with any source address, at a rate or as fast as it goes.

use std::{
    io::{self, IoSlice},
    net::SocketAddrV4,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketFlags, SocketType, ipproto, sendmmsg,
    socket_with, sockopt,
};

use super::forgery::{Forged, Forger, Target};
use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
};

/// Datagrams of one system call.
const BATCH: usize = 32;
const HEADERS: usize = 28;
const BUFFER: usize = 4 << 20;
/// No wait is longer, so that the end of a flood is soon seen.
const STEP: Duration = Duration::from_millis(10);

/// What a flood consists of.
#[derive(Clone, Copy, Debug)]
pub struct FloodPlan {
    /// How many datagrams; then it ends.
    pub datagrams: u64,
    /// One in so many is an initiation.
    pub initiation_every: u64,
    /// How many a second; `None`: as many as go.
    pub per_second: Option<f64>,
    /// Another port of the same hosts, for the control.
    pub port: Option<u16>,
}

/// What was sent so far.
#[derive(Debug, Default)]
pub struct Counts {
    datagrams: AtomicU64,
    initiations: AtomicU64,
    is_over: AtomicBool,
}

/// A running flood.
#[derive(Debug)]
pub struct Flood {
    counts: Arc<Counts>,
    sending: JoinHandle<io::Result<Forger>>,
    begun: Instant,
}

/// What a flood has sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Those of them that are initiations with a right mac1.
    pub initiations: u64,
    /// How long it took.
    pub time: Duration,
}

/// The attacker's place and knowledge.
#[derive(Debug)]
pub struct Attacker {
    socket: Arc<OwnedFd>,
    targets: [Target; 2],
}

impl Attacker {
    /// In this node.
    pub fn new(network: &Network<'_>, node: &str, targets: [Target; 2]) -> Result<Self, LabError> {
        let open = || -> io::Result<OwnedFd> {
            let inside = NetworkNamespace::named(&network.namespace(node))?;
            // The headers are ours; the kernel adds the length and the checksum of IP.
            let socket = inside.run(|| {
                socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))
            })??;
            sockopt::set_socket_send_buffer_size_force(&socket, BUFFER)?;
            Ok(socket)
        };
        let socket = open().map_err(LabError::doing(format!("open a raw socket in {node}")))?;
        Ok(Self { socket: Arc::new(socket), targets })
    }

    /// Starts a flood.
    pub fn start(&self, mut forger: Forger, plan: FloodPlan) -> Flood {
        let counts = Arc::<Counts>::default();
        let (socket, ours) = (self.socket.clone(), counts.clone());
        let targets = self.targets.each_ref().map(|target| target.address);
        let sending = thread::spawn(move || send(&socket, targets, &mut forger, plan, &ours).map(|()| forger));
        Flood { counts, sending, begun: Instant::now() }
    }
}

impl Flood {
    /// Whether all are sent.
    pub fn is_over(&self) -> bool {
        self.sending.is_finished()
    }

    /// Ends it, also before its end.
    pub fn finish(self) -> Result<(Forger, Sent), LabError> {
        self.counts.is_over.store(true, Ordering::Relaxed);
        let forger = self.sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let forger = forger.map_err(LabError::doing("send forged datagrams"))?;
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let (datagrams, initiations) = (count(&self.counts.datagrams), count(&self.counts.initiations));
        Ok((forger, Sent { datagrams, initiations, time: self.begun.elapsed() }))
    }
}

fn send(
    socket: &OwnedFd,
    targets: [SocketAddrV4; 2],
    forger: &mut Forger,
    plan: FloodPlan,
    counts: &Counts,
) -> io::Result<()> {
    let begun = Instant::now();
    let mut packets = vec![Vec::new(); BATCH];
    let mut payload = Vec::new();
    let mut sent = 0;
    while sent < plan.datagrams && !counts.is_over.load(Ordering::Relaxed) {
        if let Some(per_second) = plan.per_second {
            let due = begun + Duration::from_secs_f64(sent as f64 / per_second);
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait.min(STEP));
                continue;
            }
        }
        let count = usize::try_from(plan.datagrams - sent).map_or(BATCH, |left| left.min(BATCH));
        let mut initiations = 0;
        let mut addresses = [targets[0]; BATCH];
        for (at, packet) in packets[..count].iter_mut().enumerate() {
            let is_initiation = (sent + at as u64).is_multiple_of(plan.initiation_every);
            let forged = if is_initiation { forger.initiation(&mut payload) } else { forger.other(&mut payload) };
            initiations += u64::from(forged.is_initiation);
            let target = targets[forged.target];
            addresses[at] = SocketAddrV4::new(*target.ip(), plan.port.unwrap_or(target.port()));
            write_packet(packet, forged, addresses[at], &payload);
        }
        send_all(socket, &packets[..count], &addresses)?;
        sent += count as u64;
        counts.datagrams.fetch_add(count as u64, Ordering::Relaxed);
        counts.initiations.fetch_add(initiations, Ordering::Relaxed);
    }
    Ok(())
}

/// An IPv4 packet with a datagram; UDP over IPv4 may leave its checksum out.
fn write_packet(packet: &mut Vec<u8>, forged: Forged, to: SocketAddrV4, payload: &[u8]) {
    packet.clear();
    let length = (HEADERS + payload.len()) as u16;
    packet.extend([0x45, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(forged.source.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(forged.source.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
}

fn send_all(socket: &OwnedFd, packets: &[Vec<u8>], addresses: &[SocketAddrV4; BATCH]) -> io::Result<()> {
    let slices: [[IoSlice<'_>; 1]; BATCH] =
        std::array::from_fn(|at| [IoSlice::new(packets.get(at).map_or(&[][..], Vec::as_slice))]);
    let addresses: [SocketAddrAny; BATCH] = std::array::from_fn(|at| addresses[at].into());
    let mut controls: [SendAncillaryBuffer<'_, '_, '_>; BATCH] =
        std::array::from_fn(|_| SendAncillaryBuffer::default());
    let messages = slices.iter().zip(&addresses).zip(&mut controls).take(packets.len());
    let mut messages: Vec<MMsgHdr<'_>> =
        messages.map(|((slice, address), control)| MMsgHdr::new_with_addr(address, slice, control)).collect();
    let mut left = &mut messages[..];
    while !left.is_empty() {
        match sendmmsg(socket, left, SendFlags::empty()) {
            Ok(taken) => left = &mut left[taken..],
            // A full queue is a moment's matter.
            Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {
                thread::sleep(Duration::from_micros(100));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_carries_the_addresses_and_lengths() {
        let source = SocketAddrV4::new([11, 1, 2, 3].into(), 40_007);
        let mut packet = Vec::new();
        let forged = Forged { target: 0, source, is_initiation: false };
        write_packet(&mut packet, forged, SocketAddrV4::new([192, 0, 2, 1].into(), 7117), &[6, 0, 1]);
        let parsed = etherparse::SlicedPacket::from_ip(&packet).unwrap();
        let Some(etherparse::TransportSlice::Udp(udp)) = &parsed.transport else { panic!("{parsed:?}") };
        assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (40_007, 7117, &[6, 0, 1][..]));
        let Some(etherparse::NetSlice::Ipv4(ip)) = &parsed.net else { panic!("{parsed:?}") };
        assert_eq!((ip.header().source(), ip.header().destination()), ([11, 1, 2, 3], [192, 0, 2, 1]));
    }
}
