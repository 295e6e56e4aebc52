//! Many busy UDP flows of the shortest packets: numbered datagrams from each of many ports in turn, at a rate, and what of them
//! arrives.
//!
//! The ports are sockets in one node; the receiver is a socket in another one. Both run as threads of the lab. A trial counts
//! each datagram: what is missing, what came twice, and flows of which nothing came.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use crate::{
    io::{descriptors, namespace::NetworkNamespace},
    lab::{error::LabError, network::Network},
};

/// Bytes of each IP packet.
pub const PACKET: usize = 64;
/// The IPv4 and the UDP header.
const HEADERS: usize = 20 + 8;
const PAYLOAD: usize = PACKET - HEADERS;
/// The receive buffer: what this program reads late must not count as lost on the way.
const BUFFER: usize = 64 << 20;
/// How long the sender waits when nothing is due, and the receiver when nothing is there: neither takes the processor from the
/// tunnel for each packet.
const STEP: Duration = Duration::from_micros(100);
/// Packets between two looks at the clock.
const BATCH: u64 = 32;
/// The sender makes up for no more than this if it had no processor: a burst would measure the queues, not the rate.
const BURST: u64 = 128;
/// A trial is over when nothing came for this time.
const QUIET: Duration = Duration::from_millis(50);
/// Ports, and descriptors for all else.
const DESCRIPTORS_BESIDE: u64 = 200;

/// The flows and their receiver.
#[derive(Debug)]
pub struct BusyFlows {
    ports: Vec<UdpSocket>,
    sink: UdpSocket,
    sink_port: u16,
    /// The number of the last trial, which its datagrams carry.
    trial: u32,
}

/// What a trial offers.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The flows that send, in turn.
    pub flows: usize,
    /// Packets per second; none: as many as the sender can.
    pub rate: Option<f64>,
    /// How long.
    pub length: Duration,
}

/// What happened in a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trial {
    /// Packets sent.
    pub sent: u64,
    /// Packets that the kernel did not take from the sender.
    pub refused: u64,
    /// The time of sending.
    pub seconds: f64,
    /// Different packets that arrived.
    pub received: u64,
    /// Packets that arrived again.
    pub twice: u64,
    /// Packets of this trial that were never sent.
    pub wrong: u64,
    /// Flows that sent, and of which nothing arrived.
    pub silent_flows: usize,
    /// From the last packet sent to the last packet received.
    pub late: Duration,
}

impl Trial {
    /// Packets per second that were offered.
    pub fn offered(&self) -> f64 {
        self.sent as f64 / self.seconds.max(1e-9)
    }

    /// Packets per second that arrived, up to the last one.
    pub fn delivered(&self) -> f64 {
        self.received as f64 / (self.seconds + self.late.as_secs_f64()).max(1e-9)
    }

    /// Packets that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

impl BusyFlows {
    /// Opens this many ports in the node `from`, and a receiver at `address` in the node `to`.
    pub fn open(network: &Network<'_>, from: &str, to: (&str, IpAddr), flows: usize) -> Result<Self, LabError> {
        let needed = flows as u64 + DESCRIPTORS_BESIDE;
        if let Some(limit) = descriptors::raise_limit().filter(|limit| *limit < needed) {
            return Err(LabError::Sentence(format!(
                "{flows} flows need {needed} open descriptors, and this shell allows {limit}: raise it with `ulimit -Hn`"
            )));
        }
        let enter = |node: &str| NetworkNamespace::named(&network.namespace(node));
        let open = || -> io::Result<Self> {
            let sink = enter(to.0)?.run(|| UdpSocket::bind((to.1, 0)))??;
            sockopt::set_socket_recv_buffer_size_force(&sink, BUFFER)?;
            sink.set_nonblocking(true)?;
            let at = sink.local_addr()?;
            let port = || {
                let port = UdpSocket::bind(SocketAddr::from(([0; 4], 0)))?;
                port.connect(at)?;
                Ok(port)
            };
            let ports = enter(from)?.run(|| (0..flows).map(|_| port()).collect::<io::Result<Vec<_>>>())??;
            Ok(Self { ports, sink, sink_port: at.port(), trial: 0 })
        };
        open().map_err(LabError::doing(format!("open {flows} ports in {from}")))
    }

    /// The port of the receiver.
    pub fn sink_port(&self) -> u16 {
        self.sink_port
    }

    /// Sends as offered, and waits until nothing arrives any more.
    pub fn run(&mut self, offer: Offer) -> Trial {
        self.trial += 1;
        let (trial, ports) = (self.trial, &self.ports[..offer.flows.clamp(1, self.ports.len())]);
        let is_over = AtomicBool::new(false);
        let (sent, arrivals) = thread::scope(|scope| {
            let receiving = scope.spawn(|| receive(&self.sink, trial, &is_over));
            let sent = send(ports, trial, offer);
            is_over.store(true, Ordering::Relaxed);
            (sent, receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let Sent { packets, refused, began, ended } = sent;
        let late = arrivals.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(ended));
        let counts = arrivals.numbers.count(packets, ports.len());
        let (received, wrong, silent_flows) = (counts.received, counts.wrong, counts.silent_flows);
        let seconds = (ended - began).as_secs_f64();
        Trial { sent: packets, refused, seconds, received, twice: arrivals.twice, wrong, silent_flows, late }
    }
}

/// What was sent.
struct Sent {
    packets: u64,
    refused: u64,
    began: Instant,
    ended: Instant,
}

fn send(ports: &[UdpSocket], trial: u32, Offer { rate, length, .. }: Offer) -> Sent {
    let mut packet = [0; PAYLOAD];
    packet[..4].copy_from_slice(&trial.to_be_bytes());
    let (mut packets, mut refused, mut missed) = (0, 0, 0);
    let mut next = ports.iter().cycle();
    let began = Instant::now();
    loop {
        let elapsed = began.elapsed();
        if elapsed >= length {
            return Sent { packets, refused, began, ended: Instant::now() };
        }
        let due = match rate {
            Some(rate) => {
                let due = ((elapsed.as_secs_f64() * rate) as u64).saturating_sub(packets + refused + missed);
                missed += due.saturating_sub(BURST);
                due.min(BURST)
            }
            None => BATCH,
        };
        if due == 0 {
            thread::sleep(STEP);
        }
        for port in next.by_ref().take(due as usize) {
            packet[4..12].copy_from_slice(&packets.to_be_bytes());
            match port.send(&packet) {
                Ok(_) => packets += 1,
                Err(_) => refused += 1,
            }
        }
    }
}

/// What arrived.
#[derive(Default)]
struct Arrivals {
    numbers: Numbers,
    twice: u64,
    last: Option<Instant>,
}

fn receive(sink: &UdpSocket, trial: u32, is_over: &AtomicBool) -> Arrivals {
    let mut packet = [0; 2 * PAYLOAD];
    let mut arrivals = Arrivals::default();
    let mut quiet_since = Instant::now();
    loop {
        let mut has_come = false;
        while let Ok(length) = sink.recv(&mut packet) {
            has_come = true;
            if let Some((of, number)) = read(&packet[..length])
                && of == trial
            {
                arrivals.twice += u64::from(!arrivals.numbers.add(number));
            }
        }
        let now = Instant::now();
        if has_come {
            arrivals.last = Some(now);
            quiet_since = now;
        } else if !is_over.load(Ordering::Relaxed) {
            quiet_since = now;
        } else if now - quiet_since > QUIET {
            return arrivals;
        }
        thread::sleep(STEP);
    }
}

/// The trial and the number of a packet.
fn read(payload: &[u8]) -> Option<(u32, u64)> {
    let payload: &[u8; PAYLOAD] = payload.try_into().ok()?;
    let trial = u32::from_be_bytes(*payload.first_chunk()?);
    Some((trial, u64::from_be_bytes(*payload[4..].first_chunk()?)))
}

/// A set of numbers that begin with 0, a bit each.
#[derive(Debug, Default)]
struct Numbers(Vec<u64>);

/// More than this were never sent in a trial.
const NUMBERS_MAX: u64 = 1 << 32;

impl Numbers {
    /// Adds a number; `false` if it was there.
    fn add(&mut self, number: u64) -> bool {
        let (word, bit) = ((number.min(NUMBERS_MAX) / 64) as usize, 1 << (number % 64));
        if word >= self.0.len() {
            self.0.resize((word + 1).next_power_of_two(), 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        let bits = |(at, word): (usize, &u64)| {
            let (at, word) = (at as u64 * 64, *word);
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }

    /// What is there of `sent` packets that were sent by this many flows in turn.
    fn count(&self, sent: u64, flows: usize) -> Counts {
        let mut counts = Counts::default();
        let mut has_come = vec![false; flows.min(sent as usize)];
        for number in self.iter() {
            if number < sent {
                counts.received += 1;
                has_come[(number % flows as u64) as usize] = true;
            } else {
                counts.wrong += 1;
            }
        }
        counts.silent_flows = has_come.iter().filter(|has_come| !**has_come).count();
        counts
    }
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    received: u64,
    wrong: u64,
    silent_flows: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_counts_once_and_belongs_to_the_flow_whose_turn_it_was() {
        let mut numbers = Numbers::default();
        let added: Vec<bool> = [0, 3, 64, 3, 7000, 9].into_iter().map(|number| numbers.add(number)).collect();
        assert_eq!(added, [true, true, true, false, true, true]);
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [0, 3, 9, 64, 7000]);
        // Of three flows, 0, 3 and 9 belong to the first and 64 to the second; 7000 was not sent.
        assert_eq!(numbers.count(100, 3), Counts { received: 4, wrong: 1, silent_flows: 1 });
        assert_eq!(numbers.count(1, 3), Counts { received: 1, wrong: 4, silent_flows: 0 });
        assert_eq!(Numbers::default().count(0, 3), Counts::default());
    }

    #[test]
    fn only_whole_packets_have_a_number() {
        let mut packet = [0; PAYLOAD];
        (packet[3], packet[11]) = (5, 9);
        assert_eq!(read(&packet), Some((5, 9)));
        assert_eq!((read(&packet[1..]), read(&[0; PAYLOAD + 1])), (None, None));
    }

    #[test]
    fn a_trial_has_rates_and_losses() {
        let trial =
            Trial { sent: 1000, seconds: 0.5, received: 900, late: Duration::from_millis(100), ..Trial::default() };
        assert_eq!((trial.offered(), trial.delivered(), trial.lost()), (2000.0, 1500.0, 100));
        assert_eq!(Trial::default().delivered(), 0.0);
    }

    #[test]
    fn flows_over_the_loopback_arrive_at_the_rate_that_is_offered() {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        sink.set_nonblocking(true).unwrap();
        let at = sink.local_addr().unwrap();
        let port = || {
            let port = UdpSocket::bind("127.0.0.1:0").unwrap();
            port.connect(at).unwrap();
            port
        };
        let mut flows = BusyFlows { ports: (0..10).map(|_| port()).collect(), sink, sink_port: at.port(), trial: 0 };
        let trial = flows.run(Offer { flows: 10, rate: Some(1000.0), length: Duration::from_millis(100) });
        assert!((1..=100).contains(&trial.sent), "{trial:?}");
        assert_eq!((trial.received, trial.twice, trial.wrong, trial.silent_flows), (trial.sent, 0, 0, 0));
    }
}
