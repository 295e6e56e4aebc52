//! Finds the end of the snapshot between the answer to `PSYNC` and the replication stream.
//!
//! A snapshot is either `$LENGTH\r\n` and that many bytes, without an end of line after them, or, when the primary
//! sends it without a file, `$EOF:MARK\r\n` with a mark of 40 random bytes, any bytes, and the mark again. Newlines
//! before it keep the connection alive. This module does not look into the snapshot.

use super::command::number;
use super::line::{Line, Read};

const MARK_LEN: usize = 40;

/// Reads a snapshot and keeps none of it.
#[derive(Debug)]
pub(super) enum Snapshot {
    /// Before the line with the length or the mark.
    Announced(Line),
    /// This many bytes are still to come.
    Sized(u64),
    /// Until the mark comes.
    Marked(Box<Mark>),
}

/// The result of taking some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of them belong to the snapshot.
    Within,
    /// The snapshot ends before this byte.
    Complete(usize),
    /// Not a snapshot: an error, or an unknown form.
    Foreign,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::Announced(Line::default())
    }
}

impl Snapshot {
    /// Takes the next bytes.
    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match self {
                Self::Announced(line) => match line.on_bytes(rest) {
                    Read::Within => return Progress::Within,
                    Read::TooLong => return Progress::Foreign,
                    Read::Complete(used) => {
                        at += used;
                        match announced(line.text()) {
                            Some(next) => *self = next,
                            None if line.text().is_empty() => line.clear(),
                            None => return Progress::Foreign,
                        }
                    }
                },
                Self::Sized(missing) => {
                    let taken = rest.len().min(usize::try_from(*missing).unwrap_or(usize::MAX));
                    *missing -= taken as u64;
                    return if *missing == 0 { Progress::Complete(at + taken) } else { Progress::Within };
                }
                Self::Marked(mark) => {
                    return mark.on_bytes(rest).map_or(Progress::Within, |end| Progress::Complete(at + end));
                }
            }
        }
    }
}

fn announced(line: &[u8]) -> Option<Snapshot> {
    let line = line.strip_prefix(b"$")?;
    if let Some(mark) = line.strip_prefix(b"EOF:") {
        return Some(Snapshot::Marked(Box::new(Mark::new(mark.try_into().ok()?))));
    }
    number(line).map(Snapshot::Sized)
}

/// Finds the mark however the bytes are cut, and looks at each byte once (Knuth, Morris and Pratt).
#[derive(Debug)]
pub(super) struct Mark {
    mark: [u8; MARK_LEN],
    /// How many bytes still match when, after this many matching bytes, the next byte does not match.
    back: [usize; MARK_LEN],
    matched: usize,
}

impl Mark {
    fn new(mark: [u8; MARK_LEN]) -> Self {
        let mut back = [0; MARK_LEN];
        let mut matched = 0;
        for at in 1..MARK_LEN {
            back[at] = matched;
            while matched > 0 && mark[at] != mark[matched] {
                matched = back[matched];
            }
            matched += usize::from(mark[at] == mark[matched]);
        }
        Self { mark, back, matched: 0 }
    }

    /// The position after the mark, once the mark has come.
    fn on_bytes(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.matched == 0 {
                // Nearly all bytes of a snapshot are skipped here.
                at += bytes[at..].iter().position(|&byte| byte == self.mark[0])?;
            }
            let byte = bytes[at];
            while self.matched > 0 && byte != self.mark[self.matched] {
                self.matched = self.back[self.matched];
            }
            self.matched += usize::from(byte == self.mark[self.matched]);
            at += 1;
            if self.matched == MARK_LEN {
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARK: &[u8; MARK_LEN] = b"0123456789abcdef0123456789abcdef01234567";

    /// Where the snapshot ends when it comes in pieces of `step` bytes.
    fn end(bytes: &[u8], step: usize) -> Option<usize> {
        let mut snapshot = Snapshot::default();
        for (index, piece) in bytes.chunks(step).enumerate() {
            match snapshot.on_bytes(piece) {
                Progress::Within => {}
                Progress::Complete(at) => return Some(index * step + at),
                Progress::Foreign => return None,
            }
        }
        None
    }

    #[test]
    fn a_snapshot_ends_where_its_form_defines() {
        let marked = [b"\n\n$EOF:".as_slice(), MARK, b"\r\nREDIS0011 and more", MARK, b"*1\r\n"].concat();
        let near = [b"$EOF:".as_slice(), MARK, b"\r\n", &MARK[..39], MARK].concat();
        let cases: &[(&[u8], Option<usize>)] = &[
            (b"$5\r\nREDIS*1\r\n", Some(9)),
            (b"\n\r\n$5\r\nREDIS", Some(12)),
            (b"$0\r\n*1\r\n", Some(4)),
            (b"$5\r\nREDI", None),
            (&marked, Some(marked.len() - 4)),
            (&near, Some(near.len())),
            (b"-ERR no\r\n", None),
            (b"$EOF:short\r\nshort", None),
            (b"$x\r\n", None),
        ];
        for (bytes, expected) in cases {
            for step in 1..=bytes.len() {
                assert_eq!(end(bytes, step), *expected, "{} by {step}", String::from_utf8_lossy(bytes));
            }
        }
    }

    proptest! {
        /// Marks and bodies of only two letters repeat as often as possible.
        #[test]
        fn the_mark_is_found_where_a_plain_search_finds_it(
            mark in proptest::collection::vec(b'a'..=b'b', MARK_LEN),
            body in proptest::collection::vec(b'a'..=b'b', 0..400),
            step in 1..60usize,
        ) {
            let mut all = body.clone();
            all.extend_from_slice(&mark[..body.len() % MARK_LEN]);
            all.extend_from_slice(&mark);
            let expected = all.windows(MARK_LEN).position(|window| window == mark).map(|at| at + MARK_LEN);
            let bytes = [b"$EOF:".as_slice(), &mark, b"\r\n", &all].concat();
            let head = bytes.len() - all.len();
            prop_assert_eq!(end(&bytes, step), expected.map(|at| at + head));
        }
    }
}
