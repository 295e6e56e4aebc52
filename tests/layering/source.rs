//! A parsed file: its words, its comments, the paths in it, and which of its lines are tests. It judges nothing.

use std::ops::RangeInclusive;

use proc_macro2::{TokenStream, TokenTree};

use crate::paths::{self, NamedPath, Paths};

/// A file of the repository.
pub struct Source {
    /// From the root of the repository.
    pub path: String,
    pub text: String,
    /// The module that the file is in this crate: `tunnel`, `handshake` for `src/tunnel/handshake/mod.rs`.
    pub module: Vec<String>,
    /// Whether the file is compiled for tests alone.
    pub is_test: bool,
    /// Identifiers and keywords, in order.
    pub words: Vec<Word>,
    /// The text, with spaces where code is.
    pub comments: String,
    /// Paths in use declarations, code and macros.
    pub paths: Vec<NamedPath>,
    /// Modules that are files and compiled for tests alone.
    pub test_modules: Vec<Vec<String>>,
    test_lines: Vec<RangeInclusive<usize>>,
}

/// An identifier or keyword.
pub struct Word {
    pub name: String,
    pub line: usize,
}

impl Source {
    /// Parses the text of the file at `path`, which counts from the root of the repository.
    pub fn parse(path: &str, text: &str) -> Self {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let module = module_of(path);
        let file = syn::parse2::<syn::File>(tokens.clone())
            .unwrap_or_else(|error| panic!("{path}:{}: {error}", error.span().start().line));
        let Paths { paths, test_lines, test_modules } = paths::find(&file, &module);
        let mut words = Vec::new();
        find_words(tokens.clone(), &mut words);
        let comments = comments(text, tokens);
        let (path, text) = (path.to_owned(), text.to_owned());
        Self { path, text, module, is_test: false, words, comments, paths, test_modules, test_lines }
    }

    /// Whether the file is part of a crate, and not of its tests and examples.
    pub fn is_ours(&self) -> bool {
        self.path.starts_with("src/") || self.path.starts_with("notify/src/")
    }

    /// The top-level module; `lib`, `main` and `bin` are themselves.
    pub fn top_module(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// The number of lines that are not part of a test item.
    pub fn lines_without_tests(&self) -> usize {
        let is_test = |line: usize| self.test_lines.iter().any(|lines| lines.contains(&line));
        (1..=self.text.lines().count()).filter(|&line| !is_test(line)).count()
    }
}

/// Marks the files of modules that are compiled for tests alone, with all modules below them.
pub fn mark_tests(sources: &mut [Source]) {
    let test_modules: Vec<Vec<String>> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
    for source in sources {
        source.is_test = source.is_ours() && test_modules.iter().any(|module| source.module.starts_with(module));
    }
}

/// The module that a file is. The crate in `notify` counts as the module `notify`.
fn module_of(path: &str) -> Vec<String> {
    let (root, below) = match path.strip_prefix("notify/src/") {
        Some(below) => (Some("notify"), below),
        None => (None, path.strip_prefix("src/").unwrap_or(path)),
    };
    let below = below.strip_suffix(".rs").unwrap_or(below);
    let mut module: Vec<&str> = root.into_iter().chain(below.split('/')).collect();
    if below == "lib" || below.ends_with("/mod") {
        module.pop();
    }
    module.into_iter().map(str::to_owned).collect()
}

fn find_words(tokens: TokenStream, words: &mut Vec<Word>) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) => words.push(Word { name: name.to_string(), line: name.span().start().line }),
            TokenTree::Group(group) => find_words(group.stream(), words),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// The text, with spaces where code is. Line ends stay.
fn comments(text: &str, tokens: TokenStream) -> String {
    let mut left = text.as_bytes().to_vec();
    blank_code(text, tokens, &mut left);
    String::from_utf8(left).expect("whole characters were blanked")
}

fn blank_code(text: &str, tokens: TokenStream, left: &mut [u8]) {
    for token in tokens {
        // A documentation comment is an attribute, and each of its tokens spans all of the comment.
        let all = &text[token.span().byte_range()];
        if all.starts_with("//") || all.starts_with("/*") {
            continue;
        }
        let spans = match token {
            TokenTree::Group(group) => {
                blank_code(text, group.stream(), left);
                vec![group.span_open(), group.span_close()]
            }
            other => vec![other.span()],
        };
        for byte in spans.into_iter().flat_map(|span| span.byte_range()) {
            if left[byte] != b'\n' {
                left[byte] = b' ';
            }
        }
    }
}
