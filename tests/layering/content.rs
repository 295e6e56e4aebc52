//! What may be in a file: its first line, its length, `unsafe`, what a pure module leaves to others, and no marks of
//! unfinished work.

use std::collections::BTreeSet;

use crate::imports;
use crate::source::Source;

/// Lines of a file, its tests apart.
pub const MOST_LINES: usize = 450;

/// Lines of a file that is in [`LONG_FILES`].
pub const MOST_LINES_WITH_A_REASON: usize = 600;

/// Files that may have more than [`MOST_LINES`], each with the reason why it holds one concept all the same.
pub const LONG_FILES: &[(&str, &str)] = &[];

/// Marks of unfinished work.
const MARKS: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

/// What a pure module must be given as an argument instead.
const IMPURE: &[(&str, &str)] = &[
    ("Instant::now", "take `now` as the last argument"),
    ("SystemTime::now", "take the time as an argument"),
    ("std::fs", "leave files to the appliance"),
    ("std::io", "return values; the appliance reads and writes"),
    ("std::thread", "leave threads to the appliance"),
    ("std::process", "leave processes to the lab"),
    ("UdpSocket", "return datagrams; `io` sends them"),
    ("Mutex", "a state machine has one owner"),
    ("RwLock", "a state machine has one owner"),
    ("OsRng", "take random bytes as an argument"),
    ("thread_rng", "take random bytes as an argument"),
    ("SystemRandom", "take random bytes as an argument"),
    ("libc", "system calls belong under src/io"),
    ("rustix", "system calls belong under src/io"),
    ("mio", "readiness belongs to the appliance"),
];

/// Applies every rule to one file.
pub fn check(source: &Source, long_files: &[(&str, &str)], violations: &mut Vec<String>) {
    let path = &source.path;
    if !source.text.starts_with("//! ") {
        violations.push(format!("{path}:1: begins without `//!`; say what the file does and what it does not do"));
    }
    for (at, line) in source.text.lines().enumerate() {
        if let Some(mark) = MARKS.iter().find(|mark| line.contains(*mark)) {
            violations.push(format!("{path}:{}: `{mark}`; do it, or open an issue", at + 1));
        }
    }
    check_unsafe(source, violations);
    if !source.is_test {
        check_length(source, long_files, violations);
        if imports::is_pure(source.top_module()) {
            check_purity(source, violations);
        }
    }
}

fn check_length(source: &Source, long_files: &[(&str, &str)], violations: &mut Vec<String>) {
    let (path, lines) = (&source.path, source.lines_without_tests());
    let is_listed = long_files.iter().any(|(file, _)| file == path);
    let most = if is_listed { MOST_LINES_WITH_A_REASON } else { MOST_LINES };
    if lines > most {
        violations.push(format!("{path}:1: {lines} lines without tests, at most {most}; move one concept out"));
    } else if is_listed && lines <= MOST_LINES {
        violations.push(format!("{path}:1: in the list of long files with {lines} lines; take it off the list"));
    }
}

fn check_unsafe(source: &Source, violations: &mut Vec<String>) {
    // Other programs use `notify` without the rest of us, so its one system call is its own. Vector instructions are no system
    // call, and the code is their only user.
    if source.top_module() == "io" || ["notify/src/tcp_info.rs", "src/fec/gfni.rs"].contains(&source.path.as_str()) {
        return;
    }
    let is_unsafe = |name: &str| name == "unsafe" || name == "unsafe_code";
    let words = source.words.iter().filter(|word| is_unsafe(&word.name));
    for line in words.map(|word| word.line).collect::<BTreeSet<usize>>() {
        violations.push(format!("{}:{line}: `unsafe` outside src/io; move the system call there", source.path));
    }
}

fn check_purity(source: &Source, violations: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for named in source.paths.iter().filter(|named| !named.in_test) {
        for (name, remedy) in IMPURE.iter().filter(|(name, _)| has(&named.names, name)) {
            if seen.insert((named.line, name)) {
                violations.push(format!("{}:{}: `{name}` in a pure module; {remedy}", source.path, named.line));
            }
        }
    }
}

/// Whether the names of `part` are in the path, one behind the other.
fn has(path: &[String], part: &str) -> bool {
    let part: Vec<&str> = part.split("::").collect();
    path.windows(part.len()).any(|names| names.iter().eq(&part))
}
