//! Splits a stream into PostgreSQL's typed messages, wherever the network has cut the stream.
//!
//! ```text
//!  0     1              5
//!  +-----+--------------+----------------- - -
//!  | tag | length u32   | body, length - 4
//!  +-----+--------------+----------------- - -
//! ```
//!
//! Keeps the header and as much of the body as the caller wants; the rest passes as it arrives, so that a message of a
//! gigabyte needs no memory. This module does not know what the messages mean.

/// Bytes of a header.
pub(super) const HEADER: usize = 5;

/// No PostgreSQL server or client allocates more for one message.
const LONGEST: usize = 1 << 30;

/// A length that no message has: the stream is not PostgreSQL's protocol, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadLength {
    /// The byte where the tag should be.
    pub tag: u8,
    /// The four bytes where the length should be.
    pub length: u32,
}

/// A piece of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A message began: [`Messages::seen`] holds its header and the wanted part of its body.
    Start,
    /// Further bytes of the message's body.
    More(&'a [u8]),
}

/// One direction of a connection.
#[derive(Clone, Debug)]
pub(super) struct Messages {
    seen: Vec<u8>,
    progress: Progress,
}

#[derive(Clone, Copy, Debug)]
enum Progress {
    /// The header is being collected.
    Header,
    /// `need` bytes are being collected; then `rest` bytes pass.
    Beginning { need: usize, rest: usize },
    /// The collected bytes have been returned; this many further bytes of the body pass.
    Passing(usize),
}

impl Messages {
    pub(super) fn new() -> Self {
        Self { seen: Vec::new(), progress: Progress::Header }
    }

    /// Takes the next part off `input`; none when more bytes are needed. `wanted` gets the tag and the length of the
    /// body, and returns how many bytes of the body to keep.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        wanted: impl Fn(u8, usize) -> usize,
    ) -> Result<Option<Part<'a>>, BadLength> {
        if let Progress::Passing(rest) = &mut self.progress
            && *rest > 0
        {
            let more = split_off(input, *rest);
            *rest -= more.len();
            return Ok((!more.is_empty()).then_some(Part::More(more)));
        }
        if let Progress::Passing(_) = self.progress {
            self.seen.clear();
            self.progress = Progress::Header;
        }
        if let Progress::Header = self.progress {
            if !self.fill(input, HEADER) {
                return Ok(None);
            }
            let length = u32::from_be_bytes([self.seen[1], self.seen[2], self.seen[3], self.seen[4]]);
            let body = (length as usize).checked_sub(4).filter(|body| *body <= LONGEST);
            let body = body.ok_or(BadLength { tag: self.seen[0], length })?;
            let kept = wanted(self.seen[0], body).min(body);
            self.progress = Progress::Beginning { need: HEADER + kept, rest: body - kept };
        }
        if let Progress::Beginning { need, rest } = self.progress
            && self.fill(input, need)
        {
            self.progress = Progress::Passing(rest);
            return Ok(Some(Part::Start));
        }
        Ok(None)
    }

    /// The header of the message that began, and the wanted part of its body.
    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// The length of its whole body.
    pub(super) fn body_len(&self) -> usize {
        match self.progress {
            Progress::Passing(_) => {
                u32::from_be_bytes([self.seen[1], self.seen[2], self.seen[3], self.seen[4]]) as usize - 4
            }
            Progress::Header | Progress::Beginning { .. } => 0,
        }
    }

    /// The bytes taken in and not returned yet.
    pub(super) fn held(&self) -> &[u8] {
        match self.progress {
            Progress::Header | Progress::Beginning { .. } => &self.seen,
            Progress::Passing(_) => &[],
        }
    }

    /// Whether everything returned so far ends where a message ends.
    pub(super) fn is_between(&self) -> bool {
        !matches!(self.progress, Progress::Passing(rest) if rest > 0)
    }

    fn fill(&mut self, input: &mut &[u8], need: usize) -> bool {
        let more = split_off(input, need - self.seen.len());
        self.seen.extend_from_slice(more);
        self.seen.len() == need
    }
}

/// Takes at most `most` bytes off the front.
fn split_off<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (more, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kept beginning of each message, everything returned, and the bytes still held, for a stream that arrives in
    /// pieces of `piece` bytes.
    fn cut(stream: &[u8], piece: usize, wanted: usize) -> (Vec<Vec<u8>>, Vec<u8>, Vec<u8>) {
        let mut messages = Messages::new();
        let (mut begins, mut out) = (vec![], vec![]);
        for mut input in stream.chunks(piece) {
            while let Some(part) = messages.next(&mut input, |_, _| wanted).unwrap() {
                match part {
                    Part::Start => {
                        begins.push(messages.seen().to_vec());
                        out.extend_from_slice(messages.seen());
                    }
                    Part::More(more) => out.extend_from_slice(more),
                }
            }
            assert!(input.is_empty());
        }
        (begins, out, messages.held().to_vec())
    }

    #[test]
    fn the_messages_are_the_same_however_a_stream_is_cut() {
        let stream = [&b"Z\0\0\0\x05I"[..], b"c\0\0\0\x04", b"d\0\0\0\x0cabcdefgh", b"d\0\0\0\x09xy"].concat();
        for wanted in [0, 1, 3, 100] {
            let once = cut(&stream, stream.len(), wanted);
            for piece in 1..stream.len() {
                assert_eq!(cut(&stream, piece, wanted), once, "pieces of {piece}, {wanted} wanted");
            }
            assert_eq!([once.1, once.2].concat(), stream, "nothing is lost or changed");
        }
        assert_eq!(cut(&stream, 4, 3).0[2], b"d\0\0\0\x0cabc");
        assert_eq!(cut(&stream, 4, 3).0.len(), 3, "three bytes of the last one have not arrived");
    }

    #[test]
    fn only_the_end_of_a_message_is_between_messages() {
        let mut messages = Messages::new();
        let mut at = |mut bytes: &[u8]| {
            while messages.next(&mut bytes, |_, _| 1).unwrap().is_some() {}
            (messages.is_between(), messages.held().len())
        };
        assert_eq!(at(b"d\0\0"), (true, 3), "nothing of it was returned");
        assert_eq!(at(b"\0\x07"), (true, 5));
        assert_eq!(at(b"a"), (false, 0));
        assert_eq!(at(b"b"), (false, 0));
        assert_eq!(at(b"c"), (true, 0));
    }

    #[test]
    fn an_impossible_length_is_an_error() {
        for (bytes, good) in [
            (*b"d\0\0\0\x04", true),
            (*b"d\0\0\0\x03", false),
            (*b"d\0\0\0\0", false),
            (*b"d\x40\0\0\x04", true),
            (*b"d\x40\0\0\x05", false),
            (*b"Ecoul", false),
        ] {
            let mut messages = Messages::new();
            let answer = messages.next(&mut &bytes[..], |_, _| 0);
            assert_eq!(answer.is_ok(), good, "{bytes:?}");
            assert_eq!(messages.held().is_empty(), good, "bad bytes stay held: {bytes:?}");
        }
    }
}
