//! Whom an examination is about, and what it has found out about it before anything is judged.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use crate::appliance::status::Status;
use crate::config::Config;
use crate::io::echo::Answer;
use crate::io::ethtool::Features;
use crate::io::qdisc::Egress;

/// The configuration of the appliance.
#[derive(Clone, Debug)]
pub enum Configuration {
    /// It is good.
    Good(Box<Config>),
    /// It cannot be used; the text says why, and may have several lines.
    Bad(String),
    /// This user may not read it, or its keys; the text says why.
    Denied(String),
    /// There is none; the text says where it was looked for.
    None(String),
}

/// Whom an examination is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// What is in it.
    pub configuration: Configuration,
    /// The status socket of the appliance, if one is known.
    pub socket: Option<PathBuf>,
}

impl Subject {
    /// The configuration, if it is good.
    pub fn config(&self) -> Option<&Config> {
        match &self.configuration {
            Configuration::Good(config) => Some(config),
            _ => None,
        }
    }
}

/// The running appliance.
#[derive(Debug)]
pub struct Appliance {
    /// Where it was asked.
    pub socket: Option<PathBuf>,
    /// Its status, or why there is none.
    pub status: Result<Status, String>,
    /// The user that owns its socket.
    pub user: Option<u32>,
    /// The file that is examined, where the appliance follows another one.
    pub other_file: Option<(String, PathBuf)>,
    /// The text in its file is another one than it follows.
    pub is_file_newer: bool,
    /// What its service is called, for remedies: `onwire@ithaca`.
    pub service: Option<String>,
}

/// A key file that the configuration names.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Its path.
    pub path: PathBuf,
    /// Its owner; `None` if it cannot be looked at.
    pub owner: Option<u32>,
}

/// What this process and the appliance may do.
#[derive(Clone, Debug)]
pub struct ProcessFacts {
    /// Whether `/dev/net/tun` can be opened, or why not.
    pub tun: Result<(), std::io::ErrorKind>,
    /// This process has `CAP_NET_ADMIN`.
    pub is_admin: bool,
    /// What the running appliance may do.
    pub appliance_capabilities: Option<Vec<String>>,
    /// The user of the appliance: that of the running one, else of the unit.
    pub service_user: Option<(u32, String)>,
    /// The key files.
    pub key_files: Vec<KeyFile>,
    /// `net.core.rmem_max` and `wmem_max`, as far as they can be read.
    pub buffer_max: [Option<u64>; 2],
    /// What the appliance asks for.
    pub buffer_wanted: u64,
}

/// What this host does with packets of others.
#[derive(Clone, Debug, Default)]
pub struct ForwardingFacts {
    /// IPv4, then IPv6.
    pub families: [FamilyFacts; 2],
    /// The devices that packets of the tunnel pass.
    pub devices: Vec<DeviceFacts>,
    /// `bypass.when_down` is `withdraw_routes`: both directions may take different ways.
    pub withdraws_routes: bool,
    /// Packets that reverse path filters of this host have dropped since its start.
    pub filtered: Option<u64>,
}

/// Forwarding of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyFacts {
    /// A peer's prefix is of this family.
    pub is_used: bool,
    /// This host forwards; `None` where that cannot be read.
    pub forwards: Option<bool>,
    /// `local_prefixes` has other hosts than this one.
    pub has_others: bool,
    /// This host has an address within `local_prefixes`.
    pub has_own: bool,
}

/// A device and its switches for IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its name.
    pub name: String,
    /// `rp_filter` in force, the larger of its own and that of all: 0 off, 1 strict, 2 loose.
    pub rp_filter: Option<u8>,
    /// Forwarding of this device alone; the host's switch sets all.
    pub forwards: Option<bool>,
}

/// The firewall.
#[derive(Clone, Debug)]
pub struct FirewallFacts {
    /// The name of the TUN device.
    pub device: String,
    /// This host forwards for others; else the chain does not matter.
    pub matters: bool,
    /// The prefixes of the peers, and those of this side.
    pub prefixes: (Vec<IpNetwork>, Vec<IpNetwork>),
    /// The answer of `nft -j list ruleset`, or why there is none.
    pub rules: Result<serde_json::Value, String>,
    /// The tables of the older `iptables` that this kernel has; nft does not show them.
    pub legacy_tables: Vec<String>,
}

/// The TUN device and the routes into it.
#[derive(Clone, Debug)]
pub struct RouteFacts {
    /// Its name.
    pub device: String,
    /// `tun.mtu`.
    pub mtu_wanted: u32,
    /// The device as it is: MTU, and whether it is up; `None` if there is none.
    pub tun: Option<(u32, bool)>,
    /// Each prefix of each peer; or why the routes cannot be listed.
    pub prefixes: Result<Vec<PrefixFacts>, String>,
}

/// A prefix of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixFacts {
    /// The prefix.
    pub prefix: IpNetwork,
    /// The peer's name.
    pub peer: String,
    /// An address in it, which was asked for.
    pub address: IpAddr,
    /// Its routes are withdrawn by the appliance.
    pub is_withdrawn: bool,
    /// The route that packets to the address take; `None` if they go nowhere.
    pub taken: Option<RouteFact>,
    /// Other routes than ours to this prefix or to a part of it.
    pub others: Vec<RouteFact>,
    /// Our own route is in the table, whether it is taken or not.
    pub has_ours: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFact {
    /// Its destination.
    pub prefix: IpNetwork,
    /// Its device; `None` if it has several or none.
    pub device: Option<String>,
    /// Smaller is preferred.
    pub metric: u32,
}

/// The device that leads to a peer.
#[derive(Clone, Debug)]
pub struct UplinkFacts {
    /// The peer's name.
    pub peer: String,
    /// Its address, or why there is none.
    pub to: Result<SocketAddr, String>,
    /// The source address, where the configuration fixes it.
    pub from: Option<IpAddr>,
    /// The device and its queue, or why there is none.
    pub egress: Result<Egress, String>,
    /// The MTU of the device.
    pub mtu: Option<u32>,
    /// Bytes of our largest datagram to it, headers included.
    pub datagram: u16,
    /// What the device can do.
    pub features: Option<Features>,
    /// It is hardware: offloads save much there.
    pub is_hardware: bool,
    /// The TUN device: datagrams must not go there.
    pub tun: String,
    /// The level at which notifications call bytes protected needs timestamps; `None` without notifications.
    pub needs_timestamps: Option<bool>,
    /// What the system says of timestamps on a socket such as ours.
    pub timestamps: Result<(), String>,
}

/// What passes on the way to a peer.
#[derive(Clone, Debug)]
pub struct PathFacts {
    /// The peer's name.
    pub peer: String,
    /// This node's name, as the peer's file has it.
    pub node: String,
    /// Bytes of our largest datagram, headers included.
    pub datagram: u16,
    /// Where it was asked.
    pub to: Option<IpAddr>,
    /// Echo requests of each size, and whether they were answered; or why none could be sent.
    pub echoes: Result<Vec<(u16, Answer)>, String>,
    /// Datagrams of the appliance that were too big for a device or the path.
    pub too_big: u64,
    /// The smallest MTU that routers have named to it.
    pub told_mtu: Option<u32>,
    /// The appliance has seen that full-sized datagrams do not arrive.
    pub long_ones_vanish: bool,
}

impl PathFacts {
    /// The host of the peer answers echo requests.
    pub fn is_alive(&self) -> bool {
        self.echoes.as_ref().is_ok_and(|echoes| echoes.iter().any(|(_, answer)| *answer == Answer::Came))
    }
}
