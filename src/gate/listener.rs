//! A gate's listening socket, the settings of its connections, and its counters. The loop that serves it is [`super::proxy`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use rustix::net::sockopt;

use super::arrival::Probes;
use super::dialect::{Dialect, Side, TlsChoice};
use super::status::Totals;
use super::tls::Tls;
use crate::config::gate::Gate;

/// The kernel holds at most this many bytes that an application with a cap has sent and the gate has not read. The
/// kernel doubles the size that is set, to have room for its own bookkeeping.
pub const CAPPED_BUFFER: usize = 128 * 1024;
/// Minimum time between two warnings.
const REPEAT: Duration = Duration::from_secs(1);

/// Makes the dialect of a new connection.
pub type Make = Box<dyn Fn(&Gate, TlsChoice) -> Box<dyn Dialect> + Send + Sync>;

/// What a connection is made with. It keeps this until it ends: a reload gives its gate other settings for later ones.
pub struct Settings {
    /// The gate as it is configured.
    pub gate: Arc<Gate>,
    /// TLS that ends at the gate.
    pub tls: Tls,
    /// The side that connects to it.
    pub caller: Side,
    /// Makes dialects.
    pub make: Make,
}

impl Settings {
    /// Whether a connection is served as under `other`.
    pub fn serves_like(&self, other: &Settings) -> bool {
        self.gate.serves_like(&other.gate) && self.tls.is_like(&other.tls)
    }
}

/// A socket that listens.
pub struct ListeningSocket {
    /// The socket.
    pub socket: TcpListener,
    /// Its token in the poll.
    pub token: Token,
}

impl ListeningSocket {
    /// Opens the socket of a gate.
    ///
    /// # Errors
    /// The address cannot be used; the message names it and the remedy.
    pub fn open(gate: &Gate, registry: &Registry, token: Token) -> io::Result<ListeningSocket> {
        let mut socket = ListeningSocket { socket: bind(gate)?, token };
        socket.fit(gate)?;
        registry.register(&mut socket.socket, token, Interest::READABLE).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot watch the socket of the gate at {}: {error}", gate.listen))
        })?;
        Ok(socket)
    }

    /// Makes the buffers of later connections as small as the cap of the gate wants them. It never makes them larger.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn fit(&self, gate: &Gate) -> io::Result<()> {
        if gate.max_unprotected.is_some() {
            // Bytes that wait here were accepted from the application and are not protected either.
            sockopt::set_socket_recv_buffer_size(&self.socket, CAPPED_BUFFER / 2)?;
        }
        Ok(())
    }
}

/// A gate that listens, or that has stopped to listen and still has connections.
pub struct GateListener {
    /// Callers name it by this number, which no other gate of the process ever had.
    pub number: usize,
    /// For connections from now on.
    pub settings: Arc<Settings>,
    /// `None` once the gate accepts nobody any more: a reload has removed it, or the process stops.
    pub socket: Option<ListeningSocket>,
    /// Callers may be waiting to be accepted.
    pub ready: bool,
    /// When to try again after an error.
    pub again: Option<Instant>,
    warned: Option<Instant>,
    /// Callers that left without sending anything.
    pub probes: Probes,
    /// Open connections.
    pub connections: usize,
    /// Counters of connections that have ended, and of callers that got none.
    pub totals: Totals,
}

impl GateListener {
    /// A gate without connections.
    pub fn new(number: usize, settings: Arc<Settings>, socket: Option<ListeningSocket>) -> GateListener {
        GateListener {
            number,
            settings,
            socket,
            // Callers may have come before the poll knew of the socket.
            ready: true,
            again: None,
            warned: None,
            probes: Probes::default(),
            connections: 0,
            totals: Totals::default(),
        }
    }

    /// From now on callers are accepted from this socket, and get these settings.
    pub fn follow(&mut self, settings: Arc<Settings>, socket: ListeningSocket) {
        (self.settings, self.socket) = (settings, Some(socket));
        (self.ready, self.again) = (true, None);
    }

    /// The address on which it listens, or did.
    pub fn address(&self) -> SocketAddr {
        let bound = self.socket.as_ref().and_then(|listening| listening.socket.local_addr().ok());
        bound.unwrap_or(self.settings.gate.listen)
    }

    /// Logs that it listens.
    pub fn announce(&self) {
        let gate = &self.settings.gate;
        tracing::info!(
            gate = %gate.name, kind = gate.kind.name(), policy = %gate.policy, upstream = %gate.upstream,
            "listening on {}", self.address()
        );
    }

    /// Logs a warning, unless one was logged just before.
    pub fn warn(&mut self, now: Instant, message: &str) {
        if self.warned.is_none_or(|at| now >= at + REPEAT) {
            self.warned = Some(now);
            tracing::warn!(gate = %self.settings.gate.name, "{message}");
        }
    }
}

fn bind(gate: &Gate) -> io::Result<TcpListener> {
    TcpListener::bind(gate.listen).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                ": the port is in use; `ss -ltnp` says by whom: stop that program or listen on another port"
            }
            io::ErrorKind::AddrNotAvailable => ": no interface of this host has this address; `ip address` lists them",
            io::ErrorKind::PermissionDenied => ": ports below 1024 need root or CAP_NET_BIND_SERVICE",
            _ => "",
        };
        io::Error::new(error.kind(), format!("gate {} cannot listen on {}{advice} ({error})", gate.name, gate.listen))
    })
}
