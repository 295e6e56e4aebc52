//! The datagrams of the handshake; the last two are sent only where the responder is under load.
//!
//! ```text
//!  initiation          | 1 | sender index (24)   |                     Noise message 1 | mac1 (16) |
//!  response            | 2 | receiver index (24) | sender index (24) | Noise message 2 | mac1 (16) |
//!  cookie reply        | 3 | receiver index (24) | nonce (24 bytes)  | sealed cookie (16 + 16)     |
//!  cookie initiation   | 7 | sender index (24)   |                     Noise message 1 | mac1 (16) | mac2 (16) |
//! ```
//!
//! Big-endian. The owner of an index receives it in the datagrams of the session. mac1 covers everything before it and
//! shows that the sender knows the receiver's public key. mac2 covers everything before it and shows that the sender
//! receives at its address. The Noise messages and cookies are opaque here, and only lengths and types are verified.
//!
//! An initiation with mac2 has a type of its own: releases before it take the last bytes of an initiation for mac1.

use super::datagram::DatagramType;

/// Bytes of mac1.
pub const MAC_LEN: usize = 16;
/// Bytes of the nonce of a cookie reply.
pub const COOKIE_NONCE_LEN: usize = 24;
/// Bytes of a sealed cookie: 16, and a tag.
pub const SEALED_COOKIE_LEN: usize = 32;
/// The largest session index: 24 bits.
pub const INDEX_MAX: u32 = 0x00ff_ffff;
/// Longer handshake datagrams are ignored; the limit leaves the sealed greeting room to grow.
pub const MAX_LEN: usize = 1024;

const INITIATION_HEADER: usize = 4;
const RESPONSE_HEADER: usize = 7;
/// Noise IKpsk2: ephemeral key, sealed static key, tag of the payload.
const MESSAGE_1_MIN: usize = 32 + 48 + 16;
/// Noise IKpsk2: ephemeral key, tag of the payload.
const MESSAGE_2_MIN: usize = 32 + 16;

fn index(bytes: &[u8]) -> u32 {
    bytes[..3].iter().fold(0, |index, &byte| index << 8 | u32::from(byte))
}

fn emit_index(index: u32, out: &mut Vec<u8>) {
    debug_assert!(index <= INDEX_MAX);
    out.extend(&index.to_be_bytes()[1..]);
}

/// An initiation without mac2, and mac2 where its type has one; `None` if the datagram is too short or too long.
pub fn split_mac2(datagram: &[u8]) -> Option<(&[u8], Option<&[u8; MAC_LEN]>)> {
    match DatagramType::of(datagram)? {
        DatagramType::CookieInitiation if datagram.len() <= MAX_LEN => {
            datagram.split_last_chunk().map(|(initiation, mac2)| (initiation, Some(mac2)))
        }
        DatagramType::CookieInitiation => None,
        _ => Some((datagram, None)),
    }
}

/// The bytes that mac1 covers, and mac1; `None` if the datagram is too short for one.
pub fn split_mac(datagram: &[u8]) -> Option<(&[u8], &[u8; MAC_LEN])> {
    datagram.split_last_chunk()
}

/// The first message, from the peer that wants a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initiation<'a> {
    /// The initiator's index of the future session.
    pub sender_index: u32,
    /// Noise message 1.
    pub noise: &'a [u8],
}

impl<'a> Initiation<'a> {
    /// Reads an initiation of either type, without mac2; `None` for another type or an impossible length.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let types = [DatagramType::Initiation, DatagramType::CookieInitiation];
        let body = body(datagram, &types, INITIATION_HEADER + MESSAGE_1_MIN)?;
        Some(Self { sender_index: index(&body[1..]), noise: &body[INITIATION_HEADER..] })
    }

    /// The datagram without mac1, which goes behind it.
    pub fn emit(&self) -> Vec<u8> {
        self.emit_as(DatagramType::Initiation)
    }

    /// The datagram that proves a cookie, without mac1 and mac2, which go behind it.
    pub fn emit_with_cookie(&self) -> Vec<u8> {
        self.emit_as(DatagramType::CookieInitiation)
    }

    fn emit_as(&self, kind: DatagramType) -> Vec<u8> {
        let mut out = Vec::with_capacity(INITIATION_HEADER + self.noise.len() + 2 * MAC_LEN);
        out.push(kind as u8);
        emit_index(self.sender_index, &mut out);
        out.extend(self.noise);
        out
    }
}

/// The second message, the answer to an initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The initiator's index, from the initiation.
    pub receiver_index: u32,
    /// The responder's index of the session; 0 if it cannot work with the initiator and only reports that.
    pub sender_index: u32,
    /// Noise message 2.
    pub noise: &'a [u8],
}

impl<'a> Response<'a> {
    /// Reads a whole datagram; `None` for another type or an impossible length.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let body = body(datagram, &[DatagramType::Response], RESPONSE_HEADER + MESSAGE_2_MIN)?;
        Some(Self {
            receiver_index: index(&body[1..]),
            sender_index: index(&body[4..]),
            noise: &body[RESPONSE_HEADER..],
        })
    }

    /// The datagram without mac1, which goes behind it.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RESPONSE_HEADER + self.noise.len() + MAC_LEN);
        out.push(DatagramType::Response as u8);
        emit_index(self.receiver_index, &mut out);
        emit_index(self.sender_index, &mut out);
        out.extend(self.noise);
        out
    }
}

/// The answer of a node under load to an initiation without a valid cookie. It is shorter than any initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieReply<'a> {
    /// The initiator's index, from the initiation.
    pub receiver_index: u32,
    /// The nonce of the seal.
    pub nonce: &'a [u8; COOKIE_NONCE_LEN],
    /// The cookie, sealed.
    pub sealed: &'a [u8; SEALED_COOKIE_LEN],
}

impl<'a> CookieReply<'a> {
    /// Bytes of the datagram.
    pub const LEN: usize = 4 + COOKIE_NONCE_LEN + SEALED_COOKIE_LEN;

    /// Reads a whole datagram; `None` for another type or length.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, rest) = datagram.split_first_chunk::<4>()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let fits = DatagramType::of(header) == Some(DatagramType::CookieReply);
        let sealed = rest.try_into().ok().filter(|_| fits)?;
        Some(Self { receiver_index: index(&header[1..]), nonce, sealed })
    }

    /// The whole datagram.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.push(DatagramType::CookieReply as u8);
        emit_index(self.receiver_index, &mut out);
        out.extend(self.nonce);
        out.extend(self.sealed);
        out
    }
}

const _: () =
    assert!(CookieReply::LEN < INITIATION_HEADER + MESSAGE_1_MIN + MAC_LEN, "no reply is longer than its cause");

fn body<'a>(datagram: &'a [u8], wanted: &[DatagramType], minimum: usize) -> Option<&'a [u8]> {
    let (body, _) = split_mac(datagram)?;
    let fits = datagram.len() <= MAX_LEN && body.len() >= minimum;
    (fits && wanted.contains(&DatagramType::of(datagram)?)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_messages_round_trip() {
        let noise: Vec<u8> = (0..120).collect();
        let initiation = Initiation { sender_index: 0x0012_3456, noise: &noise };
        let mut bytes = initiation.emit();
        assert_eq!(bytes[..4], [1, 0x12, 0x34, 0x56]);
        bytes.extend([9; MAC_LEN]);
        assert_eq!(Initiation::parse(&bytes), Some(initiation));
        assert_eq!(Response::parse(&bytes), None);
        assert_eq!(split_mac(&bytes).unwrap().1, &[9; MAC_LEN]);

        let response = Response { receiver_index: INDEX_MAX, sender_index: 1, noise: &noise };
        let mut bytes = response.emit();
        assert_eq!(bytes[..7], [2, 0xff, 0xff, 0xff, 0, 0, 1]);
        bytes.extend([9; MAC_LEN]);
        assert_eq!(Response::parse(&bytes), Some(response));
        assert_eq!(Initiation::parse(&bytes), None);
    }

    #[test]
    fn an_initiation_with_a_cookie_is_the_same_behind_another_type() {
        let noise: Vec<u8> = (0..120).collect();
        let initiation = Initiation { sender_index: 0x0012_3456, noise: &noise };
        let mut bytes = initiation.emit_with_cookie();
        assert_eq!(bytes[..4], [7, 0x12, 0x34, 0x56]);
        bytes.extend([9; MAC_LEN]);
        let before = bytes.clone();
        bytes.extend([8; MAC_LEN]);
        assert_eq!(split_mac2(&bytes), Some((&before[..], Some(&[8; MAC_LEN]))));
        assert_eq!(Initiation::parse(&before), Some(initiation));
        assert_eq!(Response::parse(&before), None);
        let plain = [&initiation.emit()[..], &[9; MAC_LEN]].concat();
        assert_eq!(split_mac2(&plain), Some((&plain[..], None)));
        bytes.resize(MAX_LEN, 0);
        assert!(split_mac2(&bytes).is_some());
        bytes.push(0);
        assert_eq!(split_mac2(&bytes), None);
        assert_eq!(split_mac2(&[7; MAC_LEN - 1]), None);
    }

    #[test]
    fn a_cookie_reply_round_trips_and_has_one_length() {
        let (nonce, sealed) = ([3; COOKIE_NONCE_LEN], [4; SEALED_COOKIE_LEN]);
        let reply = CookieReply { receiver_index: 0x00ab_cdef, nonce: &nonce, sealed: &sealed };
        let bytes = reply.emit();
        assert_eq!(bytes[..5], [3, 0xab, 0xcd, 0xef, 3]);
        assert_eq!(CookieReply::parse(&bytes), Some(reply));
        for length in 0..CookieReply::LEN {
            assert_eq!(CookieReply::parse(&bytes[..length]), None);
        }
        assert_eq!(CookieReply::parse(&[&bytes[..], &[0]].concat()), None);
        for other in (0..=255).filter(|&kind| kind != 3) {
            let mut bytes = bytes.clone();
            bytes[0] = other;
            assert_eq!(CookieReply::parse(&bytes), None, "type {other}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for (kind, minimum) in [(1, 4 + MESSAGE_1_MIN + MAC_LEN), (2, 7 + MESSAGE_2_MIN + MAC_LEN)] {
            for length in 0..MAX_LEN + 2 {
                let mut bytes = vec![0; length];
                if let Some(first) = bytes.first_mut() {
                    *first = kind;
                }
                let parsed = Initiation::parse(&bytes).is_some() || Response::parse(&bytes).is_some();
                assert_eq!(parsed, (minimum..=MAX_LEN).contains(&length), "type {kind}, {length} bytes");
            }
        }
    }
}
