//! The command line: one file a subcommand, no logic.

use std::process::ExitCode;

/// Parses the command line and runs what it asks for.
///
/// Exit codes: 0 asked to stop or done, 1 failure, 2 usage or configuration.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
