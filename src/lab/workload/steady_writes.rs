//! Small writes at a steady rate, over TCP and over UDP, that never wait for the network.
//!
//! TCP stops sending when nothing is acknowledged any more; UDP does not, so that there are always new bytes that could
//! be called protected. No program reads the UDP data.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::stream::{Sink, Stream};
use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
};

const WRITE: [u8; 200] = [7; 200];
const PACE: Duration = Duration::from_millis(2);

/// Steady writes that can be switched on and off, until [`end`](Self::end).
#[derive(Debug)]
pub struct SteadyWrites {
    switches: Arc<Switches>,
    sending: JoinHandle<()>,
    stream: Stream,
    _end: UdpSocket,
}

#[derive(Debug, Default)]
struct Switches {
    is_flowing: AtomicBool,
    is_over: AtomicBool,
}

impl SteadyWrites {
    /// Opens the connections from node `from` to `address` of node `to`; writes nothing yet.
    pub fn open(network: &Network<'_>, from: &str, to: &str, address: IpAddr) -> Result<Self, LabError> {
        let stream = Sink::listen(network, from, to, address)?.open(None)?;
        let open = || -> io::Result<_> {
            // The port must be open, otherwise ICMP errors would end the flow.
            let end = NetworkNamespace::named(&network.namespace(to))?.run(|| UdpSocket::bind((address, 0)))??;
            let any = SocketAddr::new([0, 0, 0, 0].into(), 0);
            let udp = NetworkNamespace::named(&network.namespace(from))?.run(|| UdpSocket::bind(any))??;
            udp.connect(end.local_addr()?)?;
            let tcp = stream.near.try_clone()?;
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            Ok((end, udp, tcp))
        };
        let (end, udp, tcp) = open().map_err(LabError::doing(format!("send from {from} to {address} in {to}")))?;
        let switches = Arc::new(Switches::default());
        let own = switches.clone();
        let sending = thread::spawn(move || send(&udp, tcp, &own));
        Ok(Self { switches, sending, stream, _end: end })
    }

    /// Switches the writes on or off.
    pub fn set_flowing(&self, is_flowing: bool) {
        self.switches.is_flowing.store(is_flowing, Ordering::Relaxed);
    }

    /// Ends the writes and the connections.
    pub fn end(self) {
        self.switches.is_over.store(true, Ordering::Relaxed);
        let _ = self.sending.join();
        self.stream.abort();
    }
}

fn send(udp: &UdpSocket, mut tcp: TcpStream, switches: &Switches) {
    while !switches.is_over.load(Ordering::Relaxed) {
        if switches.is_flowing.load(Ordering::Relaxed) {
            // Data that the network does not accept now is not sent; the next write is due soon.
            let _ = udp.send(&WRITE);
            let _ = tcp.write(&WRITE);
        }
        thread::sleep(PACE);
    }
}
