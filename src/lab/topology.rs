//! Topology files: nodes, links and appliances of a lab, as a user writes them in `netns/*.yaml`.
//!
//! Reads and checks them; [`super::network`] builds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{error::LabError, wan::impairment::Impairment};

/// The topologies inside the program: name and text.
pub const BUILT_IN: [(&str, &str); 11] = [
    ("plain", include_str!("../../netns/plain.yaml")),
    ("pair", include_str!("../../netns/pair.yaml")),
    ("pair-veth", include_str!("../../netns/pair-veth.yaml")),
    ("pair-held", include_str!("../../netns/pair-held.yaml")),
    ("pair-uplink", include_str!("../../netns/pair-uplink.yaml")),
    ("pair-lan", include_str!("../../netns/pair-lan.yaml")),
    ("pair-wan", include_str!("../../netns/pair-wan.yaml")),
    ("star", include_str!("../../netns/star.yaml")),
    ("scale-out", include_str!("../../netns/scale-out.yaml")),
    ("pair-outer-v6", include_str!("../../netns/pair-outer-v6.yaml")),
    ("pair-inner-9000", include_str!("../../netns/pair-inner-9000.yaml")),
];

/// A lab as a file describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Namespaces by name.
    pub nodes: BTreeMap<String, Node>,
    /// The links between the nodes.
    pub links: Vec<LinkPlan>,
}

/// A namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Whether it forwards packets, IPv4 and IPv6.
    pub forwarding: bool,
    /// Routes in the syntax of `ip route add`, added when all links are up.
    pub routes: Vec<String>,
    /// Kernel settings of the namespace.
    pub sysctl: BTreeMap<String, String>,
    /// The appliance that runs here.
    pub appliance: Option<AppliancePlan>,
}

/// An appliance of the lab; the rest of its configuration is generated.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliancePlan {
    /// The node of its peer, or of one of its peers.
    pub peer: String,
    /// Its UDP address.
    pub listen: SocketAddr,
    /// The networks of its site.
    #[serde(deserialize_with = "networks")]
    pub local_prefixes: Vec<IpNetwork>,
    /// MTU inside the tunnel.
    #[serde(default = "default_mtu")]
    pub tun_mtu: u32,
    /// MTU of the path between the appliances.
    #[serde(default = "default_mtu")]
    pub path_mtu: u32,
}

/// A link between two nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPlan {
    /// What the link is made of.
    pub kind: LinkKind,
    /// The two ends.
    pub ends: [End; 2],
    /// MTU of both devices.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// Settings of the emulator from the first end to the second.
    #[serde(default)]
    pub forth: BTreeMap<String, String>,
    /// Settings for the other direction.
    #[serde(default)]
    pub back: BTreeMap<String, String>,
}

/// The kind of a link.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// A pair of virtual Ethernet devices.
    Veth,
    /// The WAN emulator.
    Emulator,
}

/// One end of a link.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The node it is in.
    pub node: String,
    /// The device's name there.
    pub device: String,
    /// Addresses with prefix lengths.
    #[serde(deserialize_with = "networks")]
    pub addresses: Vec<IpNetwork>,
}

fn default_mtu() -> u32 {
    1500
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNetwork>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            D::Error::custom(format!("found \"{text}\"; allowed: an address with prefix length such as 10.1.0.1/24"))
        })
    };
    texts.iter().map(parse).collect()
}

impl Topology {
    /// Parses a topology and reports every mistake; `origin` names the file in the errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self, LabError> {
        let topology: Self =
            serde_yaml::from_str(text).map_err(|error| LabError::Sentence(format!("{origin}: {error}")))?;
        let mistakes = topology.mistakes();
        if mistakes.is_empty() {
            return Ok(topology);
        }
        let lines = mistakes.into_iter().map(|mistake| format!("{origin}: {mistake}"));
        Err(LabError::Sentence(lines.collect::<Vec<_>>().join("\n")))
    }

    /// Loads a built-in topology by its name, or a file.
    pub fn load(name: &str) -> Result<Self, LabError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Self::parse(text, &format!("netns/{name}.yaml"));
        }
        let text = std::fs::read_to_string(name).map_err(|error| {
            let names = BUILT_IN.map(|(name, _)| name).join(", ");
            LabError::Sentence(format!("topology {name}: {error}; allowed: a file, or one of {names}"))
        })?;
        Self::parse(&text, name)
    }

    /// The appliances with the names of their nodes.
    pub fn appliances(&self) -> impl Iterator<Item = (&str, &AppliancePlan)> {
        self.nodes.iter().filter_map(|(name, node)| Some((name.as_str(), node.appliance.as_ref()?)))
    }

    /// The first address of a node in the order of the links, IPv4 or IPv6.
    pub fn address(&self, node: &str, is_v6: bool) -> Option<IpAddr> {
        let ends = self.links.iter().flat_map(|link| &link.ends).filter(|end| end.node == node);
        ends.flat_map(|end| &end.addresses).map(IpNetwork::ip).find(|address| address.is_ipv6() == is_v6)
    }

    /// The properties of an emulator's two directions, forth and back.
    pub fn impairments(link: &LinkPlan) -> Result<[Impairment; 2], LabError> {
        let read = |settings: &BTreeMap<String, String>| {
            let mut impairment = Impairment::default();
            settings.iter().try_for_each(|(key, value)| impairment.set(key, value))?;
            Ok(impairment)
        };
        let both: Result<_, super::wan::impairment::SettingError> =
            read(&link.forth).and_then(|forth| Ok([forth, read(&link.back)?]));
        both.map_err(|error| LabError::Sentence(error.to_string()))
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let known = || self.nodes.keys().cloned().collect::<Vec<_>>().join(", ");
        for name in self.nodes.keys() {
            let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if name.is_empty() || name.len() > 32 || !is_plain {
                mistakes.push(format!("nodes.{name}: allowed: a name of letters, digits and -, at most 32"));
            }
        }
        let mut devices = BTreeSet::new();
        for (at, link) in self.links.iter().enumerate() {
            for end in &link.ends {
                if !self.nodes.contains_key(&end.node) {
                    mistakes.push(format!("links[{at}]: there is no node \"{}\"; nodes are {}", end.node, known()));
                }
                if end.device.is_empty() || end.device.len() > 15 || end.device.contains(['/', ' ', ':']) {
                    mistakes.push(format!("links[{at}]: device \"{}\": allowed: 1 to 15 characters", end.device));
                }
                if !devices.insert((&end.node, &end.device)) {
                    mistakes.push(format!("links[{at}]: {} has a device {} already", end.node, end.device));
                }
            }
            if !(1280..=65_535).contains(&link.mtu) {
                mistakes.push(format!("links[{at}].mtu: found {}; allowed: 1280 to 65535", link.mtu));
            }
            if link.kind == LinkKind::Veth && !(link.forth.is_empty() && link.back.is_empty()) {
                mistakes.push(format!("links[{at}]: a veth link is perfect; use kind: emulator for forth and back"));
            }
            if let Err(error) = Self::impairments(link) {
                mistakes.push(format!("links[{at}]: {error}"));
            }
        }
        if self.links.iter().filter(|link| link.kind == LinkKind::Emulator).count() > 1 {
            mistakes.push("links: one link at most may be the emulator".to_owned());
        }
        for (name, appliance) in self.appliances() {
            let peer = self.nodes.get(&appliance.peer).and_then(|node| node.appliance.as_ref());
            if peer.is_none() || appliance.peer == name {
                mistakes.push(format!(
                    "nodes.{name}.appliance.peer: \"{}\" must be another node with an appliance",
                    appliance.peer
                ));
            }
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_topologies_load() {
        for (name, _) in BUILT_IN {
            let topology = Topology::load(name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                topology.appliances().count(),
                match name {
                    "plain" => 0,
                    "star" | "scale-out" => 4,
                    _ => 2,
                },
                "{name}"
            );
            assert_eq!(topology.address("mirror", false), Some("10.2.0.1".parse().unwrap()), "{name}");
            assert_eq!(topology.address("mirror", true), Some("fd00:2::1".parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn a_topology_error_lists_every_mistake() {
        let text = "
nodes:
  a: { appliance: { peer: nobody, listen: \"192.0.2.1:7117\", local_prefixes: [10.1.0.0/24] } }
  b: {}
links:
  - kind: veth
    mtu: 100
    forth: { delay: 5ms }
    ends: [{ node: a, device: eth0, addresses: [] }, { node: c, device: a-name-that-is-far-too-long, addresses: [] }]
  - kind: emulator
    back: { los: 1% }
    ends: [{ node: a, device: eth0, addresses: [] }, { node: b, device: eth0, addresses: [] }]
";
        let error = Topology::parse(text, "x.yaml").unwrap_err().to_string();
        let expected = [
            "no node \"c\"; nodes are a, b",
            "a-name-that-is-far-too-long",
            "found 100",
            "a veth link is perfect",
            "did you mean \"loss\"",
            "a has a device eth0 already",
            "\"nobody\" must be another node",
        ];
        for part in expected {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert_eq!(error.lines().count(), expected.len(), "{error}");
    }

    #[test]
    fn unknown_keys_and_missing_files_are_refused() {
        assert!(Topology::parse("nodes: {}\nlinks: []\nwan: 1", "x").is_err());
        let error = Topology::load("/no/such/file").unwrap_err().to_string();
        assert!(error.contains("allowed: a file, or one of plain, pair, pair-veth"), "{error}");
    }
}
