//! Addresses and flows that several tests publish.

use std::net::SocketAddr;

use onwire_notify::message::*;

pub fn at(ip: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, ip], port))
}

/// A flow whose bytes below `position` are on the wire.
pub fn flow(port: u16, position: u64) -> Flow {
    Flow {
        key: FlowKey::tcp(at(1, port), at(2, 80)),
        instance: u64::from(port) + 1,
        peer: 0,
        event: Event::Protected,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(1),
        positions: Positions { on_wire: Some(position), ..Positions::default() },
        violated: None,
        packets: None,
        cookie: None,
        block: None,
        survives_burst: 0,
    }
}
