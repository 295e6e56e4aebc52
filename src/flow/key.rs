//! The identity of a flow: addresses, ports and protocol, and the hash to look it up.
//!
//! A new connection between the same ports has the same key; [`super::instance`] tells the two apart.

use std::net::IpAddr;

use crate::wire::packet::{PacketView, TCP, UDP};

/// The 5-tuple of a flow, as its packets leave through the tunnel: the source is on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// Address on our side.
    pub source: IpAddr,
    /// Port on our side.
    pub source_port: u16,
    /// Address on the peer's side.
    pub destination: IpAddr,
    /// Port on the peer's side.
    pub destination_port: u16,
}

impl FlowKey {
    /// The flow of a packet toward the peer; none unless the packet is whole and of TCP or UDP.
    ///
    /// Fragments belong to no flow: the receiver cannot use their bytes until all have arrived, and only the first one
    /// carries the ports.
    pub fn sent(view: &PacketView) -> Option<Self> {
        let ports = view.ports.filter(|_| view.fragment.is_none() && matches!(view.protocol, TCP | UDP))?;
        Some(Self {
            protocol: view.protocol,
            source: view.source,
            source_port: ports.source,
            destination: view.destination,
            destination_port: ports.destination,
        })
    }

    /// The flow of a packet from the peer, keyed by the direction toward the peer.
    pub fn received(view: &PacketView) -> Option<Self> {
        let Self { protocol, source, source_port, destination, destination_port } = Self::sent(view)?;
        Some(Self {
            protocol,
            source: destination,
            source_port: destination_port,
            destination: source,
            destination_port: source_port,
        })
    }
}

/// A [`FlowKey`] packed into 64-bit words, to compare and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackedKey([u64; 5]);

impl PackedKey {
    pub fn new(key: &FlowKey) -> Self {
        let [a, b] = words(key.source);
        let [c, d] = words(key.destination);
        let version = if key.source.is_ipv4() { 4 } else { 6 };
        let ports = u64::from(key.source_port) << 48 | u64::from(key.destination_port) << 32;
        Self([a, b, c, d, ports | u64::from(key.protocol) << 8 | version])
    }

    pub fn protocol(&self) -> u8 {
        (self.0[4] >> 8) as u8
    }
}

fn words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, u64::from(address.to_bits())],
        IpAddr::V6(address) => [(address.to_bits() >> 64) as u64, address.to_bits() as u64],
    }
}

/// Hashes keys by folded multiplication with secrets, so that ports cannot be chosen to collide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash([u64; 3]);

impl Hash {
    pub fn new(seed: u64) -> Self {
        // SplitMix64 (Steele, Lea, Flood, 2014) derives three secrets from one.
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        }))
    }

    pub fn of(self, key: &PackedKey) -> u32 {
        let Self([first, second, third]) = self;
        let PackedKey([a, b, c, d, rest]) = *key;
        let source = fold(a ^ first, b ^ second);
        let destination = fold(c ^ second ^ source, d ^ third);
        // Folded once more: neighbouring ports leave a pattern in a single product.
        fold(fold(rest ^ third ^ destination, first | 1), second | 1) as u32
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::wire::packet::TcpHeader;
    use crate::wire::samples;

    #[test]
    fn both_directions_of_a_connection_have_one_key() {
        let packet = samples::ipv4(TCP, &[], &samples::tcp(TcpHeader::ACK, &[], 1));
        let sent = PacketView::parse(&packet).unwrap();
        let ports = sent.ports.unwrap();
        let received = PacketView {
            source: sent.destination,
            destination: sent.source,
            ports: Some(crate::wire::packet::Ports { source: ports.destination, destination: ports.source }),
            ..sent
        };
        assert_eq!(FlowKey::sent(&sent), FlowKey::received(&received));
        assert_ne!(FlowKey::sent(&sent), FlowKey::sent(&received));
    }

    #[test]
    fn an_embedded_ipv4_address_is_another_flow() {
        let with = |address: IpAddr| {
            PackedKey::new(&FlowKey {
                protocol: TCP,
                source: address,
                source_port: 1,
                destination: address,
                destination_port: 2,
            })
        };
        let v4 = Ipv4Addr::new(10, 0, 0, 1);
        assert_ne!(with(v4.into()), with(Ipv6Addr::from(u128::from(v4.to_bits())).into()));
    }

    #[test]
    fn neighbours_spread_over_the_low_bits() {
        let hash = Hash::new(7);
        let buckets: HashSet<u32> = (0..10_000u16)
            .map(|port| {
                let v4 = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
                let key =
                    FlowKey { protocol: TCP, source: v4, source_port: port, destination: v4, destination_port: 5432 };
                hash.of(&PackedKey::new(&key)) & 0xffff
            })
            .collect();
        // 10,000 balls in 65,536 bins leave about 9,280 bins used.
        assert!(buckets.len() > 9_100, "{}", buckets.len());
    }
}
