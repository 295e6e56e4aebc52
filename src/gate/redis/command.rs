//! The commands that a Redis replica sends: found whole, taken apart, and the one that the gate writes itself.
//!
//! Requests of RESP are arrays of bulk strings (`*2\r\n$4\r\nPING\r\n$1\r\nx\r\n`) or, from old replicas and for a bare
//! newline, a line. It does not read replies and knows no command's meaning.

use std::io::Write as _;
use std::ops::Range;

/// Bytes of one command at most: those of a replica are below two hundred.
pub(super) const MOST_BYTES: usize = 4096;
/// Arguments of one command at most.
const MOST_ARGUMENTS: usize = 64;

/// What lies at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a command.
    Incomplete,
    /// No command that a replica would send: too long, or not RESP.
    Foreign,
    /// A whole command.
    Command(Command),
}

/// Where the arguments of a command lie; the first is its name. None for a bare newline.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Bytes of the command.
    pub(super) len: usize,
    arguments: Vec<Range<usize>>,
}

impl Command {
    /// Number of arguments, the name counted.
    pub(super) fn count(&self) -> usize {
        self.arguments.len()
    }

    /// Argument `at` of the command that `bytes` begins with.
    pub(super) fn argument<'a>(&self, bytes: &'a [u8], at: usize) -> &'a [u8] {
        self.arguments.get(at).and_then(|range| bytes.get(range.clone())).unwrap_or_default()
    }

    /// Whether argument `at` is `word`, in capitals or not.
    pub(super) fn is(&self, bytes: &[u8], at: usize, word: &str) -> bool {
        self.argument(bytes, at).eq_ignore_ascii_case(word.as_bytes())
    }

    /// Argument `at` as a number.
    pub(super) fn number(&self, bytes: &[u8], at: usize) -> Option<u64> {
        number(self.argument(bytes, at))
    }

    /// Where argument `at` lies.
    pub(super) fn range(&self, at: usize) -> Range<usize> {
        self.arguments.get(at).cloned().unwrap_or_default()
    }
}

/// Finds the command that `bytes` begin with.
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
    // What Redis takes for an empty command.
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

/// The line from `start` without its end, and where the next begins.
fn line(bytes: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(start..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..end], start + end + 2))
}

/// Decimal digits alone, as offsets and lengths are written.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `REPLCONF ACK offset`, and behind it the arguments of `command` from the fourth on, as they are: `FACK` and its offset,
/// which tell what the replica's append-only file has.
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
    fn what_no_replica_sends_is_foreign() {
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
