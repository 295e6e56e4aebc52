//! What an examination has found, for people and programs.

use std::fmt;

use serde::Serialize;

use crate::doctor::facts::Subject;
use crate::io::status_socket::SCHEMA_VERSION;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It could not be seen, and what it takes to see it is said.
    Unseen,
    /// It works, but not always, or not as well as it could.
    Warning,
    /// Something does not work.
    Fault,
}

impl Level {
    /// Its name in texts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unseen => "unseen",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a stable name, such as `forwarding`.
    pub check: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found, as a sentence.
    pub found: String,
    /// What to do, in order: commands and keys. Empty where all is well.
    pub remedies: Vec<String>,
    /// The remedies are for this other host; `None`: for this one.
    pub at: Option<String>,
}

impl Finding {
    fn new(check: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self { check, level, found: found.into(), remedies: Vec::new(), at: None }
    }

    /// All is well.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found)
    }

    /// It could not be seen.
    pub fn unseen(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Unseen, found)
    }

    /// It does not work well.
    pub fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, found)
    }

    /// It does not work.
    pub fn fault(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Fault, found)
    }

    /// With one more thing to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// What is to be done is to be done on this other host.
    pub fn at(mut self, host: &str) -> Self {
        self.at = Some(host.to_owned());
        self
    }
}

/// The whole examination.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this document: later ones only add fields.
    pub schema_version: u32,
    /// The version of the program.
    pub version: &'static str,
    /// `node.name`, if the configuration could be read.
    pub node: Option<String>,
    /// The configuration file.
    pub configuration: Option<String>,
    /// The worst of the findings.
    pub verdict: Level,
    /// How many findings are faults.
    pub faults: usize,
    /// How many are warnings.
    pub warnings: usize,
    /// How many things could not be seen.
    pub unseen: usize,
    /// All findings, in the order in which they were looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Counts the findings.
    pub fn new(subject: &Subject, findings: Vec<Finding>) -> Self {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        Self {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION"),
            node: subject.config().map(|config| config.node.name.clone()),
            configuration: subject.file.as_ref().map(|file| file.display().to_string()),
            verdict: findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok),
            faults: count(Level::Fault),
            warnings: count(Level::Warning),
            unseen: count(Level::Unseen),
            findings,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<8} {:<12} {}", self.level.name(), self.check, self.found)?;
        let at = self.at.as_ref().map_or(String::new(), |host| format!("at {host}: "));
        self.remedies.iter().try_for_each(|remedy| writeln!(f, "         = {at}{remedy}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "no configuration".to_owned();
        writeln!(
            f,
            "{}: {}",
            self.node.as_deref().unwrap_or("this host"),
            self.configuration.clone().unwrap_or_else(unknown)
        )?;
        self.findings.iter().try_for_each(|finding| finding.fmt(f))?;
        let number = |count: usize, one: &str, more: &str| match count {
            0 => format!("no {one}"),
            1 => format!("1 {one}"),
            count => format!("{count} {more}"),
        };
        write!(f, "{}, {}", number(self.faults, "fault", "faults"), number(self.warnings, "warning", "warnings"))?;
        match self.unseen {
            0 => writeln!(f),
            count => writeln!(f, "; {} could not be seen", number(count, "thing", "things")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::Configuration;

    #[test]
    fn the_worst_finding_is_the_verdict_and_the_other_host_is_named() {
        let subject =
            Subject { file: Some("a.yaml".into()), configuration: Configuration::None("".into()), socket: None };
        let findings = vec![
            Finding::ok("clock", "synchronised"),
            Finding::fault("peer", "syracuse: no").remedy("do this").remedy("then that").at("syracuse"),
            Finding::unseen("firewall", "no right to ask"),
        ];
        let report = Report::new(&subject, findings);
        assert_eq!((report.verdict, report.faults, report.warnings, report.unseen), (Level::Fault, 1, 0, 1));
        let text = "this host: a.yaml\n\
                    ok       clock        synchronised\n\
                    fault    peer         syracuse: no\n         = at syracuse: do this\n\
                    \x20        = at syracuse: then that\n\
                    unseen   firewall     no right to ask\n\
                    1 fault, no warning; 1 thing could not be seen\n";
        assert_eq!(report.to_string(), text);
        assert_eq!(Report::new(&subject, Vec::new()).verdict, Level::Ok);
    }
}
