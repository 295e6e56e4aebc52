//! Captures every UDP datagram over IPv4 that enters or leaves a node, like a tap on its cable.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZero,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use onwire::io::namespace::NetworkNamespace;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with,
    sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
};

/// `ETH_P_ALL`, in network order.
const EVERY_PROTOCOL: u32 = 0x0003u16.to_be() as u32;

/// A datagram, or a whole train if the sender leaves segmentation to the device.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Its DSCP and ECN field.
    pub class: u8,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// A running capture.
pub struct Capture {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts to capture, on all devices of a node.
    pub fn begin(node: &NetworkNamespace) -> Self {
        let protocol = NonZero::new(EVERY_PROTOCOL).map(Protocol::from_raw);
        let open = || socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol).unwrap();
        let socket = node.run(open).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(20))).unwrap();
        set_socket_recv_buffer_size_force(&socket, 64 << 20).unwrap();
        let (seen, stop) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicBool>::default());
        let (notes, asked) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = Some(thread::spawn(move || look(&socket, &notes, &asked)));
        Self { seen, stop, thread }
    }

    /// The datagrams captured so far.
    pub fn so_far(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Ends the capture and returns all datagrams.
    pub fn end(self) -> Vec<Seen> {
        self.so_far()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the capture failed");
        }
    }
}

fn look(socket: &OwnedFd, seen: &Mutex<Vec<Seen>>, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, _)) = recv(socket, &mut buffer[..], RecvFlags::empty())
            && let Some(datagram) = parse(&buffer[..length])
        {
            seen.lock().unwrap().push(datagram);
        }
    }
}

fn parse(packet: &[u8]) -> Option<Seen> {
    let header = usize::from(*packet.first()? & 15) * 4;
    if packet.first()? >> 4 != 4 || packet.get(9)? != &17 {
        return None;
    }
    let address = |at: usize| packet[at..].first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
    let port = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    Some(Seen {
        from: SocketAddr::from((address(12)?, port(header)?)),
        to: SocketAddr::from((address(16)?, port(header + 2)?)),
        class: packet[1],
        bytes: packet.get(header + 8..)?.to_vec(),
    })
}
