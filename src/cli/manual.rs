//! `onwire man` and `onwire completions`: what packages install beside the program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::{FAILURE, command, print, print_error, reference};
use crate::manual;

/// Write the manual pages into a directory
#[derive(Debug, Args)]
pub struct Man {
    /// The directory; its pages of the same names are replaced
    directory: PathBuf,
}

impl Man {
    /// Writes the pages; exit code 1 when one cannot be written.
    pub fn run(self) -> ExitCode {
        for page in manual::pages(command()).into_iter().chain(reference::pages()) {
            if let Err(error) = page.write(&self.directory) {
                let path = self.directory.join(&page.file);
                print_error(format_args!("onwire: {} cannot be written: {error}\n", path.display()));
                return ExitCode::from(FAILURE);
            }
        }
        ExitCode::SUCCESS
    }
}

/// Print the completions for a shell
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(self) -> ExitCode {
        print(String::from_utf8_lossy(&manual::completions(command(), self.shell)))
    }
}
