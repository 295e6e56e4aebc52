//! One appliance of a simulation: a forwarder, its TUN and link, and what the simulation knows of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use onwire::protect::{Evidence, LaneProtection};
use onwire::tunnel::PeerId;
use onwire::tunnel::drop_reason::{DropReason, Drops};
use onwire::tunnel::forwarder::{Forwarder, Settings};
use onwire::tunnel::outer_class::OuterRule;
use onwire::tunnel::peer::PeerSettings;
use onwire::tunnel::policy::{Policy, ProfileId, Rule};
use onwire::tunnel::sent::Sent;
use onwire::wire::payload_id::BlockId;
use onwire::wire::report::{Reception, Report};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::expected_reception::ExpectedReception;
use crate::keys::{Run, Sealed};
use crate::link::Link;
use crate::packets::Packet;
use crate::scenario::Scenario;
use crate::side::Side;

/// How long a packet may wait for the rate of its path.
pub const QUEUE_MAX: Duration = Duration::from_millis(50);

/// One appliance with its surroundings.
pub struct Endpoint {
    /// Its run.
    pub run: Run,
    /// Sent in handshakes.
    pub epoch: u64,
    /// Where it sends from.
    pub address: SocketAddr,
    /// The code under test.
    pub forwarder: Forwarder,
    /// The link that it sends into.
    pub link: Link,
    /// Packets that wait in the TUN.
    pub tun: VecDeque<(u16, Packet)>,
    /// Its protection, if it claims any.
    pub lane_protection: Option<LaneProtection>,
    /// The device has counted a drop since timestamps were last processed.
    pub device_has_dropped: bool,
    /// Timestamps that were not read yet.
    pub stamps: Vec<(u32, usize)>,
    /// Blocks whose last datagram the host took, in order.
    pub ended: Vec<BlockId>,
    /// When the host's queue will be empty.
    pub queue_free_at: Duration,
    /// Its next turn, if no event comes.
    pub wake_at: Option<Duration>,
    /// The number of the newest handshake that this side began.
    pub initiation: usize,
    /// Bytes of datagrams that left the forwarder.
    pub drained: u64,
    /// The reception that it must have counted.
    pub expected_reception: ExpectedReception,
    /// The newest report that reached this side.
    pub newest_report: Option<Report>,
    /// The run of the peer that wrote it.
    pub reporter: Option<Run>,
    /// Datagrams that reached this side; the attacker replays them.
    pub captured: Vec<(Vec<u8>, Sealed)>,
}

impl Endpoint {
    /// A side that has just started.
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
            outer: OuterRule::default(),
            signals_rebuilt: false,
            claims: settings.claims,
            is_removed: false,
            policy: Policy::new(rules, ProfileId(0)),
        };
        let mut forwarder = Forwarder::new(
            Settings {
                lane: scenario.lane,
                local_prefixes: [true, false].map(|ipv4| (prefix(side, ipv4), ())).into_iter().collect(),
                peer_prefixes: [true, false].map(|ipv4| (prefix(side.other(), ipv4), PeerId(0))).into_iter().collect(),
                peers: vec![peer],
                profiles: settings.profiles.clone(),
                delivery: settings.delivery,
                survive_burst: settings.profiles.iter().map(|it| it.survive_burst).max().unwrap_or_default(),
            },
            now,
        );
        forwarder.set_shows_departures(settings.claims && settings.host.evidence == Evidence::Timestamps);
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
            expected_reception: ExpectedReception::default(),
            newest_report: None,
            reporter: None,
            captured: Vec::new(),
        }
    }
}

/// State that a forged or replayed datagram must not change.
#[derive(PartialEq, Debug)]
pub struct Snapshot {
    reception: Reception,
    sent: Sent,
    address: Option<SocketAddr>,
    memory: usize,
    timeout: Option<Instant>,
}

impl Snapshot {
    /// Records the state.
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

    /// Compares, allowing for this many more duplicates.
    pub fn check(mut self, forwarder: &Forwarder, duplicates: u64, now: Instant) {
        self.reception.duplicates += duplicates;
        assert_eq!(self, Self::of(forwarder, now), "a dropped datagram changed the state");
    }
}

/// Drops between two snapshots of the counters.
pub fn newly_dropped(before: &Drops, after: &Drops) -> Vec<(DropReason, u64)> {
    let pairs = before.iter().zip(after.iter());
    pairs.filter(|((_, old), (_, new))| old != new).map(|((reason, old), (_, new))| (reason, new - old)).collect()
}
