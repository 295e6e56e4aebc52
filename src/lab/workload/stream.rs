//! One-way TCP: a program at one site writes into a connection, and the application at the other counts the bytes.
//!
//! The sockets are made inside the nodes' namespaces; the threads belong to the lab's process. The bytes are counted,
//! not compared: TCP delivers them in order or not at all.

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
    notify::message::FlowKey,
};

/// How long a connection may take to open.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time of one attempt: this host's TCP retransmits a lost SYN only after a second, so a new attempt is faster.
const ATTEMPT: Duration = Duration::from_millis(300);

/// The receiving end of streams.
#[derive(Debug)]
pub struct Sink {
    listener: TcpListener,
    at: SocketAddr,
    from: NetworkNamespace,
}

/// A connection, and the bytes that arrive on it.
#[derive(Debug)]
pub struct Stream {
    /// The socket of the writing program.
    pub near: TcpStream,
    key: FlowKey,
    far: TcpStream,
    received: Arc<AtomicU64>,
    reading: JoinHandle<()>,
}

impl Sink {
    /// Listens at `address` of node `to` for streams from node `from`.
    pub fn listen(network: &Network<'_>, from: &str, to: &str, address: IpAddr) -> Result<Self, LabError> {
        let open = || -> io::Result<Self> {
            let inside = NetworkNamespace::named(&network.namespace(to))?;
            let listener = inside.run(|| TcpListener::bind(SocketAddr::new(address, 0)))??;
            listener.set_nonblocking(true)?;
            let at = listener.local_addr()?;
            Ok(Self { listener, at, from: NetworkNamespace::named(&network.namespace(from))? })
        };
        open().map_err(LabError::doing(format!("listen at {address} in {to}")))
    }

    /// Opens a stream; a given `port` makes it look like an earlier stream from that port.
    pub fn open(&self, port: Option<u16>) -> Result<Stream, LabError> {
        self.open_watched(port, |_, _| ())
    }

    /// Like [`open`](Self::open); `look` is called with the total of bytes that the far application has read, and the
    /// time.
    pub fn open_watched(
        &self,
        port: Option<u16>,
        look: impl FnMut(u64, Instant) + Send + 'static,
    ) -> Result<Stream, LabError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.attempt(port) {
                Ok((key, near, far)) => {
                    return Stream::begin(key, near, far, look).map_err(LabError::doing("read what arrives"));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(LabError::doing(format!("connect to {}", self.at))(error));
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Its listen address.
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Opens a stream through a gate that listens at `gate` and connects to this sink. Its key is that of the leg to
    /// the gate, which no appliance sees.
    pub fn open_through(&self, gate: SocketAddr) -> Result<Stream, LabError> {
        let open = || -> io::Result<Stream> {
            // Connections that an earlier attempt abandoned.
            while self.listener.accept().is_ok() {}
            let near = self.from.run(|| TcpStream::connect_timeout(&gate, PATIENCE))??;
            near.set_nodelay(true)?;
            let deadline = Instant::now() + PATIENCE;
            let far = loop {
                match self.listener.accept() {
                    Ok((far, _)) => break far,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error),
                }
            };
            Stream::begin(FlowKey::tcp(near.local_addr()?, gate), near, far, |_, _| ())
        };
        open().map_err(LabError::doing(format!("connect to {} through the gate at {gate}", self.at)))
    }

    fn attempt(&self, port: Option<u16>) -> io::Result<(FlowKey, TcpStream, TcpStream)> {
        let near = match port {
            Some(port) => self.from.run(|| self.connect_from(port))??,
            None => self.from.run(|| TcpStream::connect_timeout(&self.at, ATTEMPT))??,
        };
        near.set_nodelay(true)?;
        let own = near.local_addr()?;
        let deadline = Instant::now() + ATTEMPT;
        let far = loop {
            match self.listener.accept() {
                // Connections that an earlier attempt abandoned may be in the queue.
                Ok((far, from)) if from == own => break far,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_micros(200));
                }
                Err(error) => return Err(error),
            }
        };
        Ok((FlowKey::tcp(own, self.at), near, far))
    }

    fn connect_from(&self, port: u16) -> io::Result<TcpStream> {
        let SocketAddr::V4(to) = self.at else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a stream from a given port needs IPv4"));
        };
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, port))?;
        // The send timeout also bounds `connect`.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(ATTEMPT))?;
        connect(&socket, &to)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
        Ok(TcpStream::from(socket))
    }
}

impl Stream {
    fn begin(
        key: FlowKey,
        near: TcpStream,
        far: TcpStream,
        mut look: impl FnMut(u64, Instant) + Send + 'static,
    ) -> io::Result<Self> {
        far.set_nonblocking(false)?;
        let received = Arc::new(AtomicU64::new(0));
        let (mut reader, count) = (far.try_clone()?, received.clone());
        let reading = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let before = count.fetch_add(length as u64, Ordering::Release);
                look(before + length as u64, Instant::now());
            }
        });
        Ok(Self { key, near, far, received, reading })
    }

    /// The flow as an appliance sees it.
    pub fn key(&self) -> FlowKey {
        self.key
    }

    /// Bytes that the far application has read.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Waits until the far application has `wanted` bytes, or has received nothing for `quiet`; returns the number of
    /// bytes.
    pub fn drain(&self, wanted: u64, quiet: Duration) -> u64 {
        let (mut last, mut since) = (self.received(), Instant::now());
        while last < wanted && since.elapsed() < quiet {
            thread::sleep(Duration::from_millis(1));
            let now = self.received();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }

    /// Ends both ends at once with a reset: nothing is retransmitted, and neither end waits for the other.
    pub fn abort(self) {
        for end in [&self.near, &self.far] {
            // A linger time of zero sends a reset instead of an orderly close with retransmissions.
            let _ = sockopt::set_socket_linger(end, Some(Duration::ZERO));
        }
        // The reader thread has a duplicate of the socket; only a shutdown wakes it.
        let _ = self.far.shutdown(std::net::Shutdown::Read);
        drop(self.near);
        drop(self.far);
        let _ = self.reading.join();
    }
}
