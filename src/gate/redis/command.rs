//! The commands that a Redis replica sends: finds whole commands, splits them into arguments, and writes the one
//! command that the gate sends itself.
//!
//! RESP requests are arrays of bulk strings (`*2\r\n$4\r\nPING\r\n$1\r\nx\r\n`) or a line: old replicas send lines, and
//! a bare newline is one. This module does not read replies and does not know what commands mean.

use std::io::Write as _;
use std::ops::Range;

/// Longest command; the commands of a replica have fewer than two hundred bytes.
pub(super) const MOST_BYTES: usize = 4096;
/// Most arguments of a command.
const MOST_ARGUMENTS: usize = 64;

/// What some bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// An incomplete command.
    Incomplete,
    /// Not a command of a replica: too long, or not RESP.
    Foreign,
    /// A whole command.
    Command(Command),
}

/// The positions of a command's arguments; the first argument is the name. A bare newline has none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Length of the command in bytes.
    pub(super) len: usize,
    arguments: Vec<Range<usize>>,
}

impl Command {
    /// Number of arguments, including the name.
    pub(super) fn count(&self) -> usize {
        self.arguments.len()
    }

    /// Argument `at` of the command at the beginning of `bytes`.
    pub(super) fn argument<'a>(&self, bytes: &'a [u8], at: usize) -> &'a [u8] {
        self.arguments.get(at).and_then(|range| bytes.get(range.clone())).unwrap_or_default()
    }

    /// Whether argument `at` is `word`, in upper or lower case.
    pub(super) fn is(&self, bytes: &[u8], at: usize, word: &str) -> bool {
        self.argument(bytes, at).eq_ignore_ascii_case(word.as_bytes())
    }

    /// Argument `at` as a number.
    pub(super) fn number(&self, bytes: &[u8], at: usize) -> Option<u64> {
        number(self.argument(bytes, at))
    }

    /// The position of argument `at`.
    pub(super) fn range(&self, at: usize) -> Range<usize> {
        self.arguments.get(at).cloned().unwrap_or_default()
    }
}

/// Parses the command at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let parsed = match bytes.first() {
        Some(b'*') => array(bytes),
        _ => inline(bytes),
    };
    match parsed {
        Parsed::Incomplete if bytes.len() > MOST_BYTES => Parsed::Foreign,
        parsed => parsed,
    }
}

fn array(bytes: &[u8]) -> Parsed {
    let Some((count, mut at)) = line(bytes, 1) else { return Parsed::Incomplete };
    // Redis accepts these as an empty command.
    if count == b"0" || count == b"-1" {
        return Parsed::Command(Command { len: at, arguments: vec![] });
    }
    let Some(count) = number(count).filter(|&count| count <= MOST_ARGUMENTS as u64) else { return Parsed::Foreign };
    let mut arguments = Vec::with_capacity(MOST_ARGUMENTS.min(count as usize));
    for _ in 0..count {
        match bytes.get(at) {
            None => return Parsed::Incomplete,
            Some(b'$') => {}
            Some(_) => return Parsed::Foreign,
        }
        let Some((len, start)) = line(bytes, at + 1) else { return Parsed::Incomplete };
        let Some(len) = number(len).filter(|&len| len <= MOST_BYTES as u64) else { return Parsed::Foreign };
        let end = start + len as usize;
        match bytes.get(end..end + 2) {
            None => return Parsed::Incomplete,
            Some(b"\r\n") => {}
            Some(_) => return Parsed::Foreign,
        }
        arguments.push(start..end);
        at = end + 2;
    }
    Parsed::Command(Command { len: at, arguments })
}

fn inline(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else { return Parsed::Incomplete };
    let mut arguments = Vec::new();
    let mut start = None;
    for (at, byte) in bytes[..=end].iter().enumerate() {
        match (byte.is_ascii_whitespace(), start) {
            (false, None) => start = Some(at),
            (true, Some(first)) => {
                arguments.push(first..at);
                start = None;
            }
            _ => {}
        }
        if arguments.len() > MOST_ARGUMENTS {
            return Parsed::Foreign;
        }
    }
    Parsed::Command(Command { len: end + 1, arguments })
}

/// The line from `start` without its end, and where the next line begins.
fn line(bytes: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(start..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..end], start + end + 2))
}

/// Reads a number of decimal digits only, as offsets and lengths are written.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Appends `REPLCONF ACK offset`, then the arguments of `command` from the fourth on, unchanged: `FACK` and its offset,
/// which is how far the replica's append-only file has come.
pub(super) fn emit_ack(offset: u64, command: Option<(&Command, &[u8])>, out: &mut Vec<u8>) {
    let further = command.map_or(0, |(command, _)| command.count().saturating_sub(3));
    let digits = offset.to_string();
    write!(out, "*{}\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n${}\r\n{digits}\r\n", 3 + further, digits.len())
        .expect("a vector takes every byte");
    if let Some((command, bytes)) = command {
        for at in 3..command.count() {
            let argument = command.argument(bytes, at);
            write!(out, "${}\r\n", argument.len()).expect("a vector takes every byte");
            out.extend_from_slice(argument);
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bytes: &[u8]) -> Option<(usize, Vec<String>)> {
        match parse(bytes) {
            Parsed::Command(command) => {
                let words = (0..command.count())
                    .map(|at| String::from_utf8_lossy(command.argument(bytes, at)).into_owned())
                    .collect();
                Some((command.len, words))
            }
            _ => None,
        }
    }

    #[test]
    fn commands_are_found_in_every_form_a_replica_uses() {
        let cases: &[(&[u8], usize, &[&str])] = &[
            (b"*1\r\n$4\r\nPING\r\n", 14, &["PING"]),
            (b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n7\r\nrest", 34, &["REPLCONF", "ACK", "7"]),
            (b"*2\r\n$1\r\na\r\n$0\r\n\r\n", 17, &["a", ""]),
            (b"SYNC\r\n", 6, &["SYNC"]),
            (b"PSYNC  ? -1\r\nmore", 13, &["PSYNC", "?", "-1"]),
            (b"\n", 1, &[]),
            (b"\r\n", 2, &[]),
            (b"*0\r\n", 4, &[]),
            (b"*-1\r\n", 5, &[]),
        ];
        for (bytes, len, expected) in cases {
            let found = words(bytes).unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(bytes)));
            assert_eq!(found, (*len, expected.iter().map(|&word| word.to_owned()).collect()));
            for cut in 0..*len {
                assert_eq!(parse(&bytes[..cut]), Parsed::Incomplete, "{:?}", String::from_utf8_lossy(&bytes[..cut]));
            }
        }
    }

    #[test]
    fn a_command_that_no_replica_sends_is_foreign() {
        let long = vec![b'a'; MOST_BYTES + 1];
        let cases: &[&[u8]] = &[
            b"*x\r\n",
            b"*65\r\n",
            b"*1\r\n+OK\r\n",
            b"*1\r\n$5000\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$1\r\nabc",
            b"*99999999999999999999\r\n",
            &long,
        ];
        for bytes in cases {
            assert_eq!(parse(bytes), Parsed::Foreign, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(30)]));
        }
    }

    #[test]
    fn an_acknowledgement_keeps_what_follows_the_offset() {
        let real = b"*5\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n7\r\n$4\r\nFACK\r\n$1\r\n5\r\n";
        let Parsed::Command(command) = parse(real) else { panic!("a command") };
        let mut out = vec![];
        emit_ack(1234, Some((&command, real)), &mut out);
        assert_eq!(out, b"*5\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$4\r\n1234\r\n$4\r\nFACK\r\n$1\r\n5\r\n");
        out.clear();
        emit_ack(7, None, &mut out);
        assert_eq!(out, b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n7\r\n");
    }
}
