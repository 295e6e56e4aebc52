//! What an appliance needs after it is set up, and gives up all else. How that is done is in [`crate::io::restriction`].

use std::path::{Path, PathBuf};

use crate::appliance::control::request::control_socket;
use crate::config::Config;
use crate::io::restriction::{CapabilitySet, Needs, Restrictions, restrict};

/// What resolving the name of an endpoint reads: the resolver's files, which others replace while this runs, and the
/// modules that they name. Those that a host does not have are left out.
const RESOLVER: [&str; 11] = [
    "/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
];
/// Whether this host forwards packets; how many processors it has, for the allocator.
const SYSTEM: [&str; 2] = ["/proc/sys/net", "/sys/devices/system/cpu"];

/// Gives up what an appliance that was read from `file` does not need any more. Logs what could not be given up.
pub fn give_up(config: &Config, file: &Path) -> Restrictions {
    let restrictions = restrict(&needs(config, file));
    for missing in &restrictions.missing {
        tracing::warn!("{missing}");
    }
    tracing::info!("privileges reduced: {}", restrictions.summary());
    restrictions
}

fn needs(config: &Config, file: &Path) -> Needs {
    let preshared = config.peers.iter().filter_map(|peer| peer.preshared_key_file.as_ref());
    let notify = config.notify.iter().flat_map(|notify| &notify.keys).map(|key| &key.file);
    let keys = [&config.node.key_file].into_iter().chain(preshared).chain(notify).cloned();
    Needs {
        // Routes are restored, and come and go with reloads. Sockets are not opened again.
        capabilities: CapabilitySet::NET_ADMIN,
        // The last is often a link to where some other program writes it.
        files: [file.to_owned()].into_iter().chain(keys).chain(["/etc/resolv.conf".into()]).collect(),
        readable: RESOLVER.into_iter().chain(SYSTEM).map(PathBuf::from).collect(),
        sockets: vec![config.status.socket.clone(), control_socket(&config.status.socket)],
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::appliance::host::names::ask_system;
    use crate::config;
    use crate::io::restriction::tests::is_alone;
    use crate::tunnel::keys::PrivateKey;

    #[test]
    fn names_are_resolved_afterwards_and_forwarding_is_seen() {
        if !is_alone("appliance::host::privileges::tests::names_are_resolved_afterwards_and_forwarding_is_seen") {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut random = StdRng::seed_from_u64(1);
        let mut key = |name: &str| {
            let path = directory.path().join(name);
            config::key_file::write(&path, &PrivateKey::generate(&mut random).to_text()).unwrap();
            path
        };
        let file = directory.path().join("ithaca.yaml");
        let (own, preshared, notify) = (key("own.key"), key("psk.key"), key("notify.key"));
        let text = format!(
            "node: {{ name: ithaca, key_file: {}, local_prefixes: [10.1.0.0/24] }}\npeers:\n  - {{ name: syracuse, public_key: \
             {}, preshared_key_file: {}, prefixes: [10.2.0.0/24] }}\nnotify: {{ keys: [{{ id: 1, file: {} }}] }}\n",
            own.display(),
            PrivateKey::generate(&mut StdRng::seed_from_u64(2)).public_key(),
            preshared.display(),
            notify.display()
        );
        let config = config::parse(&text, &file).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(needs(&config, &file).files, [file.clone(), own, preshared, notify, "/etc/resolv.conf".into()]);

        let restrictions = give_up(&config, &file);
        assert_eq!(restrictions.missing, Vec::<String>::new());
        assert!(ask_system("localhost:7117").unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(ask_system("no-such-host.invalid:7117").is_err());
        assert!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok());
        assert!(std::fs::read_to_string("/proc/self/environ").is_err());
        assert!(restrictions.advice(Path::new("/root/other.key")).is_some());
    }
}
