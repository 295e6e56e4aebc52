//! A configuration without what may be secret, whether it is YAML or not.
//!
//! No parser is needed, so that a file that none can read leaks nothing: the text is cut into keys and values, and a
//! value is shown only behind a known key, and only if it has the form of such values. All else, comments too, is left
//! out. What is left out is never quoted.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::config::schema::{GATE_TABLES, TABLES};

/// What stands where something was left out.
pub const LEFT_OUT: &str = "(left out)";
/// Characters of a public key that are shown: enough to compare, and useless if it is a private one by mistake.
const SHOWN_OF_KEY: usize = 8;
/// The longest harmless word.
const LONGEST: usize = 80;
/// A run of characters that is longer, and of several kinds, may be random.
const RANDOM_LEN: usize = 20;
/// The same for hexadecimal digits alone.
const HEX_LEN: usize = 32;

/// What the values of a key look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A number, a time, a name, an address, one of some words.
    Word,
    /// The name of a file.
    Path,
    /// A public key.
    PublicKey,
    /// Networks, each by itself or in a list.
    Networks,
    /// Whatever stands here is not shown.
    Unknown,
}

fn kind_of(key: &str) -> Kind {
    match key {
        "public_key" | "next_public_key" => Kind::PublicKey,
        "local_prefixes" | "prefixes" | "to" | "from" => Kind::Networks,
        "key_file" | "preshared_key_file" | "file" | "socket" | "certificate" | "key" | "authority" => Kind::Path,
        // The arguments of a hook may be a password.
        "run" => Kind::Unknown,
        key if is_known(key) => Kind::Word,
        _ => Kind::Unknown,
    }
}

/// A key of any table of either kind of file.
fn is_known(key: &str) -> bool {
    TABLES.iter().chain(&GATE_TABLES).any(|keys| keys.in_force.contains(&key))
}

/// The text of a configuration without secrets. Never longer than a few times the text.
pub fn configuration(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut place = Place { table: String::new(), list: None };
    for line in text.lines() {
        let shown = redact_line(line, &mut place);
        if !shown.trim().is_empty() {
            redacted.push_str(shown.trim_end());
            redacted.push('\n');
        }
    }
    redacted
}

/// Where in the file a line is.
struct Place {
    /// The last key that began a line.
    table: String,
    /// The key whose value, a list, goes on in the next lines.
    list: Option<String>,
}

/// A piece of a line.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// Brackets, commas, dashes of lists, white space.
    Structure(&'a str),
    /// What stands before a colon.
    Key(&'a str),
    /// Anything else, with its quotes.
    Value(&'a str),
    /// To the end of the line.
    Comment,
}

fn redact_line(line: &str, place: &mut Place) -> String {
    let pieces = pieces(line);
    let mut shown = String::new();
    let mut key = place.list.clone();
    let is_indented = line.starts_with([' ', '\t', '-']);
    let (mut is_first, mut has_key) = (true, false);
    for piece in &pieces {
        match piece {
            Piece::Structure(text) => shown.push_str(text),
            Piece::Key(name) => {
                let is_profile =
                    is_first && is_indented && place.table == "redundancy" && is_name(name) && !is_known(name);
                match is_known(name) || is_profile {
                    true => shown.push_str(name),
                    false => shown.push_str(LEFT_OUT),
                }
                shown.push(':');
                if !is_indented && is_first {
                    place.table = (*name).to_owned();
                }
                key = Some((*name).to_owned());
                (is_first, has_key) = (false, true);
            }
            Piece::Value(value) => {
                let kind = key.as_deref().map_or(Kind::Unknown, kind_of);
                // Behind no key of its own line: only what cannot be anything else.
                let kind = if has_key || kind == Kind::Networks { kind } else { Kind::Unknown };
                shown.push_str(&redact_value(value, kind));
                is_first = false;
            }
            Piece::Comment => {}
        }
    }
    // The value of the last key begins in the next line, or its list goes on there.
    let is_open = match pieces.iter().rev().find(|piece| !matches!(piece, Piece::Structure(_) | Piece::Comment)) {
        Some(Piece::Key(_)) => true,
        Some(Piece::Value(_)) => key.as_deref().is_some_and(|key| kind_of(key) == Kind::Networks),
        _ => place.list.is_some(),
    };
    place.list = key.filter(|_| is_open);
    shown
}

/// Cuts a line. Whatever it is, all of it is in one of the pieces, but for comments.
fn pieces(line: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let is_at_start = rest.len() == line.len() || line[..line.len() - rest.len()].ends_with([' ', '\t']);
        let end = match first {
            ' ' | '\t' | '{' | '}' | '[' | ']' | ',' => {
                pieces.push(Piece::Structure(&rest[..1]));
                1
            }
            '-' if rest.len() == 1 || rest[1..].starts_with(' ') => {
                pieces.push(Piece::Structure(&rest[..1]));
                1
            }
            '#' if is_at_start => {
                pieces.push(Piece::Comment);
                rest.len()
            }
            '"' | '\'' => {
                // A quote that does not end takes the line with it.
                let end = rest[1..].find(first).map_or(rest.len(), |at| at + 2);
                match rest[end..].starts_with(':') {
                    true => {
                        pieces.push(Piece::Key(&rest[1..end - 1]));
                        end + 1
                    }
                    false => {
                        pieces.push(Piece::Value(&rest[..end]));
                        end
                    }
                }
            }
            _ => {
                let end = scalar_end(rest);
                let word = rest[..end].trim_end();
                match rest[end..].starts_with(':') {
                    true => {
                        pieces.push(Piece::Key(word));
                        end + 1
                    }
                    false => {
                        pieces.push(Piece::Value(word));
                        // What begins with an odd kind of space has no word.
                        if word.is_empty() { end } else { word.len() }
                    }
                }
            }
        };
        rest = &rest[end..];
    }
    pieces
}

/// Where a word without quotes ends: before a colon that ends a key, a bracket, a comma or a comment.
fn scalar_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_space = |at: usize| bytes.get(at).is_none_or(|byte| *byte == b' ' || *byte == b'\t');
    // An IPv6 address with a port begins with a bracket, which is not here: `[` begins a list.
    let ends = |at: usize| match bytes[at] {
        b':' => is_space(at + 1),
        b',' | b'{' | b'}' | b'[' | b']' => true,
        b'#' => at > 0 && is_space(at - 1),
        _ => false,
    };
    (0..bytes.len()).find(|at| ends(*at)).unwrap_or(bytes.len()).max(1)
}

/// The value, if it is harmless in this place.
fn redact_value(quoted: &str, kind: Kind) -> String {
    let is_quoted = |quote: char| quoted.len() > 1 && quoted.starts_with(quote) && quoted.ends_with(quote);
    let value = if is_quoted('"') || is_quoted('\'') { &quoted[1..quoted.len() - 1] } else { quoted };
    let is_harmless = match kind {
        Kind::PublicKey => {
            let is_key = value.len() == 44 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
            return match is_key {
                true => format!("{}... (the first {SHOWN_OF_KEY} characters)", &value[..SHOWN_OF_KEY]),
                false => {
                    if is_null(value) {
                        quoted.to_owned()
                    } else {
                        LEFT_OUT.to_owned()
                    }
                }
            };
        }
        Kind::Networks => value.parse::<IpNetwork>().is_ok() || value.parse::<IpAddr>().is_ok() || is_null(value),
        Kind::Path => is_path(value) || is_null(value),
        Kind::Word => is_word(value),
        Kind::Unknown => false,
    };
    if is_harmless { quoted.to_owned() } else { LEFT_OUT.to_owned() }
}

fn is_null(value: &str) -> bool {
    matches!(value, "" | "null" | "~")
}

/// A name of a file: it says so itself, and no part of it may be random.
fn is_path(value: &str) -> bool {
    let is_character = |b: u8| b.is_ascii_alphanumeric() || b"._/@~-".contains(&b);
    let says_so =
        value.starts_with(['/', '~']) || value.starts_with("./") || value.starts_with("../") || has_ending(value);
    value.len() <= 3 * LONGEST && value.bytes().all(is_character) && says_so && !may_be_random(value)
}

/// The endings that such files have.
fn has_ending(value: &str) -> bool {
    let endings = [".key", ".psk", ".pem", ".crt", ".cert", ".sock", ".txt"];
    endings.iter().any(|ending| value.ends_with(ending))
}

fn is_word(value: &str) -> bool {
    let is_character = |b: u8| b.is_ascii_alphanumeric() || b"._:/%=+-".contains(&b);
    value.len() <= LONGEST && value.bytes().all(is_character) && !may_be_random(value)
}

/// The name of a profile.
fn is_name(value: &str) -> bool {
    value.len() <= RANDOM_LEN
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
}

/// Some run of it may be a key: long, and with capital letters beside others; or hexadecimal, and longer.
fn may_be_random(value: &str) -> bool {
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-');
    let mut runs = value.split(|c| !is_of_key(c));
    runs.any(|run| {
        let has = |is: fn(&u8) -> bool| run.bytes().any(|byte| is(&byte));
        let is_mixed = has(u8::is_ascii_uppercase) && (has(u8::is_ascii_lowercase) || has(u8::is_ascii_digit));
        let longest_hex = run.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or(0);
        (run.len() >= RANDOM_LEN && is_mixed) || longest_hex >= HEX_LEN || run.len() > LONGEST
    })
}

/// Lines of a log without what they may quote of a configuration: the excerpt below an error, values found, names of
/// key files.
pub fn log(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    for line in text.lines() {
        redacted.push_str(&log_line(line));
        redacted.push('\n');
    }
    redacted
}

fn log_line(line: &str) -> String {
    // `   12 | text of the file`, behind what the journal puts before it.
    if let Some(at) = line.find(" | ") {
        let before = line[..at].trim_end_matches(|c: char| c.is_ascii_digit());
        if before.len() < at && before.ends_with([' ', ':']) {
            return format!("{} | {LEFT_OUT}", &line[..at]);
        }
    }
    let mut line = line.to_owned();
    for (start, end) in [
        ("found \"", "\""),
        ("found ", ";"),
        ("the key file ", " cannot"),
        ("the key file ", " has"),
        ("the key file ", " holds"),
        ("the key file ", " is not"),
    ] {
        line = cut(&line, start, end);
    }
    line
}

/// The line without what is between two words that belong together.
fn cut(line: &str, start: &str, end: &str) -> String {
    let Some(begin) = line.find(start).map(|at| at + start.len()) else { return line.to_owned() };
    let Some(length) = line[begin..].find(end) else { return line.to_owned() };
    format!("{}{LEFT_OUT}{}", &line[..begin], &line[begin + length..])
}

/// The places that errors of a configuration name: `FILE:LINE:COLUMN`, and nothing that they quote.
pub fn places(errors: &str) -> String {
    let place = |line: &str| {
        let mut parts = line.split(':');
        let (file, at, column) = (parts.next()?, parts.next()?, parts.next()?);
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (is_number(at) && is_number(column) && !file.starts_with(' ')).then(|| format!("{at}:{column}"))
    };
    let places: BTreeSet<String> = errors.lines().filter_map(place).collect();
    match places.is_empty() {
        true => format!("errors, {LEFT_OUT}"),
        false => format!("errors at line:column {}", places.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests;
