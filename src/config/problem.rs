//! What is wrong with a configuration file, reported so that users can correct it. Problems are found elsewhere.

use std::fmt;
use std::path::{Path, PathBuf};

/// Whether a [`Problem`] stops the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but this is probably not meant.
    Warning,
}

/// A part of one line of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line from 1; 0 when the problem is the file itself.
    pub line: usize,
    /// Column from 1, in characters.
    pub column: usize,
    /// Characters to underline; 0 when there is nothing to show.
    pub width: usize,
}

/// One error or warning at one place.
///
/// Shown as `file:line:column: key: found; allowed: ...`, then the line with the place underlined, then the hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The file, as named by the user.
    pub file: PathBuf,
    /// Where in the file.
    pub place: Place,
    /// Dotted path such as `peers[0].prefixes[1]`; empty for the whole file.
    pub key: String,
    /// What was found, as a phrase: `found "10.2.0.0/33"` or `missing`.
    pub found: String,
    /// What would be right; may be empty.
    pub allowed: String,
    /// What to do next; may be empty.
    pub hint: String,
    /// The file that the operating system does not let this process read, where that is what is wrong.
    pub denied: Option<PathBuf>,
    /// The line, as far as it fits, and how many columns were skipped on its left.
    pub(super) excerpt: Option<(String, usize)>,
}

/// Everything wrong with one configuration file, in the order of the file: at least one error, and the warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// Errors and warnings, sorted by place.
    pub problems: Vec<Problem>,
}

impl ConfigErrors {
    /// How many of the problems are errors.
    pub fn errors(&self) -> usize {
        let is_error = |problem: &&Problem| problem.severity == Severity::Error;
        self.problems.iter().filter(is_error).count()
    }

    /// The files that the operating system does not let this process read.
    pub fn denied(&self) -> impl Iterator<Item = &Path> {
        self.problems.iter().filter_map(|problem| problem.denied.as_deref())
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problems.iter().try_for_each(|problem| problem.fmt(f))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.place.line > 0 {
            write!(f, ":{}:{}", self.place.line, self.place.column)?;
        }
        f.write_str(": ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.found)?;
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        writeln!(f)?;
        if let Some((text, skipped)) = &self.excerpt {
            let number = self.place.line.to_string();
            let indent = self.place.column.saturating_sub(1 + skipped);
            let room = text.chars().count().saturating_sub(indent).max(1);
            let carets = "^".repeat(self.place.width.clamp(1, room));
            writeln!(f, "  {number} | {text}")?;
            let gutter = " ".repeat(number.len());
            writeln!(f, "  {gutter} | {}{carets}", " ".repeat(indent))?;
        }
        if !self.hint.is_empty() {
            writeln!(f, "  = {}", self.hint)?;
        }
        Ok(())
    }
}

/// The part of the line at `place` that an error shows, and how many columns were skipped on its left.
pub(super) fn excerpt(lines: &[&str], place: Place) -> Option<(String, usize)> {
    const SHOWN: usize = 120;
    if place.width == 0 {
        return None;
    }
    let line = lines.get(place.line.checked_sub(1)?)?;
    let column = place.column.saturating_sub(1);
    let skipped = if column + place.width.min(SHOWN / 4) <= SHOWN { 0 } else { column - SHOWN / 2 };
    // A control character would shift the caret, or control the terminal.
    let shown = line.chars().skip(skipped).take(SHOWN);
    let mut text: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    if skipped > 0 {
        let rest: String = text.chars().skip(3).collect();
        text = format!("...{rest}");
    }
    Some((text.trim_end().to_owned(), skipped))
}

/// A value as errors quote it: numbers bare, everything else in quotes, cut when it is long.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    if !text.is_empty() && text.len() <= 20 && text.parse::<f64>().is_ok() {
        return text.to_owned();
    }
    let mut quoted: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        quoted.push_str("...");
    }
    format!("\"{quoted}\"")
}

/// `did you mean NAME?` when one of `names` is close to `word`, else nothing.
pub(super) fn did_you_mean<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let word: String = word.chars().take(64).flat_map(char::to_lowercase).collect();
    let scored = names.map(|name| (strsim::jaro_winkler(&word, name), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then(|| format!("did you mean `{}`?", best.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_readable_paragraph() {
        let place = Place { line: 2, column: 8, width: 3 };
        let problem = Problem {
            severity: Severity::Error,
            file: "a.yaml".into(),
            place,
            key: "tun.mtu".into(),
            found: "found 100".into(),
            allowed: "576 to 9216".into(),
            hint: "think".into(),
            denied: None,
            excerpt: excerpt(&["tun:", "  mtu: 100"], place),
        };
        let expected =
            "a.yaml:2:8: tun.mtu: found 100; allowed: 576 to 9216\n  2 |   mtu: 100\n    |        ^^^\n  = think\n";
        assert_eq!(problem.to_string(), expected);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = "x".repeat(5000);
        let (text, skipped) = excerpt(&[&line], Place { line: 1, column: 4000, width: 1 }).unwrap();
        assert!(text.len() <= 120 && skipped < 4000 && skipped + 120 > 4000);
    }

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let names = ["prefixes", "endpoint", "public_key"];
        for (word, hint) in [
            ("prefixs", Some("did you mean `prefixes`?")),
            ("Endpoints", Some("did you mean `endpoint`?")),
            ("publickey", Some("did you mean `public_key`?")),
            ("colour", None),
        ] {
            assert_eq!(did_you_mean(word, names.into_iter()).as_deref(), hint, "{word}");
        }
    }
}
