//! `onwire reload`: lets a running appliance or gate process read its file again, and says how that ended.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Deserialize;

use super::processes::find_socket;
use super::{FAILURE, NO_CONTACT, print, print_error};
use crate::config::reload::{Outcome, ReloadStatus};
use crate::io::status_socket;

/// What a status of either kind says of reloads.
#[derive(Deserialize)]
struct Status {
    reload: ReloadStatus,
}

/// An appliance follows within milliseconds; a busy one may take longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(20);

/// Arguments of `onwire reload`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire check /etc/onwire/ithaca.yaml && onwire reload   look for mistakes first
  onwire reload --socket /run/onwire/ithaca.sock          of several appliances
  onwire reload --socket /run/onwire/gate.sock            the gates of this host

The process reads the file that it was started with. It follows all of it, or nothing: what is wrong, or cannot
change while it runs, is said here and in its log, and it goes on as before. Packets, sessions and connections go on.
SIGHUP does the same.
Exit codes: 0 it follows the file, 1 it does not, 2 usage, 3 nothing answers. Run it as root, or as the user of that
process.")]
pub struct Reload {
    /// The status socket; by default the one in the configuration, or the only one in /run/onwire.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration file that names the socket.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Reload {
    /// Asks for the reload, and waits for how it ends.
    pub fn run(self) -> ExitCode {
        let socket = match find_socket(self.socket.as_deref(), self.config.as_deref(), "reload") {
            Ok(socket) => socket,
            Err(code) => return code,
        };
        let outcome = ask(&socket).and_then(|before| {
            status_socket::signal_owner(&socket).map_err(|error| (FAILURE, error.to_string()))?;
            wait(&socket, before.reload.attempts)
        });
        match outcome {
            Ok(outcome) if outcome.is_good => print(format_args!("reloaded: {}\n", outcome.text)),
            Ok(outcome) => {
                print_error(format_args!("{}\n", outcome.text));
                ExitCode::from(FAILURE)
            }
            Err((code, error)) => {
                print_error(format_args!("onwire reload: {error}\n"));
                ExitCode::from(code)
            }
        }
    }
}

/// The error has its exit code.
fn ask(socket: &Path) -> Result<Status, (u8, String)> {
    let text = status_socket::ask(socket).map_err(|error| (NO_CONTACT, error.to_string()))?;
    serde_json::from_str(&text).map_err(|_| {
        (FAILURE, format!("{} is not the socket of an appliance or a gate of this version", socket.display()))
    })
}

/// Waits for the end of a reload behind `attempts` others.
fn wait(socket: &Path, attempts: u64) -> Result<Outcome, (u8, String)> {
    let deadline = Instant::now() + ANSWERED_WITHIN;
    while Instant::now() < deadline {
        let reload = ask(socket)?.reload;
        match reload.last {
            Some(outcome) if reload.attempts > attempts => return Ok(outcome),
            _ => std::thread::sleep(STEP),
        }
    }
    Err((FAILURE, format!("it has not said within {ANSWERED_WITHIN:?} how it ended; its log does")))
}
