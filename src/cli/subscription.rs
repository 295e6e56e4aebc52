//! Options shared by `watch`, `wait`, `flows` and `gate`: which appliance to query, and with which key. Sends nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::key_file::{self, KEYGEN_NOTIFY};
use crate::notify::client::{Client, Wish};
use crate::notify::secret::Secret;

/// Which appliance to ask.
#[derive(Debug, Args)]
pub struct Subscription {
    /// Where the appliance gives notifications: `listen` of `notify` in its file
    #[arg(long, value_name = "ADDR:PORT", env = "ONWIRE_NOTIFY", default_value = "127.0.0.1:7118")]
    pub notify: SocketAddr,
    /// The file of a key that the appliance knows
    #[arg(long, value_name = "FILE", env = "ONWIRE_NOTIFY_KEY", default_value = "/etc/onwire/notify.key")]
    key: PathBuf,
    /// That key's number there
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    key_id: u16,
}

impl Subscription {
    /// A client for `wish`. The error names the fault and the remedy.
    pub fn client(&self, wish: Wish) -> Result<Client, String> {
        let (secret, id) = self.secret()?;
        Client::connect_with(self.notify, secret.to_key(id), wish)
            .map_err(|error| format!("cannot ask {}: {error}", self.notify))
    }

    /// The key and its number. The error names the fault and the remedy.
    pub fn secret(&self) -> Result<(Secret, u16), String> {
        let secret = key_file::read(&self.key, Secret::parse).map_err(|error| {
            let hint = error.hint(&self.key, KEYGEN_NOTIFY);
            let further = match self.key.exists() {
                true => "",
                // A new key is useless until the appliance knows it.
                false => ", and name it under notify.keys in the appliance's file",
            };
            format!("{error}\n  = {hint}{further}")
        })?;
        Ok((secret, self.key_id))
    }

    /// The key's file.
    pub fn key_file(&self) -> &Path {
        &self.key
    }

    /// What to check when the appliance does not answer.
    pub fn advice(&self) -> String {
        format!(
            "is `notify` in the appliance's file, does it listen at {}, and is {} its key {}?",
            self.notify,
            self.key.display(),
            self.key_id
        )
    }
}
