//! Packets of the client/server protocol, assembled from pieces: three bytes of length, a number, the content.
//!
//! If a content has 16,777,215 bytes, the next packet continues it; "packet" here means all of them together. Only the
//! beginning of the content is kept: enough for every packet that the gate must understand. This module does not know
//! what packets mean.

/// Bytes of the content that are kept: enough for a greeting, and for an event with the name of a binary log (at most
/// 512 bytes).
pub(super) const HEAD_LEN: usize = 640;
/// Content length of a packet that the next one continues.
const FULL: usize = 0xff_ffff;

/// Finds the packets of one direction.
#[derive(Debug, Default)]
pub(super) struct Packets {
    header: [u8; 4],
    header_len: usize,
    /// Bytes of the present piece's content that have not arrived yet.
    missing: usize,
    /// The next piece continues the packet.
    continues: bool,
    /// The packet is complete; the next byte begins another packet.
    complete: bool,
    packet: Packet,
}

/// A packet, or as much of it as has arrived.
#[derive(Debug, Default)]
pub(super) struct Packet {
    /// The number of its first piece: 0 for a command.
    pub(super) number: u8,
    /// Bytes of the content.
    pub(super) len: u64,
    /// Its beginning, at most [`HEAD_LEN`] bytes.
    pub(super) head: Vec<u8>,
}

impl Packet {
    /// Whether all of the content is in `head`.
    pub(super) fn is_whole(&self) -> bool {
        self.head.len() as u64 == self.len
    }

    /// The first byte of the content, which is the packet's kind.
    pub(super) fn kind(&self) -> Option<u8> {
        self.head.first().copied()
    }
}

impl Packets {
    /// Takes bytes, up to the end of a packet at most. Returns how many, and whether they complete a packet.
    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> (usize, bool) {
        if std::mem::take(&mut self.complete) {
            self.packet.len = 0;
            self.packet.head.clear();
        }
        let mut at = 0;
        while at < bytes.len() {
            if self.missing == 0 && self.header_len < self.header.len() {
                self.header[self.header_len] = bytes[at];
                self.header_len += 1;
                at += 1;
                if self.header_len < self.header.len() {
                    continue;
                }
                let [low, middle, high, number] = self.header;
                self.missing = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
                if !self.continues {
                    self.packet.number = number;
                }
                self.continues = self.missing == FULL;
            } else {
                let taken = self.missing.min(bytes.len() - at);
                let kept = taken.min(HEAD_LEN - self.packet.head.len());
                self.packet.head.extend_from_slice(&bytes[at..at + kept]);
                self.packet.len += taken as u64;
                self.missing -= taken;
                at += taken;
            }
            if self.missing == 0 {
                self.header_len = 0;
                if !self.continues {
                    self.complete = true;
                    return (at, true);
                }
            }
        }
        (at, false)
    }

    /// The packet that is complete, or the beginning of the one that is arriving.
    pub(super) fn packet(&self) -> &Packet {
        &self.packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u8, content: &[u8]) -> Vec<u8> {
        let len = (content.len() as u32).to_le_bytes();
        [&len[..3], &[number], content].concat()
    }

    /// Number, length and end of each packet.
    fn packets(bytes: &[u8], step: usize) -> Vec<(u8, u64, usize)> {
        let mut packets = Packets::default();
        let mut found = vec![];
        for (index, piece) in bytes.chunks(step).enumerate() {
            let mut at = 0;
            while at < piece.len() {
                let (used, complete) = packets.on_bytes(&piece[at..]);
                at += used;
                if complete {
                    let packet = packets.packet();
                    assert_eq!(packet.head.len() as u64, packet.len.min(HEAD_LEN as u64));
                    found.push((packet.number, packet.len, index * step + at));
                }
            }
        }
        found
    }

    #[test]
    fn packets_are_found_however_the_bytes_are_cut() {
        let bytes = [packet(0, b"\x03SELECT 1"), packet(1, b""), packet(255, &[7; 1000]), packet(0, b"\x01")].concat();
        let expected = [(0, 9, 13), (1, 0, 17), (255, 1000, 1021), (0, 1, 1026)];
        for step in [1, 2, 3, 4, 5, 7, 100, 5000] {
            assert_eq!(packets(&bytes, step), expected, "{step}");
        }
    }

    #[test]
    fn a_large_packet_goes_on_in_the_next() {
        let exact = [packet(1, &vec![1; FULL]), packet(2, b"")].concat();
        let longer = [packet(3, &vec![1; FULL]), packet(4, &vec![2; FULL]), packet(5, b"abc")].concat();
        let bytes = [exact.clone(), longer.clone(), packet(0, b"x")].concat();
        let full = FULL as u64;
        let expected = [(1, full, exact.len()), (3, 2 * full + 3, exact.len() + longer.len()), (0, 1, bytes.len())];
        for step in [65_536, 1 << 20, bytes.len()] {
            assert_eq!(packets(&bytes, step), expected, "{step}");
        }
    }
}
