//! `onwire keygen`. Never overwrites a key.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rand::TryRngCore;
use rand::rngs::OsRng;

use super::{FAILURE, complain, print};
use crate::config::key_file;
use crate::tunnel::keys::PrivateKey;

/// Make a private key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire keygen /etc/onwire/ithaca.key     writes the private key, mode 0600; prints the public key
  onwire keygen psk.key                    a preshared key is made alike; copy the file to both appliances
  (umask 077; onwire keygen > ithaca.key)  without FILE the private key itself is printed

A file that exists is never overwritten.")]
pub struct Keygen {
    /// Where the private key goes; without it the private key goes to standard output
    file: Option<PathBuf>,
}

impl Keygen {
    /// Makes the key; exit code 1 when the file cannot be made.
    pub fn run(self) -> ExitCode {
        // The kernel's random numbers do not fail once it has booted.
        let key = PrivateKey::generate(&mut OsRng.unwrap_err());
        let public = key.public_key();
        let Some(path) = self.file else {
            complain(format_args!("public key: {public}\n"));
            return print(format_args!("{}\n", *key.to_text()));
        };
        match key_file::write(&path, &key.to_text()) {
            Ok(()) => print(format_args!("{public}\n")),
            Err(error) => {
                complain(format_args!("onwire: {error}\n"));
                let hint = error.hint(&path);
                if !hint.is_empty() {
                    complain(format_args!("  = {hint}\n"));
                }
                ExitCode::from(FAILURE)
            }
        }
    }
}
