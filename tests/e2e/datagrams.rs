//! Numbered UDP datagrams between two nodes; the receiver counts them by number and checks their content.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use onwire::io::namespace::NetworkNamespace;

/// The datagram of this number, at least 8 bytes long: the number, then bytes computed from it.
pub fn datagram(number: u64, length: usize) -> Vec<u8> {
    let body = (8..length).map(|at| (number as usize * 31 + at * 7) as u8);
    number.to_be_bytes().into_iter().chain(body).collect()
}

/// The datagrams that have arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// How often each number arrived.
    pub times: BTreeMap<u64, u32>,
    /// Datagrams whose content differs from what was sent.
    pub damaged: u64,
    /// When each arrived, in order.
    pub when: Vec<Instant>,
}

impl Arrived {
    /// Panics if a number arrived twice or a datagram was changed.
    pub fn assert_once(&self) {
        let twice: Vec<_> = self.times.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "delivered more than once (number, times): {twice:?}");
        assert_eq!(self.damaged, 0, "datagrams with other content than was sent");
    }
}

/// A receiver of numbered datagrams.
pub struct Sink {
    /// Its listen address.
    pub address: SocketAddr,
    arrived: Arc<Mutex<Arrived>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Listens in a node at an address.
    pub fn listen(node: &NetworkNamespace, at: &str) -> Self {
        let at: std::net::IpAddr = at.parse().unwrap();
        let socket = node.run(|| UdpSocket::bind((at, 0)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        // A few datagrams of many fragments fill the default buffer, and a loss here would look like a loss of the
        // tunnel.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
        let address = socket.local_addr().unwrap();
        let (arrived, stop) = (Arc::<Mutex<Arrived>>::default(), Arc::<AtomicBool>::default());
        let (notes, asked) = (Arc::clone(&arrived), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 66_000];
            while !asked.load(Ordering::Relaxed) {
                let length = match socket.recv(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                    Err(error) => panic!("{error}"),
                };
                let mut notes = notes.lock().unwrap();
                let number = buffer.first_chunk().map_or(u64::MAX, |number| u64::from_be_bytes(*number));
                if buffer[..length] == datagram(number, length) {
                    *notes.times.entry(number).or_default() += 1;
                    notes.when.push(Instant::now());
                } else {
                    notes.damaged += 1;
                }
            }
        });
        Self { address, arrived, stop, thread: Some(thread) }
    }

    /// The datagrams that have arrived so far.
    pub fn arrived(&self) -> Arrived {
        self.arrived.lock().unwrap().clone()
    }

    /// How many different numbers have arrived so far.
    pub fn count(&self) -> usize {
        self.arrived.lock().unwrap().times.len()
    }

    /// Waits until `count` different numbers have arrived; `false` if that takes longer than 30 seconds.
    pub fn wait_for(&self, count: usize) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.count() < count && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.count() >= count
    }

    /// Sends `count` datagrams of `length` bytes from a node, never more in flight than a queue holds, and waits for
    /// them. Panics unless each arrived exactly once and unchanged.
    pub fn expect_all(&self, from: &NetworkNamespace, count: u64, length: usize) {
        let socket = sender(from, self.address);
        let first = self.count() as u64;
        for number in first..first + count {
            socket.send(&datagram(number, length)).unwrap();
            if number % 16 == 15 || number + 1 == first + count {
                assert!(self.wait_for(number as usize + 1), "{} of {} arrived", self.count(), number + 1);
            }
        }
        self.arrived().assert_once();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the receiver failed");
        }
    }
}

/// A socket in a node, connected to a sink.
pub fn sender(from: &NetworkNamespace, to: SocketAddr) -> UdpSocket {
    from.run(|| {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse() } else { "[::]:0".parse() }.unwrap();
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket
    })
    .unwrap()
}

/// Sends numbered datagrams at a steady rate on a thread of its own until dropped; ignores send errors.
pub struct Stream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Stream {
    /// Starts to send `length` bytes at each `interval`.
    pub fn begin(from: &NetworkNamespace, to: SocketAddr, length: usize, interval: Duration) -> Self {
        let (socket, stop) = (sender(from, to), Arc::<AtomicBool>::default());
        let asked = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let start = Instant::now();
            let mut number = 0;
            while !asked.load(Ordering::Relaxed) {
                // While an appliance does not run, its kernel answers with ICMP errors.
                let _ = socket.send(&datagram(number, length));
                number += 1;
                thread::sleep((start + interval * number as u32).saturating_duration_since(Instant::now()));
            }
            number
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops; returns the number of sent datagrams.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is ended once").join().unwrap()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
