//! The command line: one file a subcommand, no logic.

mod lab;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Lab(lab::LabArgs),
}

/// Parses the command line and runs what it asks for.
///
/// Exit codes: 0 asked to stop or done, 1 failure, 2 usage or configuration.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Lab(args) => lab::run(args),
    }
}
