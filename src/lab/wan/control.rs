//! The emulator's control socket: each line in is a command, each line out a JSON object.
//!
//! ```text
//! set [forth|back] KEY VALUE [, KEY VALUE ...]      both directions if none is named
//! open | cut | blackhole [forth|back]               short for `set passage ...`
//! interrupt [forth|back] DURATION [at OFFSET]       loses what enters for so long, from now or so much later
//! lose [forth|back] COUNT [longer BYTES]            loses the next datagrams, of those at least so long
//! interruptions                                     the last of them: when they were, and how many datagrams each took
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
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{counters::Counters, direction::DirectionHandle, interruptions::Window};
use crate::lab::{monotonic::Monotonic, units};

/// A command, for one direction or for both.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Set { directions: &'static [usize], changes: Vec<(String, String)> },
    Interrupt { directions: &'static [usize], length: Duration, after: Duration },
    Interruptions,
    LoseNext { directions: &'static [usize], count: u64, bytes: u64 },
    Counters,
}

/// An interruption, in nanoseconds of the kernel's monotonic clock, which all processes of the machine share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    /// 0: forth, 1: back.
    pub direction: usize,
    /// Its beginning.
    pub from_ns: u64,
    /// Its end.
    pub until_ns: u64,
    /// Datagrams that it has swallowed so far.
    pub swallowed: u64,
    /// The longest time around it in which the emulator did not look for datagrams.
    pub unseen_ns: u64,
}

impl Interruption {
    fn new(direction: usize, window: Window, clock: Monotonic) -> Self {
        let [from_ns, until_ns] = [window.from, window.until].map(|at| clock.to_ns(at));
        let unseen_ns = window.unseen.as_nanos() as u64;
        Self { direction, from_ns, until_ns, swallowed: window.swallowed, unseen_ns }
    }
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
        Command::Interrupt { directions, length, after } => {
            let (from, clock) = (Instant::now() + after, Monotonic::now());
            let interrupt = |&at: &usize| Some(Interruption::new(at, lines[at].interrupt(from, from + length)?, clock));
            match directions.iter().map(interrupt).collect::<Option<Vec<_>>>() {
                Some(interruptions) => json!({ "ok": true, "interruptions": interruptions }),
                None => json!({ "ok": false, "error": STOPPED }),
            }
        }
        Command::LoseNext { directions, count, bytes } => {
            match directions.iter().map(|at| lines[*at].lose_next(count, bytes)).collect::<Option<Vec<_>>>() {
                Some(_) => json!({ "ok": true }),
                None => json!({ "ok": false, "error": STOPPED }),
            }
        }
        Command::Interruptions => {
            let clock = Monotonic::now();
            let of = |at: usize| {
                let windows = lines[at].interruptions()?;
                Some(windows.into_iter().map(move |window| Interruption::new(at, window, clock)).collect::<Vec<_>>())
            };
            match (of(0), of(1)) {
                (Some(forth), Some(back)) => json!({ "ok": true, "interruptions": ([forth, back].concat()) }),
                _ => json!({ "ok": false, "error": STOPPED }),
            }
        }
        Command::Counters => match (lines[0].counters(), lines[1].counters()) {
            (Some(forth), Some(back)) => json!({ "ok": true, "forth": forth, "back": back }),
            _ => json!({ "ok": false, "error": STOPPED }),
        },
    }
}

const STOPPED: &str = "a direction has stopped";

fn parse(line: &str) -> Result<Command, String> {
    let allowed = "allowed: set [forth|back] KEY VALUE [, KEY VALUE], open, cut, blackhole, interrupt [forth|back] \
                   DURATION [at OFFSET], lose [forth|back] COUNT [longer BYTES], interruptions, counters";
    let line = line.trim();
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (directions, rest) = direction(rest.trim());
    match verb {
        "counters" if rest.is_empty() => Ok(Command::Counters),
        "interruptions" if rest.is_empty() => Ok(Command::Interruptions),
        "lose" => {
            let (count, bytes) = rest.split_once(" longer ").unwrap_or((rest, "0"));
            let count = count.trim().parse().map_err(|_| format!("found \"{count}\"; {allowed}"))?;
            let bytes = units::parse_bytes(bytes).map_err(|error| error.to_string())?;
            Ok(Command::LoseNext { directions, count, bytes })
        }
        "interrupt" => {
            let (length, after) = rest.split_once(" at ").unwrap_or((rest, "0"));
            let [length, after] = [length, after].map(units::parse_duration);
            let (length, after) =
                (length.map_err(|error| error.to_string())?, after.map_err(|error| error.to_string())?);
            Ok(Command::Interrupt { directions, length, after })
        }
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

    /// Interrupts the direction from the first device to the second for `length`, beginning `after` from now; returns the true
    /// window.
    pub fn interrupt(&self, length: Duration, after: Duration) -> io::Result<Interruption> {
        let [length, after] = [length, after].map(|time| time.as_nanos());
        let answer = self.tell(&format!("interrupt forth {length}ns at {after}ns"))?;
        Ok(serde_json::from_value(answer["interruptions"][0].clone())?)
    }

    /// What an interruption has become. Nanoseconds differ a little from answer to answer, so the nearest one is it.
    pub fn look_at(&self, asked: &Interruption) -> io::Result<Interruption> {
        let mut all = self.interruptions()?;
        all.retain(|it| it.direction == asked.direction);
        let nearest = all.into_iter().min_by_key(|it| it.from_ns.abs_diff(asked.from_ns));
        nearest.ok_or_else(|| io::Error::other("there was no interruption"))
    }

    /// The last interruptions.
    pub fn interruptions(&self) -> io::Result<Vec<Interruption>> {
        Ok(serde_json::from_value(self.tell("interruptions")?["interruptions"].take())?)
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
        let (length, after) = (Duration::from_millis(2), Duration::from_micros(1500));
        assert_eq!(
            parse("interrupt 2ms"),
            Ok(Command::Interrupt { directions: &[0, 1], length, after: Duration::ZERO })
        );
        assert_eq!(parse("interrupt back 2ms at 1.5ms"), Ok(Command::Interrupt { directions: &[1], length, after }));
        assert_eq!(parse("interruptions"), Ok(Command::Interruptions));
        assert_eq!(parse("lose forth 4 longer 700B"), Ok(Command::LoseNext { directions: &[0], count: 4, bytes: 700 }));
        assert_eq!(parse("lose 4"), Ok(Command::LoseNext { directions: &[0, 1], count: 4, bytes: 0 }));
    }

    #[test]
    fn invalid_commands_are_refused_with_the_allowed_ones() {
        for line in
            ["", "lose", "lose x", "lose -1", "set", "set loss", "set forth", "cut everything", "counters now", "help"]
        {
            assert!(parse(line).unwrap_err().contains("allowed: set"), "{line}");
        }
        for line in ["interrupt", "interrupt forth", "interrupt 2", "interrupt 2ms at", "interrupt 2ms at noon"] {
            assert!(parse(line).unwrap_err().contains("allowed: a duration"), "{line}");
        }
    }
}
