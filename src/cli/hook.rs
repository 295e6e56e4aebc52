//! `onwire hook`: the process that runs a hook of the configuration. The appliance starts it.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{FAILURE, USAGE, print_error};
use crate::appliance::hooks::process;
use crate::config::hooks;
use crate::config::units::parse_duration;

/// Arguments of `onwire hook`.
#[derive(Debug, Args)]
#[command(after_help = "\
`onwire run` starts this program for each of `hooks` of its configuration. Its standard input is the channel from there: events, for
each of which it runs PROGRAM.")]
pub struct Hook {
    /// How long one run may take
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    time_limit: Duration,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<String>,
}

impl Hook {
    /// Runs the program for each event until the appliance has ended.
    pub fn run(self) -> ExitCode {
        if io::stdin().is_terminal() {
            print_error("onwire hook: `onwire run` starts this program; by hand there is nothing to run for\n");
            return ExitCode::from(USAGE);
        }
        // clap has made sure that there is one.
        let (program, arguments) =
            self.program.split_first().map(|(first, rest)| (PathBuf::from(first), rest.to_vec())).unwrap_or_default();
        let hook = hooks::Hook { on: Vec::new(), program, arguments, time_limit: self.time_limit };
        match process::run(&hook) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print_error(format_args!("onwire hook: {}: {error}\n", hook.program.display()));
                ExitCode::from(FAILURE)
            }
        }
    }
}
