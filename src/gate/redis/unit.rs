//! Detects what a replica lacks when it reconnects. The primary continues with the byte that the replica asks for. So
//! if the primary sends a whole write that ends within what was acknowledged early for the replica, the replica has
//! lost that write.
//!
//! Offsets alone prove nothing: a replica forgets a command that it has only in part, and a transaction without its
//! `EXEC`; those were never acknowledged as safe. `PING` and similar commands are not writes. This module reads the
//! lengths and names of commands, and does not keep their arguments.

/// The longest line with a length that is accepted.
const MOST_LINE: usize = 32;
/// Bytes of a name that are kept; the names that matter are shorter.
const MOST_NAME: usize = 16;
/// Commands that change nothing in a replica.
const IDLE: [&[u8]; 3] = [b"PING", b"REPLCONF", b"SELECT"];

/// The commands from `start` on.
#[derive(Debug)]
pub(super) struct Units {
    start: u64,
    limit: u64,
    at: u64,
    line: Vec<u8>,
    /// Bytes of an argument that are still to come, including the end of its line.
    argument: u64,
    /// Arguments of the command that are not complete.
    arguments: u64,
    /// The name of the command; kept until the next command.
    name: Vec<u8>,
    is_named: bool,
    in_transaction: bool,
}

impl Units {
    /// The replica has everything up to `start`, and everything up to `limit` was acknowledged early for it.
    pub(super) fn new(start: u64, limit: u64) -> Self {
        Self {
            start,
            limit,
            at: start,
            line: Vec::new(),
            argument: 0,
            arguments: 0,
            name: Vec::new(),
            is_named: false,
            in_transaction: false,
        }
    }

    /// The offset where they begin.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Takes the next bytes of the stream. Returns whether the replica lacks a write, once that is decided; false if
    /// the bytes cannot be read.
    pub(super) fn on_bytes(&mut self, mut bytes: &[u8]) -> Option<bool> {
        while !bytes.is_empty() {
            // What ends beyond the limit was not acknowledged.
            if self.at >= self.limit {
                return Some(false);
            }
            let taken = if self.argument > 0 { self.on_argument(bytes) } else { self.on_line(bytes) };
            let Some(taken) = taken else { return Some(false) };
            self.at = self.at.saturating_add(taken as u64);
            bytes = &bytes[taken..];
            let has_ended = self.is_named && self.arguments == 0 && self.argument == 0 && self.line.is_empty();
            if has_ended && self.on_command() {
                return Some(self.at <= self.limit);
            }
        }
        None
    }

    /// Takes bytes of an argument. Returns how many.
    fn on_argument(&mut self, bytes: &[u8]) -> Option<usize> {
        let taken = usize::try_from(self.argument).unwrap_or(usize::MAX).min(bytes.len());
        if !self.is_named {
            let room = MOST_NAME - self.name.len().min(MOST_NAME);
            self.name.extend_from_slice(&bytes[..taken.min(room)]);
        }
        self.argument -= taken as u64;
        if self.argument == 0 {
            self.arguments -= 1;
            self.is_named = true;
        }
        Some(taken)
    }

    /// Takes bytes of a line with a length. Returns how many, or none if the line cannot be read.
    fn on_line(&mut self, bytes: &[u8]) -> Option<usize> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if self.line.len() + taken > MOST_LINE {
            return None;
        }
        self.line.extend_from_slice(&bytes[..taken]);
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            let kind = if self.arguments == 0 { b'*' } else { b'$' };
            let number = line.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(&[kind]));
            match (kind, number.and_then(super::command::number)) {
                (b'*', Some(count @ 1..)) => {
                    self.arguments = count;
                    self.name.clear();
                    self.is_named = false;
                }
                (b'$', Some(length)) => self.argument = length.checked_add(2)?,
                _ => return None,
            }
        }
        Some(taken)
    }

    /// A whole command has come. Returns whether it ends a write.
    fn on_command(&mut self) -> bool {
        self.is_named = false;
        let name = self.name.strip_suffix(b"\r\n").unwrap_or(&self.name).to_ascii_uppercase();
        match name.as_slice() {
            b"MULTI" => {
                self.in_transaction = true;
                false
            }
            b"EXEC" => true,
            name => !self.in_transaction && !IDLE.contains(&name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Vec<u8> {
        let arguments = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        format!("*{}\r\n{}", words.len(), arguments.collect::<String>()).into_bytes()
    }

    /// Whether a replica that has everything up to 100 lacks a write, when `acknowledged` bytes after that were
    /// acknowledged.
    fn lacks(stream: &[u8], acknowledged: usize, piece: usize) -> Option<bool> {
        let mut units = Units::new(100, 100 + acknowledged as u64);
        stream.chunks(piece).find_map(|bytes| units.on_bytes(bytes))
    }

    #[test]
    fn a_whole_write_within_the_limit_counts_as_lost_and_a_partial_one_does_not() {
        let (ping, select) = (command(&["PING"]), command(&["SELECT", "0"]));
        let ask = command(&["REPLCONF", "GETACK", "*"]);
        let set = command(&["SET", "key", &"x\r\n*1\r\n".repeat(50)]);
        let idle = [&ping[..], &select, &ask].concat();
        let one = [&idle[..], &set, &ping].concat();
        let within = [&command(&["multi"])[..], &set, &set].concat();
        let transaction = [&within[..], &command(&["EXEC"]), &ping].concat();
        for (stream, whole) in [(one, idle.len() + set.len()), (transaction, within.len() + command(&["EXEC"]).len())] {
            for piece in [1, 2, 3, 7, 100, 10_000] {
                for acknowledged in 1..stream.len() {
                    let wanted = Some(acknowledged >= whole);
                    assert_eq!(lacks(&stream, acknowledged, piece), wanted, "{acknowledged} of {whole} by {piece}");
                }
            }
        }
        assert_eq!(lacks(&ping, 14, 5), None, "only a ping, and nothing after it");
        assert_eq!(lacks(&[&ping[..], b"*"].concat(), 14, 5), Some(false));
    }

    #[test]
    fn unreadable_bytes_prove_no_loss() {
        let cases: [&[u8]; 7] = [
            b"PING\r\n",
            b"*0\r\n",
            b"*1\n",
            b"*1\r\n+OK\r\n",
            b"*1\r\n$x\r\n",
            b"*99999999999999999999999999999999999\r\n",
            b"*1\r\n$18446744073709551615\r\n",
        ];
        for bytes in cases {
            assert_ne!(lacks(bytes, 1000, 3), Some(true), "{}", bytes.escape_ascii());
        }
    }
}
