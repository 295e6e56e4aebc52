//! What is wrong with a configuration file, told so that it can be put right. Does not find problems.

use std::fmt;
use std::path::PathBuf;

/// Whether a [`Problem`] stops the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but this is probably not meant.
    Warning,
}

/// One thing wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Line from 1; 0 when the problem is the file itself.
    pub line: usize,
    /// Column from 1, in characters; 0 when the problem is the file itself.
    pub column: usize,
    /// Characters to underline, at least 1.
    pub width: usize,
    /// Dotted path such as `peers[0].prefixes[1]`; empty for the whole file.
    pub key: String,
    /// What was found, in words: `found "10.2.0.0/33"` or `missing`.
    pub found: String,
    /// What would be right; may be empty when nothing would.
    pub allowed: String,
    /// What to do next; may be empty.
    pub hint: String,
}

/// Every error in one configuration file, in the order of the file, and its warnings.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    /// The file as it was named.
    pub file: PathBuf,
    /// Its text, for the excerpts.
    pub source: String,
    /// Errors and warnings, sorted by place.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    /// How many of the problems are errors.
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }
}

/// One paragraph a problem: place, key, found, allowed; the line with the place underlined; the hint.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            problem.write(f, &self.file, &self.source)?;
        }
        Ok(())
    }
}

impl Problem {
    /// Writes the problem as one paragraph with an excerpt of `source`, the text of `file`.
    pub fn write(&self, f: &mut impl fmt::Write, file: &std::path::Path, source: &str) -> fmt::Result {
        write!(f, "{}", file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
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
        f.write_char('\n')?;
        if let Some(text) = self.line.checked_sub(1).and_then(|index| source.lines().nth(index)) {
            let number = self.line.to_string();
            // Tabs and control characters would move the caret away from its place or reach the terminal.
            let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let before = " ".repeat(self.column.saturating_sub(1));
            let room = shown.chars().count().saturating_sub(self.column.saturating_sub(1));
            let carets = "^".repeat(self.width.clamp(1, room.max(1)));
            writeln!(f, "  {number} | {shown}")?;
            writeln!(f, "  {} | {before}{carets}", " ".repeat(number.len()))?;
        }
        if !self.hint.is_empty() {
            writeln!(f, "  {}", self.hint)?;
        }
        Ok(())
    }
}
