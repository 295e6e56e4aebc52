//! A man on the path between two appliances: takes every datagram of either, and decides when it goes on, if at all.
//!
//! He has no keys and does not look into datagrams: he delays, holds, reorders and swallows. In a topology such as
//! `pair-held` each appliance's datagrams end at one of his two sockets. What he does is an [`Order`], for each direction.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{error::LabError, network::Network};
use crate::io::namespace::NetworkNamespace;

/// How often he looks whether he shall end.
const STEP: Duration = Duration::from_millis(20);

/// What he does with the datagrams of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// They go on after the time that the path takes.
    Pass,
    /// They take so much longer.
    Delay(Duration),
    /// Each takes longer by a time of its own, up to this.
    Scatter(Duration),
    /// They stay until the next order, and then go on at once, the last one first if `reversed`.
    Hold {
        /// In which order they go on.
        reversed: bool,
    },
    /// Nothing goes on, neither what comes nor what is under way.
    Swallow,
}

/// A direction of the path.
#[derive(Debug)]
struct Way {
    takes: Duration,
    order: Order,
    held: Vec<Vec<u8>>,
    under_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
    last: Option<Instant>,
    rng: SmallRng,
}

impl Way {
    fn new(seed: u64) -> Self {
        Self {
            takes: Duration::ZERO,
            order: Order::Pass,
            held: Vec::new(),
            under_way: BinaryHeap::new(),
            count: 0,
            last: None,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    fn obey(&mut self, order: Order, now: Instant) {
        if let Order::Hold { reversed } = self.order {
            let mut held = std::mem::take(&mut self.held);
            if reversed {
                held.reverse();
            }
            held.into_iter().for_each(|datagram| self.put(datagram, now));
        }
        self.order = order;
        if order == Order::Swallow {
            self.under_way.clear();
        }
    }

    fn take(&mut self, datagram: &[u8], now: Instant) {
        match self.order {
            Order::Pass => self.put(datagram.to_vec(), now + self.takes),
            Order::Delay(more) => self.put(datagram.to_vec(), now + self.takes + more),
            Order::Scatter(most) => {
                let more = most.mul_f64(self.rng.random());
                self.put(datagram.to_vec(), now + self.takes + more);
            }
            Order::Hold { .. } => self.held.push(datagram.to_vec()),
            Order::Swallow => {}
        }
    }

    fn put(&mut self, datagram: Vec<u8>, at: Instant) {
        self.count += 1;
        self.under_way.push(Reverse((at, self.count, datagram)));
    }

    /// The next datagram that goes on by now.
    fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.under_way.peek().filter(|Reverse((at, ..))| *at <= now)?;
        self.last = Some(now);
        self.under_way.pop().map(|Reverse((_, _, datagram))| datagram)
    }

    fn deadline(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse((at, ..))| *at)
    }
}

/// A man who stands there until he is dropped.
#[derive(Debug)]
pub struct PathAttacker {
    ways: Arc<[Mutex<Way>; 2]>,
    is_over: Arc<AtomicBool>,
    carrying: Option<JoinHandle<()>>,
}

impl PathAttacker {
    /// Stands between two appliances that listen at `addresses`. Toward the first he speaks from the node `nodes[0]` with
    /// the address of the second, and the other way round.
    pub fn stand(
        network: &Network<'_>,
        nodes: [&str; 2],
        addresses: [SocketAddr; 2],
        seed: u64,
    ) -> Result<Self, LabError> {
        let open = |node: &str, from: SocketAddr, to: SocketAddr| -> io::Result<UdpSocket> {
            let socket = NetworkNamespace::named(&network.namespace(node))?.run(|| UdpSocket::bind(from))??;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let [first, second] = addresses;
        let open = |node, from, to| open(node, from, to).map_err(LabError::doing(format!("speak as {from} in {node}")));
        let sockets = [open(nodes[0], second, first)?, open(nodes[1], first, second)?];
        let ways = Arc::new([seed, !seed].map(|seed| Mutex::new(Way::new(seed))));
        let is_over = Arc::new(AtomicBool::new(false));
        let (carried, over) = (ways.clone(), is_over.clone());
        let carrying = Some(thread::spawn(move || carry(&sockets, &carried, &over)));
        Ok(Self { ways, is_over, carrying })
    }

    /// How long the path takes each way, from now on.
    pub fn set_path(&self, each_way: Duration) {
        self.ways.iter().for_each(|way| lock(way).takes = each_way);
    }

    /// What he does from now on: from the first appliance to the second, and back.
    pub fn order(&self, [forth, back]: [Order; 2]) {
        let now = Instant::now();
        lock(&self.ways[0]).obey(forth, now);
        lock(&self.ways[1]).obey(back, now);
    }

    /// When he last let a datagram of the first appliance go on to the second.
    pub fn last_forth(&self) -> Option<Instant> {
        lock(&self.ways[0]).last
    }
}

impl Drop for PathAttacker {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(carrying) = self.carrying.take() {
            let _ = carrying.join();
        }
    }
}

fn carry(sockets: &[UdpSocket; 2], ways: &[Mutex<Way>; 2], is_over: &AtomicBool) {
    let mut buffer = [0; 1 << 16];
    while !is_over.load(Ordering::Relaxed) {
        let due = ways.iter().filter_map(|way| lock(way).deadline()).min();
        let wait = due.map_or(STEP, |at| at.saturating_duration_since(Instant::now())).min(STEP);
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut descriptors = sockets.each_ref().map(|socket| PollFd::new(socket, PollFlags::IN));
        // An interrupted wait is a short one.
        let _ = poll(&mut descriptors, Some(&wait));
        for (from, to) in [(0, 1), (1, 0)] {
            // An appliance that restarts refuses for a while, which is an error on the socket and no reason to stop.
            while let Ok(length) = sockets[from].recv(&mut buffer) {
                lock(&ways[from]).take(&buffer[..length], Instant::now());
            }
            // What he lets go on leaves under the lock: after an order nothing does that it forbids.
            let mut way = lock(&ways[from]);
            while let Some(datagram) = way.poll(Instant::now()) {
                let _ = sockets[to].send(&datagram);
            }
        }
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn he_does_what_he_is_told() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut way = Way::new(1);
        way.takes = Duration::from_millis(5);
        let all = |way: &mut Way, now| std::iter::from_fn(|| way.poll(now)).flatten().collect::<Vec<u8>>();
        way.take(&[1], at(0));
        assert_eq!((all(&mut way, at(4)), all(&mut way, at(5)), way.last), (vec![], vec![1], Some(at(5))));
        way.obey(Order::Delay(Duration::from_millis(100)), at(6));
        way.take(&[2], at(6));
        way.obey(Order::Hold { reversed: true }, at(7));
        [3, 4].iter().for_each(|byte| way.take(&[*byte], at(8)));
        assert_eq!(all(&mut way, at(900)), [2]);
        way.obey(Order::Scatter(Duration::from_millis(50)), at(1000));
        assert_eq!(all(&mut way, at(1000)), [4, 3]);
        (0..100).for_each(|byte| way.take(&[byte], at(1000)));
        assert_eq!(all(&mut way, at(1004)), [0; 0]);
        let scattered = all(&mut way, at(1040));
        assert!(!scattered.is_sorted() && scattered.len() < 100, "{scattered:?}");
        way.obey(Order::Swallow, at(1040));
        way.take(&[9], at(1040));
        way.obey(Order::Pass, at(1041));
        assert_eq!((all(&mut way, at(5000)), way.last), (vec![], Some(at(1040))));
    }
}
