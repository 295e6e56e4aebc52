//! The commands that a client sends to a walsender, as far as a gate needs them: whether and how the client starts
//! replication.
//!
//! ```text
//! START_REPLICATION [SLOT name] [PHYSICAL] X/X [TIMELINE n]
//! START_REPLICATION SLOT name LOGICAL X/X [(options)]
//! IDENTIFY_SYSTEM
//! ```
//!
//! Reads a command as the server's own scanner does; it does not check what the server refuses anyway.

use std::fmt;

use super::lsn::Lsn;

/// Bytes of a query that [`Command::parse`] must see: the options that may follow can be long.
pub(super) const BEGINNING: usize = 512;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Starts replication.
    Start(Start),
    /// Asks for the system and the timeline.
    Identify,
    /// Starts replication, in a form that was not understood.
    Unclear,
    /// Anything else.
    Other,
}

/// How replication starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The replication slot.
    pub slot: Option<String>,
    /// Decoded changes instead of WAL.
    pub logical: bool,
    /// The start position.
    pub from: Lsn,
    /// The timeline to read.
    pub timeline: Option<u32>,
}

impl Command {
    /// Reads a query: the body of a `Q` message, or its beginning.
    pub(super) fn parse(query: &[u8]) -> Self {
        let mut words = Words(query);
        match words.next() {
            Some(Word::Name(name)) if name == "IDENTIFY_SYSTEM" => Self::Identify,
            Some(Word::Name(name)) if name == "START_REPLICATION" => words.start().map_or(Self::Unclear, Self::Start),
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.logical { "logical replication" } else { "replication" })?;
        match &self.slot {
            Some(slot) => write!(f, " of slot {}", slot.escape_debug()),
            None => f.write_str(" without a slot"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// A keyword, a name, a number or a position.
    Name(String),
    /// A name in quotes: never a keyword.
    Quoted(String),
}

/// The words of a query.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn start(&mut self) -> Option<Start> {
        let mut word = self.next()?;
        let mut slot = None;
        if word == Word::Name("SLOT".into()) {
            let (Word::Name(name) | Word::Quoted(name)) = self.next()?;
            slot = Some(name);
            word = self.next()?;
        }
        let logical = word == Word::Name("LOGICAL".into());
        if logical || word == Word::Name("PHYSICAL".into()) {
            word = self.next()?;
        }
        let Word::Name(position) = word else { return None };
        let from = Lsn::parse(&position)?;
        let timeline = match (self.next(), self.next()) {
            (Some(Word::Name(word)), Some(Word::Name(number))) if word == "TIMELINE" => number.parse().ok(),
            _ => None,
        };
        Some(Start { slot, logical, from, timeline })
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        // The server's scanner counts the vertical tab as a space, Rust's function does not.
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        let begin = self.0.iter().position(|byte| !is_space(byte))?;
        let text = &self.0[begin..];
        if let Some(quoted) = text.strip_prefix(b"\"") {
            let end = quoted.iter().position(|byte| *byte == b'"')?;
            self.0 = &quoted[end + 1..];
            return Some(Word::Quoted(String::from_utf8_lossy(&quoted[..end]).into_owned()));
        }
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80 || b"_$/".contains(byte);
        let end = text.iter().position(|byte| !is_name(byte)).unwrap_or(text.len()).max(1);
        self.0 = &text[end..];
        Some(Word::Name(String::from_utf8_lossy(&text[..end]).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_the_server_reads_them() {
        let timed = |slot: Option<&str>, logical, from, timeline| {
            Command::Start(Start { slot: slot.map(str::to_owned), logical, from: Lsn(from), timeline })
        };
        let start = |slot, logical, from| timed(slot, logical, from, None);
        let cases = [
            ("START_REPLICATION 0/3000000 TIMELINE 1\0", timed(None, false, 0x300_0000, Some(1))),
            ("START_REPLICATION PHYSICAL 0/3000000", start(None, false, 0x300_0000)),
            (
                "START_REPLICATION SLOT \"mirror\" 16/B374D848 TIMELINE 7\0",
                timed(Some("mirror"), false, 0x16_b374_d848, Some(7)),
            ),
            ("START_REPLICATION\tSLOT mirror\x0bPHYSICAL\n0/0", start(Some("mirror"), false, 0)),
            (
                "START_REPLICATION SLOT \"sub\" LOGICAL 0/15E8F30 (proto_version '3', publication_names '\"p\"')\0",
                start(Some("sub"), true, 0x15e_8f30),
            ),
            ("START_REPLICATION SLOT \"LOGICAL\" 0/1", start(Some("LOGICAL"), false, 1)),
            ("START_REPLICATION SLOT \"a b\" LOGICAL FFFFFFFF/FFFFFFFF", start(Some("a b"), true, u64::MAX)),
            ("START_REPLICATION", Command::Unclear),
            ("START_REPLICATION SLOT \"open", Command::Unclear),
            ("START_REPLICATION SLOT x LOGICAL", Command::Unclear),
            ("START_REPLICATION 0/123456789", Command::Unclear),
            ("START_REPLICATION \"0/1\"", Command::Unclear),
            ("START_REPLICATION (0/1)", Command::Unclear),
            ("start_replication 0/1", Command::Other),
            ("\"START_REPLICATION\" 0/1", Command::Other),
            ("IDENTIFY_SYSTEM", Command::Identify),
            ("BASE_BACKUP ( LABEL 'START_REPLICATION 0/1' )", Command::Other),
            ("", Command::Other),
            ("\u{feff}", Command::Other),
        ];
        for (query, wanted) in cases {
            assert_eq!(Command::parse(query.as_bytes()), wanted, "{query:?}");
        }
    }

    #[test]
    fn a_start_is_displayed_in_words() {
        let start = Start { slot: Some("a\nb".into()), logical: true, from: Lsn(1), timeline: None };
        assert_eq!(start.to_string(), "logical replication of slot a\\nb");
        let start = Start { slot: None, logical: false, from: Lsn(1), timeline: None };
        assert_eq!(start.to_string(), "replication without a slot");
    }
}
