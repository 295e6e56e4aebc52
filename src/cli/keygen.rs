//! `onwire keygen`. Never overwrites a key.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rand::rngs::OsRng;
use rand::{RngCore, TryRngCore};
use zeroize::Zeroizing;

use super::{FAILURE, print, print_error};
use crate::config::key_file;
use crate::notify::secret::{self, Secret};
use crate::tunnel::keys::PrivateKey;

/// Make a private key, or a notification key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire keygen /etc/onwire/ithaca.key            writes the private key, mode 0600; prints the public key
  onwire keygen psk.key                           a preshared key is made alike; copy the file to both appliances
  onwire keygen --notify /etc/onwire/notify.key   a key for programs that wait until bytes are protected
  (umask 077; onwire keygen > ithaca.key)         without FILE the key itself is printed

A file that exists is never overwritten.")]
pub struct Keygen {
    /// Make a notification key: 32 random bytes that the appliance and a program share
    #[arg(long)]
    notify: bool,
    /// Where the key goes; without it the key goes to standard output
    file: Option<PathBuf>,
}

impl Keygen {
    /// Makes the key; exit code 1 when the file cannot be made.
    pub fn run(self) -> ExitCode {
        // The kernel's random numbers do not fail once it has booted.
        let mut random = OsRng.unwrap_err();
        let (key, public) = if self.notify {
            let mut bytes = Zeroizing::new([0; secret::LEN]);
            random.fill_bytes(bytes.as_mut_slice());
            (Secret::from_random(&bytes).to_text(), None)
        } else {
            let key = PrivateKey::generate(&mut random);
            (key.to_text(), Some(key.public_key()))
        };
        let Some(path) = self.file else {
            if let Some(public) = public {
                print_error(format_args!("public key: {public}\n"));
            }
            return print(format_args!("{}\n", *key));
        };
        match (key_file::write(&path, &key), public) {
            (Ok(()), Some(public)) => print(format_args!("{public}\n")),
            (Ok(()), None) => ExitCode::SUCCESS,
            (Err(error), _) => {
                print_error(format_args!("onwire: {error}\n"));
                let hint = error.hint(&path, key_file::KEYGEN);
                if !hint.is_empty() {
                    print_error(format_args!("  = {hint}\n"));
                }
                ExitCode::from(FAILURE)
            }
        }
    }
}
