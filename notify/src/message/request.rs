//! The client's requests.
//!
//! Messages are parsed leniently, requests strictly: an unknown attribute, a missing one or a wrong length refuses the
//! whole request, and the refusal holds the offset. The publisher decides whether a request is allowed.

use std::time::Duration;

use super::fields::{Fields, Unknown, attribute as kind};
use super::{FAMILY, Filter, FlowKey, GENERIC_HEADER, Header, Malformed, Raw, Refusal, RefusalCode, VERSION, command};
use super::{emit_generic, flags};
use crate::attribute::{put, put_u32, put_u64};

/// Group of FLOW, STATE and VIOLATION notifications.
pub const GROUP_FLOWS: u32 = 1;
/// Group of BLOCK notifications: one for each block, verbose.
pub const GROUP_BLOCKS: u32 = 2;

/// Proves that the client receives at the address it sends from. A token of zeros asks for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token(
    /// Opaque to the client.
    pub [u8; 16],
);

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Begin a subscription or renew its lease. Groups and filter replace earlier ones.
    Subscribe {
        /// How long the subscription lasts without renewal; the publisher may grant less or more.
        lease: Duration,
        /// [`GROUP_FLOWS`] and [`GROUP_BLOCKS`]; 0 for heartbeats and answers only.
        groups: u32,
        /// Which flows to send notifications about.
        filter: Filter,
        /// From the challenge; zeros at first.
        token: Token,
    },
    /// End the subscription at once.
    Unsubscribe,
    /// One page of a dump of flows, links and violations, in the order in which they changed.
    GetFlows {
        /// Only what changed after this version; 0 for all.
        since: u64,
        /// The page continues a full dump, whose first page had this head.
        begun: Option<u64>,
        /// The most messages in the page.
        count: u32,
        /// Which flows.
        filter: Filter,
    },
    /// Put a cookie on the present instance of a flow, or on the next one if there is none.
    Register {
        /// The flow.
        key: FlowKey,
        /// Chosen by the program.
        cookie: u64,
    },
    /// Close the open blocks now.
    Flush,
    /// Answer when everything read from the TUN so far is protected.
    Barrier,
}

impl Request {
    /// Reads a request, or returns the refusal to send.
    pub fn parse(raw: &Raw<'_>) -> Result<Request, Refusal> {
        let refuse = |code, text: &'static str| Refusal { code, offset: None, text: text.into() };
        if raw.kind != FAMILY {
            return Err(refuse(RefusalCode::NotSupported, "only messages of type 0x776f are requests here"));
        }
        if raw.header.flags & flags::REQUEST == 0 || raw.header.port == 0 {
            return Err(refuse(RefusalCode::Invalid, "a request needs NLM_F_REQUEST and a port that is not 0"));
        }
        let (command, version, list) = raw.generic().map_err(refuse_malformed)?;
        if version != VERSION {
            return Err(refuse(RefusalCode::NotSupported, "only version 1 is spoken here"));
        }
        let fields = Fields::parse(list, Unknown::Refused).map_err(refuse_malformed)?;
        Self::from_fields(command, &fields).map_err(|malformed| match malformed {
            Malformed::Unknown => refuse(RefusalCode::NotSupported, "no such command"),
            other => refuse_malformed(other),
        })
    }

    fn from_fields(command: u8, fields: &Fields) -> Result<Request, Malformed> {
        Ok(match command {
            command::SUBSCRIBE => Request::Subscribe {
                lease: Duration::from_millis(fields.need(fields.lease, kind::LEASE)?.into()),
                groups: fields.need(fields.groups, kind::GROUPS)?,
                filter: fields.filter,
                token: fields.need(fields.token, kind::TOKEN)?,
            },
            command::UNSUBSCRIBE => Request::Unsubscribe,
            command::GET_FLOWS => Request::GetFlows {
                since: fields.since.unwrap_or(0),
                begun: fields.head,
                count: fields.need(fields.count, kind::COUNT)?,
                filter: fields.filter,
            },
            command::REGISTER => Request::Register {
                key: fields.need(fields.filter.to_key(), kind::KEY)?,
                cookie: fields.need(fields.filter.cookie, kind::COOKIE)?,
            },
            command::FLUSH => Request::Flush,
            command::BARRIER => Request::Barrier,
            _ => return Err(Malformed::Unknown),
        })
    }

    /// Appends the request; `port` is not 0.
    pub fn emit(&self, seq: u32, port: u32, out: &mut Vec<u8>) {
        let extra = match self {
            Request::GetFlows { .. } => flags::DUMP,
            _ => flags::ACK,
        };
        let header = Header { flags: flags::REQUEST | extra, seq, port };
        let command = match self {
            Request::Subscribe { .. } => command::SUBSCRIBE,
            Request::Unsubscribe => command::UNSUBSCRIBE,
            Request::GetFlows { .. } => command::GET_FLOWS,
            Request::Register { .. } => command::REGISTER,
            Request::Flush => command::FLUSH,
            Request::Barrier => command::BARRIER,
        };
        emit_generic(command, header, out, |out| match self {
            Request::Subscribe { lease, groups, filter, token } => {
                put_u32(out, kind::LEASE, u32::try_from(lease.as_millis()).unwrap_or(u32::MAX));
                put_u32(out, kind::GROUPS, *groups);
                put(out, kind::TOKEN, &token.0);
                filter.emit(out);
            }
            Request::GetFlows { since, begun, count, filter } => {
                put_u64(out, kind::SINCE, *since);
                begun.iter().for_each(|head| put_u64(out, kind::HEAD, *head));
                put_u32(out, kind::COUNT, *count);
                filter.emit(out);
            }
            Request::Register { key, cookie } => Filter { cookie: Some(*cookie), ..Filter::exactly(key) }.emit(out),
            Request::Unsubscribe | Request::Flush | Request::Barrier => {}
        });
    }
}

/// The extended acknowledgement for a request that cannot be read. Its offset counts from the `nlmsghdr`, as the
/// kernel's does.
fn refuse_malformed(malformed: Malformed) -> Refusal {
    let at = match malformed {
        Malformed::AttributeCut { offset }
        | Malformed::AttributeLength { offset, .. }
        | Malformed::AttributeValue { offset, .. }
        | Malformed::AttributeUnknown { offset, .. } => Some((GENERIC_HEADER + offset) as u32),
        Malformed::MessageCut | Malformed::AttributeMissing { .. } | Malformed::Unknown => None,
    };
    Refusal { code: RefusalCode::Invalid, offset: at, text: malformed.to_string().into() }
}
