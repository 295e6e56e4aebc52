//! Copies a directory with rsync to a daemon that serves one directory of the run.
//!
//! An rsync daemon that runs as root calls `setgroups`, which the kernel refuses to root in an ordinary user's
//! namespace. In that case the daemon runs in a second user namespace, in which it is not root and does not call it.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use crate::lab::{
    error::LabError, network::Network, private, process::Process, program::path_text, trace::need_programs,
};

const PORT: u16 = 8730;

/// An rsync daemon in a node.
#[derive(Debug)]
pub struct Daemon {
    _process: Process,
    at: SocketAddr,
    is_nested: bool,
}

impl Daemon {
    /// Starts a daemon in `node` that accepts files into `directory`.
    pub fn start(network: &Network<'_>, node: &str, address: IpAddr, directory: &Path) -> Result<Self, LabError> {
        let root = path_text(directory)?;
        let lock = path_text(&network.trace().directory().join("rsync.lock"))?;
        let is_nested = private::setgroups_is_denied();
        // Without these two settings a daemon that runs as root writes as `nobody`; any other daemon writes as itself.
        let user = if is_nested { "" } else { "  uid = 0\n  gid = 0\n" };
        let text = format!("use chroot = no\nlock file = {lock}\n[data]\n  path = {root}\n  read only = no\n{user}");
        std::fs::create_dir_all(directory).map_err(LabError::doing(format!("create {root}")))?;
        let file = path_text(&network.trace().write_file("rsyncd.conf", &text)?)?;
        let (port, address_text) = (PORT.to_string(), address.to_string());
        let daemon =
            ["rsync", "--daemon", "--no-detach", "--address", &address_text, "--port", &port, "--config", &file];
        let nest: &[&str] = if is_nested {
            need_programs(&["unshare"])?;
            &["unshare", "--user", "--map-user=1", "--map-group=1"]
        } else {
            &[]
        };
        let mut process = network.start(node, "rsync-daemon", &[nest, &daemon].concat())?;
        let listening = format!(":{port}");
        process.wait_until(Duration::from_secs(5), "rsync listens", |_| {
            network.run(node, &["ss", "-Hltn"]).is_ok_and(|text| text.contains(&listening))
        })?;
        Ok(Self { _process: process, at: SocketAddr::new(address, PORT), is_nested })
    }

    /// Whether it runs in a user namespace of its own because `setgroups` is denied in this one.
    pub fn is_nested(&self) -> bool {
        self.is_nested
    }

    /// Starts to copy the content of `directory` from `node` to a directory of this name at the daemon.
    pub fn copy(&self, network: &Network<'_>, node: &str, directory: &Path, name: &str) -> Result<Process, LabError> {
        let from = format!("{}/", path_text(directory)?);
        let to = format!("rsync://{}/data/{name}/", self.at);
        network.start(node, &format!("rsync-{name}"), &["rsync", "-a", "--whole-file", "--stats", &from, &to])
    }
}
