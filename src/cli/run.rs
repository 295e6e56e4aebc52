//! `onwire run`: the appliance itself, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{limits, log, print_error, render};
use crate::appliance::control::{Control, Reloading};
use crate::config::Source;

/// Arguments of `onwire run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire check /etc/onwire/ithaca.yaml          look for mistakes first
  onwire run --config /etc/onwire/ithaca.yaml   run in the foreground; routes are removed at the end
  systemctl enable --now onwire@ithaca          run as a service, with config/onwire@.service

Signals: INT and TERM stop cleanly (a second INT at once); HUP reads the file again, and follows it if it is good; USR1 writes
the status to the log.
Needs CAP_NET_ADMIN for the TUN device and its routes. Once it is set up it gives up all else; `onwire status` says so.")]
pub struct Run {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", required_unless_present = "file")]
    config: Option<PathBuf>,
    /// The same, without --config
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
}

impl Run {
    /// Runs. Returns 0 when asked to stop, 1 when it cannot start or continue, 2 when the configuration is wrong.
    pub fn run(self) -> ExitCode {
        // One of the two is there.
        let file = self.config.or(self.file).unwrap_or_default();
        let read = Source::open(&file).and_then(|source| Ok((source.parse()?, source)));
        let (config, source) = match read {
            Ok(read) => read,
            Err(errors) => {
                print_error(errors);
                return ExitCode::from(2);
            }
        };
        let log = log::start(config.log);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let lanes = config.tun.queues;
        limits::raise(limits::for_lanes(lanes) + limits::for_metrics(config.metrics), &format!("{lanes} lanes"));
        let reloading = Reloading::new(source, log::set_level);
        match Control::start(config, reloading).and_then(Control::run) {
            Ok(status) => {
                log.say_status(&render::status(&status), || serde_json::to_string(&status));
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}
