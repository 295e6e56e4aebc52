//! `onwire watchdog`: the process that watches an appliance with `bypass: withdraw_routes`. The appliance starts it.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;

use super::{FAILURE, USAGE, print_error};
use crate::appliance::watchdog;

/// Arguments of `onwire watchdog`.
#[derive(Debug, Args)]
#[command(after_help = "\
`onwire run` starts this program where the configuration says `bypass: { when_down: withdraw_routes }`. Its standard input is the
channel from there. When the appliance stands still or dies, it sets the device down, and the routes into it are gone with that.")]
pub struct Watchdog {
    /// The TUN device of the appliance
    device: String,
}

impl Watchdog {
    /// Watches until the appliance has ended.
    pub fn run(self) -> ExitCode {
        if io::stdin().is_terminal() {
            print_error("onwire watchdog: `onwire run` starts this program; by hand it has nothing to watch\n");
            return ExitCode::from(USAGE);
        }
        match watchdog::run(&self.device) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print_error(format_args!("onwire watchdog: {error}\n"));
                ExitCode::from(FAILURE)
            }
        }
    }
}
