//! The dialect of each protocol: the one place where a gate's kind becomes a state machine.

use super::dialect::{Dialect, Side, TlsChoice};
use super::mariadb::MariaDb;
use super::postgres::Postgres;
use super::redis::Redis;
use super::tcp::Tcp;
use crate::config::gate::{Gate, Kind};

/// A dialect for a new connection of this gate.
pub fn dialect(gate: &Gate, tls: TlsChoice) -> Box<dyn Dialect> {
    match gate.kind {
        Kind::Postgres => Box::new(Postgres::new(tls)),
        Kind::Redis => Box::new(Redis::new(tls)),
        Kind::MariaDb => Box::new(MariaDb::new()),
        Kind::Tcp => Box::new(Tcp::new(gate.max_unprotected)),
    }
}

/// The side that connects to a gate of this kind; the gate connects to the other side.
pub fn listens_to(kind: Kind) -> Side {
    match kind {
        Kind::Postgres | Kind::Redis | Kind::MariaDb => Side::Mirror,
        Kind::Tcp => Side::Primary,
    }
}

/// Which end sends first on a connection to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstSender {
    /// The end that connects.
    Caller,
    /// The server.
    Server,
    /// Unknown.
    Either,
}

/// Which end sends first in a protocol.
pub fn first_sender(kind: Kind) -> FirstSender {
    match kind {
        Kind::Postgres | Kind::Redis => FirstSender::Caller,
        Kind::MariaDb => FirstSender::Server,
        Kind::Tcp => FirstSender::Either,
    }
}
