//! `notify`: the address for subscriptions, their keys, and what counts as protected. Does not open the socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::key_file;
use super::node::parse_listen;
use super::redundancy::duration;
use super::schema;
use super::table::{Field, Reading, Table};
use crate::notify::envelope::MAX_KEYS;
use crate::notify::message::Level;
use crate::notify::secret::Secret;

/// The notifications of what is protected. A file without the section has none.
#[derive(Clone, Debug)]
pub struct Notify {
    /// The UDP address of the publisher.
    pub listen: SocketAddr,
    /// The keys that subscribers may use, at least one, each with its own number.
    pub keys: Vec<NotifyKey>,
    /// What is reported as protected: [`Level::OnWire`], or [`Level::Queued`] if devices give no timestamps.
    pub level: Level,
    /// How long at most a link is trusted after the last datagram of ours that is known to have arrived.
    pub trust_max: Duration,
}

/// A key that subscribers may use.
#[derive(Clone, Debug)]
pub struct NotifyKey {
    /// Its number in the datagrams; not 0.
    pub id: u16,
    /// Its file.
    pub file: PathBuf,
    /// The secret that its holders share with the appliance.
    pub secret: Secret,
}

/// The default port.
pub const DEFAULT_PORT: u16 = 7118;
/// Three round trips of 200 ms.
pub const DEFAULT_TRUST_MAX: Duration = Duration::from_millis(600);

const LISTEN: &str = "an address and a port, such as 127.0.0.1:7118 or [::1]:7118";
const KEYS: &str = "a list of at least one key, such as [{ id: 1, file: /etc/onwire/notify.key }]";
const FILE: &str = "the path of a file made by `onwire keygen --notify`";

impl Notify {
    pub(super) fn read(root: &Table<'_>, reading: &mut Reading<'_>) -> Option<Self> {
        let field = root.field("notify");
        if !field.is_present() {
            return None;
        }
        let table = field.table(&schema::NOTIFY, reading);
        let listen = table.field("listen").read(LISTEN, parse_listen, reading);
        let keys = read_keys(&table, reading);
        let level = table.field("level").choose(&[("on_wire", Level::OnWire), ("queued", Level::Queued)], reading);
        let trusted = Duration::from_millis(100)..=Duration::from_secs(10);
        let trust_max = duration(&table.field("trust_max"), trusted, reading);
        Some(Self {
            listen: listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))),
            keys,
            level: level.unwrap_or(Level::OnWire),
            trust_max: trust_max.unwrap_or(DEFAULT_TRUST_MAX),
        })
    }
}

fn read_keys(table: &Table<'_>, reading: &mut Reading<'_>) -> Vec<NotifyKey> {
    let field = table.required("keys", KEYS, reading);
    let elements = field.list(KEYS, reading);
    if field.is_list() && elements.is_empty() {
        reading.error(&field.key, "found an empty list", KEYS, "without a key nobody could subscribe");
    }
    if elements.len() > MAX_KEYS {
        let found = format!("found {} keys", elements.len());
        reading.error(&field.key, &found, &format!("1 to {MAX_KEYS} keys"), "");
    }
    let mut numbers = Vec::new();
    elements.iter().filter_map(|element| read_key(element, &mut numbers, reading)).collect()
}

fn read_key(element: &Field<'_>, numbers: &mut Vec<(u16, String)>, reading: &mut Reading<'_>) -> Option<NotifyKey> {
    let table = element.table(&schema::NOTIFY_KEY, reading);
    let field = table.required("id", "a whole number from 1 to 65535", reading);
    let id = field.number(1..=u16::MAX.into(), reading).and_then(|id| u16::try_from(id).ok());
    if let Some(id) = id {
        if let Some((_, first)) = numbers.iter().find(|(number, _)| *number == id) {
            let hint = format!("{first} has it ({})", reading.line(first));
            reading.error(&field.key, &format!("found {id}"), "a number of its own for each key", &hint);
        }
        numbers.push((id, element.key.clone()));
    }
    let file = table.required("file", FILE, reading);
    let (path, secret) = key_file::read_field(&file, FILE, key_file::KEYGEN_NOTIFY, Secret::parse, reading);
    Some(NotifyKey { id: id?, file: path?, secret: secret? })
}
