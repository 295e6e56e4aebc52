//! The control: a sender that takes one timestamp as the departure of all earlier datagrams.
//!
//! It sends numbered trains over the same uplink, with the library's own socket, and requests a timestamp for the last
//! datagram of each train. It counts a datagram as left when a timestamp of it or of a later one has arrived without an
//! error in between. The receiver is behind the uplink and reports what arrived.

use std::{
    collections::{HashSet, VecDeque},
    io,
    net::{SocketAddr, UdpSocket as StdSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use super::load::BUFFER;
use crate::{
    io::{
        namespace::NetworkNamespace,
        udp::{UdpOptions, UdpSocket},
    },
    lab::{error::LabError, network::Network},
};

/// Where it sends from, like the appliance, and where to.
const NEAR: (&str, &str) = ("ithaca", "192.0.2.1:0");
const FAR: (&str, &str) = ("provider", "198.51.100.254:0");
const DATAGRAM: usize = 500;
/// Datagrams of a train that request no timestamp.
const TRAIN: u32 = 4;
const PACE: Duration = Duration::from_millis(10);
/// After the last train, timestamps and datagrams may take this long.
const PATIENCE: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(20);

/// The sender and its receiver, until [`finish`](Self::finish).
#[derive(Debug)]
pub struct OneStamp {
    is_over: Arc<AtomicBool>,
    is_closed: Arc<AtomicBool>,
    sending: JoinHandle<io::Result<Vec<u32>>>,
    receiving: JoinHandle<HashSet<u32>>,
}

/// The result of the control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlResult {
    /// Datagrams that it counted as left.
    pub left: u64,
    /// Of these, those that never arrived.
    pub missing: u64,
}

impl OneStamp {
    /// Starts to send.
    pub fn start(network: &Network<'_>) -> Result<Self, LabError> {
        let enter = |node: &str| NetworkNamespace::named(&network.namespace(node));
        let address = |text: &str| text.parse::<SocketAddr>().map_err(io::Error::other);
        let open = || -> io::Result<_> {
            let far = address(FAR.1).and_then(|at| enter(FAR.0)?.run(|| StdSocket::bind(at))?)?;
            far.set_read_timeout(Some(STEP))?;
            sockopt::set_socket_recv_buffer_size_force(&far, BUFFER)?;
            let near = address(NEAR.1)?;
            let near = enter(NEAR.0)?.run(|| UdpSocket::bind(near, UdpOptions::default()))??;
            let to = far.local_addr()?;
            Ok((near, far, to))
        };
        let (near, far, to) = open().map_err(LabError::doing("open the sockets of the control"))?;
        let (is_over, is_closed) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (over, closed) = (is_over.clone(), is_closed.clone());
        let sending = thread::spawn(move || send(near, to, &over));
        let receiving = thread::spawn(move || receive(&far, &closed));
        Ok(Self { is_over, is_closed, sending, receiving })
    }

    /// Ends the control; returns what it counted as left, and how much of that never arrived.
    pub fn finish(self) -> Result<ControlResult, LabError> {
        self.is_over.store(true, Ordering::Relaxed);
        let left = self.sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.is_closed.store(true, Ordering::Relaxed);
        let came = self.receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let left = left.map_err(LabError::doing("send as the control does"))?;
        let missing = left.iter().filter(|number| !came.contains(number)).count() as u64;
        Ok(ControlResult { left: left.len() as u64, missing })
    }
}

/// Datagrams that were sent and are not yet counted as left, and those that are.
#[derive(Debug, Default)]
struct Departures {
    pending: VecDeque<u32>,
    left: Vec<u32>,
}

impl Departures {
    fn on_stamp(&mut self, stamp: u32) {
        while let Some(number) = self.pending.front().copied().filter(|number| *number <= stamp) {
            self.pending.pop_front();
            self.left.push(number);
        }
    }

    /// The error does not name its datagram, so all pending ones are dropped.
    fn on_error(&mut self) {
        self.pending.clear();
    }
}

fn send(mut socket: UdpSocket, to: SocketAddr, is_over: &AtomicBool) -> io::Result<Vec<u32>> {
    let mut departures = Departures::default();
    let mut next = 0;
    while !is_over.load(Ordering::Relaxed) {
        let train: Vec<u8> = (next..next + TRAIN).flat_map(datagram).collect();
        let outcome = socket.send_train(to, &train, DATAGRAM);
        departures.pending.extend(next..next + (outcome.sent / DATAGRAM) as u32);
        let stamp = next + TRAIN;
        let last = socket.send_stamped(to, &datagram(stamp), 0, stamp);
        if last.sent > 0 {
            departures.pending.push_back(stamp);
        }
        if outcome.error.is_some() || last.error.is_some() {
            departures.on_error();
        }
        next = stamp + 1;
        listen(&mut socket, &mut departures);
        thread::sleep(PACE);
    }
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        listen(&mut socket, &mut departures);
        thread::sleep(PACE);
    }
    Ok(departures.left)
}

fn listen(socket: &mut UdpSocket, departures: &mut Departures) {
    let mut stamps = Vec::new();
    if socket.drain_errors(&mut |stamp| stamps.push(stamp)).total() > 0 {
        departures.on_error();
    }
    stamps.into_iter().for_each(|stamp| departures.on_stamp(stamp));
}

fn datagram(number: u32) -> [u8; DATAGRAM] {
    let mut datagram = [0; DATAGRAM];
    datagram[..4].copy_from_slice(&number.to_be_bytes());
    datagram
}

fn receive(socket: &StdSocket, is_closed: &AtomicBool) -> HashSet<u32> {
    let mut came = HashSet::new();
    let mut bytes = [0; 2 * DATAGRAM];
    while !is_closed.load(Ordering::Relaxed) {
        if let Ok(DATAGRAM) = socket.recv(&mut bytes)
            && let Some(number) = bytes.first_chunk()
        {
            came.insert(u32::from_be_bytes(*number));
        }
    }
    came
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stamp_covers_all_earlier_datagrams_and_an_error_drops_the_pending_ones() {
        let mut departures = Departures { pending: (0..7).collect(), left: Vec::new() };
        departures.on_stamp(4);
        assert_eq!((&departures.left[..], departures.pending.len()), (&[0, 1, 2, 3, 4][..], 2));
        departures.on_error();
        departures.on_stamp(9);
        assert_eq!(departures.left.len(), 5);
    }
}
