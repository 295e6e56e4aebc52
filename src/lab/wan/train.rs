//! A packet or super-packet on its way through the emulator, and the memory pool for it.
//!
//! Computes how long the datagrams of a super-packet are on a wire. [`crate::wire::segment`] splits them.

use crate::wire::virtio::VirtioHeader;

/// One packet, or one super-packet that stands for a train of equal datagrams.
#[derive(Debug, Default)]
pub struct Train {
    /// The virtio header from the sending kernel.
    pub header: VirtioHeader,
    /// The packet.
    pub packet: Vec<u8>,
}

/// The size of a train on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Datagrams in it.
    pub segments: u64,
    /// Bytes of headers, repeated in each.
    pub headers: u64,
    /// Bytes of every datagram except the last, headers included.
    pub each: u64,
    /// Total bytes.
    pub bytes: u64,
}

impl Shape {
    /// The shape of a train of `segments` datagrams, as [`crate::wire::segment`] counts them.
    #[inline]
    pub fn new(header: &VirtioHeader, packet: &[u8], segments: usize) -> Self {
        let length = packet.len() as u64;
        if segments <= 1 {
            return Self { segments: 1, headers: 0, each: length, bytes: length };
        }
        let headers = headers_of(header, packet) as u64;
        let segments = segments as u64;
        let each = headers + u64::from(header.gso_size);
        Self { segments, headers, each, bytes: length + (segments - 1) * headers }
    }

    /// Bytes on the wire of the datagrams `from..to`.
    pub fn bytes_of(&self, from: u64, to: u64) -> u64 {
        let whole = (to - from) * self.each;
        if to < self.segments { whole } else { whole - (self.segments * self.each - self.bytes) }
    }
}

/// Bytes before the payload. The kernel's `hdr_len` is not used because it may cover more than the headers.
pub fn headers_of(header: &VirtioHeader, packet: &[u8]) -> usize {
    let transport = usize::from(header.csum_start);
    let length = match header.gso_type & !VirtioHeader::GSO_ECN {
        VirtioHeader::GSO_TCPV4 | VirtioHeader::GSO_TCPV6 => {
            packet.get(transport + 12).map_or(20, |offset| usize::from(offset >> 4) * 4)
        }
        VirtioHeader::GSO_UDP_L4 => 8,
        _ => return 0,
    };
    (transport + length).min(packet.len())
}

/// Buffers for reuse: small and large ones are kept separately, both up to a bound.
#[derive(Debug, Default)]
pub struct Pool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl Pool {
    /// Packets up to this length use small buffers, so that a link full of them uses little memory.
    pub const SMALL: usize = 2048;
    /// The longest packet from a TUN, and room to spare.
    pub const LARGE: usize = 66_000;
    const KEPT: usize = 4096;

    /// An empty buffer with room for `length` bytes.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let (kept, capacity) = match length {
            0..=Self::SMALL => (&mut self.small, Self::SMALL),
            _ => (&mut self.large, Self::LARGE.max(length)),
        };
        let mut buffer = kept.pop().unwrap_or_else(|| Vec::with_capacity(capacity));
        buffer.clear();
        buffer
    }

    /// Takes a buffer for reuse.
    pub fn put(&mut self, buffer: Vec<u8>) {
        let kept = match buffer.capacity() {
            0..Self::SMALL => return,
            Self::SMALL..Self::LARGE => &mut self.small,
            _ => &mut self.large,
        };
        if kept.len() < Self::KEPT {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_datagram_of_a_train_may_be_short() {
        let header = VirtioHeader {
            gso_type: VirtioHeader::GSO_UDP_L4,
            gso_size: 1000,
            csum_start: 20,
            ..VirtioHeader::default()
        };
        let shape = Shape::new(&header, &[0; 28 + 2500], 3);
        assert_eq!(shape, Shape { segments: 3, headers: 28, each: 1028, bytes: 2500 + 3 * 28 });
        assert_eq!(shape.bytes_of(0, 3), shape.bytes);
        assert_eq!(shape.bytes_of(0, 2), 2056);
        assert_eq!(shape.bytes_of(2, 3), 528);
        assert_eq!(Shape::new(&VirtioHeader::default(), &[0; 60], 1).bytes_of(0, 1), 60);
    }

    #[test]
    fn the_pool_returns_a_buffer_of_sufficient_size() {
        let mut pool = Pool::default();
        pool.put(pool_buffer(70_000));
        pool.put(pool_buffer(10));
        assert!(pool.take(60_000).capacity() >= 70_000);
        assert_eq!(pool.take(10).capacity(), Pool::SMALL);
        assert!(pool.small.is_empty() && pool.large.is_empty());
    }

    fn pool_buffer(length: usize) -> Vec<u8> {
        vec![0; length]
    }
}
