//! `hooks`: programs that are run when something happens.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;

use super::redundancy::duration;
use super::schema;
use super::table::{Field, Reading, Table};

/// A program, and what it is run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What it is run for; none twice.
    pub on: Vec<HookEvent>,
    /// The program.
    pub program: PathBuf,
    /// Its arguments, always the same.
    pub arguments: Vec<String>,
    /// How long one run may take.
    pub time_limit: Duration,
}

/// What a hook is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum HookEvent {
    /// The state of the link to a peer has changed.
    Link,
    /// Bytes that were called protected are lost.
    Violation,
    /// A drain has ended with a verdict.
    Drain,
}

impl HookEvent {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Link, Self::Violation, Self::Drain];

    /// Its name in the file, in the environment of a hook and in status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Violation => "violation",
            Self::Drain => "drain",
        }
    }
}

/// Each has a process of its own.
const MOST_HOOKS: usize = 16;
const MOST_ARGUMENTS: usize = 64;
const TIME_LIMIT: Duration = Duration::from_secs(10);
const PROGRAM: &str = "a list: the full path of a program, then its arguments";

impl Hook {
    pub(super) fn read_all(root: &Table<'_>, reading: &mut Reading<'_>) -> Vec<Self> {
        let field = root.field("hooks");
        let hooks = field.list("a list of hooks, each with on, run, time_limit", reading);
        if hooks.len() > MOST_HOOKS {
            let found = format!("found {} hooks", hooks.len());
            reading.error(&field.key, &found, &format!("at most {MOST_HOOKS}"), "one program can tell several others");
        }
        hooks.iter().filter_map(|hook| Self::read(hook, reading)).collect()
    }

    fn read(field: &Field<'_>, reading: &mut Reading<'_>) -> Option<Self> {
        let table = field.table(&schema::HOOK, reading);
        let on = read_events(&table.field("on"), reading);
        let limit = table.field("time_limit");
        let limit = duration(&limit, Duration::from_millis(100)..=Duration::from_secs(600), reading);
        let run = table.required("run", PROGRAM, reading);
        let words = run.list(PROGRAM, reading);
        if words.len() > MOST_ARGUMENTS {
            let found = format!("found {} words", words.len());
            reading.error(&run.key, &found, &format!("at most {MOST_ARGUMENTS}"), "");
        }
        let (program, arguments) = words.split_first().or_else(|| {
            // What is no list was reported, and what is missing too.
            if run.is_list() {
                reading.error(&run.key, "found an empty list", PROGRAM, "");
            }
            None
        })?;
        let program = read_program(program, reading);
        let word = |text: &str| if text.contains('\0') { Err(String::new()) } else { Ok(text.to_owned()) };
        let arguments = arguments.iter().map(|argument| argument.read("text", word, reading));
        let arguments: Vec<_> = arguments.collect();
        Some(Self {
            on,
            program: program?,
            arguments: arguments.into_iter().collect::<Option<_>>()?,
            time_limit: limit.unwrap_or(TIME_LIMIT),
        })
    }
}

fn read_events(field: &Field<'_>, reading: &mut Reading<'_>) -> Vec<HookEvent> {
    if !field.is_present() {
        return HookEvent::ALL.to_vec();
    }
    let choices = HookEvent::ALL.map(|event| (event.name(), event));
    let mut events = Vec::new();
    let elements = field.list("a list of link, violation, drain", reading);
    if elements.is_empty() && field.is_list() {
        reading.error(&field.key, "found an empty list", "link, violation, drain", "leave `on` out for all of them");
    }
    for element in elements {
        let Some(event) = element.choose(&choices, reading) else { continue };
        if events.contains(&event) {
            reading.error(&element.key, &format!("found {} twice", event.name()), "each of them once", "");
            continue;
        }
        events.push(event);
    }
    events
}

fn read_program(field: &Field<'_>, reading: &mut Reading<'_>) -> Option<PathBuf> {
    let parse = |text: &str| match text.starts_with('/') && !text.contains('\0') {
        true => Ok(PathBuf::from(text)),
        false => {
            Err("no shell runs it and no search path is used: write where it lies, such as /usr/bin/logger".to_owned())
        }
    };
    let program = field.read("the full path of a program", parse, reading)?;
    if let Some((found, hint)) = trouble(&program) {
        reading.warning(&field.key, &found, &hint);
    }
    Some(program)
}

/// What will be in the way of running it, and what to do. It may be mended while the appliance runs, so it is no error.
fn trouble(program: &Path) -> Option<(String, String)> {
    let shown = program.display();
    let metadata = match fs::metadata(program) {
        Ok(metadata) => metadata,
        Err(error) => {
            return Some((format!("{shown} cannot be run: {error}"), "install it before it is needed".to_owned()));
        }
    };
    if !metadata.is_file() {
        return Some((format!("{shown} is not a file"), "name a program".to_owned()));
    }
    if metadata.mode() & 0o111 == 0 {
        return Some((
            format!("{shown} cannot be run: its mode is {:04o}", metadata.mode() & 0o7777),
            format!("chmod 755 {shown}"),
        ));
    }
    if metadata.mode() & 0o002 != 0 {
        let hint = format!("whoever writes it runs as the user of the appliance: chmod o-w {shown}");
        return Some((format!("every user can write {shown}"), hint));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn each_wrong_value_is_an_error_at_its_key() {
        let text = "hooks:\n  - run: logger -t onwire\n  - { on: [links, drain, drain], run: [logger], time_limit: 1h }\n  - { on: [], \
                    run: [], shell: /bin/sh }\n  - time_limit: 10ms\n  - { on: link, run: [/nonexistent/hook, [more]] }\n  - \
                    /usr/bin/logger\n";
        let errors = crate::config::parse(text, Path::new("onwire.yaml")).unwrap_err();
        let keys: Vec<&str> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
        for key in [
            "hooks[0].run",
            "hooks[1].on[0]",
            "hooks[1].on[2]",
            "hooks[1].run[0]",
            "hooks[1].time_limit",
            "hooks[2].on",
            "hooks[2].run",
            "hooks[2].shell",
            "hooks[3].run",
            "hooks[3].time_limit",
            "hooks[4].on",
            "hooks[4].run[0]",
            "hooks[4].run[1]",
            "hooks[5]",
        ] {
            assert!(keys.contains(&key), "{key}: {keys:?}");
        }
    }

    #[test]
    fn a_program_that_cannot_be_run_or_is_everybodys_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("hook");
        assert!(trouble(&program).unwrap().0.contains("No such file"));
        assert!(trouble(directory.path()).unwrap().0.contains("is not a file"));
        fs::write(&program, "#!/bin/sh\n").unwrap();
        for (mode, words) in [(0o644, Some("its mode is 0644")), (0o757, Some("every user can write")), (0o755, None)] {
            fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
            let found = trouble(&program).map(|(found, _)| found);
            assert_eq!(found.is_some(), words.is_some(), "{mode:o}: {found:?}");
            assert!(found.unwrap_or_default().contains(words.unwrap_or_default()), "{mode:o}");
        }
    }
}
