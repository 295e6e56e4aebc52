//! A line that the primary sends before the replication stream, assembled from pieces. This module does not know what
//! the line means.

/// Longest line; the longest that a replica receives has fewer than a hundred bytes.
const MOST_BYTES: usize = 512;

/// The result of taking some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// All of them belong to the line.
    Within,
    /// The line ends before this byte.
    Complete(usize),
    /// Longer than any known line.
    TooLong,
}

/// The line so far.
#[derive(Debug, Default)]
pub(super) struct Line {
    bytes: Vec<u8>,
}

impl Line {
    /// Takes bytes up to the end of the line. After a complete line the caller must clear it.
    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> Read {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if self.bytes.len() + part.len() > MOST_BYTES {
            return Read::TooLong;
        }
        self.bytes.extend_from_slice(part);
        end.map_or(Read::Within, |end| Read::Complete(end + 1))
    }

    /// The line without its end.
    pub(super) fn text(&self) -> &[u8] {
        self.bytes.strip_suffix(b"\r").unwrap_or(&self.bytes)
    }

    /// Begins the next line.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_newline_and_has_a_limit() {
        let mut line = Line::default();
        assert_eq!(line.on_bytes(b"+O"), Read::Within);
        assert_eq!(line.on_bytes(b"K\r"), Read::Within);
        assert_eq!(line.on_bytes(b"\n+OK"), Read::Complete(1));
        assert_eq!(line.text(), b"+OK");
        line.clear();
        assert_eq!(line.on_bytes(b"\n"), Read::Complete(1));
        assert!(line.text().is_empty());
        assert_eq!(line.on_bytes(&[b'a'; MOST_BYTES]), Read::Within);
        assert_eq!(line.on_bytes(b"b"), Read::TooLong);
    }
}
