//! Options shared by `watch`, `wait`, `flows` and `gate`: which appliance to query, and with which key. Sends no notification
//! request.
//!
//! What the command line leaves out is in the file that `--config` names, else in the environment, else the default: the
//! only appliance of this host, which says on its status socket where it gives notifications.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::processes::only_appliance;
use crate::config::key_file::{self, KEYGEN_NOTIFY};
use crate::config::{self, DEFAULT_NOTIFY_PORT, Source, gate_file};
use crate::notify::client::{Client, Wish};
use crate::notify::secret::Secret;

const DEFAULT_KEY: &str = "/etc/onwire/notify.key";

/// Which appliance to ask.
#[derive(Debug, Args)]
pub struct Subscription {
    /// Where the appliance gives notifications: `listen` of `notify` in its file. The port is 7118 unless it is named
    /// [env: ONWIRE_NOTIFY] [default: what the only appliance of this host says, or 127.0.0.1]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_publisher)]
    notify: Option<SocketAddr>,
    /// The file of a key that the appliance knows [env: ONWIRE_NOTIFY_KEY] [default: /etc/onwire/notify.key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// That key's number there [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    key_id: Option<u16>,
}

/// Which appliance to ask; its file may say it.
#[derive(Debug, Args)]
pub struct FileOrSubscription {
    #[command(flatten)]
    subscription: Subscription,
    /// The file of the appliance, or of gates: it names all three
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// An appliance to ask, and the key for it.
#[derive(Debug)]
pub struct Publisher {
    /// Its address.
    pub address: SocketAddr,
    /// The file of the key, or the one that names it.
    pub key_file: PathBuf,
    /// The key's number there.
    pub key_id: u16,
    /// The key.
    pub secret: Secret,
}

impl FileOrSubscription {
    /// The appliance. The error names the fault and the remedy.
    pub fn find(&self) -> Result<Publisher, String> {
        let Some(file) = &self.config else { return self.subscription.find() };
        let named = Publisher::of_file(file, self.subscription.key_id)?;
        let address = self.subscription.notify.unwrap_or(named.address);
        match &self.subscription.key {
            Some(key) => Publisher::with_key(address, key.clone(), self.subscription.key_id.unwrap_or(1)),
            None => Ok(Publisher { address, ..named }),
        }
    }
}

impl Subscription {
    /// The appliance. The error names the fault and the remedy.
    pub fn find(&self) -> Result<Publisher, String> {
        let of_environment = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
        let address = match (self.notify, of_environment("ONWIRE_NOTIFY")) {
            (Some(address), _) => address,
            (None, Some(text)) => parse_publisher(&text).map_err(|words| format!("ONWIRE_NOTIFY: {words}"))?,
            (None, None) => only_publisher().unwrap_or((Ipv4Addr::LOCALHOST, DEFAULT_NOTIFY_PORT).into()),
        };
        let key = self.key.clone().or_else(|| of_environment("ONWIRE_NOTIFY_KEY").map(PathBuf::from));
        Publisher::with_key(address, key.unwrap_or_else(|| DEFAULT_KEY.into()), self.key_id.unwrap_or(1))
    }
}

impl Publisher {
    fn with_key(address: SocketAddr, key_file: PathBuf, key_id: u16) -> Result<Self, String> {
        let secret = key_file::read(&key_file, Secret::parse).map_err(|error| {
            let hint = error.hint(&key_file, KEYGEN_NOTIFY);
            let further = match key_file.exists() {
                true => "",
                // A new key is useless until the appliance knows it.
                false => ", and name it under notify.keys in the appliance's file",
            };
            format!("{error}\n  = {hint}{further}")
        })?;
        Ok(Self { address, key_file, key_id, secret })
    }

    /// What a file of either kind says; of several keys the one with this number, or the first.
    fn of_file(file: &Path, key_id: Option<u16>) -> Result<Self, String> {
        let wrong = |errors: config::ConfigErrors| errors.to_string().trim_end().to_owned();
        let source = Source::read(file, None).map_err(wrong)?;
        if source.is_of_gates() {
            let notify = gate_file::parse(&source.text, &source.path).map_err(wrong)?.notify;
            return Ok(Self {
                address: notify.address,
                key_file: file.to_owned(),
                key_id: notify.key_id,
                secret: notify.secret,
            });
        }
        let notify = source.parse().map_err(wrong)?.notify;
        let notify = notify.ok_or_else(|| {
            format!("{}: it has no `notify`: this appliance tells nobody what is protected", file.display())
        })?;
        let known: Vec<String> = notify.keys.iter().map(|key| key.id.to_string()).collect();
        let key = notify.keys.into_iter().find(|key| key_id.is_none_or(|id| key.id == id)).ok_or_else(|| {
            format!("{}: it has no key {}; it has {}", file.display(), key_id.unwrap_or(1), known.join(", "))
        })?;
        Ok(Self { address: reachable(notify.listen), key_file: key.file, key_id: key.id, secret: key.secret })
    }

    /// A client for `wish`. The error names the fault.
    pub fn client(&self, wish: Wish) -> Result<Client, String> {
        Client::connect_with(self.address, self.secret.to_key(self.key_id), wish)
            .map_err(|error| format!("cannot ask {}: {error}", self.address))
    }

    /// What to check when the appliance does not answer.
    pub fn advice(&self) -> String {
        format!(
            "is `notify` in the appliance's file, does it listen at {}, and is {} its key {}?",
            self.address,
            self.key_file.display(),
            self.key_id
        )
    }
}

/// The appliance may stand still: then the default address is asked, within the time that the user set.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the only appliance of this host gives notifications; `None` if there is none, or several, or it gives none.
fn only_publisher() -> Option<SocketAddr> {
    let status = only_appliance(PATIENCE)?;
    Some(reachable(status["notify"]["listen"].as_str()?.parse().ok()?))
}

/// An address to reach who listens at this one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Reads `HOST`, `HOST:PORT`, an address, or `[IPv6 address]:PORT`; resolves a name, of whose addresses the first counts.
fn parse_publisher(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, DEFAULT_NOTIFY_PORT).into());
    }
    let resolved = match text.parse::<SocketAddr>() {
        Ok(address) => return Ok(address),
        Err(_) if text.contains(':') => text.to_socket_addrs(),
        Err(_) => (text, DEFAULT_NOTIFY_PORT).to_socket_addrs(),
    };
    let first = resolved.map_err(|error| {
        format!("found {text:?} ({error}); allowed: HOST, HOST:PORT, an address, or [IPv6 address]:PORT")
    })?;
    { first }.next().ok_or_else(|| format!("{text:?} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_is_an_address_or_a_name_and_its_port_may_be_left_out() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1:7118"),
            ("192.0.2.1:9", "192.0.2.1:9"),
            ("::1", "[::1]:7118"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(parse_publisher(text), Ok(address.parse().unwrap()), "{text}");
        }
        for (text, port) in [("localhost", 7118), ("localhost:9", 9)] {
            let address = parse_publisher(text).unwrap();
            assert!(address.ip().is_loopback() && address.port() == port, "{address}");
        }
        for text in ["", "no-such-host.invalid", "192.0.2.1:", "192.0.2.1:x", "localhost:70000"] {
            assert!(parse_publisher(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_listens_everywhere_is_reached_on_this_host() {
        for (listen, at) in [("0.0.0.0:9", "127.0.0.1:9"), ("[::]:9", "[::1]:9"), ("10.1.0.1:9", "10.1.0.1:9")] {
            assert_eq!(reachable(listen.parse().unwrap()), at.parse().unwrap());
        }
    }
}
