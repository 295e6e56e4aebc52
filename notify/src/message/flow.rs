//! The FLOW message: a flow's key and instance, and how far it is protected at each level.
//!
//! This file neither counts bytes nor decides what is protected.

use std::net::{IpAddr, SocketAddr};

use super::fields::{self, Fields, attribute as kind};
use super::{Header, Malformed, command, emit_generic};
use crate::attribute::{put, put_nested, put_u8, put_u16, put_u32, put_u64};

/// How strong the evidence of protection is, from weakest to strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The kernel took all datagrams of the block; they may still be in this host.
    Queued,
    /// The data and the early repair symbols of the block have left this host while the link was healthy; late repair
    /// symbols, which the profile promises, have not: single losses are survived, an interruption is not yet.
    Early,
    /// All datagrams of the block have left this host while the link was healthy: *protected*.
    OnWire,
    /// The peer appliance holds the whole block.
    Decoded,
    /// The mirror's TCP has acknowledged the bytes.
    Acked,
}

impl Level {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// From lowest to highest.
    pub const ALL: [Level; Level::COUNT] = [Level::Queued, Level::Early, Level::OnWire, Level::Decoded, Level::Acked];

    /// Its place in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its number in messages. `Early` came last, and its number is not between those of its neighbours; it is reserved:
    /// no message has it, since readers that came before it would drop the whole message.
    pub fn to_wire(self) -> u8 {
        match self {
            Level::Queued => 1,
            Level::OnWire => 2,
            Level::Decoded => 3,
            Level::Acked => 4,
            Level::Early => 5,
        }
    }

    /// Appends the attribute `level`. Every reader must be able to read it, so `Early` is lowered to the level below: that
    /// claims less, and is true.
    pub(super) fn emit(self, out: &mut Vec<u8>) {
        let level = if self == Level::Early { Level::Queued } else { self };
        put_u8(out, kind::LEVEL, level.to_wire());
    }

    /// The level with this number.
    pub fn from_wire(value: u8) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.to_wire() == value)
    }

    /// As it is written in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Level::Queued => "queued",
            Level::Early => "early",
            Level::OnWire => "on_wire",
            Level::Decoded => "decoded",
            Level::Acked => "acked",
        }
    }
}

/// The 5-tuple in the direction toward the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// Address and port of the sending program.
    pub source: SocketAddr,
    /// Address and port at the mirror.
    pub destination: SocketAddr,
}

impl FlowKey {
    /// A TCP flow. IPv4 addresses mapped into IPv6 become IPv4, as in the packets.
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> FlowKey {
        let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        FlowKey { protocol: 6, source: plain(source), destination: plain(destination) }
    }
}

/// Selects flows: a field that is `None` matches all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// The cookie a program registered.
    pub cookie: Option<u64>,
}

impl Filter {
    /// Selects one flow.
    pub fn exactly(key: &FlowKey) -> Filter {
        Filter {
            protocol: Some(key.protocol),
            source: Some(key.source.ip()),
            destination: Some(key.destination.ip()),
            source_port: Some(key.source.port()),
            destination_port: Some(key.destination.port()),
            cookie: None,
        }
    }

    /// Whether the flow is selected.
    pub fn matches(&self, key: &FlowKey, cookie: Option<u64>) -> bool {
        self.protocol.is_none_or(|wanted| wanted == key.protocol)
            && self.source.is_none_or(|wanted| wanted == key.source.ip())
            && self.destination.is_none_or(|wanted| wanted == key.destination.ip())
            && self.source_port.is_none_or(|wanted| wanted == key.source.port())
            && self.destination_port.is_none_or(|wanted| wanted == key.destination.port())
            && self.cookie.is_none_or(|wanted| Some(wanted) == cookie)
    }

    fn has_key(&self) -> bool {
        *self != Filter { cookie: self.cookie, ..Filter::default() }
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        if self.has_key() {
            put_nested(out, kind::KEY, |out| self.emit_key(out));
        }
        if let Some(cookie) = self.cookie {
            put_u64(out, kind::COOKIE, cookie);
        }
    }

    pub(super) fn emit_key(&self, out: &mut Vec<u8>) {
        use fields::key;
        if let Some(protocol) = self.protocol {
            put_u8(out, key::PROTOCOL, protocol);
        }
        for (kind, address) in [(key::SOURCE, self.source), (key::DESTINATION, self.destination)] {
            match address {
                Some(IpAddr::V4(address)) => put(out, kind, &address.octets()),
                Some(IpAddr::V6(address)) => put(out, kind, &address.octets()),
                None => {}
            }
        }
        for (kind, port) in [(key::SOURCE_PORT, self.source_port), (key::DESTINATION_PORT, self.destination_port)] {
            if let Some(port) = port {
                put(out, kind, &port.to_be_bytes());
            }
        }
    }

    /// The key of one flow, if every part of it is set.
    pub fn to_key(self) -> Option<FlowKey> {
        let source = SocketAddr::new(self.source?, self.source_port?);
        let destination = SocketAddr::new(self.destination?, self.destination_port?);
        Some(FlowKey { protocol: self.protocol?, source, destination })
    }
}

/// What happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// First seen.
    New,
    /// A position rose, or is repeated.
    Protected,
    /// No more messages about this instance follow; the positions are the last ones.
    Gone(GoneReason),
}

/// Why a flow is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GoneReason {
    /// FIN or RST.
    Closed = 1,
    /// Nothing seen for too long.
    Idle = 2,
    /// The table was full and this flow was idle longest.
    Evicted = 3,
    /// A new SYN took over the 5-tuple. UDP: a packet was lost for good, so the count begins again with a new instance.
    Replaced = 4,
}

impl GoneReason {
    /// As it is written in output.
    pub fn name(self) -> &'static str {
        match self {
            GoneReason::Closed => "closed",
            GoneReason::Idle => "idle",
            GoneReason::Evicted => "evicted",
            GoneReason::Replaced => "replaced",
        }
    }

    fn from_wire(value: u8) -> Option<GoneReason> {
        use GoneReason::{Closed, Evicted, Idle, Replaced};
        [Closed, Idle, Evicted, Replaced].into_iter().find(|reason| *reason as u8 == value)
    }
}

/// Where positions count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// The SYN was seen: position 0 is the first byte of the stream. UDP: the first packet was seen.
    Start = 0,
    /// First seen in the middle: position 0 is the first byte seen, and nothing is known of earlier bytes.
    Middle = 1,
}

/// Cumulative bytes since the origin, one number per level; `None` where nothing is known at that level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// At [`Level::Queued`].
    pub queued: Option<u64>,
    /// At [`Level::Early`]; in a message only where it is ahead of `on_wire`.
    pub early: Option<u64>,
    /// At [`Level::OnWire`].
    pub on_wire: Option<u64>,
    /// At [`Level::Decoded`].
    pub decoded: Option<u64>,
    /// At [`Level::Acked`]. With [`Origin::Middle`] it is set only when the mirror has acknowledged the first byte
    /// seen, and thus everything before that byte too.
    pub acked: Option<u64>,
}

impl Positions {
    /// The position at exactly this level.
    pub fn at(&self, level: Level) -> Option<u64> {
        match level {
            Level::Queued => self.queued,
            Level::Early => self.early,
            Level::OnWire => self.on_wire,
            Level::Decoded => self.decoded,
            Level::Acked => self.acked,
        }
    }

    /// Sets the position at a level.
    pub fn set(&mut self, level: Level, position: u64) {
        *match level {
            Level::Queued => &mut self.queued,
            Level::Early => &mut self.early,
            Level::OnWire => &mut self.on_wire,
            Level::Decoded => &mut self.decoded,
            Level::Acked => &mut self.acked,
        } = Some(position);
    }

    /// The highest level, `least` or better, at which everything below `offset` is covered.
    pub fn covers(&self, offset: u64, least: Level) -> Option<Level> {
        let covered = |level: &Level| *level >= least && self.at(*level).is_some_and(|position| position >= offset);
        Level::ALL.into_iter().rev().find(covered)
    }

    /// Raises each position to the other's where that is higher; positions never fall.
    pub fn raise(&mut self, other: &Positions) {
        self.queued = self.queued.max(other.queued);
        self.early = self.early.max(other.early);
        self.on_wire = self.on_wire.max(other.on_wire);
        self.decoded = self.decoded.max(other.decoded);
        self.acked = self.acked.max(other.acked);
    }
}

/// The state of a flow: notification `FLOW`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The 5-tuple.
    pub key: FlowKey,
    /// Rises with each new instance of any flow in one epoch of the appliance.
    pub instance: u64,
    /// The peer (see [`super::Peer::id`]) it is sent to.
    pub peer: u32,
    /// What happened.
    pub event: Event,
    /// The level that the appliance's configuration calls protected; `queued` if no better evidence is available.
    pub level: Level,
    /// Where positions count from.
    pub origin: Origin,
    /// TCP: the absolute sequence number of position 0.
    pub origin_seq: Option<u32>,
    /// How far it is protected.
    pub positions: Positions,
    /// The lowest position that was lost after it had been called protected. Claims beyond it are void until the mirror
    /// has acknowledged it.
    pub violated: Option<u64>,
    /// UDP: packets at the configured level.
    pub packets: Option<u64>,
    /// The cookie that a program registered for it.
    pub cookie: Option<u64>,
    /// Source and repair symbols of the block that raised the position last.
    pub block: Option<(u16, u16)>,
    /// The interruption of the link, in microseconds, that bytes at [`Level::OnWire`] survive whatever moment it comes
    /// at; 0 where nothing is promised. Bytes at [`Level::Early`] survive none.
    pub survives_burst: u32,
}

impl Flow {
    pub(super) fn from_fields(fields: &Fields) -> Result<Flow, Malformed> {
        let event = match fields.need(fields.event, kind::EVENT)? {
            1 => Event::New,
            2 => Event::Protected,
            // A later version may have more reasons; the flow is gone all the same.
            3 => Event::Gone(fields.gone_reason.and_then(GoneReason::from_wire).unwrap_or(GoneReason::Closed)),
            _ => return Err(Malformed::Unknown),
        };
        let level = fields.need(fields.level, kind::LEVEL)?;
        let origin = match fields.need(fields.origin, kind::ORIGIN)? {
            0 => Origin::Start,
            _ => Origin::Middle,
        };
        // It says something only where it is ahead.
        let early = fields.positions.early.filter(|early| Some(*early) > fields.positions.on_wire);
        Ok(Flow {
            key: fields.filter.to_key().ok_or(Malformed::AttributeMissing { kind: kind::KEY })?,
            instance: fields.need(fields.instance, kind::INSTANCE)?,
            peer: fields.peer_id.unwrap_or(0),
            event,
            level,
            origin,
            origin_seq: fields.origin_seq,
            positions: Positions { early, ..fields.positions },
            violated: fields.violated,
            packets: fields.packets,
            cookie: fields.filter.cookie,
            block: fields.k.zip(fields.m),
            survives_burst: fields.survives_burst.unwrap_or(0),
        })
    }

    /// Appends the message: at most 268 bytes.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        emit_generic(command::FLOW, header, out, |out| {
            put_nested(out, kind::KEY, |out| Filter::exactly(&self.key).emit_key(out));
            put_u64(out, kind::INSTANCE, self.instance);
            let event = match self.event {
                Event::New => 1,
                Event::Protected => 2,
                Event::Gone(_) => 3,
            };
            put_u8(out, kind::EVENT, event);
            if let Event::Gone(reason) = self.event {
                put_u8(out, kind::GONE_REASON, reason as u8);
            }
            self.level.emit(out);
            put_u8(out, kind::ORIGIN, self.origin as u8);
            put_u32(out, kind::PEER_ID, self.peer);
            if let Some(seq) = self.origin_seq {
                put_u32(out, kind::ORIGIN_SEQ, seq);
            }
            // Without late repair both are the same, and only one is sent.
            let early = self.positions.early.filter(|early| Some(*early) > self.positions.on_wire);
            let numbers = [
                (kind::QUEUED, self.positions.queued),
                (kind::ON_WIRE, self.positions.on_wire),
                (kind::DECODED, self.positions.decoded),
                (kind::ACKED, self.positions.acked),
                (kind::VIOLATED, self.violated),
                (kind::PACKETS, self.packets),
                (kind::COOKIE, self.cookie),
                (kind::EARLY, early),
            ];
            for (kind, number) in numbers {
                if let Some(number) = number {
                    put_u64(out, kind, number);
                }
            }
            if let Some((k, m)) = self.block {
                put_u16(out, kind::K, k);
                put_u16(out, kind::M, m);
            }
            if self.survives_burst > 0 {
                put_u32(out, kind::SURVIVES_BURST, self.survives_burst);
            }
        });
    }
}
