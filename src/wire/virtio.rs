//! The virtio network header that travels with every packet of a TUN opened with `IFF_VNET_HDR`.
//!
//! Source: Virtio 1.2, section 5.1.6, and `include/uapi/linux/virtio_net.h`; the ten-byte legacy form.
//! [`super::offload`] decides whether a header fits its packet.

/// The kernel's description of one packet: how to finish its checksum and how to cut it into segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CSUM`](Self::NEEDS_CSUM), [`DATA_VALID`](Self::DATA_VALID).
    pub flags: u8,
    /// One of the `GSO_*` constants, possibly with [`GSO_ECN`](Self::GSO_ECN).
    pub gso_type: u8,
    /// Bytes of headers before the payload; only a hint, never trusted.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the bytes to sum begin.
    pub csum_start: u16,
    /// Where the sum goes, from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioHeader {
    /// Bytes of the header in front of a packet.
    pub const LEN: usize = 10;
    /// The checksum field holds only the pseudo-header's sum.
    pub const NEEDS_CSUM: u8 = 1;
    /// The device or host that delivered the packet has verified the checksum.
    pub const DATA_VALID: u8 = 2;
    /// Not a super-packet.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP fragmentation offload, obsolete; never carried.
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segmentation: equal datagrams, the last may be shorter.
    pub const GSO_UDP_L4: u8 = 5;
    /// Only the first segment carries ECN's CWR.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads the kernel's form: native byte order.
    pub fn from_native(bytes: [u8; Self::LEN]) -> Self {
        let u16_at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
        }
    }

    /// Writes the kernel's form: native byte order.
    pub fn to_native(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        bytes[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        bytes
    }

    /// Whether the packet is complete: finished checksums, one segment.
    pub fn is_plain(self) -> bool {
        self.flags & Self::NEEDS_CSUM == 0 && self.gso_type == Self::GSO_NONE
    }

    /// The segmentation type without the ECN mark.
    pub fn segmentation(self) -> u8 {
        self.gso_type & !Self::GSO_ECN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_native_form_round_trips() {
        let header =
            VirtioHeader { flags: 1, gso_type: 4, hdr_len: 74, gso_size: 1428, csum_start: 40, csum_offset: 16 };
        assert_eq!(VirtioHeader::from_native(header.to_native()), header);
        assert!(!header.is_plain());
        assert!(VirtioHeader::default().is_plain());
    }
}
