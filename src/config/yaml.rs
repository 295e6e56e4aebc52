//! YAML text to a tree with the place of every key and value. Does not know what keys mean.
//!
//! Deserialising into structs stops at the first error and loses the places, so this module reads the parser's events.
//! Features that a configuration does not need (aliases, tags, several documents) are refused, because ignoring them
//! would change the meaning.

use std::collections::HashMap;

use serde_yaml::granit_parser::{Event, Options, Parser, ScanError, Span, StrInput};

use super::problem::{Place, quote};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The place where it begins.
    pub(super) place: Place,
    /// The value.
    pub(super) value: Value,
}

/// A YAML value; scalars stay text until the key's reader parses them.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// A value for which a [`Fault`] was noted already.
    Refused,
    /// Text, a number, a word.
    Scalar(String),
    /// `[a, b]` or lines with a dash.
    List(Vec<Node>),
    /// `{a: b}` or lines with a colon.
    Table(Vec<Entry>),
}

/// One `key: value`.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The key.
    pub(super) key: String,
    /// The place of the key.
    pub(super) place: Place,
    /// The value.
    pub(super) value: Node,
}

/// Something that YAML, or this subset of it, does not allow.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) found: String,
    pub(super) hint: String,
}

/// Reads one document. Faults that leave the tree intact are returned with it; after a syntax error there is no tree.
pub(super) fn parse(text: &str) -> (Option<Node>, Vec<Fault>) {
    let mut options = Options::default();
    options.set_emit_comments(false);
    // Deep nesting has no use here, and the tree is built by recursion.
    options.flow_nesting_limit = 32;
    options.block_nesting_limit = 32;
    let mut builder = Builder { parser: Parser::new_from_str_with_options(text, options), faults: Vec::new() };
    let tree = builder.document().map_err(|Stop| ()).ok();
    (tree, builder.faults)
}

/// The rest of the text cannot be parsed; the fault is noted.
struct Stop;

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    faults: Vec<Fault>,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => {
                    let hint = "keep the first document, or write one file for each appliance";
                    self.fault(place_of(span), "found a second YAML document", hint);
                    return Err(Stop);
                }
                event => root = Some(self.node(event, span)?),
            }
        }
        Ok(root.unwrap_or(Node { place: Place { line: 1, column: 1, width: 1 }, value: Value::Null }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                self.on_syntax_error(&error);
                Err(Stop)
            }
            None => Err(Stop),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Stop> {
        let place = place_of(span);
        let (tag, value) = match event {
            Event::Scalar(text, style, _, tag) => {
                let plain = style == serde_yaml::granit_parser::ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar(text.into_owned()) };
                (tag.is_some(), value)
            }
            Event::SequenceStart(_, _, tag) => (tag.is_some(), Value::List(self.list()?)),
            Event::MappingStart(_, _, tag) => (tag.is_some(), Value::Table(self.table()?)),
            Event::Alias(_) => {
                let hint = "write the value out";
                self.fault(place, "found a YAML alias, which is not used here", hint);
                (false, Value::Refused)
            }
            _ => return Err(Stop),
        };
        if tag {
            self.fault(place, "found a YAML tag, which is not used here", "remove the word that begins with `!`");
        }
        Ok(Node { place, value })
    }

    fn list(&mut self) -> Result<Vec<Node>, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn table(&mut self) -> Result<Vec<Entry>, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.node(event, span)?;
            let (event, span) = self.next()?;
            let mut value = self.node(event, span)?;
            let name = match key.value {
                Value::Scalar(name) => name,
                _ => {
                    self.fault(key.place, "found a key that is not a word", "write `key: value`");
                    continue;
                }
            };
            if value.place.width == 0 {
                value.place = key.place;
            }
            if let Some(line) = lines.insert(name.clone(), key.place.line) {
                let found = format!("found the key {} a second time", quote(&name));
                let hint = format!("it is already on line {line}: keep one of the two");
                self.fault(key.place, &found, &hint);
                continue;
            }
            entries.push(Entry { key: name, place: key.place, value });
        }
    }

    fn fault(&mut self, place: Place, found: &str, hint: &str) {
        self.faults.push(Fault { place, found: found.to_owned(), hint: hint.to_owned() });
    }

    fn on_syntax_error(&mut self, error: &ScanError) {
        let mark = error.marker();
        let place = Place { line: mark.line().max(1), column: mark.col() + 1, width: 1 };
        let hint = "nothing after this place was checked; a lost space, quote or bracket here or on the line before is \
                    the usual cause";
        self.fault(place, &format!("not YAML: {}", error.info()), hint);
    }
}

fn place_of(span: Span) -> Place {
    let (start, end) = (span.start, span.end);
    let width = if end.line() > start.line() { usize::MAX } else { end.col().saturating_sub(start.col()) };
    Place { line: start.line(), column: start.col() + 1, width }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_key_and_value_has_its_place() {
        let (tree, faults) = parse("a:\n  b: [x, \"y z\"]\n  c:\nd: { e: 1 }\n");
        assert!(faults.is_empty());
        let mut places = Vec::new();
        walk(&tree.unwrap(), String::new(), &mut places);
        let shown: Vec<_> =
            places.iter().map(|(key, p)| format!("{key} {}:{}+{}", p.line, p.column, p.width)).collect();
        assert_eq!(shown, [".a.b.0 2:7+1", ".a.b.1 2:10+5", ".a.c 3:3+1", ".d.e 4:9+1"]);
    }

    fn walk(node: &Node, key: String, places: &mut Vec<(String, Place)>) {
        match &node.value {
            Value::Table(entries) => entries.iter().for_each(|e| walk(&e.value, format!("{key}.{}", e.key), places)),
            Value::List(items) => items.iter().enumerate().for_each(|(i, n)| walk(n, format!("{key}.{i}"), places)),
            _ => places.push((key, node.place)),
        }
    }

    #[test]
    fn yaml_features_that_a_configuration_does_not_need_are_refused() {
        for (text, line, column, found) in [
            ("a: 1\na: 2\n", 2, 1, "found the key \"a\" a second time"),
            ("a: &x 1\nb: *x\n", 2, 4, "found a YAML alias"),
            ("a: !!str 1\n", 1, 10, "found a YAML tag"),
            ("a: 1\n---\nb: 1\n", 3, 1, "found a second YAML document"),
            ("[a]: 1\n", 1, 1, "found a key that is not a word"),
            ("a: [1, 2\n", 1, 4, "not YAML"),
            ("a: \"x\n", 2, 1, "not YAML"),
            ("a:\n\tb: 1\n", 2, 2, "not YAML"),
        ] {
            let (_, faults) = parse(text);
            let fault = faults.first().unwrap_or_else(|| panic!("{text:?} has no fault"));
            assert!(fault.found.starts_with(found), "{text:?}: {}", fault.found);
            assert_eq!((fault.place.line, fault.place.column), (line, column), "{text:?}: {}", fault.found);
        }
    }

    #[test]
    fn deep_nesting_is_a_fault_and_not_a_stack_overflow() {
        let (tree, faults) = parse(&"[".repeat(100_000));
        assert!(tree.is_none() && !faults.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_gives_a_tree_or_a_fault(text in "[ -~\n\t]{0,200}|\\PC{0,100}") {
            let (tree, faults) = parse(&text);
            prop_assert!(tree.is_some() || !faults.is_empty());
        }
    }
}
