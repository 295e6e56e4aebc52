//! The attribute tables, and the parser that sorts a list of attributes in one pass.
//!
//! No two attributes of a table share a number, whatever the command: a reader needs one table. The type of each
//! message checks which attributes it needs.

use std::net::IpAddr;

use super::{Filter, FlowKey, HEARTBEAT_PEERS, Level, MAX_RANGES, Malformed, Peer, Positions, Range, Token};
use crate::attribute::{Attribute, Attributes};

/// How the value of an attribute is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A byte.
    U8,
    /// Little-endian.
    U16,
    /// Little-endian.
    U32,
    /// Little-endian.
    U64,
    /// 16 bits in network order.
    Port,
    /// 4 or 16 bytes in network order.
    Address,
    /// UTF-8 without a final zero.
    Text,
    /// Bytes.
    Binary,
    /// A list of attributes with its own numbers.
    Nested,
}

/// Number, name and shape of an attribute: the rows of the tables in `docs/protocol.md`.
pub type Field = (u16, &'static str, Shape);

macro_rules! table {
    ($(#[$doc:meta])* $name:ident, $module:ident, $about:literal, { $($constant:ident = $number:literal, $text:literal, $shape:ident;)* }) => {
        #[doc = $about]
        pub(super) mod $module {
            $(pub const $constant: u16 = $number;)*
        }
        $(#[$doc])*
        pub const $name: &[Field] = &[$(($module::$constant, $text, Shape::$shape)),*];
    };
}

table! {
    /// Attributes of a message.
    FIELDS, attribute, "Attributes of a message.", {
        KEY = 1, "key", Nested;
        INSTANCE = 2, "instance", U64;
        EVENT = 3, "event", U8;
        LEVEL = 4, "level", U8;
        QUEUED = 5, "queued", U64;
        ON_WIRE = 6, "on-wire", U64;
        DECODED = 7, "decoded", U64;
        ACKED = 8, "acked", U64;
        ORIGIN = 9, "origin", U8;
        ORIGIN_SEQ = 10, "origin-seq", U32;
        COOKIE = 11, "cookie", U64;
        K = 12, "k", U16;
        M = 13, "m", U16;
        PEER_ID = 14, "peer-id", U32;
        GONE_REASON = 15, "gone-reason", U8;
        LANE = 16, "lane", U8;
        PROFILE = 17, "profile", U8;
        SBN = 18, "sbn", U64;
        RANGE = 19, "range", Nested;
        PEER = 20, "peer", Nested;
        LEASE = 21, "lease", U32;
        GROUPS = 22, "groups", U32;
        TOKEN = 23, "token", Binary;
        SINCE = 24, "since", U64;
        VERSION = 25, "version", U64;
        COUNT = 26, "count", U32;
        NOTIFIED = 27, "notified", U32;
        VIOLATIONS = 28, "violations", U64;
        PACKETS = 29, "packets", U64;
        HEARTBEAT = 30, "heartbeat", U32;
        HEAD = 31, "head", U64;
        VIOLATED = 32, "violated", U64;
        EARLY = 33, "early", U64;
        SURVIVES_BURST = 34, "survives-burst", U32;
    }
}

table! {
    /// Attributes within `key`.
    KEY_FIELDS, key, "Attributes within `key`.", {
        PROTOCOL = 1, "protocol", U8;
        SOURCE = 2, "source", Address;
        DESTINATION = 3, "destination", Address;
        SOURCE_PORT = 4, "source-port", Port;
        DESTINATION_PORT = 5, "destination-port", Port;
    }
}

table! {
    /// Attributes within `peer`.
    PEER_FIELDS, peer, "Attributes within `peer`.", {
        ID = 1, "id", U32;
        NAME = 2, "name", Text;
        STATE = 3, "state", U8;
        REASON = 4, "reason", U8;
    }
}

table! {
    /// Attributes within `range`.
    RANGE_FIELDS, range, "Attributes within `range`.", {
        KEY = 1, "key", Nested;
        INSTANCE = 2, "instance", U64;
        START = 3, "start", U64;
        END = 4, "end", U64;
    }
}

/// What to do with an attribute that is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// For a consumer: newer publishers may send more attributes.
    Ignored,
    /// For a publisher: a request that is only half understood must not be carried out.
    Refused,
}

/// The attributes of a message, sorted. If an attribute that may occur once is repeated, the last one counts.
#[derive(Debug, Default)]
pub struct Fields {
    pub filter: Filter,
    pub instance: Option<u64>,
    pub event: Option<u8>,
    pub level: Option<Level>,
    pub positions: Positions,
    pub origin: Option<u8>,
    pub origin_seq: Option<u32>,
    pub k: Option<u16>,
    pub m: Option<u16>,
    pub peer_id: Option<u32>,
    pub gone_reason: Option<u8>,
    pub lane: Option<u8>,
    pub profile: Option<u8>,
    pub sbn: Option<u64>,
    pub ranges: Vec<Range>,
    pub peers: Vec<Peer>,
    pub lease: Option<u32>,
    pub groups: Option<u32>,
    pub token: Option<Token>,
    pub since: Option<u64>,
    pub version: Option<u64>,
    pub count: Option<u32>,
    pub notified: Option<u32>,
    pub violations: Option<u64>,
    pub packets: Option<u64>,
    pub heartbeat: Option<u32>,
    pub head: Option<u64>,
    pub violated: Option<u64>,
    pub survives_burst: Option<u32>,
}

impl Fields {
    /// Sorts a list of attributes.
    pub fn parse(list: &[u8], unknown: Unknown) -> Result<Fields, Malformed> {
        let mut fields = Fields::default();
        for read in Attributes::new(list) {
            let read = read?;
            match read.kind {
                attribute::KEY => parse_key(&mut fields.filter, &read, unknown)?,
                attribute::INSTANCE => fields.instance = Some(read.u64()?),
                attribute::EVENT => fields.event = Some(read.u8()?),
                attribute::LEVEL => {
                    let level = Level::from_wire(read.u8()?);
                    fields.level =
                        Some(level.ok_or(Malformed::AttributeValue { kind: read.kind, offset: read.offset })?);
                }
                attribute::QUEUED => fields.positions.queued = Some(read.u64()?),
                attribute::ON_WIRE => fields.positions.on_wire = Some(read.u64()?),
                attribute::DECODED => fields.positions.decoded = Some(read.u64()?),
                attribute::ACKED => fields.positions.acked = Some(read.u64()?),
                attribute::ORIGIN => fields.origin = Some(read.u8()?),
                attribute::ORIGIN_SEQ => fields.origin_seq = Some(read.u32()?),
                attribute::COOKIE => fields.filter.cookie = Some(read.u64()?),
                attribute::K => fields.k = Some(read.u16()?),
                attribute::M => fields.m = Some(read.u16()?),
                attribute::PEER_ID => fields.peer_id = Some(read.u32()?),
                attribute::GONE_REASON => fields.gone_reason = Some(read.u8()?),
                attribute::LANE => fields.lane = Some(read.u8()?),
                attribute::PROFILE => fields.profile = Some(read.u8()?),
                attribute::SBN => fields.sbn = Some(read.u64()?),
                attribute::RANGE => {
                    bounded(fields.ranges.len(), MAX_RANGES, &read)?;
                    fields.ranges.push(parse_range(&read, unknown)?);
                }
                attribute::PEER => {
                    bounded(fields.peers.len(), HEARTBEAT_PEERS, &read)?;
                    fields.peers.push(parse_peer(&read, unknown)?);
                }
                attribute::LEASE => fields.lease = Some(read.u32()?),
                attribute::GROUPS => fields.groups = Some(read.u32()?),
                attribute::TOKEN => fields.token = Some(Token(read.fixed()?)),
                attribute::SINCE => fields.since = Some(read.u64()?),
                attribute::VERSION => fields.version = Some(read.u64()?),
                attribute::COUNT => fields.count = Some(read.u32()?),
                attribute::NOTIFIED => fields.notified = Some(read.u32()?),
                attribute::VIOLATIONS => fields.violations = Some(read.u64()?),
                attribute::PACKETS => fields.packets = Some(read.u64()?),
                attribute::HEARTBEAT => fields.heartbeat = Some(read.u32()?),
                attribute::HEAD => fields.head = Some(read.u64()?),
                attribute::VIOLATED => fields.violated = Some(read.u64()?),
                attribute::EARLY => fields.positions.early = Some(read.u64()?),
                attribute::SURVIVES_BURST => fields.survives_burst = Some(read.u32()?),
                _ => refuse(&read, unknown)?,
            }
        }
        Ok(fields)
    }

    /// The value of an attribute that the command needs.
    pub fn need<T>(&self, value: Option<T>, kind: u16) -> Result<T, Malformed> {
        value.ok_or(Malformed::AttributeMissing { kind })
    }
}

fn refuse(read: &Attribute<'_>, unknown: Unknown) -> Result<(), Malformed> {
    match unknown {
        Unknown::Ignored => Ok(()),
        Unknown::Refused => Err(Malformed::AttributeUnknown { kind: read.kind, offset: read.offset }),
    }
}

fn bounded(count: usize, most: usize, read: &Attribute<'_>) -> Result<(), Malformed> {
    match count < most {
        true => Ok(()),
        false => Err(Malformed::AttributeValue { kind: read.kind, offset: read.offset }),
    }
}

/// Makes the offset of an error count from the start of the outer list, so that it points into the message.
fn within(outer: &Attribute<'_>, error: Malformed) -> Malformed {
    let base = outer.offset + crate::attribute::HEADER;
    match error {
        Malformed::AttributeCut { offset } => Malformed::AttributeCut { offset: base + offset },
        Malformed::AttributeLength { kind, offset, found } => {
            Malformed::AttributeLength { kind, offset: base + offset, found }
        }
        Malformed::AttributeValue { kind, offset } => Malformed::AttributeValue { kind, offset: base + offset },
        Malformed::AttributeUnknown { kind, offset } => Malformed::AttributeUnknown { kind, offset: base + offset },
        other => other,
    }
}

fn parse_key(filter: &mut Filter, outer: &Attribute<'_>, unknown: Unknown) -> Result<(), Malformed> {
    let mut sort = |read: &Attribute<'_>| -> Result<(), Malformed> {
        match read.kind {
            key::PROTOCOL => filter.protocol = Some(read.u8()?),
            key::SOURCE => filter.source = Some(address(read)?),
            key::DESTINATION => filter.destination = Some(address(read)?),
            key::SOURCE_PORT => filter.source_port = Some(read.port()?),
            key::DESTINATION_PORT => filter.destination_port = Some(read.port()?),
            _ => refuse(read, unknown)?,
        }
        Ok(())
    };
    Attributes::new(outer.value).try_for_each(|read| sort(&read?)).map_err(|error| within(outer, error))
}

fn address(read: &Attribute<'_>) -> Result<IpAddr, Malformed> {
    match read.value.len() {
        4 => Ok(IpAddr::from(read.fixed::<4>()?)),
        _ => Ok(IpAddr::from(read.fixed::<16>()?)),
    }
}

fn parse_peer(outer: &Attribute<'_>, unknown: Unknown) -> Result<Peer, Malformed> {
    let (mut id, mut name, mut state, mut reason) = (None, None, None, None);
    let mut sort = |read: &Attribute<'_>| -> Result<(), Malformed> {
        match read.kind {
            peer::ID => id = Some(read.u32()?),
            peer::NAME => name = Some(String::from_utf8_lossy(read.value).into()),
            peer::STATE => state = Some(read.u8()?),
            peer::REASON => reason = Some(read.u8()?),
            _ => refuse(read, unknown)?,
        }
        Ok(())
    };
    Attributes::new(outer.value).try_for_each(|read| sort(&read?)).map_err(|error| within(outer, error))?;
    Peer::from_parts(id, name, state, reason).ok_or(Malformed::AttributeMissing { kind: attribute::PEER })
}

fn parse_range(outer: &Attribute<'_>, unknown: Unknown) -> Result<Range, Malformed> {
    let mut filter = Filter::default();
    let (mut instance, mut start, mut end) = (None, None, None);
    let mut sort = |read: &Attribute<'_>| -> Result<(), Malformed> {
        match read.kind {
            range::KEY => parse_key(&mut filter, read, unknown)?,
            range::INSTANCE => instance = Some(read.u64()?),
            range::START => start = Some(read.u64()?),
            range::END => end = Some(read.u64()?),
            _ => refuse(read, unknown)?,
        }
        Ok(())
    };
    Attributes::new(outer.value).try_for_each(|read| sort(&read?)).map_err(|error| within(outer, error))?;
    let whole = |key: Option<FlowKey>| Some(Range { key: key?, instance: instance?, start: start?, end: end? });
    whole(filter.to_key()).ok_or(Malformed::AttributeMissing { kind: attribute::RANGE })
}
