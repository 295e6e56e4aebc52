//! The command line: one file per subcommand, no logic.
//!
//! Exit codes, the same in all commands: 0 asked to stop or done, 1 failure, or the answer is no; 2 usage or
//! configuration; 3 no appliance or gate answers; 4 nothing of what was asked about exists. `docs/operations.md` has a
//! table.
//!
//! Start with [`main`]; `run` and `gate` start long-lived processes, the other subcommands query, print or create
//! something and exit.

pub mod apply;
pub mod bugreport;
pub mod check;
pub mod confirm;
mod control;
mod destination;
pub mod doctor;
pub mod drain;
pub mod explain;
pub mod flows;
pub mod gate;
mod health;
mod help;
pub mod hook;
pub mod init;
mod journal;
pub mod keygen;
mod limits;
pub mod log;
pub mod manual;
mod notification;
mod output_line;
mod processes;
pub mod pubkey;
pub mod reference;
pub mod reload;
mod render;
mod render_gate;
pub mod run;
pub mod schema;
pub mod status;
mod subscription;
mod table;
#[cfg(feature = "top")]
pub mod top;
pub mod wait;
pub mod watch;
pub mod watchdog;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Something failed while it ran, or the answer to what was asked is no.
pub const FAILURE: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE: u8 = 2;
/// No appliance answers, or no gate.
pub const NO_CONTACT: u8 = 3;
/// Nothing of what was asked about exists. Not 0: "all of nothing is protected" must not count as success.
pub const NOTHING: u8 = 4;

/// Makes a wide-area link keep what it carries: a pair of appliances that tunnel packets with forward error correction.
#[derive(Debug, Parser)]
#[command(name = "onwire", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value, made once")]
pub enum Command {
    /// Write a configuration file and a key to begin with
    Init(init::Init),
    /// Run the appliance in the foreground until INT or TERM
    Run(run::Run),
    /// Let a running appliance read its file again, all of it or nothing
    Reload(reload::Reload),
    /// Let a running appliance follow a candidate, which goes back by itself unless it is confirmed
    Apply(apply::Apply),
    /// Keep the candidate that a running appliance follows, or go back
    Confirm(confirm::Confirm),
    /// Show what the appliances and gates of this host know: peers, loss, recovery, drops; or whether all is well
    Status(status::Status),
    /// Show the appliances and gates of this host on one screen, live
    #[cfg(feature = "top")]
    Top(top::Top),
    /// Show live which bytes of which flow are protected
    Watch(watch::Watch),
    /// Wait until all that local sockets have sent to a host is protected
    Wait(wait::Wait),
    /// Show every flow that the appliance knows, and how far each is protected
    Flows(flows::Flows),
    /// Proxy a replication protocol and acknowledge what is protected
    Gate(gate::Gate),
    /// At the mirror, before it is promoted: wait until all that is in flight has arrived, and say what is missing
    Drain(drain::Drain),
    /// Print the JSON Schema of a status or of a configuration file, for editors and programs
    Schema(schema::Schema),
    /// Check a configuration file and say what it would run
    Check(check::Check),
    /// Look for what keeps an appliance from working, on this host and toward its peers, and say what to do
    Doctor(doctor::Doctor),
    /// Write one file with all that a person needs to help, without secrets
    Bugreport(bugreport::Bugreport),
    /// Print a file that shows every key of a configuration, with its default and its meaning
    Reference(reference::Reference),
    /// Say what a redundancy profile is worth on a link: delay, overhead, the interruption it survives, the chance of a loss
    Explain(explain::Explain),
    /// Make a private key, or a notification key
    Keygen(keygen::Keygen),
    /// Print the public key of a private key
    Pubkey(pubkey::Pubkey),
    /// Watch an appliance that withdraws its routes when it stands still; `run` starts this
    #[command(hide = true)]
    Watchdog(watchdog::Watchdog),
    /// Run a hook of an appliance; `run` starts this
    #[command(hide = true)]
    Hook(hook::Hook),
    /// Write the manual pages into a directory; packages have them
    #[command(hide = true)]
    Man(manual::Man),
    /// Print the completions for a shell; packages have them
    #[command(hide = true)]
    Completions(manual::Completions),
}

const EXAMPLES: &str = "\
A pair, from nothing:
  onwire init --node ithaca                   on each appliance; prints the public key for the peer's file
  onwire check /etc/onwire/ithaca.yaml        every error at once, or what would run
  onwire run --config /etc/onwire/ithaca.yaml on each appliance
  onwire status                               loss, recovery, round trip
  onwire doctor                               where something does not work: what, and what to do
  onwire wait --to mirror                     until what was sent there is protected

Exit codes: 0 done or asked to stop, 1 failure, or the answer is no; 2 usage or configuration, 3 nothing answers,
4 nothing of what was asked about.
`onwire COMMAND --help` has examples of each command.";

/// The definition of the command line.
fn command() -> clap::Command {
    help::with_paragraphs(Cli::command())
}

/// Parses the command line and runs what it asks for.
pub fn main() -> ExitCode {
    let mut command = command();
    let parsed =
        command.try_get_matches_from_mut(std::env::args_os()).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed.map_err(|error| error.format(&mut command)) {
        Ok(cli) => match cli.command {
            Command::Init(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Reload(command) => command.run(),
            Command::Apply(command) => command.run(),
            Command::Confirm(command) => command.run(),
            Command::Status(command) => command.run(),
            #[cfg(feature = "top")]
            Command::Top(command) => command.run(),
            Command::Watch(command) => command.run(),
            Command::Wait(command) => command.run(),
            Command::Flows(command) => command.run(),
            Command::Gate(command) => command.run(),
            Command::Drain(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Schema(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Bugreport(command) => command.run(),
            Command::Reference(command) => command.run(),
            Command::Explain(command) => command.run(),
            Command::Keygen(command) => command.run(),
            Command::Pubkey(command) => command.run(),
            Command::Watchdog(command) => command.run(),
            Command::Hook(command) => command.run(),
            Command::Man(command) => command.run(),
            Command::Completions(command) => command.run(),
        },
        Err(error) => {
            // A reader that has closed standard output is not worth a message.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
        }
    }
}

/// Writes a result to standard output. If the reader has gone away (`| head`), that counts as success.
fn print(text: impl Display) -> ExitCode {
    match write!(io::stdout().lock(), "{text}").and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            print_error(format_args!("onwire: cannot write to standard output: {error}\n"));
            ExitCode::from(FAILURE)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Writes to standard error, if possible.
fn print_error(text: impl Display) {
    let _ = write!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
