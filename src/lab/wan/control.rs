//! The emulator's control socket: each line in is a command, each line out a JSON object.
//!
//! ```text
//! set [forth|back] KEY VALUE [, KEY VALUE ...]      both directions if none is named
//! open | cut | blackhole [forth|back]               short for `set passage ...`
//! counters                                          the counters of each direction
//! ```
//!
//! Answers are `{"ok": true, ...}` or `{"ok": false, "error": "..."}`. This module only parses and answers;
//! [`super::emulator`] runs the commands.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{counters::Counters, direction::DirectionHandle};

/// A command, for one direction or for both.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Set { directions: &'static [usize], changes: Vec<(String, String)> },
    Counters,
}

/// The emulator's counters of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// From the first device to the second.
    pub forth: Counters,
    /// From the second device to the first.
    pub back: Counters,
}

impl Truth {
    /// What was counted after `earlier` was taken.
    pub fn since(&self, earlier: &Truth) -> Truth {
        Truth { forth: self.forth.since(&earlier.forth), back: self.back.since(&earlier.back) }
    }
}

/// Listens on `path` and answers in threads until the process ends.
pub fn listen(path: &Path, lines: [DirectionHandle; 2]) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    thread::Builder::new().name("wan-control".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines = lines.clone();
            // If no thread can be started, the caller sees a closed connection.
            let _ = thread::Builder::new().spawn(move || serve(stream, &lines));
        }
    })?;
    Ok(())
}

fn serve(stream: UnixStream, lines: &[DirectionHandle; 2]) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    for command in BufReader::new(stream).lines() {
        let answer = match parse(&command?) {
            Ok(command) => execute(command, lines),
            Err(error) => json!({ "ok": false, "error": error }),
        };
        writeln!(answers, "{answer}")?;
    }
    Ok(())
}

fn execute(command: Command, lines: &[DirectionHandle; 2]) -> serde_json::Value {
    match command {
        Command::Set { directions, changes } => {
            let mut now = Vec::new();
            for &direction in directions {
                match lines[direction].set(changes.clone()) {
                    Ok(description) => now.push(description),
                    Err(error) => return json!({ "ok": false, "error": error }),
                }
            }
            json!({ "ok": true, "now": now })
        }
        Command::Counters => match (lines[0].counters(), lines[1].counters()) {
            (Some(forth), Some(back)) => json!({ "ok": true, "forth": forth, "back": back }),
            _ => json!({ "ok": false, "error": "a direction has stopped" }),
        },
    }
}

fn parse(line: &str) -> Result<Command, String> {
    let allowed = "allowed: set [forth|back] KEY VALUE [, KEY VALUE], open, cut, blackhole, counters";
    let line = line.trim();
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (directions, rest) = direction(rest.trim());
    match verb {
        "counters" if rest.is_empty() => Ok(Command::Counters),
        "open" | "cut" | "blackhole" if rest.is_empty() => {
            Ok(Command::Set { directions, changes: vec![("passage".to_owned(), verb.to_owned())] })
        }
        "set" => {
            let changes = rest.split(',').map(|change| {
                let (key, value) = change.trim().split_once(char::is_whitespace)?;
                Some((key.to_owned(), value.trim().to_owned()))
            });
            match changes.collect::<Option<Vec<_>>>() {
                Some(changes) => Ok(Command::Set { directions, changes }),
                None => Err(format!("found \"{rest}\"; {allowed}")),
            }
        }
        _ => Err(format!("found \"{line}\"; {allowed}")),
    }
}

fn direction(rest: &str) -> (&'static [usize], &str) {
    let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match word {
        "forth" => (&[0], after.trim()),
        "back" => (&[1], after.trim()),
        _ => (&[0, 1], rest),
    }
}

/// A client of a running emulator; it opens one connection for each command.
#[derive(Clone, Debug)]
pub struct Remote {
    socket: PathBuf,
}

impl Remote {
    /// An emulator that listens on `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Sends one command line and returns the answer.
    pub fn tell(&self, command: &str) -> io::Result<serde_json::Value> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(stream, "{command}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        match answer["ok"].as_bool() {
            Some(true) => Ok(answer),
            _ => Err(io::Error::other(answer["error"].as_str().unwrap_or("no answer").to_owned())),
        }
    }

    /// The counters of both directions.
    pub fn truth(&self) -> io::Result<Truth> {
        Ok(serde_json::from_value(self.tell("counters")?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(directions: &'static [usize], changes: &[(&str, &str)]) -> Command {
        let changes = changes.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Command::Set { directions, changes }
    }

    #[test]
    fn valid_commands_are_parsed() {
        assert_eq!(parse("counters"), Ok(Command::Counters));
        assert_eq!(parse("set loss 1%"), Ok(set(&[0, 1], &[("loss", "1%")])));
        assert_eq!(
            parse(" set back loss bursts 1% 25% , delay 5ms "),
            Ok(set(&[1], &[("loss", "bursts 1% 25%"), ("delay", "5ms")]))
        );
        assert_eq!(parse("cut forth"), Ok(set(&[0], &[("passage", "cut")])));
        assert_eq!(parse("open"), Ok(set(&[0, 1], &[("passage", "open")])));
    }

    #[test]
    fn invalid_commands_are_refused_with_the_allowed_ones() {
        for line in ["", "set", "set loss", "set forth", "cut everything", "counters now", "help"] {
            assert!(parse(line).unwrap_err().contains("allowed: set"), "{line}");
        }
    }
}
