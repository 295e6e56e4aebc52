//! `onwire explain`: what a profile is worth on a link: repair, delay, the interruption it survives, the chance of a loss.
//! Computes from a configuration or from the measurements of a running appliance; changes nothing.

mod chart;
mod explained;
mod measured;
mod sweep;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use self::explained::{Explained, Question};
use super::{FAILURE, NOTHING, USAGE, print, print_error};
use crate::config::units::{parse_duration, parse_fraction, parse_rate};
use crate::config::{self, Config, Profile, Rate, Repair};
use crate::io::status_socket::SCHEMA_VERSION;
use crate::plan::MOST_LOSS;

/// Arguments of `onwire explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire explain /etc/onwire/ithaca.yaml                     every profile, at the loss that it assumes
  onwire explain /etc/onwire/ithaca.yaml planned --rate 200mbit --loss 0.5%
  onwire explain /etc/onwire/ithaca.yaml planned --sweep     a table over losses and rates
  onwire explain /etc/onwire/ithaca.yaml --svg chart.svg     the chance of a loss over the loss, for every profile
  onwire explain /etc/onwire/ithaca.yaml --socket /run/onwire/ithaca.sock   as the running appliance has measured it
  onwire explain /etc/onwire/ithaca.yaml --json | jq '.profiles[].lone.survives_s'

Exit codes: 0 explained, 1 failure, 2 usage or configuration, 3 the appliance at --socket does not answer, 4 no such
profile or peer.")]
pub struct Explain {
    /// The configuration file
    file: PathBuf,
    /// The profile; by default every one
    profile: Option<String>,
    /// The loss of single datagrams; by default what the profile assumes
    #[arg(long, value_name = "P", value_parser = loss)]
    loss: Option<f64>,
    /// The rate of source bytes of the stream
    #[arg(long, value_name = "RATE", default_value = "100mbit", value_parser = parse_rate)]
    rate: Rate,
    /// The round trip, to compare with
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    rtt: Option<Duration>,
    /// Take loss, bursts and round trip from the appliance that answers at this status socket
    #[arg(long, value_name = "PATH", conflicts_with = "loss")]
    socket: Option<PathBuf>,
    /// The peer whose path it is; by default the first of the file
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// A table over losses from 0.01 % to 10 % and over rates
    #[arg(long, conflicts_with_all = ["json", "socket"])]
    sweep: bool,
    /// Write a chart to this file
    #[arg(long, value_name = "FILE", conflicts_with = "sweep")]
    svg: Option<PathBuf>,
    /// For programs: one JSON document
    #[arg(long)]
    json: bool,
}

fn loss(text: &str) -> Result<f64, String> {
    match parse_fraction(text)? {
        loss if loss > 0.0 && loss <= MOST_LOSS => Ok(loss),
        _ => Err("allowed: a loss above 0 and up to 50%, such as 0.1%".to_owned()),
    }
}

impl Explain {
    /// Explains and prints.
    pub fn run(self) -> ExitCode {
        let config = match config::load(&self.file) {
            Ok(config) => config,
            Err(errors) => {
                print_error(errors);
                return ExitCode::from(USAGE);
            }
        };
        match self.answer(&config) {
            Ok(text) => print(text),
            Err((code, words)) => {
                print_error(format_args!("onwire explain: {words}\n"));
                ExitCode::from(code)
            }
        }
    }

    fn answer(&self, config: &Config) -> Result<String, (u8, String)> {
        let profiles: Vec<_> = match &self.profile {
            None => config.profiles.iter().collect(),
            Some(name) => config.profiles.iter().filter(|profile| profile.name == *name).collect(),
        };
        if profiles.is_empty() {
            return Err((NOTHING, no_such("profile", config.profiles.iter().map(|profile| profile.name.as_str()))));
        }
        let peer = match &self.peer {
            None => config.peers.first(),
            Some(name) => config.peers.iter().find(|peer| peer.name == *name),
        };
        let Some(peer) = peer else {
            return Err((NOTHING, no_such("peer", config.peers.iter().map(|peer| peer.name.as_str()))));
        };
        let measured = match &self.socket {
            None => None,
            Some(socket) => Some(measured::ask(socket, &peer.name)?),
        };
        let question = Question {
            symbol_bytes: peer.path.symbol_size().max(1),
            rate: self.rate,
            loss: self.loss,
            round_trip: self.rtt.or(measured.as_ref().and_then(measured::Measured::round_trip)),
            measured,
        };
        if self.sweep {
            return Ok(profiles.iter().map(|profile| sweep::table(profile, &question)).collect::<Vec<_>>().join("\n"));
        }
        if let Some(file) = &self.svg {
            write_chart(file, &chart::svg(&profiles, &question)).map_err(|words| (FAILURE, words))?;
        }
        let explained: Vec<_> = profiles.iter().map(|profile| Explained::new(profile, &question)).collect();
        if self.json {
            let text = serde_json::to_string_pretty(&serde_json::json!({
                "schema_version": SCHEMA_VERSION,
                "profiles": explained,
            }));
            return text.map(|text| text + "\n").map_err(|error| (FAILURE, error.to_string()));
        }
        Ok(explained.iter().map(text::paragraph).collect::<Vec<_>>().join("\n"))
    }
}

fn write_chart(file: &Path, svg: &str) -> Result<(), String> {
    fs::write(file, svg).map_err(|error| format!("{} cannot be written: {error}", file.display()))
}

fn no_such<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> String {
    format!("there is no such {what}; allowed: {}", names.collect::<Vec<_>>().join(", "))
}

/// The loss for which a profile is made.
fn assumed_loss(profile: &Profile) -> f64 {
    match profile.repair {
        Repair::None => 0.01,
        Repair::Fixed { assume_loss, .. } => assume_loss,
        Repair::Targets(targets) => targets.assume_loss,
    }
}
