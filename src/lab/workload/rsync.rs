//! A directory copied with rsync to a daemon that serves one directory of the run.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use crate::lab::{
    error::LabError,
    network::{Network, path_text},
    process::Process,
};

const PORT: u16 = 8730;

/// An rsync daemon in a node.
#[derive(Debug)]
pub struct Daemon {
    _process: Process,
    at: SocketAddr,
}

impl Daemon {
    /// Starts a daemon in `node` that takes files into `directory`.
    pub fn start(network: &Network<'_>, node: &str, address: IpAddr, directory: &Path) -> Result<Self, LabError> {
        let root = path_text(directory)?;
        let lock = path_text(&network.trace().directory().join("rsync.lock"))?;
        let text = format!(
            "use chroot = no\nlock file = {lock}\n[data]\n  path = {root}\n  read only = no\n  uid = 0\n  gid = 0\n"
        );
        std::fs::create_dir_all(directory).map_err(LabError::doing(format!("create {root}")))?;
        let file = path_text(&network.trace().write_file("rsyncd.conf", &text)?)?;
        let (port, address_text) = (PORT.to_string(), address.to_string());
        let words =
            ["rsync", "--daemon", "--no-detach", "--address", &address_text, "--port", &port, "--config", &file];
        let mut process = network.start(node, "rsync-daemon", &words)?;
        let listening = format!(":{port}");
        process.wait_until(Duration::from_secs(5), "rsync listens", |_| {
            network.run(node, &["ss", "-Hltn"]).is_ok_and(|text| text.contains(&listening))
        })?;
        Ok(Self { _process: process, at: SocketAddr::new(address, PORT) })
    }

    /// Starts copying what is in `directory` from `node` to a directory of this name at the daemon.
    pub fn copy(&self, network: &Network<'_>, node: &str, directory: &Path, name: &str) -> Result<Process, LabError> {
        let from = format!("{}/", path_text(directory)?);
        let to = format!("rsync://{}/data/{name}/", self.at);
        network.start(node, &format!("rsync-{name}"), &["rsync", "-a", "--whole-file", "--stats", &from, &to])
    }
}
