//! Words that name nothing here. Identifiers are judged everywhere; comments and documents only by words that the code
//! once had of its own.

use std::collections::BTreeSet;

use crate::source::Source;

/// Words that name nothing here: other trades' words for our nouns, and names that say nothing.
const FORBIDDEN_WORDS: &[(&str, &str)] = &[
    ("shard", "symbol"),
    ("parity", "repair"),
    ("group", "block, or what is grouped"),
    ("chunk", "symbol, piece or run"),
    ("frame", "datagram, packet or ADU"),
    ("pkt", "packet"),
    ("manager", "a noun of what it is"),
    ("handler", "a noun of what it is"),
    ("context", "a noun of what it is"),
    ("helper", "a noun of what it is"),
    ("util", "a noun of what it is"),
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
    // std::sync, tracing-appender
    "MutexGuard",
    "RwLockReadGuard",
    "RwLockWriteGuard",
    "WorkerGuard",
    // ratatui
    "Frame",
    // processes and files: the kernel's own word
    "kill_process_group",
    "process_group",
    "test_kill_process_group",
];

/// Words that the code once had of its own: in identifiers, comments and documents.
const PRIVATE_WORDS: &[(&str, &str)] = &[
    ("herald", "notification port"),
    ("warden", "protection driver"),
    ("voice", "publish path"),
    ("colleague", "other lane"),
    ("errand", "request"),
    ("vigil", "busy poll"),
    ("witness", "subscription"),
    ("desk", "status socket, or testbed"),
    ("judgement", "assessment"),
    ("inbound", "receiver, or received"),
    ("outlet", "TUN writer"),
    ("rehearsal", "test of a dialect"),
    ("twins", "pair, or both by their names"),
    ("trickle", "steady writes"),
    ("leftovers", "what is left"),
];

/// The same, in identifiers only: prose and the keys of results may say them.
const PRIVATE_NAMES: &[(&str, &str)] =
    &[("guard", "what it protects, as in lane protection"), ("complaints", "errors"), ("crowd", "many flows")];

/// Ordinary words that name no type and no module.
const TYPE_NAMES: &[(&str, &str)] = &[
    ("Told", "notification, or report"),
    ("Heard", "feedback"),
    ("Standing", "progress"),
    ("Way", "path, or direction"),
    ("Ways", "paths, or directions"),
    ("Door", "listener"),
    ("Course", "run, or outcome"),
    ("Agenda", "run queue"),
    ("Notice", "notification"),
    ("Lateness", "receive lag"),
];

/// What a type or a module is named after.
const TYPE_KEYWORDS: [&str; 6] = ["struct", "enum", "trait", "type", "mod", "union"];

/// Judges identifiers, each once a file.
pub fn check_names(source: &Source, violations: &mut Vec<String>) {
    let path = &source.path;
    let general: &[(&str, &str)] = if source.is_ours() { FORBIDDEN_WORDS } else { &[] };
    let mut seen = BTreeSet::new();
    let is_given = |name: &str| GIVEN_NAMES.contains(&name);
    for word in source.words.iter().filter(|word| !is_given(&word.name)) {
        let (name, line) = (word.name.as_str(), word.line);
        if !seen.insert(name) {
            continue;
        }
        for (forbidden, better) in general.iter().chain(PRIVATE_WORDS).chain(PRIVATE_NAMES) {
            // Netlink's own term for what one subscribes to.
            let is_of_netlink = *forbidden == "group" && source.top_module() == "notify";
            if !is_of_netlink && says(name, forbidden) {
                violations.push(format!("{path}:{line}: `{name}` says `{forbidden}`; say {better}"));
            }
        }
    }
    for pair in source.words.windows(2) {
        let (keyword, name, line) = (pair[0].name.as_str(), pair[1].name.as_str(), pair[1].line);
        if source.is_ours() && keyword == "fn" && name.starts_with("get_") {
            violations.push(format!("{path}:{line}: `{name}`; leave `get_` out"));
        }
        if !TYPE_KEYWORDS.contains(&keyword) {
            continue;
        }
        if let Some((_, better)) = TYPE_NAMES.iter().find(|(forbidden, _)| name.eq_ignore_ascii_case(forbidden)) {
            violations.push(format!("{path}:{line}: `{keyword} {name}` names nothing; say {better}"));
        }
    }
}

/// Judges a document, or the comments of a source.
pub fn check_prose(path: &str, text: &str, violations: &mut Vec<String>) {
    for (at, line) in text.lines().enumerate() {
        for name in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
            for (word, better) in PRIVATE_WORDS.iter().filter(|(word, _)| says(name, word)) {
                violations.push(format!("{path}:{}: `{name}` says `{word}`; say {better}", at + 1));
            }
        }
    }
}

/// Whether one of the words of an identifier is `word`, or its plural.
fn says(name: &str, word: &str) -> bool {
    let is_word = |part: &str| {
        let (start, end) = part.split_at_checked(word.len()).unwrap_or_default();
        start.eq_ignore_ascii_case(word) && ["", "s", "es"].contains(&end.to_ascii_lowercase().as_str())
    };
    parts(name).any(is_word)
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
