//! A faulty path between a subscriber and a publisher: a UDP relay that corrupts what it forwards.
//!
//! [`faults`] decides what happens to a datagram. The relay serves one subscriber, the last one that sent. It outlives
//! a restart of the publisher, so that recordings of the earlier run can be replayed to the later one.
//!
//! Start with [`faults`]; this file moves the datagrams.

pub mod faults;

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::faults::{FaultCounters, FaultPlan, Faults};
use super::{error::LabError, network::Network};
use crate::{io::namespace::NetworkNamespace, notify::message::FlowKey};

/// How often the thread checks whether it must end.
const STEP: Duration = Duration::from_millis(50);

/// A relay that runs until it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    directions: Arc<[Mutex<Faults>; 2]>,
    is_over: Arc<AtomicBool>,
    forwarding: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts a relay in `node`, at the publisher's address with a port of its own.
    pub fn start(
        network: &Network<'_>,
        node: &str,
        publisher: SocketAddr,
        plan: FaultPlan,
        seed: u64,
    ) -> Result<Self, LabError> {
        let open = || -> io::Result<_> {
            let inside = NetworkNamespace::named(&network.namespace(node))?;
            let near = inside.run(|| UdpSocket::bind((publisher.ip(), 0)))??;
            let far = inside.run(|| UdpSocket::bind((publisher.ip(), 0)))??;
            far.connect(publisher)?;
            near.set_nonblocking(true)?;
            far.set_nonblocking(true)?;
            Ok((near.local_addr()?, near, far))
        };
        let (address, near, far) = open().map_err(LabError::doing(format!("relay to {publisher} in {node}")))?;
        // The two directions have different seeds: the fate of a request must not decide the fate of its answer.
        let directions = [seed, seed ^ 0x9e37_79b9_7f4a_7c15].map(|seed| Mutex::new(Faults::new(plan, seed)));
        let directions = Arc::new(directions);
        let is_over = Arc::new(AtomicBool::new(false));
        let wires = Wires { near, far, subscriber: None };
        let (faults, over) = (directions.clone(), is_over.clone());
        let forwarding = Some(thread::spawn(move || wires.forward(&faults, &over)));
        Ok(Self { address, directions, is_over, forwarding })
    }

    /// The address for the subscriber.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counters of requests, and of notifications.
    pub fn counters(&self) -> [FaultCounters; 2] {
        self.directions.each_ref().map(|faults| lock(faults).counters())
    }

    /// Sets the flow about which datagrams are forged from now on.
    pub fn aim(&self, target: FlowKey) {
        self.directions.iter().for_each(|faults| lock(faults).aim(target));
    }

    /// From now on the existing recordings count as those of an earlier run.
    pub fn on_restart(&self) {
        self.directions.iter().for_each(|faults| lock(faults).on_restart());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(forwarding) = self.forwarding.take() {
            let _ = forwarding.join();
        }
    }
}

/// The two sockets: toward the subscriber and toward the publisher.
struct Wires {
    near: UdpSocket,
    far: UdpSocket,
    subscriber: Option<SocketAddr>,
}

impl Wires {
    fn forward(mut self, [requests, notifications]: &[Mutex<Faults>; 2], is_over: &AtomicBool) {
        let mut buffer = [0; 2048];
        while !is_over.load(Ordering::Relaxed) {
            let due = [requests, notifications].map(|faults| lock(faults).poll_timeout());
            let due = due.into_iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()));
            let wait = due.unwrap_or(STEP).min(STEP);
            let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            let mut sockets = [PollFd::new(&self.near, PollFlags::IN), PollFd::new(&self.far, PollFlags::IN)];
            // An interrupted wait is only a short wait.
            let _ = poll(&mut sockets, Some(&wait));
            // A restarting publisher refuses datagrams for a while; the socket error is no reason to stop.
            while let Ok((length, from)) = self.near.recv_from(&mut buffer) {
                self.subscriber = Some(from);
                lock(requests).handle_datagram(&buffer[..length], Instant::now());
            }
            while let Ok(length) = self.far.recv(&mut buffer) {
                lock(notifications).handle_datagram(&buffer[..length], Instant::now());
            }
            let now = Instant::now();
            while let Some(datagram) = lock(requests).poll_datagram(now) {
                let _ = self.far.send(&datagram);
            }
            while let Some(datagram) = lock(notifications).poll_datagram(now) {
                if let Some(subscriber) = self.subscriber {
                    let _ = self.near.send_to(&datagram, subscriber);
                }
            }
        }
    }
}

fn lock(faults: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
