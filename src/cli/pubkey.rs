//! `onwire pubkey`. Does not change any file.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use zeroize::Zeroizing;

use super::{FAILURE, complain, print};
use crate::config::key_file::{self, KeyError, SecretKey};

/// Print the public key of a private key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire pubkey /etc/onwire/ithaca.key     the line for `public_key` in the peer's file
  onwire pubkey < ithaca.key               the same, from standard input")]
pub struct Pubkey {
    /// The private key's file; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

impl Pubkey {
    /// Prints the key; exit code 1 when the file is not a private key of ours.
    pub fn run(self) -> ExitCode {
        let key = if self.file == Path::new("-") { read_stdin() } else { key_file::read_secret(&self.file) };
        match key {
            Ok(key) => print(format_args!("{}\n", key_file::show_public(&key.public_key()))),
            Err(error) => {
                complain(format_args!("onwire: {error}\n  = {}\n", error.hint(&self.file)));
                ExitCode::from(FAILURE)
            }
        }
    }
}

fn read_stdin() -> Result<SecretKey, KeyError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    io::stdin().lock().take(256).read_to_end(&mut bytes).map_err(|error| KeyError::Io {
        path: "on standard input".to_owned(),
        action: "read",
        error,
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::Alphabet)?;
    SecretKey::parse(text)
}
