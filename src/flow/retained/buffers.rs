//! Memory for kept packets: buffers of a few sizes. The buffer returned last is reused first, because it is still in
//! the processor's cache.

/// The smallest buffer.
const SMALLEST: usize = 256;
/// Each size is twice the one before. The largest, 128 KB, exceeds any packet.
const SIZES: usize = 10;
/// Unused buffers hold at most this many bytes in total.
const UNUSED_MAX: usize = 8 << 20;

/// Unused buffers.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    unused: [Vec<Vec<u8>>; SIZES],
    unused_bytes: usize,
}

impl Buffers {
    /// The size of a buffer for `len` bytes.
    pub fn size(len: usize) -> usize {
        len.max(SMALLEST).next_power_of_two()
    }

    /// Copies `bytes` into a buffer, and shrinks the unused buffers to `unused_max` bytes.
    pub fn copy(&mut self, bytes: &[u8], unused_max: usize) -> Vec<u8> {
        let size = Self::size(bytes.len());
        let found = self.unused.get_mut(place(size)).and_then(Vec::pop);
        if found.is_some() {
            self.unused_bytes -= size;
        }
        self.shrink_to(unused_max);
        let mut buffer = found.unwrap_or_else(|| Vec::with_capacity(size));
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// Returns a buffer that came from [`copy`](Self::copy).
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        let size = Self::size(buffer.len());
        buffer.clear();
        let fits = self.unused_bytes + size <= UNUSED_MAX;
        if let Some(unused) = self.unused.get_mut(place(size)).filter(|_| fits) {
            unused.push(buffer);
            self.unused_bytes += size;
        }
    }

    /// Bytes in unused buffers.
    pub fn unused_bytes(&self) -> usize {
        self.unused_bytes
    }

    #[inline]
    fn shrink_to(&mut self, bytes: usize) {
        if self.unused_bytes <= bytes {
            return;
        }
        // Largest first: that takes the fewest steps.
        for (place, unused) in self.unused.iter_mut().enumerate().rev() {
            while self.unused_bytes > bytes && unused.pop().is_some() {
                self.unused_bytes -= SMALLEST << place;
            }
        }
    }
}

fn place(size: usize) -> usize {
    (size / SMALLEST).trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_returned_last_is_reused_first_and_unused_buffers_are_bounded() {
        let mut buffers = Buffers::default();
        let sizes = [0, 1, 256, 257, 1500, 65_535, 65_575].map(Buffers::size);
        assert_eq!(sizes, [256, 256, 256, 512, 2048, 65_536, 131_072]);
        let first = buffers.copy(&[1; 1500], usize::MAX);
        let second = buffers.copy(&[2; 1100], usize::MAX);
        let at = second.as_ptr();
        buffers.give_back(first);
        buffers.give_back(second);
        assert_eq!(buffers.unused_bytes(), 4096);
        let third = buffers.copy(&[3; 2000], usize::MAX);
        assert_eq!((third.as_ptr(), &third[..]), (at, &[3; 2000][..]));
        assert_eq!(buffers.unused_bytes(), 2048);
        // No unused buffer has this size, and `unused_max` leaves no room for the unused ones.
        buffers.give_back(third);
        let fourth = buffers.copy(&[4; 100], 1000);
        assert_eq!(buffers.unused_bytes(), 0);
        buffers.give_back(fourth);
        (0..1000).for_each(|_| buffers.give_back(vec![0; 65_536]));
        assert!(buffers.unused_bytes() <= UNUSED_MAX);
    }
}
