//! `onwire apply`: lets a running appliance follow a candidate, and makes it the configuration file once it is confirmed.
//!
//! The appliance owns the time: it goes back by itself, whatever becomes of this process and its terminal.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;

use super::control::ControlSocket;
use super::processes::find_socket;
use super::{FAILURE, USAGE, print, print_error};
use crate::appliance::control::request::Request;
use crate::appliance::status::candidate::{CandidateState, ConfigurationStatus};
use crate::config::replacement::Replacement;
use crate::config::units::{parse_duration, show_duration};
use crate::config::{Source, sha256};
use crate::io::signal::{self, Signal};

/// Without `--confirm-within` this process confirms, at once; if it ends before, the appliance goes back.
const CONFIRMED_AT_ONCE: Duration = Duration::from_secs(10);
/// The times that `--confirm-within` may say.
const CONFIRM_WITHIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(24 * 3600)];
/// How often the appliance is asked whether the candidate was confirmed or rejected elsewhere.
const ROUND: Duration = Duration::from_secs(1);

/// Arguments of `onwire apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire apply new.yaml --confirm-within 60s   follow it: yes keeps it, else it goes back in time
  onwire confirm                               keep it, from any terminal
  onwire confirm --reject                      go back now
  onwire apply new.yaml                        follow it and keep it, if all of it can be followed
  onwire apply new.yaml --confirm-within 60s --no-wait && probe && onwire confirm

The candidate counts as if it lay at the configuration file: key files are found from there. The appliance follows
all of it, as in a reload, or nothing: what is wrong, or cannot change while it runs, is said. Unconfirmed, it goes
back by itself to what it followed before, even if this command, its terminal or the way to it is gone; a restart
goes back too. Once confirmed the candidate replaces the configuration file, at one moment.
Exit codes: 0 followed and kept (with --no-wait, and where standard input is no terminal: followed, unconfirmed), 1
not, 2 usage, 3 no appliance answers. Run it as root, or as the user of the appliance where that user may replace the
file.")]
pub struct Apply {
    /// The candidate, another file than the configuration file; - reads standard input
    file: PathBuf,
    /// Go back by itself after this time, unless it is confirmed: 1s to 1440min
    #[arg(long, value_name = "TIME", value_parser = parse_confirm_within)]
    confirm_within: Option<Duration>,
    /// Do not wait for an answer on the terminal: `onwire confirm` keeps the candidate
    #[arg(long, requires = "confirm_within")]
    no_wait: bool,
    /// The status socket; by default the one in the configuration, or the only one in /run/onwire.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration file that names the socket.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn parse_confirm_within(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    match (CONFIRM_WITHIN[0]..=CONFIRM_WITHIN[1]).contains(&time) {
        true => Ok(time),
        false => Err("1s to 1440min are possible".to_owned()),
    }
}

/// What ends the wait for an answer.
enum Event {
    /// A line was typed.
    Line(String),
    Signal(Signal),
}

impl Apply {
    /// Applies, waits for the answer where there is a terminal, and says how that ended.
    pub fn run(self) -> ExitCode {
        let socket = match find_socket(self.socket.as_deref(), self.config.as_deref(), "apply") {
            Ok(socket) => socket,
            Err(code) => return code,
        };
        match self.apply(&ControlSocket::beside(&socket)) {
            Ok(text) => print(format_args!("{text}\n")),
            Err((code, text)) => {
                print_error(format_args!("onwire apply: {text}\n"));
                ExitCode::from(code)
            }
        }
    }

    fn apply(&self, control: &ControlSocket) -> Result<String, (u8, String)> {
        let failed = |text| (FAILURE, text);
        let configuration = control.ask_first(&Request::Show)?.configuration;
        let file = Path::new(&configuration.file);
        let source = Source::read(&self.file, Some(file)).map_err(|errors| (USAGE, errors.to_string()))?;
        if is_same(&self.file, file) {
            return Err((USAGE, itself(file)));
        }
        let replacement = control
            .prepare(&configuration.file, &source.text, &configuration.sha256)
            .map_err(|text| failed(format!("{text}{}", advice(&configuration))))?;
        let digest = sha256(&source.text);
        if digest == configuration.sha256 {
            return Ok(format!("{} is what the appliance follows already", self.file.display()));
        }
        let within = self.confirm_within.unwrap_or(CONFIRMED_AT_ONCE);
        let request = Request::Apply {
            text: source.text,
            replaces: configuration.sha256.clone(),
            confirm_within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        };
        let shown = self.file.display();
        // From here on Ctrl-C lets it go back.
        let is_asked = self.confirm_within.is_some() && !self.no_wait && std::io::stdin().is_terminal();
        let events = is_asked.then(listen).transpose().map_err(failed)?;
        let answer = control.ask_for_any(&request).map_err(|text| {
            failed(format!(
                "{text}\nwhether it is followed is not known: `onwire status` says so, and `onwire confirm --reject` goes back"
            ))
        })?;
        if !answer.is_good {
            return Err(failed(format!("{shown}, as {}:\n{}", file.display(), answer.text)));
        }
        if self.confirm_within.is_none() {
            let kept = control.keep(&digest, replacement).map_err(failed)?;
            return Ok(format!("followed: {}\n{kept}", answer.text));
        }
        let followed = format!("followed, unconfirmed: {}", answer.text);
        let after = show_duration(within);
        let Some(events) = events else {
            return Ok(format!("{followed}\nit goes back in {after}; `onwire confirm` keeps it"));
        };
        let asked = format!("it goes back in {after}: type yes to keep it, no (or Ctrl-C) to go back now");
        print(format_args!("{followed}\n{asked}\n"));
        wait(control, &digest, replacement, &events).map_err(failed)
    }
}

/// Waits for an answer here, or an end elsewhere.
fn wait(
    control: &ControlSocket,
    digest: &str,
    replacement: Replacement,
    events: &Receiver<Event>,
) -> Result<String, String> {
    loop {
        match events.recv_timeout(ROUND) {
            Ok(Event::Line(line)) => match line.trim() {
                "yes" => return control.keep(digest, replacement),
                "no" => return reject(control),
                _ => print(format_args!("type yes to keep it, no to go back now\n")),
            },
            Ok(Event::Signal(Signal::Interrupt)) => return reject(control),
            Ok(Event::Signal(Signal::Terminate | Signal::HangUp)) => {
                return Err("still unconfirmed; it goes back by itself".to_owned());
            }
            Ok(Event::Signal(Signal::User1)) => continue,
            // The thread of signals keeps the channel.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let ended =
                    |error| format!("{error}\nif the appliance was restarted, it runs the configuration of before");
                let configuration = control.ask(&Request::Show).map_err(ended)?.configuration;
                match end(&configuration, digest) {
                    // Whoever has confirmed it elsewhere may not have written the file.
                    End::Confirmed => return control.keep(digest, replacement),
                    End::Other(end) => return end,
                    End::No => {}
                }
                continue;
            }
        };
    }
}

/// How a candidate ended.
enum End {
    /// It has not.
    No,
    /// Someone has confirmed it, and the file does not have it yet.
    Confirmed,
    Other(Result<String, String>),
}

fn end(configuration: &ConfigurationStatus, digest: &str) -> End {
    let Some(candidate) = configuration.candidate.as_ref().filter(|it| it.sha256 == digest) else {
        let file = &configuration.file;
        return End::Other(Err(format!("it is not followed any more: the appliance was restarted, and runs {file}")));
    };
    match candidate.state {
        CandidateState::Unconfirmed => End::No,
        CandidateState::GoingBack | CandidateState::WentBack => {
            End::Other(Err(format!("went back: {}", candidate.text)))
        }
        CandidateState::Confirmed => End::Confirmed,
        CandidateState::Saved => End::Other(Ok("confirmed elsewhere".to_owned())),
    }
}

fn reject(control: &ControlSocket) -> Result<String, String> {
    // What was asked for has been done, but nothing is kept.
    control.ask(&Request::Reject).and_then(|answer| Err(format!("rejected: {}", answer.text)))
}

/// Lines of the terminal, and signals.
fn listen() -> Result<Receiver<Event>, String> {
    let (sender, events) = channel();
    let of_signals = sender.clone();
    signal::listen(move |signal| drop(of_signals.send(Event::Signal(signal)))).map_err(|error| error.to_string())?;
    let lines = move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(Event::Line(line)).is_err() {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name("terminal".to_owned());
    thread.spawn(lines).map_err(|error| format!("cannot start a thread: {error}; it goes back by itself"))?;
    Ok(events)
}

fn is_same(file: &Path, configuration: &Path) -> bool {
    matches!((file.canonicalize(), configuration.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn itself(file: &Path) -> String {
    let file = file.display();
    format!(
        "{file} is the configuration file itself: a restart would run it unconfirmed. Write the candidate to another file and \
         leave this one as it is; or let the appliance follow it as it is with `onwire reload`"
    )
}

/// What to do when the file is not what the appliance follows.
fn advice(configuration: &ConfigurationStatus) -> &'static str {
    match configuration.candidate.as_ref().map(|candidate| candidate.state) {
        Some(CandidateState::Unconfirmed) => {
            "; a candidate is unconfirmed: `onwire confirm` keeps it, `onwire confirm --reject` goes back"
        }
        Some(CandidateState::Confirmed) => "; a confirmed candidate is not in it yet: run `onwire confirm`",
        _ => "; let the appliance follow the file with `onwire reload`, or write back what it follows",
    }
}
