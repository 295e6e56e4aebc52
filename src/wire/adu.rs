//! The ADU header inside a source block: how long the packet is, and its virtio header if it has one.
//!
//! ```text
//!  short (4)   | kind | length (24) |
//!  long (12)   | kind | length (24) | gso_size (16) | csum_start (16) | csum_offset (16) | hdr_len (16) |
//!
//!  kind        1 L C T T T T E      L long, C checksum needed, T the segmentation type, E the ECN mark
//! ```
//!
//! Big-endian. The top bit of `kind` is always set: a zero in place of a header means that the rest of the symbol is
//! padding. [`super::offload`] checks whether the virtio header fits its packet, at both ends.

use super::virtio::VirtioHeader;

/// Bytes of the header of a complete packet.
pub const SHORT_LEN: usize = 4;
/// Bytes of the header of a packet that needs offload work.
pub const LONG_LEN: usize = 12;
/// The longest packet in an ADU: an IPv6 header and the longest payload that its length field can express.
pub const PACKET_MAX: usize = 40 + 65_535;

const PRESENT: u8 = 0x80;
const LONG: u8 = 0x40;
const NEEDS_CSUM: u8 = 0x20;
const ECN: u8 = 0x01;

/// The header in front of each packet in a source block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AduHeader {
    /// Bytes of the packet.
    pub packet_len: usize,
    /// The packet's offload header; plain for a complete packet.
    pub virtio: VirtioHeader,
}

impl AduHeader {
    /// Bytes this header takes.
    pub fn header_len(&self) -> usize {
        if self.virtio.is_plain() { SHORT_LEN } else { LONG_LEN }
    }

    /// Writes the header to the front of `out`, which must hold [`header_len`](Self::header_len) bytes.
    pub fn emit(&self, out: &mut [u8]) {
        let virtio = self.virtio;
        let length = (self.packet_len as u32).to_be_bytes();
        let kind = PRESENT | (virtio.segmentation() & 0x0f) << 1;
        out[1..4].copy_from_slice(&length[1..]);
        if virtio.is_plain() {
            out[0] = kind;
            return;
        }
        let mut kind = kind | LONG;
        if virtio.flags & VirtioHeader::NEEDS_CSUM != 0 {
            kind |= NEEDS_CSUM;
        }
        if virtio.gso_type & VirtioHeader::GSO_ECN != 0 {
            kind |= ECN;
        }
        out[0] = kind;
        out[4..6].copy_from_slice(&virtio.gso_size.to_be_bytes());
        out[6..8].copy_from_slice(&virtio.csum_start.to_be_bytes());
        out[8..10].copy_from_slice(&virtio.csum_offset.to_be_bytes());
        out[10..12].copy_from_slice(&virtio.hdr_len.to_be_bytes());
    }

    /// Reads the header at the front of `bytes`, the rest of one symbol.
    pub fn parse(bytes: &[u8]) -> Parsed {
        let Some((&[kind, high, middle, low], rest)) = bytes.split_first_chunk::<SHORT_LEN>() else {
            return Parsed::Padding;
        };
        if kind == 0 {
            return Parsed::Padding;
        }
        let packet_len = u32::from_be_bytes([0, high, middle, low]) as usize;
        if kind & PRESENT == 0 || packet_len == 0 || packet_len > PACKET_MAX {
            return Parsed::Malformed;
        }
        if kind & LONG == 0 {
            return match kind {
                PRESENT => Parsed::Adu(Self { packet_len, virtio: VirtioHeader::default() }),
                _ => Parsed::Malformed,
            };
        }
        let Some(fields) = rest.first_chunk::<{ LONG_LEN - SHORT_LEN }>() else {
            return Parsed::Malformed;
        };
        let u16_at = |at: usize| u16::from_be_bytes([fields[at], fields[at + 1]]);
        let virtio = VirtioHeader {
            flags: if kind & NEEDS_CSUM != 0 { VirtioHeader::NEEDS_CSUM } else { 0 },
            gso_type: (kind >> 1 & 0x0f) | if kind & ECN != 0 { VirtioHeader::GSO_ECN } else { 0 },
            gso_size: u16_at(0),
            csum_start: u16_at(2),
            csum_offset: u16_at(4),
            hdr_len: u16_at(6),
        };
        if virtio.is_plain() {
            return Parsed::Malformed;
        }
        Parsed::Adu(Self { packet_len, virtio })
    }
}

/// What [`AduHeader::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header.
    Adu(AduHeader),
    /// Nothing more in this symbol.
    Padding,
    /// Bytes that no sender of ours writes.
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn super_packet() -> AduHeader {
        AduHeader {
            packet_len: 65_000,
            virtio: VirtioHeader {
                flags: VirtioHeader::NEEDS_CSUM,
                gso_type: VirtioHeader::GSO_TCPV6 | VirtioHeader::GSO_ECN,
                hdr_len: 72,
                gso_size: 1428,
                csum_start: 40,
                csum_offset: 16,
            },
        }
    }

    #[test]
    fn both_forms_round_trip() {
        let plain = AduHeader { packet_len: 52, virtio: VirtioHeader::default() };
        for (header, len) in [(plain, SHORT_LEN), (super_packet(), LONG_LEN)] {
            let mut bytes = [0; LONG_LEN];
            header.emit(&mut bytes);
            assert_eq!(header.header_len(), len);
            assert_eq!(AduHeader::parse(&bytes[..len]), Parsed::Adu(header));
        }
    }

    #[test]
    fn zeros_and_short_rests_are_padding() {
        assert_eq!(AduHeader::parse(&[0; 64]), Parsed::Padding);
        assert_eq!(AduHeader::parse(&[0xff; 3]), Parsed::Padding);
        assert_eq!(AduHeader::parse(&[]), Parsed::Padding);
    }

    #[test]
    fn every_parsed_header_is_emitted_unchanged() {
        for kind in 0..=255 {
            for rest in [[0u8; 11], [0xff; 11], [1; 11]] {
                let mut bytes = [kind; 12];
                bytes[1..].copy_from_slice(&rest);
                for len in 0..=12 {
                    if let Parsed::Adu(header) = AduHeader::parse(&bytes[..len]) {
                        let mut again = [0; LONG_LEN];
                        header.emit(&mut again);
                        let used = header.header_len();
                        assert_eq!(again[..used], bytes[..used]);
                    }
                }
            }
        }
    }
}
