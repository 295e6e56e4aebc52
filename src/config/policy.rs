//! `policy`: which packets get which profile. Does not match packets.

use ipnetwork::IpNetwork;

/// One rule; what is `None` matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Destination prefix.
    pub to: Option<IpNetwork>,
    /// Source prefix.
    pub from: Option<IpNetwork>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Source or destination port, so that one rule serves both directions.
    pub port: Option<PortRange>,
    /// Differentiated services code point, 0 to 63.
    pub dscp: Option<u8>,
    /// Number of the profile.
    pub redundancy: u8,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}
