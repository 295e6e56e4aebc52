//! Reads the YAML tree: a table returns its keys, a key returns its value, and errors are noted, never returned.
//!
//! A wrong value is noted and replaced by a stand-in, so that reading continues and finds the next error; the result is
//! used only when no error was noted. This module knows no keys.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::problem::{Place, Problem, Severity, did_you_mean, excerpt, quote};
use super::schema::Keys;
use super::yaml::{Entry, Node, Value};

/// One reading of one file: the problems noted so far, and the place of every key.
pub(super) struct Reading<'a> {
    file: &'a Path,
    lines: Vec<&'a str>,
    problems: Vec<Problem>,
    places: HashMap<String, Place>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, lines: text.lines().collect(), problems: Vec::new(), places: HashMap::new() }
    }

    /// The file.
    pub(super) fn file(&self) -> &Path {
        self.file
    }

    /// `path`, relative to the directory of the configuration file.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Notes an error about the value of `key`, or about the nearest table around it that the file has.
    pub(super) fn error(&mut self, key: &str, found: &str, allowed: &str, hint: &str) {
        self.note(Severity::Error, self.place(key), key, [found, allowed, hint]);
    }

    /// Notes a warning about the value of `key`.
    pub(super) fn warning(&mut self, key: &str, found: &str, hint: &str) {
        self.note(Severity::Warning, self.place(key), key, [found, "", hint]);
    }

    /// Notes an error at a place.
    pub(super) fn error_at(&mut self, place: Place, key: &str, found: &str, hint: &str) {
        self.note(Severity::Error, place, key, [found, "", hint]);
    }

    /// Whether nothing worse than a warning was noted.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity == Severity::Warning)
    }

    /// `line N`, the line of `key`, for references from other messages.
    pub(super) fn line(&self, key: &str) -> String {
        format!("line {}", self.place(key).line)
    }

    /// The error noted last is that the operating system does not let this process read `file`.
    pub(super) fn mark_denied(&mut self, file: &Path) {
        if let Some(problem) = self.problems.last_mut() {
            problem.denied = Some(file.to_owned());
        }
    }

    /// Everything noted, in the order of the file.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| (problem.place, problem.severity));
        self.problems
    }

    fn place(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return *place;
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                // The file has nothing to underline.
                None => {
                    return Place { line: 1, column: 1, width: 0 };
                }
            }
        }
    }

    fn note(&mut self, severity: Severity, place: Place, key: &str, [found, allowed, hint]: [&str; 3]) {
        // A control character in a name could move the cursor or recolour the terminal.
        let clean = |text: &str| -> String {
            let text = text.chars().take(2000);
            text.map(|c| if c.is_control() { '?' } else { c }).collect()
        };
        self.problems.push(Problem {
            denied: None,
            severity,
            file: self.file.to_owned(),
            place,
            key: clean(key),
            found: clean(found),
            allowed: clean(allowed),
            hint: clean(hint),
            excerpt: excerpt(&self.lines, place),
        });
    }
}

/// A table of the file, or an empty one that stands in for a table that is missing or wrong.
#[derive(Clone)]
pub(super) struct Table<'t> {
    key: String,
    entries: &'t [Entry],
    /// It stands in for something else. That was noted, and errors that follow from it are not.
    stand_in: bool,
}

/// A key of a table, with its value if the file has one that is not null.
pub(super) struct Field<'t> {
    /// Dotted path.
    pub(super) key: String,
    node: Option<&'t Node>,
}

impl<'t> Table<'t> {
    /// The top of the file.
    pub(super) fn root(node: &'t Node, keys: &Keys, reading: &mut Reading<'_>) -> Self {
        Field { key: String::new(), node: Some(node) }.table(keys, reading)
    }

    /// The key with that name, whether or not the file has it.
    pub(super) fn field(&self, name: &str) -> Field<'t> {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        let node = entry.map(|entry| &entry.value).filter(|node| !matches!(node.value, Value::Null));
        Field { key: join(&self.key, name), node }
    }

    /// The key with that name. If it is missing, that is an error, which lists `allowed`.
    pub(super) fn required(&self, name: &str, allowed: &str, reading: &mut Reading<'_>) -> Field<'t> {
        let field = self.field(name);
        if field.node.is_none() && !self.stand_in {
            reading.error(&field.key, "missing", allowed, "");
        }
        field
    }

    /// The table with that name. If it is missing, that is one error, not one for each of its keys.
    pub(super) fn required_table(&self, name: &str, keys: &Keys, reading: &mut Reading<'_>) -> Table<'t> {
        let allowed = format!("a table with {}", keys.in_force.join(", "));
        let field = self.required(name, &allowed, reading);
        let table = field.table(keys, reading);
        Table { stand_in: table.stand_in || !field.is_present(), ..table }
    }

    /// Every entry, for tables whose keys are names chosen by the user.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'t str, Field<'t>)> {
        let path = self.key.clone();
        self.entries.iter().map(move |entry| {
            let name = entry.key.as_str();
            (name, Field { key: join(&path, name), node: Some(&entry.value) })
        })
    }

    fn check_keys(&self, keys: &Keys, reading: &mut Reading<'_>) {
        for entry in self.entries {
            if keys.in_force.contains(&entry.key.as_str()) {
                continue;
            }
            let all = format!("the keys here are {}", keys.in_force.join(", "));
            let near = did_you_mean(&entry.key, keys.in_force.iter().copied());
            let key = join(&self.key, &entry.key.chars().take(64).collect::<String>());
            let found = format!("found the unknown key {}", quote(&entry.key));
            reading.error_at(entry.place, &key, &found, &near.unwrap_or(all));
        }
    }
}

impl<'t> Field<'t> {
    /// Whether the file has a value here.
    pub(super) fn is_present(&self) -> bool {
        self.node.is_some()
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.node, Some(Node { value: Value::Table(_), .. }))
    }

    /// Whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node, Some(Node { value: Value::List(_), .. }))
    }

    /// The value as parsed by `parse`, or `None` if it is absent or wrong. The error of `parse` is a hint.
    pub(super) fn read<T>(
        &self,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
        reading: &mut Reading<'_>,
    ) -> Option<T> {
        let node = self.node?;
        reading.places.insert(self.key.clone(), node.place);
        if matches!(node.value, Value::Refused) {
            return None;
        }
        let Value::Scalar(text) = &node.value else {
            reading.error(&self.key, &self.found(), allowed, "");
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(hint) => {
                reading.error(&self.key, &self.found(), allowed, &hint);
                None
            }
        }
    }

    /// The value as one of a few words.
    pub(super) fn choose<T: Copy>(&self, choices: &[(&str, T)], reading: &mut Reading<'_>) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let allowed = words().collect::<Vec<_>>().join(", ");
        let choose = |text: &str| {
            let choice = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            choice.ok_or_else(|| did_you_mean(text, words()).unwrap_or_default())
        };
        self.read(&allowed, choose, reading)
    }

    /// The value as a whole number in a range.
    pub(super) fn number(&self, range: std::ops::RangeInclusive<u32>, reading: &mut Reading<'_>) -> Option<u32> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let parse = |text: &str| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(String::new()),
        };
        self.read(&allowed, parse, reading)
    }

    /// The value as a table with these keys. An absent value gives an empty table; any other kind of value is an error.
    pub(super) fn table(&self, keys: &Keys, reading: &mut Reading<'_>) -> Table<'t> {
        let table = self.names(reading);
        table.check_keys(keys, reading);
        table
    }

    /// The value as a table whose keys are names chosen by the user.
    pub(super) fn names(&self, reading: &mut Reading<'_>) -> Table<'t> {
        let mut stand_in = false;
        let mut entries: &[Entry] = &[];
        if let Some(node) = self.node {
            // If the table has noted the key's own place, that place is the better one to point at.
            reading.places.entry(self.key.clone()).or_insert(node.place);
            match &node.value {
                Value::Table(table) => entries = table,
                Value::Null => {}
                Value::Refused => stand_in = true,
                _ => {
                    let allowed = "a table: lines of `key: value`";
                    reading.error(&self.key, &self.found(), allowed, "");
                    stand_in = true;
                }
            }
        }
        for entry in entries {
            reading.places.insert(join(&self.key, &entry.key), entry.place);
        }
        Table { key: self.key.clone(), entries, stand_in }
    }

    /// The elements of a list; a value that is not a list is an error.
    pub(super) fn list(&self, allowed: &str, reading: &mut Reading<'_>) -> Vec<Field<'t>> {
        let Some(node) = self.node else {
            return Vec::new();
        };
        if matches!(node.value, Value::Refused) {
            return Vec::new();
        }
        let Value::List(items) = &node.value else {
            reading.places.insert(self.key.clone(), node.place);
            let hint = "write a list: [one, two], or one a line with a dash";
            reading.error(&self.key, &self.found(), allowed, hint);
            return Vec::new();
        };
        let field = |(index, node): (usize, &'t Node)| {
            let key = format!("{}[{index}]", self.key);
            reading.places.insert(key.clone(), node.place);
            Field { key, node: Some(node) }
        };
        items.iter().enumerate().map(field).collect()
    }

    fn found(&self) -> String {
        match self.node.map(|node| &node.value) {
            Some(Value::Scalar(text)) => format!("found {}", quote(text)),
            Some(Value::List(_)) => "found a list".to_owned(),
            Some(Value::Table(_)) => "found a table".to_owned(),
            Some(Value::Null | Value::Refused) | None => "found nothing".to_owned(),
        }
    }
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}
