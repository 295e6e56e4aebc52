//! The malicious peer: it has the key of a peer, makes sessions as one, and seals whatever it likes.
//!
//! It sends and receives on one socket of its node and has no thread: [`Peer::serve`] takes what has come. What it
//! seals is chosen elsewhere.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant, SystemTime},
};

use rand::{RngCore, SeedableRng, rngs::StdRng};
use rustix::net::sockopt;

use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
    tunnel::{
        PeerId,
        handshake::{Established, HandshakeEvent, HandshakePeer, Handshakes, Identity, Role},
        hello::{Hello, PROTOCOL_VERSION},
        keys::{PresharedKey, PrivateKey, PublicKey},
        seal::CipherSet,
    },
    wire::{
        datagram::{DatagramType, HEADER_LEN, Header, count_of, counter},
        payload_id::{RepairId, SourceId},
        report::Report,
    },
};

/// The longest symbol that it says it will send: the most that the wire allows in a UDP datagram.
pub const SYMBOL_MAX: u16 = 65_408;
const BUFFER: usize = 4 << 20;
const SESSIONS_KEPT: usize = 4;
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What it has seen of the other side.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The clock of the newest report.
    pub newest_report: u64,
    /// The highest block.
    pub highest: u64,
    /// Authentic datagrams, and the count of the newest in its session.
    pub datagrams: u64,
    pub newest_count: u64,
    /// The least and the most repair symbols of a block since [`Peer::forget_repair`].
    pub repair: Option<(u16, u16)>,
    /// Sessions made.
    pub sessions: u64,
}

/// The peer.
pub struct Peer {
    socket: UdpSocket,
    to: SocketAddr,
    private: String,
    public: PublicKey,
    random: StdRng,
    handshakes: Handshakes,
    /// With the next count of each; the newest is the last.
    sessions: VecDeque<(Established, u64)>,
    /// The one that seals.
    current: Option<u32>,
    /// What it has seen.
    pub seen: Seen,
    buffer: Vec<u8>,
    datagram: Vec<u8>,
}

impl Peer {
    /// At `from` in this node, with the text of a private key; its victim is at `to` and has this public key.
    pub fn new(
        network: &Network<'_>,
        node: &str,
        [from, to]: [SocketAddr; 2],
        [private, public]: [&str; 2],
        seed: u64,
    ) -> Result<Self, LabError> {
        let open = || -> io::Result<UdpSocket> {
            let socket = NetworkNamespace::named(&network.namespace(node))?.run(|| UdpSocket::bind(from))??;
            socket.set_nonblocking(true)?;
            sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
            sockopt::set_socket_send_buffer_size_force(&socket, BUFFER)?;
            Ok(socket)
        };
        let socket = open().map_err(LabError::doing(format!("open {from} in {node}")))?;
        let public = PublicKey::parse(public)
            .map_err(|error| LabError::Sentence(format!("the public key of the victim: {error}")))?;
        let mut random = StdRng::seed_from_u64(seed);
        let handshakes = handshakes(private, public, to, &mut random)?;
        Ok(Self {
            socket,
            to,
            private: private.to_owned(),
            public,
            random,
            handshakes,
            sessions: VecDeque::new(),
            current: None,
            seen: Seen::default(),
            buffer: vec![0; 1 << 16],
            datagram: Vec::new(),
        })
    }

    /// Begins as after a restart: with another epoch.
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.handshakes = handshakes(&self.private, self.public, self.to, &mut self.random)?;
        self.sessions.clear();
        self.current = None;
        self.seen.newest_report = 0;
        Ok(())
    }

    /// Sends an initiation, unless one is under way.
    pub fn call(&mut self) -> Result<(), LabError> {
        self.handshakes.request(PeerId(0), Instant::now());
        self.serve()
    }

    /// Makes a session and waits for it.
    pub fn connect(&mut self) -> Result<(), LabError> {
        let before = self.seen.sessions;
        let deadline = Instant::now() + PATIENCE;
        self.call()?;
        while self.seen.sessions == before || self.current.is_none() {
            if Instant::now() > deadline {
                return Err(LabError::Sentence(format!("the malicious peer gets no session within {PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_micros(200));
            self.serve()?;
        }
        Ok(())
    }

    /// Makes a session if there is none.
    pub fn ensure(&mut self) -> Result<(), LabError> {
        if self.current.is_some() { Ok(()) } else { self.connect() }
    }

    /// Forgets how much repair blocks had.
    pub fn forget_repair(&mut self) {
        self.seen.repair = None;
    }

    /// Takes what has come, and sends what handshakes ask for.
    pub fn serve(&mut self) -> Result<(), LabError> {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.socket.recv_from(&mut buffer);
            if let Ok((length, from)) = received {
                self.take(&mut buffer[..length], from);
            }
            self.buffer = buffer;
            match received {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The victim's host may have said that nobody listens.
                Err(_) => {}
            }
        }
        let now = Instant::now();
        if self.handshakes.poll_timeout().is_some_and(|at| at <= now) {
            self.handshakes.handle_timeout(now);
        }
        self.follow()
    }

    /// Seals a payload and sends it under the present session. False if the socket has no room.
    pub fn send(&mut self, datagram_type: DatagramType, payload: &[u8]) -> Result<bool, LabError> {
        let current = self.current;
        let session = self.sessions.iter_mut().find(|(session, _)| Some(session.local_index) == current);
        let no_session = || LabError::Sentence("the malicious peer has no session".to_owned());
        let (session, count) = session.ok_or_else(no_session)?;
        let header = Header { datagram_type, receiver_index: session.remote_index, counter: counter(0, *count) };
        let clear = header.emit();
        self.datagram.clear();
        self.datagram.extend(clear);
        self.datagram.extend(payload);
        let tag = session.sealing.seal(header.counter, &clear, &mut self.datagram[HEADER_LEN..]);
        self.datagram.extend(tag);
        match self.socket.send_to(&self.datagram, self.to) {
            Ok(_) => {
                *count += 1;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused) => {
                Ok(false)
            }
            Err(error) => Err(LabError::doing("send as the malicious peer")(error)),
        }
    }

    fn take(&mut self, datagram: &mut [u8], from: SocketAddr) {
        let now = Instant::now();
        let Some(header) = Header::parse(datagram) else {
            // A datagram that is none does nothing.
            let _ = self.handshakes.handle_datagram(datagram, from, now);
            return;
        };
        let found = self.sessions.iter().find(|(session, _)| session.local_index == header.receiver_index);
        let Some((session, _)) = found else { return };
        let (clear, sealed) = datagram.split_at_mut(HEADER_LEN);
        let Some(opened) = session.opening.open(header.counter, clear, sealed) else { return };
        self.seen.datagrams += 1;
        self.seen.newest_count = count_of(header.counter);
        match header.datagram_type {
            DatagramType::Source => {
                if let Some((id, _)) = SourceId::parse(opened) {
                    self.seen.highest = self.seen.highest.max(id.sbn);
                }
            }
            DatagramType::Repair => {
                if let Some((id, _)) = RepairId::parse(opened) {
                    let m = id.repair_symbols;
                    let known = self.seen.repair.unwrap_or((m, m));
                    self.seen.repair = Some((known.0.min(m), known.1.max(m)));
                }
            }
            _ => {
                if let Some(report) = Report::parse(opened) {
                    self.seen.newest_report = self.seen.newest_report.max(report.sent_at);
                }
            }
        }
        // The newest one that the victim uses; a late datagram of an earlier one does not bring that back.
        let place = |index| self.sessions.iter().position(|(session, _)| session.local_index == index);
        let is_newer = self.current.and_then(place) < place(header.receiver_index);
        if session.role == Role::Responder && is_newer {
            self.current = Some(header.receiver_index);
            self.handshakes.on_confirmed(header.receiver_index, now);
        }
    }

    fn follow(&mut self) -> Result<(), LabError> {
        while let Some((to, datagram)) = self.handshakes.poll_transmit() {
            // A datagram that finds no room is sent again later.
            let _ = self.socket.send_to(&datagram, to.remote);
        }
        while let Some(event) = self.handshakes.poll_event() {
            let HandshakeEvent::Established(session) = event else { continue };
            self.seen.sessions += 1;
            let (index, role) = (session.local_index, session.role);
            self.sessions.push_back((session, 0));
            while self.sessions.len() > SESSIONS_KEPT {
                // The oldest but for the one that seals.
                let oldest = usize::from(self.sessions.front().map(|(session, _)| session.local_index) == self.current);
                self.sessions.remove(oldest);
            }
            if role == Role::Initiator {
                self.current = Some(index);
                let mut report = Vec::new();
                Report { sent_at: 1, ..Report::default() }.emit(&mut report);
                self.send(DatagramType::Report, &report)?;
            }
        }
        Ok(())
    }
}

fn handshakes(private: &str, public: PublicKey, to: SocketAddr, random: &mut StdRng) -> Result<Handshakes, LabError> {
    let unusable =
        |error: &dyn std::fmt::Display| LabError::Sentence(format!("the key of the malicious peer: {error}"));
    let private = PrivateKey::parse(private).map_err(|error| unusable(&error))?;
    let ciphers = CipherSet::preferred();
    let hello =
        Hello { version: PROTOCOL_VERSION, lanes: 1, ciphers, symbol_size: SYMBOL_MAX, epoch: random.next_u64() };
    let identity = Identity { private, hello };
    let peer = HandshakePeer {
        public,
        next: None,
        preshared: PresharedKey::default(),
        endpoint: Some(to),
        symbol_size: SYMBOL_MAX,
    };
    // Each later start has later timestamps, as the victim demands.
    let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let own = Box::new(StdRng::from_rng(random));
    Ok(Handshakes::new(identity, vec![peer], own, unix_time, Instant::now()))
}
