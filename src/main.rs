//! The `onwire` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    onwire::cli::main()
}
