//! The one fake appliance of the tests: a notification port that publishes what a test orders. It decides nothing.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onwire::io::sock_diag::tcp_sockets;
use onwire::notify::envelope::KeyRing;
use onwire::notify::message::{Block, Event, Flow, FlowKey, Level, Origin, Peer, Positions, Range};
use onwire::notify::publisher::{Asked, Limits, Publisher};
use onwire::notify::secret::Secret;

/// The key of the tests, in the form of a key file.
pub const KEY: &str = "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=";

pub fn secret() -> Secret {
    Secret::parse(KEY).unwrap()
}

/// What the appliance is to publish.
pub enum Order {
    Flow(Box<Flow>),
    State(Peer),
    /// Of this peer.
    Violation(u32, Range),
    Block(Block),
    /// Nothing more is sent.
    Silence,
}

/// The notification port of an appliance that reports whatever the test orders.
pub struct Appliance {
    pub address: SocketAddr,
    orders: Sender<Order>,
    protects_all: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Appliance {
    pub fn start() -> Appliance {
        Appliance::at("127.0.0.1:0".parse().unwrap(), 42)
    }

    /// At an address, as a run with this epoch.
    pub fn at(address: SocketAddr, epoch: u64) -> Appliance {
        Appliance::begin(|| {}, address, epoch)
    }

    /// In a network namespace.
    #[cfg(feature = "lab")]
    pub fn in_namespace(name: &str, address: SocketAddr) -> Appliance {
        let namespace = onwire::io::namespace::NetworkNamespace::named(name).unwrap();
        // Only the appliance's thread enters it, and the socket that the thread opens is in it.
        Appliance::begin(move || namespace.enter().unwrap(), address, 42)
    }

    fn begin(enter: impl FnOnce() + Send + 'static, address: SocketAddr, epoch: u64) -> Appliance {
        let (orders, received) = channel();
        let (protects_all, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (wanted, stopped) = (Arc::clone(&protects_all), Arc::clone(&stop));
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            enter();
            let socket = UdpSocket::bind(address).unwrap();
            tell.send(socket.local_addr().unwrap()).unwrap();
            publish(&socket, epoch, &received, &wanted, &stopped);
        });
        let address = told.recv().expect("the appliance has its port");
        Appliance { address, orders, protects_all, stop, thread: Some(thread) }
    }

    /// From now on each watched flow is protected as soon as it is sent.
    pub fn protect_all(&self) {
        self.protects_all.store(true, Ordering::Relaxed);
    }

    /// Reports that everything below `on_wire` of the flow is on the wire.
    pub fn protect(&self, key: FlowKey, on_wire: u64) {
        self.tell(key, Level::OnWire, Positions { on_wire: Some(on_wire), ..Positions::default() });
    }

    /// Reports that everything below `on_wire` was on the wire, and that the byte at `violated` is lost.
    pub fn tell_lost(&self, key: FlowKey, on_wire: u64, violated: u64) {
        let positions = Positions { on_wire: Some(on_wire), ..Positions::default() };
        self.tell_flow(key, Level::OnWire, positions, Some(violated));
    }

    /// Reports positions of a flow.
    pub fn tell(&self, key: FlowKey, level: Level, positions: Positions) {
        self.tell_flow(key, level, positions, None);
    }

    /// Reports what has left of a flow whose bytes on the wire survive an interruption of `survives` microseconds:
    /// data and early repair of the bytes below `early`, everything of those below `on_wire`.
    pub fn tell_late(&self, key: FlowKey, early: u64, on_wire: u64, survives: u32) {
        let positions = Positions { early: Some(early), on_wire: Some(on_wire), ..Positions::default() };
        let flow = Flow { survives_burst: survives, ..flow(key, Level::OnWire, positions) };
        self.order(Order::Flow(Box::new(flow)));
    }

    fn tell_flow(&self, key: FlowKey, level: Level, positions: Positions, violated: Option<u64>) {
        let flow = Flow { violated, ..flow(key, level, positions) };
        self.order(Order::Flow(Box::new(flow)));
    }

    /// Publishes something.
    pub fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
        // A datagram without meaning wakes the publisher, so that it reads the order at once.
        let knock = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = knock.send_to(&[0], self.address);
    }

    /// Reports that claimed bytes are lost.
    pub fn violate(&self, key: FlowKey, start: u64, end: u64) {
        self.order(Order::Violation(0, Range { key, instance: 1, start, end }));
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs the publisher of an appliance until `stop` is set.
fn publish(socket: &UdpSocket, epoch: u64, orders: &Receiver<Order>, protects_all: &AtomicBool, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut keys = KeyRing::new();
    keys.insert(secret().to_key(1)).unwrap();
    let mut publisher = Publisher::new(keys, Limits::default(), epoch, &[8; 32], Instant::now());
    // The position up to which each watched flow was reported as protected.
    let mut watched = BTreeMap::new();
    let on_wire = |key, bytes| flow(key, Level::OnWire, Positions { on_wire: Some(bytes), ..Positions::default() });
    let (mut bytes, mut silent) = ([0; 2048], false);
    while !stop.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            publisher.handle_datagram(from, &bytes[..len], Instant::now());
        }
        while let Some(asked) = publisher.poll_asked() {
            if let Asked::Register { key, .. } = asked {
                watched.entry(key).or_insert(0);
            }
        }
        // One in each turn: what was ordered first is sent before what replaces it.
        if let Ok(order) = orders.try_recv() {
            match order {
                Order::Flow(flow) => publisher.publish_flow(&flow, Instant::now()),
                Order::State(peer) => publisher.publish_state(&peer, Instant::now()),
                Order::Violation(peer, range) => publisher.publish_violation(peer, &[range], Instant::now()),
                Order::Block(block) => publisher.publish_block(&block),
                Order::Silence => silent = true,
            }
        }
        if protects_all.load(Ordering::Relaxed) {
            for it in tcp_sockets(|_| true).unwrap() {
                let key = FlowKey::tcp(it.local, it.remote);
                let sent = it.sent.map_or(0, |sent| sent.written);
                if let Some(told) = watched.get_mut(&key).filter(|told| **told < sent) {
                    *told = sent;
                    publisher.publish_flow(&on_wire(key, sent), Instant::now());
                }
            }
        }
        publisher.handle_timeout(Instant::now());
        publisher.poll_datagrams(64, Instant::now(), |to, bytes| silent || socket.send_to(bytes, to).is_ok());
    }
}

fn flow(key: FlowKey, level: Level, positions: Positions) -> Flow {
    Flow {
        key,
        instance: 1,
        peer: 0,
        event: Event::Protected,
        level,
        origin: Origin::Start,
        origin_seq: Some(1000),
        positions,
        violated: None,
        packets: None,
        cookie: None,
        block: None,
        survives_burst: 0,
    }
}
