//! The notification port of an appliance that calls all that was sent protected, or nothing more.

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use onwire::{
    io::{namespace::NetworkNamespace, sock_diag::tcp_sockets},
    notify::{
        envelope::KeyRing,
        message::{Event, Flow, FlowKey, Level, Origin, Positions},
        publisher::{Asked, Limits, Publisher},
        secret::Secret,
    },
};

/// Where it listens.
pub const ADDRESS: &str = "127.0.0.1:7118";
/// The key, as a key file has it.
pub const KEY: &str = "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=";

/// The appliance, in a thread.
pub struct Appliance {
    protects: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Appliance {
    /// In this namespace.
    pub fn start(name: &str) -> Self {
        let (protects, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (wanted, stopped) = (Arc::clone(&protects), Arc::clone(&stop));
        let thread = std::thread::spawn({
            let namespace = NetworkNamespace::named(name).unwrap();
            move || {
                namespace.enter().unwrap();
                publish(&wanted, &stopped);
            }
        });
        Self { protects, stop, thread: Some(thread) }
    }

    /// From now on everything is protected as soon as it is sent.
    pub fn protect(&self) {
        self.protects.store(true, Ordering::Relaxed);
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

fn publish(wanted: &AtomicBool, stopped: &AtomicBool) {
    let socket = UdpSocket::bind(ADDRESS).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut keys = KeyRing::new();
    keys.insert(Secret::parse(KEY).unwrap().to_key(1)).unwrap();
    let mut publisher = Publisher::new(keys, Limits::default(), 42, &[8; 32], Instant::now());
    let mut flows = BTreeMap::new();
    let mut bytes = [0; 2048];
    while !stopped.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            publisher.handle_datagram(from, &bytes[..len], Instant::now());
        }
        while let Some(asked) = publisher.poll_asked() {
            if let Asked::Register { key, .. } = asked
                && !flows.contains_key(&key)
            {
                flows.insert(key, 0);
                publisher.publish_flow(&flow(key, 0), Instant::now());
            }
        }
        if wanted.load(Ordering::Relaxed) {
            for it in tcp_sockets(|_| true).unwrap() {
                let key = FlowKey::tcp(it.local, it.remote);
                let sent = it.sent.map_or(0, |sent| sent.written);
                if let Some(told) = flows.get_mut(&key).filter(|told| **told < sent) {
                    *told = sent;
                    publisher.publish_flow(&flow(key, sent), Instant::now());
                }
            }
        }
        publisher.handle_timeout(Instant::now());
        publisher.poll_datagrams(64, Instant::now(), |to, bytes| socket.send_to(bytes, to).is_ok());
    }
}

fn flow(key: FlowKey, on_wire: u64) -> Flow {
    Flow {
        key,
        instance: 1,
        peer: 0,
        event: Event::Protected,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(1000),
        positions: Positions { on_wire: Some(on_wire), ..Positions::default() },
        violated: None,
        packets: None,
        cookie: None,
        block: None,
    }
}
