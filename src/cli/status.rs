//! `onwire status`: queries a running appliance, or a gate process. Changes nothing there.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{print, print_error, render, render_gate};
use crate::appliance::status::Status as ApplianceStatus;
use crate::config::gate::DEFAULT_STATUS;
use crate::config::{self, ConfigErrors, Source, gate_file};
use crate::gate::status::{ROLE, Status as GateStatus};
use crate::io::status_socket;

/// Arguments of `onwire status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire status                                     the only appliance under /run/onwire
  onwire status --config /etc/onwire/ithaca.yaml    the one with this configuration
  onwire status --socket /run/onwire/gate.sock      the gates of this host
  onwire status --json | jq '.peers[].received.raw_loss'
  onwire status --json | jq -e '.peers | length > 0 and all(.protection.state == \"up\")'   for scripts: is all up

Exit codes: 0 it answered, whatever it told; 1 it did not answer; 2 usage. That nothing is up is no failure here.")]
pub struct Status {
    /// The status socket; by default the one in the configuration, or the only one in /run/onwire.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration file that names the socket.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For programs: one JSON document.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Asks and prints.
    pub fn run(self) -> ExitCode {
        let socket = match find_socket(self.socket.as_deref(), self.config.as_deref(), "status") {
            Ok(socket) => socket,
            Err(code) => return code,
        };
        match status_socket::ask(&socket).map_err(|error| error.to_string()).and_then(|text| self.show(&text)) {
            Ok(text) => print(text),
            Err(error) => {
                print_error(format_args!("onwire status: {error}\n"));
                ExitCode::FAILURE
            }
        }
    }

    /// The text for a gate's or an appliance's document; `role` distinguishes the two.
    fn show(&self, text: &str) -> Result<String, String> {
        let unknown = |error: serde_json::Error| {
            format!("the answer is no status that this version knows ({error}); are both programs of the same version?")
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(unknown)?;
        if self.json {
            return serde_json::to_string_pretty(&value).map(|text| text + "\n").map_err(unknown);
        }
        if value.get("role").is_some_and(|role| role == ROLE) {
            let status: GateStatus = serde_json::from_value(value).map_err(unknown)?;
            return Ok(render_gate::status(&status));
        }
        let status: ApplianceStatus = serde_json::from_value(value).map_err(unknown)?;
        Ok(render::status(&status))
    }
}

/// The status socket to query. Prints an error in the name of `command` if it is not clear which one.
pub(super) fn find_socket(socket: Option<&Path>, config: Option<&Path>, command: &str) -> Result<PathBuf, ExitCode> {
    if let Some(socket) = socket {
        return Ok(socket.to_owned());
    }
    if let Some(file) = config {
        return socket_of(file).map_err(|errors| {
            eprint!("{errors}");
            ExitCode::from(2)
        });
    }
    let mut sockets = sockets();
    if sockets.len() == 2 {
        // Besides the only appliance there are gates, which are queried only by name.
        sockets.retain(|path| path != Path::new(DEFAULT_STATUS));
    }
    if let [socket] = &sockets[..] {
        return Ok(socket.clone());
    }
    let found = match sockets.len() {
        0 => "there is no socket in /run/onwire; is an appliance running?".to_owned(),
        number => format!("there are {number} sockets in /run/onwire"),
    };
    eprintln!("onwire {command}: {found} Name one with --socket or --config");
    Err(ExitCode::from(2))
}

fn sockets() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/run/onwire").into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect()
}

/// All status sockets of this host.
pub(super) fn all_sockets() -> Vec<PathBuf> {
    sockets()
}

/// The status sockets of this host that are not those of gates, as far as their names say.
pub(super) fn appliance_sockets() -> Vec<PathBuf> {
    sockets().into_iter().filter(|path| path != Path::new(DEFAULT_STATUS)).collect()
}

/// The status socket that a file of either kind names.
fn socket_of(file: &Path) -> Result<PathBuf, ConfigErrors> {
    let source = Source::read(file, None)?;
    if source.is_of_gates() {
        let gates = gate_file::parse(&source.text, &source.path)?;
        return Ok(gates.status.unwrap_or_else(|| PathBuf::from(DEFAULT_STATUS)));
    }
    config::parse(&source.text, &source.path).map(|config| config.status.socket)
}
