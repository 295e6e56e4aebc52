//! Holds the house rules that the compiler does not know: who may import whom, how long a file may be, where `unsafe`
//! and system calls may be, which words name things. Reads the source as text and reports every violation at once. It
//! does not judge macros from other crates and does not expand our own.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, what of ours it may import, and whether it is pure. An entry `module::part` allows that part only.
const MODULES: &[Module] = &[
    Module { name: "wire", may_import: &[], pure: true },
    Module { name: "fec", may_import: &["wire"], pure: true },
    Module { name: "tunnel", may_import: &["fec", "wire"], pure: true },
    Module { name: "flow", may_import: &["wire"], pure: true },
    Module { name: "protect", may_import: &["flow", "tunnel", "wire"], pure: true },
    Module { name: "notify", may_import: &[], pure: false },
    // One place knows where the fields of the kernel's `struct tcp_info` lie.
    Module { name: "io", may_import: &["notify::tcp_info"], pure: false },
    Module { name: "config", may_import: &["tunnel::keys", "tunnel::policy", "notify"], pure: false },
    Module {
        name: "appliance",
        may_import: &["tunnel", "fec", "wire", "io", "config", "flow", "protect", "notify"],
        pure: false,
    },
    // A gate asks the appliance as any program would. Its sockets, signals and clock are those of `io`, mio and std; its
    // dialects are given bytes and say what to do with them.
    Module { name: "gate", may_import: &["notify", "config", "io"], pure: false },
    // The lab's programs wait for notifications as a user's would; its attacks forge them.
    Module {
        name: "lab",
        may_import: &[
            "config",
            "io",
            "wire",
            "appliance::status",
            "notify::client",
            "notify::envelope",
            "notify::message",
            "notify::secret",
            "gate::status",
        ],
        pure: false,
    },
    // The commands that watch and wait are programs like any other that uses the notification library, and ask the kernel
    // what local sockets have sent.
    Module {
        name: "cli",
        may_import: &[
            "appliance",
            "config",
            "gate",
            "tunnel::keys",
            "notify",
            "io::descriptors",
            "io::log",
            "io::sock_diag",
        ],
        pure: false,
    },
    Module { name: "lib", may_import: &[], pure: false },
    Module { name: "main", may_import: &["cli"], pure: false },
    Module { name: "bin", may_import: &["lab"], pure: false },
];

/// Lines of a file, its tests apart.
const MOST_LINES: usize = 450;

/// Words that name nothing here: other trades' words for our nouns, and names that say nothing.
const FORBIDDEN_WORDS: &[(&str, &str)] = &[
    ("shard", "symbol"),
    ("shards", "symbols"),
    ("parity", "repair"),
    ("group", "block, or what is grouped"),
    ("groups", "blocks, or what is grouped"),
    ("chunk", "symbol, piece or run"),
    ("chunks", "symbols, pieces or runs"),
    ("frame", "datagram, packet or ADU"),
    ("frames", "datagrams, packets or ADUs"),
    ("pkt", "packet"),
    ("pkts", "packets"),
    ("manager", "a noun of what it is"),
    ("handler", "a noun of what it is"),
    ("context", "a noun of what it is"),
    ("helper", "a noun of what it is"),
    ("helpers", "a noun of what it is"),
    ("util", "a noun of what it is"),
    ("utils", "a noun of what it is"),
    ("common", "a noun of what it is"),
    ("misc", "a noun of what it is"),
];

/// Names that the standard library and our dependencies gave, whatever words they hold.
const GIVEN_NAMES: &[&str] = &[
    // slices
    "array_chunks",
    "as_chunks",
    "as_chunks_mut",
    "chunk_by",
    "chunks",
    "chunks_exact",
    "chunks_exact_mut",
    "chunks_mut",
    "first_chunk",
    "first_chunk_mut",
    "last_chunk",
    "rchunks",
    "split_first_chunk",
    "split_last_chunk",
    // reed-solomon-simd
    "ShardsRefMut",
    "add_original_shard",
    "add_recovery_shard",
    "utils",
    // ring, ctrlc, clap
    "Context",
    "set_handler",
    "try_set_handler",
    // processes and files: the kernel's own word
    "kill_process_group",
    "process_group",
    "test_kill_process_group",
];

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
    ("libc::", "system calls belong under src/io"),
    ("rustix::", "system calls belong under src/io"),
    ("mio::", "readiness belongs to the appliance"),
];

struct Module {
    name: &'static str,
    may_import: &'static [&'static str],
    pure: bool,
}

#[test]
fn the_source_keeps_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    // The crate of the protocol is the module `notify` here.
    for (folder, module) in [("src", ""), ("notify/src", "notify")] {
        let folder = root.join(folder);
        let mut files: Vec<PathBuf> = rust_files(&folder);
        files.sort();
        assert!(files.len() > 20, "found only {} files; the test looks in the wrong place", files.len());
        sources.extend(files.iter().map(|path| Source::read(&folder, module, path)));
    }
    let test_files: BTreeSet<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();

    let mut complaints = Vec::new();
    for source in &sources {
        check(source, test_files.contains(&source.path), &mut complaints);
    }
    let mut report = String::new();
    for complaint in &complaints {
        let _ = writeln!(report, "  {complaint}");
    }
    assert!(complaints.is_empty(), "{} violations:\n{report}", complaints.len());
}

/// Applies every rule to one file.
fn check(source: &Source, is_test: bool, complaints: &mut Vec<String>) {
    let path = source.path.display();
    if !source.text.starts_with("//! ") {
        complaints.push(format!("src/{path}:1: begins without `//!`; say what the file does and what it does not do"));
    }
    let lines = source.lines_without_tests();
    if !is_test && lines > MOST_LINES {
        complaints.push(format!("src/{path}: {lines} lines without tests, at most {MOST_LINES}; move one concept out"));
    }
    check_imports(source, complaints);
    check_words(source, complaints);
    // Other programs use `notify` without the rest of us, so its one system call is its own.
    let in_io = source.module() == "io" || source.path == Path::new("notify/tcp_info.rs");
    let pure = MODULES.iter().any(|module| module.name == source.module() && module.pure);
    for (number, line) in source.code_lines() {
        if !in_io && words_of_line(line).any(|word| word == "unsafe" || word == "unsafe_code") {
            complaints.push(format!("src/{path}:{number}: `unsafe` outside src/io; move the system call there"));
        }
        if pure && !is_test && !source.is_test_line(number) {
            for (name, remedy) in IMPURE.iter().filter(|(name, _)| line.contains(name)) {
                complaints.push(format!("src/{path}:{number}: `{name}` in a pure module; {remedy}"));
            }
        }
    }
    for (at, line) in source.text.lines().enumerate() {
        if let Some(mark) = ["TODO", "FIXME", "XXX", "HACK"].iter().find(|mark| line.contains(*mark)) {
            complaints.push(format!("src/{path}:{}: `{mark}`; do it, or open an issue", at + 1));
        }
    }
}

fn check_imports(source: &Source, complaints: &mut Vec<String>) {
    let path = source.path.display();
    let Some(module) = MODULES.iter().find(|module| module.name == source.module()) else {
        complaints.push(format!("src/{path}: module `{}` is not in the table of this test; add it", source.module()));
        return;
    };
    for (number, import) in source.imports() {
        let allowed = import.starts_with(&format!("{}::", module.name))
            || import == module.name
            || module
                .may_import
                .iter()
                .any(|allowed| import == *allowed || import.strip_prefix(allowed).is_some_and(|r| r.starts_with("::")));
        if !allowed {
            let may = match module.may_import {
                [] => "nothing of ours".to_owned(),
                some => some.join(", "),
            };
            complaints.push(format!(
                "src/{path}:{number}: `{}` imports `{import}`, may import {may}; move the type down or pass a value in",
                module.name
            ));
        }
    }
}

fn check_words(source: &Source, complaints: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (number, line) in source.code_lines() {
        for name in words_of_line(line).filter(|name| !GIVEN_NAMES.contains(name)) {
            if !seen.insert(name) {
                continue;
            }
            let path = source.path.display();
            for (word, better) in FORBIDDEN_WORDS {
                // Netlink's own term for what one subscribes to.
                if source.module() == "notify" && word.starts_with("group") {
                    continue;
                }
                if parts(name).any(|part| part.eq_ignore_ascii_case(word)) {
                    complaints.push(format!("src/{path}:{number}: `{name}` says `{word}`; say {better}"));
                }
            }
            if name.starts_with("get_") && line.contains(&format!("fn {name}")) {
                complaints.push(format!("src/{path}:{number}: `{name}`; leave `get_` out"));
            }
        }
    }
}

/// Identifiers, keywords and numbers of a line of code.
fn words_of_line(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The words of an identifier: `SourceBlock` and `source_block` have two.
fn parts(name: &str) -> impl Iterator<Item = &str> {
    name.split('_').flat_map(|piece| {
        let capital = |(at, c): (usize, char)| (at > 0 && c.is_uppercase()).then_some(at);
        let all_capitals = !piece.contains(char::is_lowercase);
        let mut cuts: Vec<usize> =
            if all_capitals { vec![] } else { piece.char_indices().filter_map(capital).collect() };
        cuts.insert(0, 0);
        cuts.push(piece.len());
        cuts.windows(2).map(|cut| &piece[cut[0]..cut[1]]).collect::<Vec<_>>()
    })
}

/// One file of ours.
struct Source {
    /// Below `src`.
    path: PathBuf,
    text: String,
    /// The text with comments, strings and characters blanked, byte for byte.
    code: String,
    /// First and last line of each `#[cfg(test)]` item.
    tests: Vec<(usize, usize)>,
}

impl Source {
    fn read(root: &Path, module: &str, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let path = Path::new(module).join(path.strip_prefix(root).expect("the file was found under the root"));
        // Within that crate, `crate` is what is `crate::notify` elsewhere.
        let text = if module.is_empty() { text } else { text.replace("crate::", &format!("crate::{module}::")) };
        Self::new(path, text)
    }

    fn new(path: PathBuf, text: String) -> Self {
        let code = blank(&text);
        let tests = test_items(&code);
        Self { path, text, code, tests }
    }

    /// The top-level module; `lib` and `main` are themselves.
    fn module(&self) -> &str {
        let first = self.path.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The path of the module in the crate: `src/tunnel/handshake/mod.rs` is `tunnel`, `handshake`.
    fn module_path(&self) -> Vec<String> {
        let stem = self.path.with_extension("");
        let mut parts: Vec<String> = stem.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if parts.last().is_some_and(|last| last == "mod" || last == "lib")
            || ["lib", "main"].contains(&parts[0].as_str())
        {
            parts.pop();
        }
        parts
    }

    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    fn is_test_line(&self, number: usize) -> bool {
        self.tests.iter().any(|&(first, last)| (first..=last).contains(&number))
    }

    fn lines_without_tests(&self) -> usize {
        (1..=self.text.lines().count()).filter(|&number| !self.is_test_line(number)).count()
    }

    /// Files that `#[cfg(test)] mod name;` names here.
    fn test_modules(&self) -> Vec<PathBuf> {
        let lines: Vec<&str> = self.code.lines().collect();
        let mut folder = PathBuf::new();
        folder.extend(self.module_path());
        let named = |&(first, last): &(usize, usize)| {
            let item = lines[first - 1..last].join(" ");
            let (_, name) = item.rsplit_once("mod ").filter(|_| item.trim_end().ends_with(';'))?;
            Some(name.trim_end().trim_end_matches(';').to_owned())
        };
        let names = self.tests.iter().filter_map(named);
        names.flat_map(|name| [folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")]).collect()
    }

    /// Every path into this crate, from its root and with its line, however it is written: `crate::a::b`,
    /// `crate::{a, b}`, `super::super::a`, and `onwire::a` in the binary.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let own = self.module_path();
        let bytes = self.code.as_bytes();
        for root in ["crate", "super", "onwire"] {
            for (at, _) in self.code.match_indices(&format!("{root}::")) {
                let before = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
                let continued = at >= 2 && self.code[..at].ends_with("::");
                if before.is_ascii_alphanumeric() || before == b'_' || continued {
                    continue;
                }
                let line = self.code[..at].matches('\n').count() + 1;
                let mut rest = &self.code[at + root.len() + 2..];
                if root == "super" {
                    // An inline test module is one deeper than its file.
                    let mut depth = own.len() + usize::from(self.is_test_line(line)) - 1;
                    while let Some(further) = rest.strip_prefix("super::") {
                        rest = further;
                        depth = depth.saturating_sub(1);
                    }
                    if depth > 0 {
                        continue;
                    }
                }
                found.extend(use_tree(rest).into_iter().map(|path| (line, path)));
            }
        }
        found
    }
}

/// The paths, two names deep, that a use tree begins with: `a::{b::C, d}` is `a::b`, `a::d`.
fn use_tree(text: &str) -> Vec<String> {
    let first = split_tree(text);
    let deeper = |(name, rest): (&str, Option<&str>)| match rest.map(split_tree) {
        Some(seconds) if !seconds.is_empty() => {
            seconds.into_iter().map(|(second, _)| format!("{name}::{second}")).collect()
        }
        _ => vec![name.to_owned()],
    };
    first.into_iter().flat_map(deeper).collect()
}

/// The first names of a use tree, each with the tree behind its `::`.
fn split_tree(text: &str) -> Vec<(&str, Option<&str>)> {
    let branch = |text: &'_ str| -> Option<(usize, usize)> {
        let start = text.len() - text.trim_start().len();
        let len = text[start..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len() - start);
        (len > 0).then_some((start, start + len))
    };
    let with_rest = |text| {
        let (start, end) = branch(text)?;
        Some((&text[start..end], text[end..].strip_prefix("::")))
    };
    let Some(inside) = text.strip_prefix('{') else {
        return with_rest(text).into_iter().collect();
    };
    let mut branches = Vec::new();
    let (mut depth, mut start) = (0usize, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                branches.push(&inside[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    branches.into_iter().filter_map(with_rest).collect()
}

/// First and last line of every item behind `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let mut items = Vec::new();
    for (start, mark) in code.match_indices("#[cfg(test)]") {
        let (mut depth, mut end) = (0usize, code.len());
        for (at, c) in code[start + mark.len()..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && matches!(c, '}' | ';') {
                end = start + mark.len() + at;
                break;
            }
        }
        items.push((line_of(start), line_of(end)));
    }
    items
}

/// The text with comments, strings and characters turned into spaces; line ends and offsets stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let name_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if rest[0] == b'"' {
            string(rest)
        } else if !name_before && (rest[0] == b'r' || rest.starts_with(b"br")) {
            raw_string(rest)
        } else if rest[0] == b'\'' {
            character(rest)
        } else {
            0
        };
        for byte in &mut out[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length.max(1);
    }
    String::from_utf8(out).expect("whole characters were blanked")
}

fn block_comment(text: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn string(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// The length of a raw string, or 0 where the `r` begins a name.
fn raw_string(text: &[u8]) -> usize {
    let start = if text[0] == b'b' { 2 } else { 1 };
    let hashes = text[start..].iter().take_while(|&&b| b == b'#').count();
    if text.get(start + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.extend(std::iter::repeat_n(b'#', hashes));
    let body = start + hashes + 1;
    let close = text[body..].windows(end.len()).position(|window| window == end);
    close.map_or(text.len(), |close| body + close + end.len())
}

/// The length of a character, or 0 for a lifetime.
fn character(text: &[u8]) -> usize {
    if text.get(1) == Some(&b'\\') {
        let close = text.iter().skip(3).position(|&b| b == b'\'');
        return close.map_or(text.len(), |close| close + 4);
    }
    let width = match text.get(1) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    if text.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("the folder can be read to its end").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => rust_files(&path),
            false if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
            false => vec![],
        })
        .collect()
}

/// What the rules say about a file `src/{path}` with this text, behind a proper first line.
fn complaints_about(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    check(&Source::new(path.into(), format!("//! A file.\n{text}\n")), false, &mut complaints);
    complaints
}

#[test]
fn each_rule_notices_what_it_is_for() {
    let long = "fn a() {}\n".repeat(MOST_LINES - 1);
    let cases = [
        ("wire/a.rs", "use crate::fec::code::Code;", "imports `fec::code`"),
        ("fec/a.rs", "fn a() { crate::tunnel::b() }", "imports `tunnel::b`"),
        ("fec/a.rs", "use crate::{wire::adu, io::{udp, tun}};", "imports `io::udp`"),
        ("fec/a.rs", "use crate::{\n    wire::adu,\n    lab,\n};", "imports `lab`"),
        ("fec/mod.rs", "use super::tunnel::peer;", "imports `tunnel::peer`"),
        ("fec/a.rs", "use super::super::tunnel;", "imports `tunnel`"),
        ("lab/wan/a.rs", "use super::super::super::cli;", "imports `cli`"),
        ("lab/a.rs", "use crate::appliance::lane::Lane;", "imports `appliance::lane`"),
        ("main.rs", "fn main() { onwire::lab::run() }", "imports `lab::run`"),
        ("novel/a.rs", "", "not in the table"),
        ("wire/a.rs", &long, "451 lines"),
        ("wire/a.rs", "fn a() { unsafe { b() } }", "`unsafe` outside"),
        ("wire/a.rs", "#![allow(unsafe_code)]", "`unsafe` outside"),
        ("tunnel/a.rs", "fn a() { let now = Instant::now(); }", "`Instant::now` in a pure module"),
        ("wire/a.rs", "struct DataShard;", "`DataShard` says `shard`"),
        ("io/a.rs", "fn poll_chunks() {}", "`poll_chunks` says `chunks`"),
        ("io/a.rs", "const PARITY_MAX: u8 = 1;", "`PARITY_MAX` says `parity`"),
        ("io/a.rs", "fn get_mtu() {}", "leave `get_` out"),
        ("io/a.rs", "// TODO: more", "open an issue"),
    ];
    for (path, text, wanted) in cases {
        let complaints = complaints_about(path, text);
        assert!(complaints.iter().any(|it| it.contains(wanted)), "{path}: {text}\nwanted {wanted}, got {complaints:?}");
    }
    let mut complaints = Vec::new();
    check(&Source::new("wire/a.rs".into(), "use std::fmt;\n".into()), false, &mut complaints);
    assert!(complaints.iter().any(|it| it.contains("begins without")));
}

#[test]
fn what_the_rules_allow_passes() {
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    // a line\n".repeat(MOST_LINES));
    let cases = [
        ("fec/a.rs", "use crate::wire::{adu, virtio::VirtioHeader};"),
        ("fec/a.rs", "//! See [`crate::appliance`].\nconst A: &str = \"crate::cli::x unsafe shard\";"),
        ("fec/a.rs", "const A: &str = r#\"a \" crate::cli \"#; const B: char = '\"'; fn c<'a>(_: &'a str) {}"),
        ("fec/a.rs", "#[cfg(test)]\nmod tests {\n    use super::super::code::Code;\n}"),
        ("tunnel/a.rs", "#[cfg(test)]\nmod tests {\n    fn a() { let now = Instant::now(); }\n}"),
        ("fec/a.rs", "fn a() { for run in bytes.chunks_exact(4) { coder.add_recovery_shard(run) } }"),
        ("lab/a.rs", "use crate::appliance::status::Status;"),
        ("io/a.rs", "#![allow(unsafe_code)]\nfn a() { /* unsafe /* twice */ */ unsafe { b() } }"),
        ("main.rs", "fn main() { onwire::cli::main() }"),
        ("wire/a.rs", &tests),
    ];
    for (path, text) in cases {
        assert_eq!(complaints_about(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}
