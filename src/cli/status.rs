//! `onwire status`: ask a running appliance.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::render;
use crate::appliance::desk;
use crate::config;

/// Arguments of `onwire status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire status                                     the only appliance under /run/onwire
  onwire status --config /etc/onwire/ithaca.yaml    the one with this configuration
  onwire status --json | jq '.peers[].received.raw_loss'")]
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
        let socket = match self.socket() {
            Ok(socket) => socket,
            Err(code) => return code,
        };
        match desk::ask(&socket) {
            Ok(status) if self.json => {
                println!("{}", serde_json::to_string_pretty(&status).expect("a status is plain values"));
                ExitCode::SUCCESS
            }
            Ok(status) => {
                print!("{}", render::status(&status));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("onwire status: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn socket(&self) -> Result<PathBuf, ExitCode> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        if let Some(file) = &self.config {
            return config::load(file).map(|config| config.status.socket).map_err(|errors| {
                eprint!("{errors}");
                ExitCode::from(2)
            });
        }
        let entries = std::fs::read_dir("/run/onwire").into_iter().flatten().flatten().map(|entry| entry.path());
        let sockets: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect();
        if let [socket] = &sockets[..] {
            return Ok(socket.clone());
        }
        let found = match sockets.len() {
            0 => "there is no socket in /run/onwire; is an appliance running?".to_owned(),
            number => format!("there are {number} sockets in /run/onwire"),
        };
        eprintln!("onwire status: {found} Name one with --socket or --config");
        Err(ExitCode::from(2))
    }
}
