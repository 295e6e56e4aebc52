//! The configuration file: YAML in, checked values out.
//!
//! [`load`] reads the whole file and reports every [`Problem`] at once, each with line, column, key, value found and
//! values allowed. What comes back can be run without further checks. This module does not start anything, does not
//! resolve names, and reads no files but the configuration and the keys it names.

mod delivery;
pub mod key_file;
mod node;
mod peer;
mod policy;
mod problem;
mod redundancy;
mod reporting;
mod tun;
pub mod units;

pub use delivery::{Bypass, Delivery, Ordering, WhenDown};
pub use node::Node;
pub use peer::{Endpoint, Host, OuterPath, Peer, UdpGso};
pub use policy::{PolicyRule, PortRange};
pub use problem::{ConfigErrors, Problem, Severity};
pub use redundancy::{Profile, Repair};
pub use reporting::{Log, LogFormat, LogLevel, Status};
pub use tun::{Offload, Tun};
pub use units::Rate;

/// One appliance's configuration, complete: every default is filled in and every cross-check has passed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who we are.
    pub node: Node,
    /// The TUN device.
    pub tun: Tun,
    /// The appliances at the other sites; at least one.
    pub peers: Vec<Peer>,
    /// Redundancy profiles in the order of the file; the index is the profile number in our datagrams.
    pub profiles: Vec<Profile>,
    /// Which packets get which profile; the first match wins, else the peer's own profile.
    pub policy: Vec<PolicyRule>,
    /// How the receiver hands packets on.
    pub delivery: Delivery,
    /// What happens to packets while a peer is down.
    pub bypass: Bypass,
    /// The status socket.
    pub status: Status,
    /// The log.
    pub log: Log,
    /// What is legal but probably not meant.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// The profile of that number, which [`Peer::redundancy`] and [`PolicyRule::redundancy`] hold.
    pub fn profile(&self, number: u8) -> Option<&Profile> {
        self.profiles.get(usize::from(number))
    }
}
