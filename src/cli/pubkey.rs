//! `onwire pubkey`. Does not change any file.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use zeroize::Zeroizing;

use super::{FAILURE, print, print_error};
use crate::config::key_file::{self, KEYGEN, MOST_TEXT};
use crate::tunnel::keys::PrivateKey;

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
    /// Prints the key; exit code 1 when the file is not an onwire private key.
    pub fn run(self) -> ExitCode {
        let key = if self.file == Path::new("-") {
            read_stdin().map_err(|words| (words, key_file::one_line(KEYGEN)))
        } else {
            key_file::read(&self.file, PrivateKey::parse)
                .map_err(|error| (error.to_string(), error.hint(&self.file, KEYGEN)))
        };
        match key {
            Ok(key) => print(format_args!("{}\n", key.public_key())),
            Err((words, hint)) => {
                print_error(format_args!("onwire: {words}\n  = {hint}\n"));
                ExitCode::from(FAILURE)
            }
        }
    }
}

/// Reads the key from standard input. The error is a sentence.
fn read_stdin() -> Result<PrivateKey, String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_TEXT));
    let input = io::stdin().lock().take(MOST_TEXT as u64).read_to_end(&mut bytes);
    input.map_err(|error| format!("standard input cannot be read: {error}"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "standard input holds no key: it is not text".to_owned())?;
    PrivateKey::parse(text).map_err(|error| format!("standard input holds no key: {error}"))
}
