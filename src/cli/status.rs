//! `onwire status`: queries the appliances and gates of this host, or one of them. Changes nothing there.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::health;
use super::processes::{self, Host, Kind, Process, find_socket, unknown};
use super::{FAILURE, NO_CONTACT, print, print_error, render, render_gate};
use crate::appliance::status::Status as ApplianceStatus;
use crate::gate::status::Status as GatesStatus;
use crate::io::problem::Problem;
use crate::io::status_socket::{self, SCHEMA_VERSION, later_form};

/// Arguments of `onwire status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire status                                     every appliance and gate process of this host
  onwire status --config /etc/onwire/ithaca.yaml    the one with this configuration
  onwire status --socket /run/onwire/gate.sock      the one with this socket
  onwire status --check                             is all well? For scripts and monitoring
  onwire status --json | jq '.appliances[].peers[].rates'
  onwire status --json --config /etc/onwire/ithaca.yaml | jq '.peers[].received.raw_loss'

--check prints one line, then one for each thing that is not well: a peer that is not up, a link that is degraded or
down, a route that is missing, a gate without its appliance, a file that was not taken over. What happened in the
past and is over does not count, and neither does a process that was killed: of one that must run, name the --config.

JSON: { schema_version, appliances: [], gates: [], unanswered: [{ socket, error }] }, each with its socket; with
--socket or --config the document of that one alone. With --check: { schema_version, ok, problems: [{ process, text,
since }], unanswered }. `onwire schema status` describes the documents. Units are in the names: _s, _ms, _us,
_per_second, bytes; shares are of 1.
Exit codes: 0 shown, or all is well; 1 with --check: something is not well; 2 usage; 3 nothing answers, with --check
also: one of them does not.")]
pub struct Status {
    /// The status socket; by default all in /run/onwire on which a process listens.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration file that names the socket.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say whether all is well at this moment, by the exit code too.
    #[arg(long)]
    check: bool,
    /// For programs: one JSON document.
    #[arg(long)]
    json: bool,
    /// Name the sockets that nothing listens on.
    #[arg(long, short)]
    verbose: bool,
}

/// A process may take this long: an appliance waits half a second for a lane that stands still.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `onwire status --json` prints of a host.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "onwire status --json")]
pub struct HostStatus {
    /// The version of this document's form.
    pub schema_version: u32,
    /// The appliances, by socket.
    pub appliances: Vec<WithSocket<ApplianceStatus>>,
    /// The gate processes, by socket.
    pub gates: Vec<WithSocket<GatesStatus>>,
    /// Processes that listen and do not answer.
    pub unanswered: Vec<Unanswered>,
}

/// The document of a process, and where it was asked.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct WithSocket<T> {
    /// Its status socket.
    pub socket: PathBuf,
    /// What it said.
    #[serde(flatten)]
    pub status: T,
}

/// A process that does not answer.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Unanswered {
    /// Its status socket.
    pub socket: PathBuf,
    /// Why.
    pub error: String,
}

/// A document that was understood.
#[derive(Debug)]
pub(super) enum Document {
    Appliance(Box<ApplianceStatus>),
    Gates(Box<GatesStatus>),
}

impl Document {
    /// Reads the answer of a process of this release or a neighbouring one: fields that are missing have their zero.
    pub fn read(process: &Process) -> Result<Self, String> {
        let value = process.answer.clone()?;
        let unknown = |error| unknown(&process.socket, &error);
        match process.kind {
            Kind::Gates => serde_json::from_value(value).map(|status| Self::Gates(Box::new(status))).map_err(unknown),
            Kind::Appliance => {
                serde_json::from_value(value).map(|status| Self::Appliance(Box::new(status))).map_err(unknown)
            }
        }
    }

    fn schema_version(&self) -> u32 {
        match self {
            Self::Appliance(status) => status.schema_version,
            Self::Gates(status) => status.schema_version,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Appliance(status) => render::status(status),
            Self::Gates(status) => render_gate::status(status),
        }
    }

    fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Appliance(status) => crate::appliance::status::health::problems(status),
            Self::Gates(status) => crate::gate::health::problems(status),
        }
    }

    fn summary(&self) -> String {
        match self {
            Self::Appliance(status) => health::summary_of_appliance(status),
            Self::Gates(status) => health::summary_of_gates(status),
        }
    }
}

impl Status {
    /// Asks and prints.
    pub fn run(self) -> ExitCode {
        let is_named = self.socket.is_some() || self.config.is_some();
        let host = if is_named {
            let socket = match find_socket(self.socket.as_deref(), self.config.as_deref(), "status") {
                Ok(socket) => socket,
                Err(code) => return code,
            };
            Host { processes: vec![Process::at(socket, PATIENCE)], ..Host::default() }
        } else {
            Host::ask(PATIENCE)
        };
        if self.verbose {
            for socket in &host.stale {
                print_error(format_args!("onwire status: skipped {}: nothing listens on it\n", socket.display()));
            }
        }
        if host.processes.is_empty() {
            let text = host.nothing();
            return match self.check {
                true => self.print_check(&[], &[Unanswered { socket: processes::directory(), error: text }]),
                false => no_contact(&text),
            };
        }
        let mut documents = Vec::new();
        let mut unanswered = Vec::new();
        for process in &host.processes {
            match Document::read(process).and_then(|document| self.judged(process, document)) {
                Ok(document) => documents.push(document),
                Err(error) => unanswered.push(Unanswered { socket: process.socket.clone(), error }),
            }
        }
        if self.check {
            return self.print_check(&documents, &unanswered);
        }
        for Unanswered { error, .. } in &unanswered {
            print_error(format_args!("onwire status: {error}\n"));
        }
        let printed = match (self.json, is_named) {
            // What a program of another release says is shown as it says it.
            (true, true) => match host.processes[0].answer.as_ref() {
                Ok(answer) => print(format_args!("{answer:#}\n")),
                Err(_) => ExitCode::from(NO_CONTACT),
            },
            (true, false) => print(format_args!("{:#}\n", host_json(&host, &unanswered))),
            (false, _) => {
                let texts: Vec<String> = documents.iter().map(Document::text).collect();
                print(texts.join("\n"))
            }
        };
        if documents.is_empty() && printed == ExitCode::SUCCESS { ExitCode::from(NO_CONTACT) } else { printed }
    }

    /// What may be shown need not be a reason to call all well: of a document of a later form it is not known what is meant.
    fn judged(&self, process: &Process, document: Document) -> Result<Document, String> {
        match document.schema_version() > SCHEMA_VERSION && self.check {
            true => Err(format!("{}: {}", process.socket.display(), later_form(document.schema_version()))),
            false => Ok(document),
        }
    }

    fn print_check(&self, documents: &[Document], unanswered: &[Unanswered]) -> ExitCode {
        let problems: Vec<Problem> = documents.iter().flat_map(Document::problems).collect();
        let printed = if self.json {
            print(format_args!(
                "{:#}\n",
                json!({
                    "schema_version": SCHEMA_VERSION,
                    "ok": problems.is_empty() && unanswered.is_empty(),
                    "problems": problems,
                    "unanswered": unanswered,
                })
            ))
        } else {
            print(check_text(documents, &problems, unanswered))
        };
        match (printed == ExitCode::SUCCESS, problems.is_empty(), unanswered.is_empty()) {
            (false, _, _) => printed,
            (true, false, _) => ExitCode::from(FAILURE),
            (true, true, false) => ExitCode::from(NO_CONTACT),
            (true, true, true) => ExitCode::SUCCESS,
        }
    }
}

impl Process {
    /// The process that listens at this socket.
    fn at(socket: PathBuf, patience: Duration) -> Self {
        let answer = status_socket::ask_within(&socket, patience).map_err(|error| error.to_string());
        let answer = answer.and_then(|text| serde_json::from_str(&text).map_err(|error| unknown(&socket, &error)));
        let kind = answer.as_ref().map_or(Kind::Appliance, Kind::of);
        Self { socket, kind, answer }
    }
}

fn no_contact(text: &str) -> ExitCode {
    print_error(format_args!("onwire status: {text}\n"));
    ExitCode::from(NO_CONTACT)
}

/// The line that a monitoring system shows, and one for each thing that is not well.
fn check_text(documents: &[Document], problems: &[Problem], unanswered: &[Unanswered]) -> String {
    let mut lines: Vec<String> = problems.iter().map(health::line).collect();
    lines.extend(unanswered.iter().map(|it| it.error.clone()));
    let first = match (&lines[..], problems.is_empty()) {
        ([], _) => format!("OK: {}", documents.iter().map(Document::summary).collect::<Vec<_>>().join("; ")),
        ([_], true) => return format!("UNKNOWN: {}\n", lines[0]),
        ([_], false) => return format!("DEGRADED: {}\n", lines[0]),
        (_, true) => format!("UNKNOWN: {} do not answer", lines.len()),
        (_, false) => format!("DEGRADED: {} problems", lines.len()),
    };
    lines.insert(0, first);
    lines.into_iter().map(|line| line + "\n").collect()
}

/// What all processes said, as they said it.
fn host_json(host: &Host, unanswered: &[Unanswered]) -> Value {
    let of = |kind: Kind| -> Vec<Value> {
        let processes = host.processes.iter().filter(|process| process.kind == kind);
        let with_socket = |process: &Process| match process.answer.as_ref().ok()? {
            Value::Object(fields) => {
                let mut document = serde_json::Map::new();
                document.insert("socket".to_owned(), json!(process.socket));
                document.extend(fields.clone());
                Some(Value::Object(document))
            }
            _ => None,
        };
        processes.filter_map(with_socket).collect()
    };
    json!({
        "schema_version": SCHEMA_VERSION,
        "appliances": of(Kind::Appliance),
        "gates": of(Kind::Gates),
        "unanswered": unanswered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_check_says_all() {
        let gates = || Document::Gates(Box::default());
        let problem = || Problem { process: "a".to_owned(), text: "b".to_owned(), since: None };
        let silent = || Unanswered { socket: "/x.sock".into(), error: "cannot ask /x.sock".to_owned() };
        assert_eq!(check_text(&[gates()], &[], &[]), "OK: gates: \n");
        assert_eq!(check_text(&[gates()], &[problem()], &[]), "DEGRADED: a: b\n");
        assert_eq!(check_text(&[], &[], &[silent()]), "UNKNOWN: cannot ask /x.sock\n");
        assert_eq!(check_text(&[], &[problem()], &[silent()]), "DEGRADED: 2 problems\na: b\ncannot ask /x.sock\n");
    }
}
