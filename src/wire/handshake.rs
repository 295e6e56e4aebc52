//! The two datagrams of the handshake.
//!
//! ```text
//!  initiation  | 1 | sender index (24) |                     Noise message 1 | mac1 (16) |
//!  response    | 2 | receiver index (24) | sender index (24) | Noise message 2 | mac1 (16) |
//! ```
//!
//! Big-endian. The owner of an index receives it in the datagrams of the session. mac1 covers everything before it and
//! shows that the sender knows the receiver's public key. The Noise messages are opaque here, and only lengths and
//! types are verified.

use super::datagram::DatagramType;

/// Bytes of mac1.
pub const MAC_LEN: usize = 16;
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
    /// Reads a whole datagram; `None` for another type or an impossible length.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let body = body(datagram, DatagramType::Initiation, INITIATION_HEADER + MESSAGE_1_MIN)?;
        Some(Self { sender_index: index(&body[1..]), noise: &body[INITIATION_HEADER..] })
    }

    /// The datagram without mac1, which goes behind it.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(INITIATION_HEADER + self.noise.len() + MAC_LEN);
        out.push(DatagramType::Initiation as u8);
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
        let body = body(datagram, DatagramType::Response, RESPONSE_HEADER + MESSAGE_2_MIN)?;
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

fn body(datagram: &[u8], wanted: DatagramType, minimum: usize) -> Option<&[u8]> {
    let (body, _) = split_mac(datagram)?;
    let fits = datagram.len() <= MAX_LEN && body.len() >= minimum;
    (fits && DatagramType::of(datagram) == Some(wanted)).then_some(body)
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
