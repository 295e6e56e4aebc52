//! `onwire doctor`: examines the host and the peers, and prints findings with remedies. Changes nothing.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Args;

use super::processes::{Host, PATIENCE};
use super::{FAILURE, USAGE, print, print_error};
use crate::doctor::{self, Report, read};

/// Arguments of `onwire doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo onwire doctor                                the only appliance of this host
  sudo onwire doctor --config /etc/onwire/ithaca.yaml
  onwire doctor --json | jq -r '.findings[] | select(.level == \"fault\").found'
  onwire doctor > /dev/null || echo 'something does not work'

It looks at forwarding, filters of reverse paths, the firewall's forward chains, routes, devices and their queues,
timestamps, offloads, socket buffers, MTUs (by echo requests to the peers), the clock, key files and privileges, and
asks the running appliance about its peers. It changes nothing, and runs without root as far as it can.
Each line is ok, warning, fault, or unseen: what it could not look at, and what that takes. Lines with = say what to do,
on this host unless they name another.
Exit codes: 0 no fault (warnings may be printed), 1 a fault, 2 usage.")]
pub struct Doctor {
    /// The configuration file; by default that of the only running appliance, or the only one in /etc/onwire
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For programs: one JSON document
    #[arg(long)]
    json: bool,
}

/// Whoever waits longer than this is shown what is done.
const QUIET_FOR: Duration = Duration::from_secs(2);

impl Doctor {
    /// Examines and prints; exit code 1 when there is a fault.
    pub fn run(self) -> ExitCode {
        let sockets = Host::ask(PATIENCE).appliance_sockets();
        let subject = match read::subject::find(self.config.as_deref(), &sockets) {
            Ok(subject) => subject,
            Err(error) => {
                print_error(format_args!("onwire doctor: {}\n", error.trim_end()));
                return ExitCode::from(USAGE);
            }
        };
        let report = with_progress(|on_step| doctor::examine(&subject, on_step));
        let shown = match self.json {
            true => print(format_args!("{}\n", json(&report))),
            false => print(&report),
        };
        if report.faults > 0 { ExitCode::from(FAILURE) } else { shown }
    }
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("a report has text keys and finite numbers alone")
}

/// Runs `work`, and writes to standard error what it is at when it takes long.
pub(super) fn with_progress<T>(work: impl FnOnce(&dyn Fn(&str)) -> T) -> T {
    let step = Arc::new(Mutex::new(String::new()));
    let (done, is_done) = channel::<()>();
    let shown = Arc::clone(&step);
    let begun = Instant::now();
    // Without a thread there is no progress to see, and all else is the same.
    let thread = std::thread::Builder::new().spawn(move || {
        while is_done.recv_timeout(QUIET_FOR) == Err(RecvTimeoutError::Timeout) {
            let step = shown.lock().map(|step| step.clone()).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "after {} s: {step} ...", begun.elapsed().as_secs());
        }
    });
    let result = work(&|words: &str| {
        if let Ok(mut step) = step.lock() {
            words.clone_into(&mut step);
        }
    });
    drop(done);
    let _ = thread.map(std::thread::JoinHandle::join);
    result
}
