//! `onwire drain`, at the mirror before it is promoted: waits until all that is in flight has arrived, and prints
//! whether something is missing.
//!
//! It polls the appliance and prints the appliance's assessment; it stops and changes nothing.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::control::ControlSocket;
use super::processes::find_socket;
use super::{FAILURE, NO_CONTACT, USAGE, print, print_error};
use crate::appliance::control::request::{Drained, Request};
use crate::appliance::status::Status;
use crate::appliance::status::arrivals::ArrivedStatus;
use crate::appliance::status::drain::{DrainAssessment, Verdict, assess};
use crate::appliance::status::hooks::HookStatus;
use crate::config::hooks::HookEvent;
use crate::config::units::parse_duration;
use crate::io::status_socket::{self, SCHEMA_VERSION};

/// At the mirror, before it is promoted: wait until all that is in flight has arrived, and say what is missing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire drain                       then let the mirror read what has come, and promote it
  onwire drain --peer ithaca --timeout 30s
  onwire drain --json | jq '.peers[].reasons'

Run it on the mirror's appliance when the primary's site is gone, or its programs and its appliance are stopped.
  complete    nothing is known to be missing
  unfinished  all that was sent to its end is here; what was being sent when the primary ended is here in part
  incomplete  something that may have been acknowledged is missing, or it is too early to say

JSON: { schema_version, node, verdict, waited_s, peers: [{ name, verdict, alive, reasons: [], arrived: {} }] }
Exit codes: 0 complete or unfinished, 1 incomplete, 2 usage, 3 the appliance does not answer.")]
pub struct Drain {
    /// The status socket; by default the one in the configuration, or the only one in /run/onwire
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration file that names the socket
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The peer that is gone; by default all
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

/// How often the appliance is asked.
const ROUND: Duration = Duration::from_millis(50);
/// Time until progress is shown first, and from then on between two lines.
const PROGRESS: Duration = Duration::from_secs(2);

/// A peer as found last.
struct Found {
    peer: String,
    arrived: ArrivedStatus,
    assessment: DrainAssessment,
}

impl Drain {
    /// Waits and prints the result; see the exit codes above.
    pub fn run(self) -> ExitCode {
        let socket = match find_socket(self.socket.as_deref(), self.config.as_deref(), "drain") {
            Ok(socket) => socket,
            Err(code) => return code,
        };
        let begin = Instant::now();
        let mut next_word = begin + PROGRESS;
        loop {
            let status = match ask(&socket) {
                Ok(status) => status,
                // The appliance may only be suspended.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && begin.elapsed() < self.timeout => continue,
                Err(error) => {
                    print_error(format_args!("onwire drain: {error}\n"));
                    return ExitCode::from(NO_CONTACT);
                }
            };
            let found = match self.look(&status) {
                Ok(found) => found,
                Err(words) => {
                    print_error(format_args!("onwire drain: {words}\n"));
                    return ExitCode::from(USAGE);
                }
            };
            let now = Instant::now();
            let waits = found.iter().any(|peer| !peer.assessment.waits_for.is_empty());
            if !waits || now >= begin + self.timeout {
                return self.end(&status, &socket, found, now - begin);
            }
            if now >= next_word {
                next_word = now + PROGRESS;
                found.iter().for_each(print_waiting);
            }
            std::thread::sleep(ROUND.min((begin + self.timeout).saturating_duration_since(now)));
        }
    }

    fn look(&self, status: &Status) -> Result<Vec<Found>, String> {
        let wanted = |name: &str| self.peer.as_deref().is_none_or(|peer| peer == name);
        // A lane that was too busy to answer may know of more missing data.
        let missing = status.tun.queues.saturating_sub(status.lanes.len());
        let found = status.peers.iter().filter(|peer| wanted(&peer.name)).map(|peer| {
            let arrived = peer.arrived.clone().unwrap_or_default();
            let mut assessment = assess(&arrived);
            if missing > 0 {
                assessment.waits_for.push(format!("{missing} lanes that are too busy to answer"));
            }
            Found { peer: peer.name.clone(), arrived, assessment }
        });
        let found: Vec<Found> = found.collect();
        if found.is_empty() {
            let names: Vec<&str> = status.peers.iter().map(|peer| peer.name.as_str()).collect();
            let asked = self.peer.as_deref().unwrap_or_default();
            return Err(format!("--peer: found {asked}; this appliance has {}", names.join(", ")));
        }
        Ok(found)
    }

    fn end(&self, status: &Status, socket: &Path, found: Vec<Found>, waited: Duration) -> ExitCode {
        let mut verdict = Verdict::Complete;
        let (mut text, mut peers) = (String::new(), Vec::new());
        for Found { peer, arrived, assessment } in found {
            let assessment = assessment.at_deadline();
            verdict = verdict.max(assessment.verdict);
            show(&mut text, &peer, &arrived, &assessment);
            peers.push((peer, arrived, assessment));
        }
        let drained = peers.iter().map(|(peer, _, assessment)| Drained {
            peer: peer.clone(),
            verdict: assessment.verdict,
            reasons: assessment.reasons.clone(),
        });
        let drained: Vec<_> = drained.collect();
        let peers = peers.iter().map(|(peer, arrived, assessment)| peer_json(peer, arrived, assessment));
        let peers: Vec<_> = peers.collect();
        let document = json!({
            "schema_version": SCHEMA_VERSION,
            "node": status.node,
            "verdict": verdict.name(),
            "waited_s": waited.as_secs_f64(),
            "peers": peers,
        });
        let printed = if self.json { print(format_args!("{document:#}\n")) } else { print(text) };
        tell_hooks(status, socket, drained, waited);
        if printed != ExitCode::SUCCESS || verdict < Verdict::Incomplete { printed } else { ExitCode::from(FAILURE) }
    }
}

/// Tells the appliance's hooks of the verdict, which was printed before: nothing delays that.
fn tell_hooks(status: &Status, socket: &Path, peers: Vec<Drained>, waited: Duration) {
    let is_wanted = |hook: &HookStatus| hook.on.iter().any(|event| event == HookEvent::Drain.name());
    if !status.hooks.iter().any(is_wanted) {
        return;
    }
    let request = Request::Drained { peers, waited_s: waited.as_secs_f64() };
    if let Err(error) = ControlSocket::beside(socket).ask(&request) {
        print_error(format_args!("onwire drain: the hooks of the appliance do not hear of this: {error}\n"));
    }
}

fn peer_json(peer: &str, arrived: &ArrivedStatus, assessment: &DrainAssessment) -> Value {
    json!({
        "name": peer,
        "verdict": assessment.verdict.name(),
        "alive": assessment.is_alive,
        "reasons": assessment.reasons,
        "arrived": arrived,
    })
}

/// Prints what the drain waits for, and what to do if waiting is useless.
fn print_waiting(Found { peer, assessment, .. }: &Found) {
    if assessment.waits_for.is_empty() {
        return;
    }
    print_error(format_args!("onwire drain: {peer}: waiting for {}\n", assessment.waits_for.join("; ")));
    if assessment.is_alive {
        print_error(format_args!("onwire drain: {peer}: {ALIVE}\n"));
    }
}

const ALIVE: &str = "its appliance lives and still sends, so there is nothing to drain yet. Stop the programs of the \
                     primary and then its appliance, or cut its link, and drain again";

fn show(text: &mut String, peer: &str, arrived: &ArrivedStatus, assessment: &DrainAssessment) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{peer}: {}", assessment.verdict.name());
    for reason in &assessment.reasons {
        let _ = writeln!(text, "  {reason}");
    }
    if assessment.is_alive {
        let _ = writeln!(text, "  {ALIVE}");
    }
    let heard = arrived.heard_ms_ago.map_or("never".to_owned(), |ago| format!("{:.1} s ago", ago / 1e3));
    let _ = writeln!(
        text,
        "  heard {heard}; {} blocks lost since the start; {} TCP flows, {} forgotten",
        arrived.lost_blocks, arrived.flows_known, arrived.flows_evicted
    );
    for flow in &arrived.flows {
        let acknowledged = match flow.acknowledged {
            Some(bytes) if bytes >= flow.bytes => "all acknowledged".to_owned(),
            Some(bytes) => format!("{bytes} acknowledged"),
            None => "acknowledgements not seen".to_owned(),
        };
        let since = if flow.from_syn { "" } else { " since first seen" };
        let _ = write!(
            text,
            "  {} > {}: {} bytes{since}, next sequence {}, {acknowledged}",
            flow.source, flow.destination, flow.bytes, flow.sequence
        );
        for missing in &flow.missing {
            let _ = write!(text, ", missing [{}, {})", missing.from, missing.to);
        }
        let _ = writeln!(text);
    }
}

/// Asks the appliance whose status socket this is.
fn ask(socket: &Path) -> io::Result<Status> {
    let document = status_socket::ask(socket)?;
    let wrong = |why: &str| {
        let text = format!("{}: the answer is no status of an appliance of this version ({why})", socket.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let value: Value = serde_json::from_str(&document).map_err(|error| wrong(&error.to_string()))?;
    let untold = untold(&value);
    let status: Status = serde_json::from_value(value).map_err(|error| wrong(&error.to_string()))?;
    match status.unfit().or(untold) {
        Some(why) => Err(wrong(&why)),
        None => Ok(status),
    }
}

/// What the verdict rests on; lists among it are of what is missing, and an absent one must not count as empty.
const NEEDED: [&str; 7] =
    ["heard_ms_ago", "quiet_after_ms", "waiting_blocks", "unfinished", "lost", "refused_ms_ago", "flows"];
/// The same of each flow.
const NEEDED_OF_A_FLOW: [&str; 5] = ["source", "destination", "bytes", "missing", "acknowledged"];

/// What a status does not say of what has arrived.
fn untold(status: &Value) -> Option<String> {
    let lacks = |object: &Value, keys: &[&str]| {
        let key = keys.iter().find(|key| object.get(key).is_none())?;
        Some(format!("it does not say `{key}` of what has arrived"))
    };
    let of_a_peer = |peer: &Value| {
        // Of a peer without any of it the verdict is `incomplete`.
        let arrived = peer.get("arrived").filter(|arrived| !arrived.is_null())?;
        let flows = arrived["flows"].as_array().into_iter().flatten();
        lacks(arrived, &NEEDED).or_else(|| flows.into_iter().find_map(|flow| lacks(flow, &NEEDED_OF_A_FLOW)))
    };
    status["peers"].as_array().into_iter().flatten().find_map(of_a_peer)
}
