//! An attacker on the path between two appliances: receives every datagram of both, and decides when to forward it, if
//! at all.
//!
//! The attacker has no keys and does not read datagrams: it delays, holds, reorders and drops them. In a topology such
//! as `pair-held` each appliance sends its datagrams to one of the attacker's two sockets. An [`Order`] for each
//! direction sets what happens.

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

/// How often the thread checks whether it must end.
const STEP: Duration = Duration::from_millis(20);

/// What happens to the datagrams of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// They are forwarded after the path's normal delay.
    Pass,
    /// They are delayed by this much more.
    Delay(Duration),
    /// Each is delayed by a random additional time, up to this.
    Scatter(Duration),
    /// They are held until the next order and then forwarded at once, the last one first if `reversed`.
    Hold {
        /// The order in which they are forwarded.
        reversed: bool,
    },
    /// Nothing is forwarded: new datagrams and those in flight are dropped.
    Swallow,
}

/// One direction of the path.
#[derive(Debug)]
struct Direction {
    takes: Duration,
    order: Order,
    held: Vec<Vec<u8>>,
    under_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
    last: Option<Instant>,
    rng: SmallRng,
}

impl Direction {
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

    fn set_order(&mut self, order: Order, now: Instant) {
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

    /// The next datagram that is due.
    fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.under_way.peek().filter(|Reverse((at, ..))| *at <= now)?;
        self.last = Some(now);
        self.under_way.pop().map(|Reverse((_, _, datagram))| datagram)
    }

    fn deadline(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse((at, ..))| *at)
    }
}

/// A running attacker; dropping it ends it.
#[derive(Debug)]
pub struct PathAttacker {
    directions: Arc<[Mutex<Direction>; 2]>,
    is_over: Arc<AtomicBool>,
    carrying: Option<JoinHandle<()>>,
}

impl PathAttacker {
    /// Starts an attacker between two appliances that listen at `addresses`. It sends to the first appliance from node
    /// `nodes[0]` with the address of the second, and the other way round.
    pub fn start(
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
        let directions = Arc::new([seed, !seed].map(|seed| Mutex::new(Direction::new(seed))));
        let is_over = Arc::new(AtomicBool::new(false));
        let (carried, over) = (directions.clone(), is_over.clone());
        let carrying = Some(thread::spawn(move || carry(&sockets, &carried, &over)));
        Ok(Self { directions, is_over, carrying })
    }

    /// Sets the normal one-way delay of both directions.
    pub fn set_path(&self, each_way: Duration) {
        self.directions.iter().for_each(|direction| lock(direction).takes = each_way);
    }

    /// Sets the orders: from the first appliance to the second, and back.
    pub fn order(&self, [forth, back]: [Order; 2]) {
        let now = Instant::now();
        lock(&self.directions[0]).set_order(forth, now);
        lock(&self.directions[1]).set_order(back, now);
    }

    /// When the last datagram of the first appliance was forwarded to the second.
    pub fn last_forth(&self) -> Option<Instant> {
        lock(&self.directions[0]).last
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

fn carry(sockets: &[UdpSocket; 2], directions: &[Mutex<Direction>; 2], is_over: &AtomicBool) {
    let mut buffer = [0; 1 << 16];
    while !is_over.load(Ordering::Relaxed) {
        let due = directions.iter().filter_map(|direction| lock(direction).deadline()).min();
        let wait = due.map_or(STEP, |at| at.saturating_duration_since(Instant::now())).min(STEP);
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut descriptors = sockets.each_ref().map(|socket| PollFd::new(socket, PollFlags::IN));
        // An interrupted wait is only a short wait.
        let _ = poll(&mut descriptors, Some(&wait));
        for (from, to) in [(0, 1), (1, 0)] {
            // A restarting appliance refuses datagrams for a while; the socket error is no reason to stop.
            while let Ok(length) = sockets[from].recv(&mut buffer) {
                lock(&directions[from]).take(&buffer[..length], Instant::now());
            }
            // The lock is held while datagrams are sent, so nothing leaves after an order that forbids it.
            let mut direction = lock(&directions[from]);
            while let Some(datagram) = direction.poll(Instant::now()) {
                let _ = sockets[to].send(&datagram);
            }
        }
    }
}

fn lock(direction: &Mutex<Direction>) -> MutexGuard<'_, Direction> {
    direction.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_decides_when_datagrams_are_forwarded() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut direction = Direction::new(1);
        direction.takes = Duration::from_millis(5);
        let all =
            |direction: &mut Direction, now| std::iter::from_fn(|| direction.poll(now)).flatten().collect::<Vec<u8>>();
        direction.take(&[1], at(0));
        assert_eq!(
            (all(&mut direction, at(4)), all(&mut direction, at(5)), direction.last),
            (vec![], vec![1], Some(at(5)))
        );
        direction.set_order(Order::Delay(Duration::from_millis(100)), at(6));
        direction.take(&[2], at(6));
        direction.set_order(Order::Hold { reversed: true }, at(7));
        [3, 4].iter().for_each(|byte| direction.take(&[*byte], at(8)));
        assert_eq!(all(&mut direction, at(900)), [2]);
        direction.set_order(Order::Scatter(Duration::from_millis(50)), at(1000));
        assert_eq!(all(&mut direction, at(1000)), [4, 3]);
        (0..100).for_each(|byte| direction.take(&[byte], at(1000)));
        assert_eq!(all(&mut direction, at(1004)), [0; 0]);
        let scattered = all(&mut direction, at(1040));
        assert!(!scattered.is_sorted() && scattered.len() < 100, "{scattered:?}");
        direction.set_order(Order::Swallow, at(1040));
        direction.take(&[9], at(1040));
        direction.set_order(Order::Pass, at(1041));
        assert_eq!((all(&mut direction, at(5000)), direction.last), (vec![], Some(at(1040))));
    }
}
