//! One appliance of a simulation: a forwarder, its TUN, its link, and what is known of it from outside.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use onwire::protect::LaneProtection;
use onwire::tunnel::PeerId;
use onwire::tunnel::drop_reason::{DropReason, Drops};
use onwire::tunnel::forwarder::{Forwarder, Settings};
use onwire::tunnel::peer::PeerSettings;
use onwire::tunnel::policy::{Policy, ProfileId, Rule};
use onwire::tunnel::sender::Sent;
use onwire::wire::payload_id::BlockId;
use onwire::wire::report::{Reception, Report};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::delivered_bytes::DeliveredBytes;
use crate::keys::{Run, Sealed};
use crate::link::Link;
use crate::packets::Packet;
use crate::scenario::Scenario;
use crate::side::Side;

/// How long a packet may wait for the rate of its path.
pub const QUEUE_MAX: Duration = Duration::from_millis(50);

/// One appliance with what surrounds it.
pub struct Endpoint {
    /// Which run of which side.
    pub run: Run,
    /// Told in handshakes.
    pub epoch: u64,
    /// Where it sends from.
    pub address: SocketAddr,
    /// What is tested.
    pub forwarder: Forwarder,
    /// What it sends into.
    pub link: Link,
    /// What waits in the TUN.
    pub tun: VecDeque<(u16, Packet)>,
    /// What it promises, if it claims anything.
    pub lane_protection: Option<LaneProtection>,
    /// The device has counted a drop since timestamps were last believed.
    pub device_has_dropped: bool,
    /// Timestamps that nobody has read yet.
    pub stamps: Vec<(u32, usize)>,
    /// Blocks whose last datagram the host took, in order.
    pub ended: Vec<BlockId>,
    /// When all that waits in the host has left it.
    pub queue_free_at: Duration,
    /// When its next turn is, if nothing comes.
    pub wake_at: Option<Duration>,
    /// The newest handshake that this side began.
    pub initiation: usize,
    /// Bytes of datagrams that left the forwarder.
    pub drained: u64,
    /// What it should have counted.
    pub truth: DeliveredBytes,
    /// The newest report that reached this side.
    pub heard: Option<Report>,
    /// The run of the peer that wrote it.
    pub reporter: Option<Run>,
    /// Datagrams that reached this side, for the attacker.
    pub captured: Vec<(Vec<u8>, Sealed)>,
}

impl Endpoint {
    /// A side that was just started.
    pub fn new(side: Side, scenario: &Scenario, now: Instant, random: &mut SmallRng) -> Self {
        let settings = &scenario.sides[side.index()];
        let prefix = |side: Side, ipv4: bool| {
            let text = if ipv4 {
                format!("10.{}.0.0/16", side.number() + 1)
            } else {
                format!("fd00:{}::/32", side.number() + 1)
            };
            text.parse().expect("a prefix")
        };
        let rules = settings.profiles.iter().flat_map(|profile| {
            [true, false].map(|ipv4| Rule {
                to: prefix(side.other(), ipv4),
                from: None,
                protocol: None,
                port: None,
                dscp: Some(profile.number),
                profile: ProfileId(profile.number),
            })
        });
        let address = |side: Side| SocketAddr::from(([192, 0, 2, side.number() + 1], 7117 + u16::from(scenario.lane)));
        let peer = PeerSettings {
            address: random.random_bool(0.5).then(|| address(side.other())),
            symbol_size: settings.symbol_size,
            bytes_per_second: settings.bytes_per_second,
            queue_max: QUEUE_MAX,
            claims: settings.claims,
            policy: Policy::new(rules, ProfileId(0)),
        };
        let forwarder = Forwarder::new(
            Settings {
                lane: scenario.lane,
                local_prefixes: [true, false].map(|ipv4| (prefix(side, ipv4), ())).into_iter().collect(),
                peer_prefixes: [true, false].map(|ipv4| (prefix(side.other(), ipv4), PeerId(0))).into_iter().collect(),
                peers: vec![peer],
                profiles: settings.profiles.clone(),
                delivery: settings.delivery,
            },
            now,
        );
        Self {
            run: Run { side, restarts: 0 },
            epoch: random.random(),
            address: address(side),
            forwarder,
            link: Link::new(settings.link.clone()),
            tun: VecDeque::new(),
            lane_protection: settings.claims.then(|| settings.host.lane_protection()),
            device_has_dropped: false,
            stamps: Vec::new(),
            ended: Vec::new(),
            queue_free_at: Duration::ZERO,
            wake_at: None,
            initiation: 0,
            drained: 0,
            truth: DeliveredBytes::default(),
            heard: None,
            reporter: None,
            captured: Vec::new(),
        }
    }
}

/// What a forged or repeated datagram must leave as it was.
#[derive(PartialEq, Debug)]
pub struct Snapshot {
    reception: Reception,
    sent: Sent,
    address: Option<SocketAddr>,
    memory: usize,
    timeout: Option<Instant>,
}

impl Snapshot {
    /// Takes note.
    pub fn of(forwarder: &Forwarder, now: Instant) -> Self {
        let peer = &forwarder.peers()[0];
        Self {
            reception: peer.reception(),
            sent: peer.sent(),
            address: peer.address(),
            memory: forwarder.memory(),
            timeout: forwarder.poll_timeout(now),
        }
    }

    /// Compares, but for so many more duplicates.
    pub fn check(mut self, forwarder: &Forwarder, duplicates: u64, now: Instant) {
        self.reception.duplicates += duplicates;
        assert_eq!(self, Self::of(forwarder, now), "a datagram that was thrown away left a trace");
    }
}

/// What was dropped between two looks.
pub fn newly_dropped(before: &Drops, after: &Drops) -> Vec<(DropReason, u64)> {
    let pairs = before.iter().zip(after.iter());
    pairs.filter(|((_, old), (_, new))| old != new).map(|((reason, old), (_, new))| (reason, new - old)).collect()
}
