//! Holds the house rules that the compiler does not know: who may import whom, how long a file may be, where `unsafe`
//! and system calls may be, which words name things, what the programs depend on.
//!
//! [`source`] parses a file, [`paths`] finds what it names, and each rule has a file: [`imports`], [`circles`],
//! [`content`], [`words`], [`dependencies`], and `programs` with the lab. [`examples`] holds the rules to short
//! sources. The first test reports every violation at once. Macros are not expanded: in their arguments only the names
//! are seen.

mod circles;
mod content;
mod dependencies;
mod examples;
mod imports;
mod log_fields;
mod paths;
#[cfg(feature = "lab")]
mod programs;
mod source;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use source::Source;

/// Folders with sources, and the fewest files that each is known to have.
const FOLDERS: [&str; 3] = ["src", "notify", "tests"];
const FEWEST_FILES: usize = 20;

/// The rules name the words that they forbid.
const OWN_FOLDER: &str = "tests/layering/";

#[test]
fn the_source_keeps_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in FOLDERS {
        let files = files_below(&root.join(folder), "rs");
        assert!(files.len() > FEWEST_FILES, "{folder}: only {} files; the test looks in the wrong place", files.len());
        let texts = files.iter().map(|file| read(root, file)).filter(|(path, _)| !path.starts_with(OWN_FOLDER));
        sources.extend(texts.map(|(path, text)| Source::parse(&path, &text)));
    }
    source::mark_tests(&mut sources);

    let mut violations = Vec::new();
    sources.iter().for_each(|source| check(source, content::LONG_FILES, &mut violations));
    circles::check(&sources, &mut violations);
    let documents = [root.join("README.md"), root.join("CONTRIBUTING.md")];
    for file in documents.into_iter().chain(files_below(&root.join("docs"), "md")) {
        let (path, text) = read(root, &file);
        words::check_prose(&path, &text, &mut violations);
    }
    assert!(violations.is_empty(), "{} violations:\n  {}", violations.len(), violations.join("\n  "));
}

/// Applies every rule for one file.
fn check(source: &Source, long_files: &[(&str, &str)], violations: &mut Vec<String>) {
    if source.is_ours() {
        content::check(source, long_files, violations);
        imports::check(source, violations);
        log_fields::check(source, violations);
    }
    words::check_names(source, violations);
    words::check_prose(&source.path, &source.comments, violations);
}

/// The path of a file from the root, and its text.
fn read(root: &Path, file: &Path) -> (String, String) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let path = file.strip_prefix(root).expect("the file was found under the root");
    (path.to_string_lossy().into_owned(), text)
}

/// The files with this extension, in order.
fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("the folder can be read to its end").path();
        if path.is_dir() {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            files.push(path);
        }
    }
    files.sort();
    files
}
