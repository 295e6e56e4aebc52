//! The publisher's answers: errors and acknowledgements in netlink's own form, the end of a dump, challenges.
//!
//! An error has netlink's negative errno, then the header of the request (its body is never repeated), then the
//! attributes of the extended acknowledgement: 1 message, 2 offset.

use std::borrow::Cow;
use std::time::Duration;

use super::fields::{Fields, Unknown, attribute as kind};
use super::notification::FloorCharBoundary;
use super::{DONE, ERROR, Header, Malformed, Message, Raw, Token, command, emit_any, emit_generic, flags};
use crate::attribute::{Attributes, put, put_u32, put_u64};

/// `NLMSGERR_ATTR_MSG`.
const TEXT: u16 = 1;
/// `NLMSGERR_ATTR_OFFS`.
const OFFSET: u16 = 2;
/// The longest text of a refusal, so that the refusal fits any datagram.
const MAX_TEXT: usize = 160;

/// Why a request was refused: the errno values of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// EINVAL: the request is not well formed.
    Invalid,
    /// EOPNOTSUPP: no such command, type or version.
    NotSupported,
    /// ENOSPC: a table is full.
    Full,
    /// Another errno, negative as on the wire.
    Other(i32),
}

impl RefusalCode {
    fn to_wire(self) -> i32 {
        match self {
            RefusalCode::Invalid => -22,
            RefusalCode::NotSupported => -95,
            RefusalCode::Full => -28,
            RefusalCode::Other(code) => code,
        }
    }

    fn from_wire(code: i32) -> RefusalCode {
        match code {
            -22 => RefusalCode::Invalid,
            -95 => RefusalCode::NotSupported,
            -28 => RefusalCode::Full,
            other => RefusalCode::Other(other),
        }
    }
}

/// A refused request: `NLMSG_ERROR` with extended acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal.
    pub code: RefusalCode,
    /// Where the fault is in the request, in bytes from its `nlmsghdr`.
    pub offset: Option<u32>,
    /// A text for people.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// Appends the message: at most 212 bytes.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        let header = Header { flags: header.flags | flags::CAPPED | flags::ACK_TLVS, ..header };
        emit_error(self.code.to_wire(), header, out, |out| {
            let text = &self.text.as_bytes()[..self.text.floor_char_boundary_at(MAX_TEXT)];
            // The kernel's texts end in a zero byte, and readers expect it.
            put(out, TEXT, &[text, &[0]].concat());
            if let Some(offset) = self.offset {
                put_u32(out, OFFSET, offset);
            }
        });
    }
}

pub(super) fn emit_acknowledgement(header: Header, out: &mut Vec<u8>) {
    emit_error(0, Header { flags: header.flags | flags::CAPPED, ..header }, out, |_| {});
}

fn emit_error(code: i32, header: Header, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    emit_any(ERROR, header, out, |out| {
        out.extend_from_slice(&code.to_le_bytes());
        // Only the sequence number and port of the request's header are known to be right: they identify the request.
        emit_any(super::FAMILY, Header { flags: flags::REQUEST, ..header }, out, |_| {});
        fill(out);
    });
}

pub(super) fn parse_error(raw: &Raw<'_>) -> Result<Message, Malformed> {
    let (code, rest) = raw.body.split_first_chunk::<4>().ok_or(Malformed::MessageCut)?;
    let list = rest.get(super::HEADER..).ok_or(Malformed::MessageCut)?;
    let code = i32::from_le_bytes(*code);
    if code == 0 {
        return Ok(Message::Acknowledged);
    }
    let mut refusal = Refusal { code: RefusalCode::from_wire(code), offset: None, text: Cow::Borrowed("") };
    if raw.header.flags & flags::ACK_TLVS != 0 {
        for read in Attributes::new(list) {
            let read = read?;
            match read.kind {
                TEXT => {
                    let text = read.value.strip_suffix(&[0]).unwrap_or(read.value);
                    refusal.text = String::from_utf8_lossy(text).into_owned().into();
                }
                OFFSET => refusal.offset = Some(read.u32()?),
                _ => {}
            }
        }
    }
    Ok(Message::Refused(refusal))
}

/// The end of a page of a dump: `NLMSG_DONE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Messages of the page before this one: a client that received fewer asks again.
    pub count: u32,
    /// The page starts after this version. 0 although a higher version was asked for: the dump starts again.
    pub since: u64,
    /// Everything that changed after `since` and up to this version is in the page: the next page starts here.
    pub version: u64,
    /// The newest version there is; the dump is complete when `version` has reached it.
    pub head: u64,
    /// A complete dump contains all that the notifications of this subscription up to this number contain.
    pub notified: u32,
    /// Violation messages so far in this epoch.
    pub violations: u64,
}

impl Done {
    /// Appends the message.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        emit_any(DONE, Header { flags: header.flags | flags::MULTI, ..header }, out, |out| {
            out.extend_from_slice(&0i32.to_le_bytes());
            put_u32(out, kind::COUNT, self.count);
            put_u64(out, kind::SINCE, self.since);
            put_u64(out, kind::VERSION, self.version);
            put_u64(out, kind::HEAD, self.head);
            put_u32(out, kind::NOTIFIED, self.notified);
            put_u64(out, kind::VIOLATIONS, self.violations);
        });
    }
}

pub(super) fn parse_done(raw: &Raw<'_>) -> Result<Done, Malformed> {
    let list = raw.body.get(4..).ok_or(Malformed::MessageCut)?;
    let fields = Fields::parse(list, Unknown::Ignored)?;
    Ok(Done {
        count: fields.need(fields.count, kind::COUNT)?,
        since: fields.need(fields.since, kind::SINCE)?,
        version: fields.need(fields.version, kind::VERSION)?,
        head: fields.need(fields.head, kind::HEAD)?,
        notified: fields.need(fields.notified, kind::NOTIFIED)?,
        violations: fields.need(fields.violations, kind::VIOLATIONS)?,
    })
}

/// The answer to a subscription without a valid token: subscribe again with this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Valid for this address, key and client epoch, for 30 to 60 seconds.
    pub token: Token,
}

impl Challenge {
    pub(super) fn from_fields(fields: &Fields) -> Result<Challenge, Malformed> {
        Ok(Challenge { token: fields.need(fields.token, kind::TOKEN)? })
    }

    /// Appends the message: never longer than the request it answers.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        emit_generic(command::CHALLENGE, header, out, |out| put(out, kind::TOKEN, &self.token.0));
    }
}

/// The answer to a subscription or its renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The granted lease.
    pub lease: Duration,
    /// The time between heartbeats.
    pub heartbeat: Duration,
    /// Violation messages so far in this epoch.
    pub violations: u64,
}

impl Subscribed {
    pub(super) fn from_fields(fields: &Fields) -> Result<Subscribed, Malformed> {
        Ok(Subscribed {
            lease: Duration::from_millis(fields.need(fields.lease, kind::LEASE)?.into()),
            heartbeat: Duration::from_millis(fields.need(fields.heartbeat, kind::HEARTBEAT)?.into()),
            violations: fields.need(fields.violations, kind::VIOLATIONS)?,
        })
    }

    /// Appends the message.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        emit_generic(command::SUBSCRIBE, header, out, |out| {
            put_u32(out, kind::LEASE, millis(self.lease));
            put_u32(out, kind::HEARTBEAT, millis(self.heartbeat));
            put_u64(out, kind::VIOLATIONS, self.violations);
        });
    }
}
