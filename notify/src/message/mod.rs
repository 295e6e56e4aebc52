//! Netlink's message format over UDP: `nlmsghdr`, `genlmsghdr`, attributes; little-endian on every machine.
//!
//! ```text
//!  0        4      6       8     12      16   17        18     20
//!  | length | type | flags | seq | port  | cmd | version | 0 0 | attributes ...
//!  '---------------- nlmsghdr -----------'------ genlmsghdr ---'
//! ```
//!
//! `type` is [`FAMILY`], or [`ERROR`] or [`DONE`], whose body begins with a signed 32-bit number instead of the
//! `genlmsghdr`. `port` 0 marks a notification: `seq` counts the notifications of the subscription. Any other `port` is
//! chosen by the client for its requests and comes back in the answers, with the request's `seq`.
//!
//! One datagram holds whole messages and nothing else. This module does not authenticate: [`super::envelope`] has
//! refused forged datagrams before their bytes arrive here.
//!
//! Start with `fields`, the tables of all attributes, then `flow`, the message that all others refer to.

mod answer;
mod fields;
mod flow;
mod notification;
mod request;

pub use crate::attribute::Malformed;
pub use answer::{Challenge, Done, Refusal, RefusalCode, Subscribed};
pub use fields::{FIELDS, Field, KEY_FIELDS, PEER_FIELDS, RANGE_FIELDS, Shape};
pub use flow::{Event, Filter, Flow, FlowKey, GoneReason, Level, Origin, Positions};
pub(super) use notification::emit_state;
pub use notification::{
    Barrier, Block, HEARTBEAT_PEERS, Heartbeat, LinkState, MAX_RANGES, Peer, Range, StateReason, Violation,
};
pub use request::{GROUP_BLOCKS, GROUP_FLOWS, Request, Token};

/// Our `nlmsg_type`: a fixed number, since there is no kernel to assign one. On the wire it reads `ow`.
pub const FAMILY: u16 = 0x776f;
/// The version in each `genlmsghdr`.
pub const VERSION: u8 = 1;
/// `nlmsg_type` of an error or an acknowledgement (`NLMSG_ERROR`).
pub const ERROR: u16 = 2;
/// `nlmsg_type` of the end of a dump (`NLMSG_DONE`).
pub const DONE: u16 = 3;
/// Bytes of the `nlmsghdr`.
pub const HEADER: usize = 16;
/// Bytes of both headers.
pub const GENERIC_HEADER: usize = 20;
/// The longest datagram this protocol sends, envelope included: the smallest IPv6 MTU less its headers.
pub const MAX_DATAGRAM: usize = 1232;

/// `nlmsg_flags`.
pub mod flags {
    /// A request (`NLM_F_REQUEST`).
    pub const REQUEST: u16 = 1;
    /// Part of a dump (`NLM_F_MULTI`).
    pub const MULTI: u16 = 2;
    /// The request wants an acknowledgement (`NLM_F_ACK`).
    pub const ACK: u16 = 4;
    /// A dump is asked for (`NLM_F_DUMP`).
    pub const DUMP: u16 = 0x300;
    /// The error does not repeat the request's body (`NLM_F_CAPPED`).
    pub const CAPPED: u16 = 0x100;
    /// The error carries extended acknowledgement attributes (`NLM_F_ACK_TLVS`).
    pub const ACK_TLVS: u16 = 0x200;
}

/// `genlmsghdr.cmd`.
pub mod command {
    /// A flow's positions: notification, and each message of a dump.
    pub const FLOW: u8 = 1;
    /// A block was decided: notification of the verbose group.
    pub const BLOCK: u8 = 2;
    /// The link to a peer changed its state: notification.
    pub const STATE: u8 = 3;
    /// A block called protected was lost: notification.
    pub const VIOLATION: u8 = 4;
    /// Sent every 100 ms to each subscriber: notification.
    pub const HEARTBEAT: u8 = 5;
    /// Wait for everything read from the TUN so far: request and its answer.
    pub const BARRIER: u8 = 6;
    /// The answer to a subscription without a valid token.
    pub const CHALLENGE: u8 = 7;
    /// Begin or renew a subscription: request and its answer.
    pub const SUBSCRIBE: u8 = 8;
    /// End the subscription: request.
    pub const UNSUBSCRIBE: u8 = 9;
    /// Dump flows, peers and violations: request.
    pub const GET_FLOWS: u8 = 10;
    /// Give a flow a cookie: request.
    pub const REGISTER: u8 = 11;
    /// Close the open blocks now: request.
    pub const FLUSH: u8 = 12;
}

/// The part of `nlmsghdr` that a sender chooses; length and type follow from the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// See [`flags`].
    pub flags: u16,
    /// The number of the notification, or of the answered request.
    pub seq: u32,
    /// 0 for a notification, otherwise the port of the request.
    pub port: u32,
}

/// A message with its header parsed and its body not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// The rest of the `nlmsghdr`.
    pub header: Header,
    /// What follows the `nlmsghdr`.
    pub body: &'a [u8],
}

impl<'a> Raw<'a> {
    /// Command, version and attributes.
    pub fn generic(&self) -> Result<(u8, u8, &'a [u8]), Malformed> {
        let (head, attributes) = self.body.split_first_chunk::<4>().ok_or(Malformed::MessageCut)?;
        Ok((head[0], head[1], attributes))
    }
}

/// The messages of a datagram, in order; after the first error the datagram ends.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Reads the payload of an envelope.
    pub fn new(payload: &'a [u8]) -> Messages<'a> {
        Messages { rest: payload }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Raw<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let Some((head, _)) = bytes.split_first_chunk::<HEADER>() else {
            return Some(Err(Malformed::MessageCut));
        };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let len = word(0) as usize;
        let Some(body) = bytes.get(HEADER..len) else {
            return Some(Err(Malformed::MessageCut));
        };
        self.rest = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        let header = Header { flags: half(6), seq: word(8), port: word(12) };
        Some(Ok(Raw { kind: half(4), header, body }))
    }
}

/// What a publisher sends: notifications and answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// [`command::FLOW`].
    Flow(Flow),
    /// [`command::BLOCK`].
    Block(Block),
    /// [`command::STATE`].
    State(Peer),
    /// [`command::VIOLATION`].
    Violation(Violation),
    /// [`command::HEARTBEAT`].
    Heartbeat(Heartbeat),
    /// [`command::BARRIER`].
    Barrier(Barrier),
    /// [`command::CHALLENGE`].
    Challenge(Challenge),
    /// [`command::SUBSCRIBE`].
    Subscribed(Subscribed),
    /// [`DONE`].
    Done(Done),
    /// [`ERROR`] with a number that is not zero.
    Refused(Refusal),
    /// [`ERROR`] with zero: an acknowledgement.
    Acknowledged,
}

impl Message {
    /// Reads a message as a consumer does: unknown attributes are ignored, unknown commands are [`Malformed::Unknown`].
    pub fn parse(raw: &Raw<'_>) -> Result<Message, Malformed> {
        match raw.kind {
            ERROR => return answer::parse_error(raw),
            DONE => return answer::parse_done(raw).map(Message::Done),
            FAMILY => {}
            _ => return Err(Malformed::Unknown),
        }
        let (command, _, list) = raw.generic()?;
        let fields = fields::Fields::parse(list, fields::Unknown::Ignored)?;
        Ok(match command {
            command::FLOW => Message::Flow(Flow::from_fields(&fields)?),
            command::BLOCK => Message::Block(Block::from_fields(fields)?),
            command::STATE => Message::State(notification::state_from_fields(fields)?),
            command::VIOLATION => Message::Violation(Violation::from_fields(fields)?),
            command::HEARTBEAT => Message::Heartbeat(Heartbeat::from_fields(fields)?),
            command::BARRIER => Message::Barrier(Barrier::from_fields(&fields)?),
            command::CHALLENGE => Message::Challenge(Challenge::from_fields(&fields)?),
            command::SUBSCRIBE => Message::Subscribed(Subscribed::from_fields(&fields)?),
            _ => return Err(Malformed::Unknown),
        })
    }

    /// Appends the message to `out`.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        match self {
            Message::Flow(flow) => flow.emit(header, out),
            Message::Block(block) => block.emit(header, out),
            Message::State(peer) => notification::emit_state(peer, header, out),
            Message::Violation(violation) => violation.emit(header, out),
            Message::Heartbeat(heartbeat) => heartbeat.emit(header, out),
            Message::Barrier(barrier) => barrier.emit(header, out),
            Message::Challenge(challenge) => challenge.emit(header, out),
            Message::Subscribed(subscribed) => subscribed.emit(header, out),
            Message::Done(done) => done.emit(header, out),
            Message::Refused(refusal) => refusal.emit(header, out),
            Message::Acknowledged => answer::emit_acknowledgement(header, out),
        }
    }
}

/// Appends a message of our family whose attributes `fill` appends.
fn emit_generic(command: u8, header: Header, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    emit_any(FAMILY, header, out, |out| {
        out.extend_from_slice(&[command, VERSION, 0, 0]);
        fill(out);
    });
}

/// Appends a message of any type; `fill` appends what follows the `nlmsghdr`, a multiple of four bytes.
fn emit_any(kind: u16, header: Header, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&header.flags.to_le_bytes());
    out.extend_from_slice(&header.seq.to_le_bytes());
    out.extend_from_slice(&header.port.to_le_bytes());
    fill(out);
    let len = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}
