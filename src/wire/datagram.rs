//! The clear header in front of every datagram of ours, and the lane number inside its counter.
//!
//! ```text
//!  0        1                       4                                               12
//!  +--------+-----------------------+-----------------------------------------------+----
//!  | type   | receiver index (24)   | counter (64): lane (8) | count (56)           | sealed ... tag (16)
//!  +--------+-----------------------+-----------------------------------------------+----
//! ```
//!
//! Big-endian. The header is the associated data of the seal and its counter is the nonce. Handshake datagrams share
//! only the first four bytes; see [`super::handshake`]. This file does not open or seal.

/// Bytes of the clear header.
pub const HEADER_LEN: usize = 12;
/// Bytes of the authentication tag behind the sealed part.
pub const TAG_LEN: usize = 16;
/// The largest count a lane may use within one session.
pub const COUNT_MAX: u64 = (1 << 56) - 1;

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DatagramType {
    /// First message of the handshake.
    Initiation = 1,
    /// Second message of the handshake.
    Response = 2,
    /// The answer of a node under load to an initiation without a cookie.
    CookieReply = 3,
    /// A source symbol.
    Source = 4,
    /// A repair symbol.
    Repair = 5,
    /// What the receiver saw; also the keepalive.
    Report = 6,
    /// First message of the handshake, with the proof of a cookie.
    CookieInitiation = 7,
}

impl DatagramType {
    /// The type in a datagram's first byte, if it is one of ours.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        Some(match *datagram.first()? {
            1 => Self::Initiation,
            2 => Self::Response,
            3 => Self::CookieReply,
            4 => Self::Source,
            5 => Self::Repair,
            6 => Self::Report,
            7 => Self::CookieInitiation,
            _ => return None,
        })
    }

    /// Handshake datagrams are read by the control thread, all others by the lane.
    pub fn is_handshake(self) -> bool {
        matches!(self, Self::Initiation | Self::Response | Self::CookieReply | Self::CookieInitiation)
    }
}

/// The clear header of a sealed datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the sealed part holds.
    pub datagram_type: DatagramType,
    /// The session, as the receiver numbered it; 24 bits.
    pub receiver_index: u32,
    /// Lane in the top byte, count below: the nonce.
    pub counter: u64,
}

impl Header {
    /// Reads the header of a sealed datagram; `None` for anything too short, unknown, or of the handshake.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < HEADER_LEN + TAG_LEN {
            return None;
        }
        Self::parse_quoted(datagram)
    }

    /// Reads the header of a sealed datagram that may be cut off behind its header.
    pub fn parse_quoted(datagram: &[u8]) -> Option<Self> {
        let datagram_type = DatagramType::of(datagram).filter(|kind| !kind.is_handshake())?;
        if datagram.len() < HEADER_LEN {
            return None;
        }
        let mut counter = [0; 8];
        counter.copy_from_slice(&datagram[4..HEADER_LEN]);
        Some(Self {
            datagram_type,
            receiver_index: u32::from_be_bytes([0, datagram[1], datagram[2], datagram[3]]),
            counter: u64::from_be_bytes(counter),
        })
    }

    /// The header's bytes.
    pub fn emit(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.receiver_index.to_be_bytes());
        bytes[0] = self.datagram_type as u8;
        bytes[4..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }
}

/// The counter of the `count`-th datagram of a lane.
pub fn counter(lane: u8, count: u64) -> u64 {
    debug_assert!(count <= COUNT_MAX);
    u64::from(lane) << 56 | count
}

/// The lane that sent a datagram with this counter.
pub fn lane_of(counter: u64) -> u8 {
    (counter >> 56) as u8
}

/// The lane's own count within a counter.
pub fn count_of(counter: u64) -> u64 {
    counter & COUNT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips_and_short_ones_are_refused() {
        let header =
            Header { datagram_type: DatagramType::Repair, receiver_index: 0x00ab_cdef, counter: counter(3, 77) };
        let mut datagram = header.emit().to_vec();
        assert_eq!(Header::parse(&datagram), None);
        datagram.resize(HEADER_LEN + TAG_LEN, 0);
        assert_eq!(Header::parse(&datagram), Some(header));
        assert_eq!((lane_of(header.counter), count_of(header.counter)), (3, 77));
    }

    #[test]
    fn handshakes_and_unknown_types_have_no_sealed_header() {
        for first in (0..=255u8).filter(|byte| !(4..=6).contains(byte)) {
            let mut datagram = [0; 64];
            datagram[0] = first;
            assert_eq!(Header::parse(&datagram), None, "type {first}");
        }
    }
}
