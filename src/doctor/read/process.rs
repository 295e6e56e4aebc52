//! What this process, the appliance's user and the key files are.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::number;
use crate::config::Config;
use crate::doctor::facts::{Appliance, KeyFile, ProcessFacts, Subject};
use crate::io::udp::UdpOptions;

/// Where the unit of the service may lie.
const UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
const UNIT: &str = "onwire@.service";
/// The user in that unit.
const UNIT_USER: &str = "onwire";

/// Reads them; opens the TUN device without making one.
pub fn read(subject: &Subject, appliance: &Appliance) -> ProcessFacts {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let running = appliance.status.as_ref().ok().and(appliance.user);
    ProcessFacts {
        tun: tun.map(drop).map_err(|error| error.kind()),
        is_admin: is_admin(),
        appliance_capabilities: appliance.status.as_ref().ok().map(|status| status.restrictions.capabilities.clone()),
        service_user: match running {
            Some(id) => Some((id, name_of(&users, id))),
            None if has_unit() => id_of(&users, UNIT_USER).map(|id| (id, UNIT_USER.to_owned())),
            None => None,
        },
        key_files: subject.config().map(key_files).unwrap_or_default(),
        buffer_max: ["rmem_max", "wmem_max"].map(|name| number(format!("/proc/sys/net/core/{name}"))),
        buffer_wanted: UdpOptions::default().buffer_bytes as u64,
    }
}

/// This process may ask for what administrators may.
pub fn is_admin() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

fn has_unit() -> bool {
    UNITS.iter().any(|directory| Path::new(directory).join(UNIT).exists())
}

fn key_files(config: &Config) -> Vec<KeyFile> {
    let preshared = config.peers.iter().filter_map(|peer| peer.preshared_key_file.as_ref());
    let notify = config.notify.iter().flat_map(|notify| &notify.keys).map(|key| &key.file);
    let owner = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.uid());
    let files = [&config.node.key_file].into_iter().chain(preshared).chain(notify);
    files.map(|path| KeyFile { path: path.clone(), owner: owner(path) }).collect()
}

/// The name of a user, or its number.
fn name_of(users: &str, id: u32) -> String {
    let named = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(id)).then(|| name.to_owned())
    };
    users.lines().find_map(named).unwrap_or_else(|| id.to_string())
}

fn id_of(users: &str, name: &str) -> Option<u32> {
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let users = "root:x:0:0::/root:/bin/sh\nonwire:x:997:997::/:/usr/sbin/nologin\n";
        assert_eq!((id_of(users, "onwire"), id_of(users, "onw")), (Some(997), None));
        assert_eq!((name_of(users, 997), name_of(users, 5)), ("onwire".to_owned(), "5".to_owned()));
    }
}
