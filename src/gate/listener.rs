//! A gate's listening socket, its settings and its counters. The loop that serves it is [`super::proxy`].

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
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
pub type Make = Box<dyn Fn(&Gate, TlsChoice) -> Box<dyn Dialect> + Send>;

/// A gate that listens.
pub struct GateListener {
    /// Its configuration.
    pub gate: Arc<Gate>,
    /// `None` once the process stops.
    pub socket: Option<TcpListener>,
    /// TLS that ends at the gate.
    pub tls: Tls,
    /// The side that connects to it.
    pub caller: Side,
    /// Makes dialects.
    pub make: Make,
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
    /// Opens the socket.
    ///
    /// # Errors
    /// An address or a file cannot be used; the message names it and the remedy.
    pub fn open(gate: &Gate, caller: Side, make: Make) -> io::Result<GateListener> {
        let tls = Tls::load(gate.tls.as_ref(), gate.upstream_tls.as_ref())
            .map_err(|error| io::Error::other(format!("gate {}: {error}", gate.name)))?;
        Ok(GateListener {
            gate: Arc::new(gate.clone()),
            socket: Some(listen(gate)?),
            tls,
            caller,
            make,
            ready: false,
            again: None,
            warned: None,
            probes: Probes::default(),
            connections: 0,
            totals: Totals::default(),
        })
    }

    /// Logs a warning, unless one was logged just before.
    pub fn warn(&mut self, now: Instant, message: &str) {
        if self.warned.is_none_or(|at| now >= at + REPEAT) {
            self.warned = Some(now);
            tracing::warn!(gate = %self.gate.name, "{message}");
        }
    }
}

fn listen(gate: &Gate) -> io::Result<TcpListener> {
    let socket = bind(gate)?;
    if gate.max_unprotected.is_some() {
        // Bytes that wait here were accepted from the application and are not protected either.
        sockopt::set_socket_recv_buffer_size(&socket, CAPPED_BUFFER / 2)?;
    }
    Ok(socket)
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
