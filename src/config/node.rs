//! `node`: who this appliance is. Does not open the socket it names.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::key_file::SecretKey;

/// This appliance: its name, its key, where it listens and which side of the link is ours.
#[derive(Clone, Debug)]
pub struct Node {
    /// Shown in status and logs.
    pub name: String,
    /// Where the private key was read from.
    pub key_file: PathBuf,
    /// The private key.
    pub private_key: SecretKey,
    /// The tunnel's UDP address of lane 0; lane i uses the port plus i.
    pub listen: SocketAddr,
    /// Our side: the inner addresses we send from and deliver to; at least one, none overlapping.
    pub local_prefixes: Vec<IpNetwork>,
}
