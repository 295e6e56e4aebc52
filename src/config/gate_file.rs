//! A file of gates, from YAML to checked values. [`super::gate`] documents the values.

use std::path::{Path, PathBuf};

use super::gate::{
    BURST_RANGE, Certificate, DEFAULT_CONNECTIONS, DEFAULT_START_TIMEOUT, DEFAULT_STATUS, Gate, GateNotify, Gates,
    Kind, LEVELS, MOST_CONNECTIONS, POLICIES, Policy, START_TIMEOUT_RANGE, UpstreamTls, names, parse_burst, parse_size,
    parse_start_timeout,
};
use super::key_file;
use super::metrics::{GATE_PORT, Metrics};
use super::node::{overlap, parse_listen};
use super::problem::ConfigErrors;
use super::reporting::Log;
use super::schema;
use super::table::{Field, Reading, Table};
use super::{has_key, read_text, whole_file, yaml};
use crate::notify::message::Level;
use crate::notify::secret::Secret;

const ADDRESS: &str = "an address and a port, such as 10.1.0.1:5433 or [2001:db8::1]:5433";
const SIZE: &str = "a number of bytes, such as 65536, 64KiB or 1MiB";
const GATES: &str =
    "a list of at least one gate, such as [{ kind: tcp, listen: 127.0.0.1:9000, upstream: 10.2.0.1:9000 }]";
const PEM: &str = "the path of a PEM file";

/// Reads and checks a file of gates and the key file it names.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(path: &Path) -> Result<Gates, ConfigErrors> {
    match read_text(path) {
        Ok(text) => parse(&text, path),
        Err((found, _)) => Err(whole_file(path, &found, "`onwire reference gate` prints one that explains every key")),
    }
}

/// Checks the text of a file of gates as if it stood at `path`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path) -> Result<Gates, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if (has_key(text, "node") || has_key(text, "peers")) && !has_key(text, "gates") {
        let hint = format!("`onwire run --config {}` runs it; a file of gates has gates", path.display());
        return Err(whole_file(path, "found an appliance's file", &hint));
    }
    let mut reading = Reading::new(path, text);
    let (tree, faults) = yaml::parse(text);
    for fault in faults {
        reading.error_at(fault.place, "", &fault.found, &fault.hint);
    }
    let gates = tree.and_then(|tree| {
        let root = Table::root(&tree, &schema::GATE_ROOT, &mut reading);
        read(&root, &mut reading)
    });
    let clean = reading.is_clean();
    let problems = reading.into_problems();
    match gates {
        Some(gates) if clean => Ok(Gates { file: Some(path.to_owned()), warnings: problems, ..gates }),
        _ => Err(ConfigErrors { problems }),
    }
}

fn read(root: &Table<'_>, reading: &mut Reading<'_>) -> Option<Gates> {
    let notify = read_notify(root, reading);
    let field = root.required("gates", GATES, reading);
    let elements = field.list(GATES, reading);
    if field.is_list() && elements.is_empty() {
        reading.error(&field.key, "found an empty list", GATES, "");
    }
    let mut read = |element| read_gate(element, reading).map(|gate| (element, gate));
    let gates: Vec<(&Field<'_>, Gate)> = elements.iter().filter_map(&mut read).collect();
    for (at, (element, gate)) in gates.iter().enumerate() {
        let key = |element: &Field<'_>, name: &str| format!("{}.{name}", element.key);
        if let Some((first, _)) = gates[..at].iter().find(|(_, earlier)| earlier.listen == gate.listen) {
            let hint = format!("the gate on {} listens there", reading.line(&first.key));
            reading.error(&key(element, "listen"), &format!("found {}", gate.listen), "an address of its own", &hint);
        }
        if let Some((first, _)) = gates[..at].iter().find(|(_, earlier)| earlier.name == gate.name) {
            let hint = format!("the gate on {} has it: give each a `name`", reading.line(&first.key));
            reading.error(&key(element, "name"), &format!("found {}", gate.name), "a name of its own", &hint);
        }
    }
    let status = root.field("status").table(&schema::GATE_STATUS, reading);
    let socket = status.field("socket").read("a path", |text| Ok(text.to_owned()), reading);
    let socket = socket.map_or(PathBuf::from(DEFAULT_STATUS), |text| reading.resolve(&text));
    let metrics = Metrics::read(root, GATE_PORT, reading);
    if let Some(Metrics { listen }) = metrics
        && let Some((element, _)) = gates.iter().find(|(_, gate)| gate.listen == listen || overlap(gate.listen, listen))
    {
        let hint = format!("the gate on {} listens there", reading.line(&element.key));
        reading.error("metrics.listen", &format!("found {listen}"), "an address of its own", &hint);
    }
    let gates: Vec<Gate> = gates.into_iter().map(|(_, gate)| gate).collect();
    let log = Log::read(root, reading);
    let (notify, key_file) = notify?;
    let mut files = vec![reading.file().to_owned(), key_file];
    gates.iter().for_each(|gate| files.extend(gate.files().map(Path::to_owned)));
    Some(Gates { notify, gates, status: Some(socket), metrics, log, file: None, files, warnings: Vec::new() })
}

/// The appliance, and the file of its key.
fn read_notify(root: &Table<'_>, reading: &mut Reading<'_>) -> Option<(GateNotify, PathBuf)> {
    let table = root.required_table("notify", &schema::GATE_NOTIFY, reading);
    let address = table.required("address", ADDRESS, reading).read(ADDRESS, parse_listen, reading);
    let id = table.field("key_id").number(1..=u16::MAX.into(), reading).unwrap_or(1);
    let what = "the path of a file made by `onwire keygen --notify`";
    let file = table.required("key_file", what, reading);
    let (path, secret) = key_file::read_field(&file, what, key_file::KEYGEN_NOTIFY, Secret::parse, reading);
    Some((GateNotify { address: address?, secret: secret?, key_id: u16::try_from(id).unwrap_or(1) }, path?))
}

fn read_gate(element: &Field<'_>, reading: &mut Reading<'_>) -> Option<Gate> {
    let table = element.table(&schema::GATE, reading);
    let kind = table.required("kind", &names(), reading).read(&names(), Kind::parse, reading);
    let listen = table.required("listen", ADDRESS, reading).read(ADDRESS, parse_listen, reading);
    let upstream = table.required("upstream", ADDRESS, reading).read(ADDRESS, parse_listen, reading);
    let policy = table.field("policy").read(POLICIES, Policy::parse, reading).unwrap_or(Policy::Auto);
    let level = table.field("level").choose(&LEVELS, reading).unwrap_or(Level::OnWire);
    let protect = table.field("protect").table(&schema::GATE_PROTECT, reading);
    let survive_burst = protect.field("survive_burst").read(BURST_RANGE, parse_burst, reading);
    let cap = table.field("max_unprotected");
    let max_unprotected = cap.read(SIZE, parse_size, reading);
    let connections = table.field("connections").number(1..=MOST_CONNECTIONS, reading);
    let start = table.field("start_timeout").read(START_TIMEOUT_RANGE, parse_start_timeout, reading);
    let named = |text: &str| match text.is_empty() || text.len() > 64 {
        true => Err(String::new()),
        false => Ok(text.to_owned()),
    };
    let name = table.field("name").read("1 to 64 characters", named, reading);
    let tls = read_certificate(&table.field("tls"), reading);
    let upstream_tls = read_upstream_tls(&table.field("upstream_tls"), reading);
    let gate = Gate {
        name: name.unwrap_or_else(|| kind.map_or("", Kind::name).to_owned()),
        kind: kind?,
        listen: listen?,
        upstream: upstream?,
        policy,
        level,
        survive_burst,
        max_unprotected,
        connections: connections.map_or(DEFAULT_CONNECTIONS, |number| number as usize),
        start_timeout: start.unwrap_or(DEFAULT_START_TIMEOUT),
        tls,
        upstream_tls,
    };
    if let Err(fault) = gate.check() {
        reading.error(&element.key, &fault.found, fault.allowed, fault.hint);
    }
    Some(gate)
}

fn read_path(field: &Field<'_>, reading: &mut Reading<'_>) -> Option<PathBuf> {
    let path = field.read(PEM, |text| if text.is_empty() { Err(String::new()) } else { Ok(text.to_owned()) }, reading);
    path.map(|path| reading.resolve(&path))
}

fn read_certificate(field: &Field<'_>, reading: &mut Reading<'_>) -> Option<Certificate> {
    if !field.is_present() {
        return None;
    }
    let table = field.table(&schema::GATE_TLS, reading);
    let chain = read_path(&table.required("certificate", PEM, reading), reading);
    let key = read_path(&table.required("key", PEM, reading), reading);
    Some(Certificate { chain: chain?, key: key? })
}

fn read_upstream_tls(field: &Field<'_>, reading: &mut Reading<'_>) -> Option<UpstreamTls> {
    if !field.is_present() {
        return None;
    }
    let table = field.table(&schema::GATE_UPSTREAM_TLS, reading);
    let authority = read_path(&table.required("authority", PEM, reading), reading);
    let word = "the name that the server's certificate has, such as db1.example.net";
    let name = table.required("name", word, reading);
    let name = name.read(word, |text| if text.is_empty() { Err(String::new()) } else { Ok(text.to_owned()) }, reading);
    let chain = read_path(&table.field("certificate"), reading);
    let key = table.field("key");
    if chain.is_some() != key.is_present() {
        reading.error(&key.key, "found one of certificate and key", "both or none", "");
    }
    let key = read_path(&key, reading);
    let certificate = chain.zip(key).map(|(chain, key)| Certificate { chain, key });
    Some(UpstreamTls { authority: authority?, name: name?, certificate })
}
