//! The fields of log events: none has a name that each line of the JSON log has already, and none is printed with `?`, which
//! writes what only Rust calls it (`Some(10.1.0.1)`).

use proc_macro2::{TokenStream, TokenTree};

use crate::source::Source;

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// What the log itself writes into each line.
const TAKEN: [&str; 4] = ["timestamp", "level", "target", "message"];

/// Applies the rules to one file.
pub fn check(source: &Source, violations: &mut Vec<String>) {
    if let Ok(tokens) = source.text.parse() {
        look(tokens, &source.path, violations);
    }
}

fn look(tokens: TokenStream, path: &str, violations: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let is_event = at >= 2
            && matches!(&tokens[at - 1], TokenTree::Punct(mark) if mark.as_char() == '!')
            && matches!(&tokens[at - 2], TokenTree::Ident(name) if LEVELS.iter().any(|level| name == level));
        match is_event {
            true => check_event(group.stream(), path, violations),
            false => look(group.stream(), path, violations),
        }
    }
}

fn check_event(tokens: TokenStream, path: &str, violations: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let line = token.span().start().line;
        match token {
            TokenTree::Ident(name)
                if is_mark(tokens.get(at + 1), '=')
                    && !is_mark(tokens.get(at + 2), '=')
                    && TAKEN.iter().any(|taken| name == taken) =>
            {
                violations.push(format!(
                    "{path}:{line}: the log field `{name}` is in each line already; give it another name"
                ));
            }
            TokenTree::Punct(mark) if mark.as_char() == '?' && begins_value(&tokens[..at]) => {
                violations.push(format!("{path}:{line}: a log field with `?`; write what it displays (`%`)"));
            }
            _ => {}
        }
    }
}

/// Whether a field's value comes next.
fn begins_value(before: &[TokenTree]) -> bool {
    before.is_empty() || is_mark(before.last(), '=') || is_mark(before.last(), ',')
}

fn is_mark(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == wanted)
}

#[test]
fn each_rule_finds_its_violation_and_nothing_else() {
    let found = |body: &str| {
        let source = Source::parse("src/io/x.rs", &format!("//! X.\nfn x() {{ if true {{ {body} }} }}"));
        let mut violations = Vec::new();
        check(&source, &mut violations);
        violations.len()
    };
    assert_eq!(found("tracing::info!(peer = name, lane, prefix = %prefix, \"level = {level}\", level = 3 == 4);"), 1);
    assert_eq!(found("tracing::info!(peer = ?name, \"x\");"), 1);
    assert_eq!(found("tracing::warn!(?name, %other, \"x {name:?}\");"), 1);
    assert_eq!(
        found("tracing::warn!(peer = name, gate = %gate, \"{}\", try_it()?); let level = 3; other!(level = ?x);"),
        0
    );
}
