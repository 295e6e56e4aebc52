//! `onwire confirm`: keeps the candidate that an appliance follows, or lets it go back.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::control::ControlSocket;
use super::processes::find_socket;
use super::{FAILURE, print, print_error};
use crate::appliance::control::request::Request;
use crate::appliance::status::candidate::CandidateState;

/// Arguments of `onwire confirm`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire confirm                                   keep it, and write it to the configuration file
  onwire confirm --reject                          go back now to what was followed before
  onwire confirm --socket /run/onwire/ithaca.sock  of several appliances

The configuration file is replaced at one moment: its owner, its mode and a symbolic link stay. `onwire confirm` may be repeated:
if it could not write the file, it does so then.
Exit codes: 0 the candidate is followed and in the file (with --reject: the appliance went back), 1 not, 2 usage, 3 no
appliance answers. Run it as root, or as the user of the appliance where that user may replace the file.")]
pub struct Confirm {
    /// Go back now, instead of at the end of the time
    #[arg(long)]
    reject: bool,
    /// The status socket; by default the one in the configuration, or the only one in /run/onwire.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration file that names the socket.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Confirm {
    /// Asks, and says how that ended.
    pub fn run(self) -> ExitCode {
        let socket = match find_socket(self.socket.as_deref(), self.config.as_deref(), "confirm") {
            Ok(socket) => socket,
            Err(code) => return code,
        };
        let control = ControlSocket::beside(&socket);
        let outcome = match self.reject {
            true => control.ask_first(&Request::Reject).map(|answer| answer.text),
            false => keep(&control),
        };
        match outcome {
            Ok(text) => print(format_args!("{text}\n")),
            Err((code, text)) => {
                print_error(format_args!("onwire confirm: {text}\n"));
                ExitCode::from(code)
            }
        }
    }
}

/// The error has its exit code.
fn keep(control: &ControlSocket) -> Result<String, (u8, String)> {
    let failed = |text: String| (FAILURE, text);
    let shown = control.ask_first(&Request::Show)?;
    let configuration = shown.configuration;
    let Some(candidate) = configuration.candidate else {
        return Err(failed(
            "nothing is unconfirmed: there was no candidate since the start of the appliance".to_owned(),
        ));
    };
    match candidate.state {
        CandidateState::Saved => Ok("it was confirmed before".to_owned()),
        CandidateState::GoingBack | CandidateState::WentBack => {
            Err(failed(format!("too late, the appliance goes back to what it followed before: {}", candidate.text)))
        }
        CandidateState::Unconfirmed | CandidateState::Confirmed => {
            let prepared = control.prepare(&configuration.file, &shown.followed, &candidate.before_sha256);
            control.keep(&candidate.sha256, prepared.map_err(failed)?).map_err(failed)
        }
    }
}
