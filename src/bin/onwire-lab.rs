//! The `onwire-lab` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    onwire::lab::command::main()
}
