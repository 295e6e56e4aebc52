//! `node`: the identity of this appliance. Does not open the socket it names.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::key_file;
use super::name::{NAME, parse_name};
use super::peer::{DEFAULT_PORT, read_prefixes};
use super::schema;
use super::table::{Reading, Table};
use crate::tunnel::keys::{PrivateKey, PublicKey};

/// This appliance: its name, its key, its address, and the prefixes on its side of the link.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in status and logs.
    pub name: String,
    /// The file of the private key.
    pub key_file: PathBuf,
    /// `None` only while a faulty file is being read.
    private_key: Option<PrivateKey>,
    /// The tunnel's UDP address of lane 0; lane i uses the port plus i.
    pub listen: SocketAddr,
    /// The inner addresses on this side, which packets come from and are delivered to; at least one prefix, none
    /// overlapping.
    pub local_prefixes: Vec<IpNetwork>,
}

impl Node {
    /// The private key.
    pub fn private_key(&self) -> &PrivateKey {
        self.private_key
            .as_ref()
            .expect("a file without a readable key is an error, and then there is no configuration")
    }

    /// The public half of the private key, unless the file is faulty.
    pub(super) fn public_key(&self) -> Option<PublicKey> {
        self.private_key.as_ref().map(PrivateKey::public_key)
    }

    pub(super) fn read(root: &Table<'_>, reading: &mut Reading<'_>) -> Self {
        let table = root.required_table("node", &schema::NODE, reading);
        let name = table.required("name", NAME, reading).read(NAME, parse_name, reading);
        let a_path = "the path of a file made by `onwire keygen`";
        let field = table.required("key_file", a_path, reading);
        let (path, private_key) = key_file::read_field(&field, a_path, key_file::KEYGEN, PrivateKey::parse, reading);
        let listen = table.field("listen").read(LISTEN, parse_listen, reading);
        let local_prefixes = read_prefixes(&table, "local_prefixes", reading);
        Self {
            name: name.unwrap_or_default(),
            key_file: path.unwrap_or_default(),
            private_key,
            listen: listen.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))),
            local_prefixes,
        }
    }
}

const LISTEN: &str = "an address and a port, such as 0.0.0.0:7117 or [::]:7117";

/// Whether the kernel gives no socket one of these while another listens on the other. They are not the same.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // A socket of all IPv6 addresses also has those of IPv4.
    let has = |all: SocketAddr, other: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || other.is_ipv4());
    one.port() == other.port() && (has(one, other) || has(other, one))
}

/// Reads an address to listen at. The error is a hint.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err("others must know the port: choose one".to_owned()),
        Ok(address) if address.ip().is_multicast() => Err("a multicast address cannot listen".to_owned()),
        Ok(address) => Ok(address),
        Err(_) if text.parse::<std::net::IpAddr>().is_ok() => Err("add the port".to_owned()),
        Err(_) => Err("names are not resolved here: write the address".to_owned()),
    }
}
