//! Turns the checked configuration into the values from which state machines and sockets are made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use rand::rngs::StdRng;

use crate::appliance::notify::port::NotifyPortSettings;
use crate::config::{self, Config, Repair};
use crate::fec::plan::Plan;
use crate::flow::{FlowTable, InstanceCounter, Limits};
use crate::io::tun::{Offload, TunOptions};
use crate::io::udp::{StampChoice, StampState, Switch, UdpOptions};
use crate::notify::envelope::KeyRing;
use crate::notify::message::Level;
use crate::plan::{self, Link, SendPlan};
use crate::protect::{Evidence, LaneProtection, PeerProtection, TRUST_MAX};
use crate::tunnel::PeerId;
use crate::tunnel::forwarder::Settings;
use crate::tunnel::handshake::{HandshakePeer, Handshakes, Identity};
use crate::tunnel::hello::{Hello, PROTOCOL_VERSION};
use crate::tunnel::outer_class::OuterRule;
use crate::tunnel::peer::PeerSettings;
use crate::tunnel::policy::{Policy, ProfileId, Protocol, Rule};
use crate::tunnel::receiver::Delivery;
use crate::tunnel::seal::CipherSet;
use crate::tunnel::sender::Profile;

/// How the TUN device is opened.
pub fn tun_options(config: &Config) -> TunOptions {
    TunOptions {
        offload: match config.tun.offload {
            config::Offload::Auto => Offload::Auto,
            config::Offload::Off => Offload::Off,
        },
        queues: usize::from(config.tun.queues),
        mtu: u32::from(config.tun.mtu),
        txqueuelen: config.tun.txqueuelen,
        gso_max_size: None,
    }
}

/// How a lane's socket is opened. One socket serves all peers, so the most cautious of their settings counts.
pub fn udp_options(config: &Config) -> UdpOptions {
    let wishes = || config.peers.iter().map(|peer| peer.path.udp_gso);
    let gso = if wishes().any(|wish| wish == config::UdpGso::Off) {
        Switch::Off
    } else if wishes().all(|wish| wish == config::UdpGso::On) {
        Switch::On
    } else {
        Switch::Auto
    };
    let wants_stamps = config.notify.as_ref().is_some_and(|notify| notify.level != Level::Queued);
    let stamps = if wants_stamps { StampChoice::Auto } else { StampChoice::Off };
    // A datagram is marked only if its sender says that it may be; both sides usually say the same.
    let classes = config.peers.iter().any(|peer| peer.path.ecn == config::OuterEcn::Copy);
    UdpOptions { gso, stamps, classes, ..UdpOptions::default() }
}

/// Where each peer's lane 0 listens, as far as the configuration has an address; names are resolved later.
pub fn endpoints(config: &Config) -> Vec<Option<SocketAddr>> {
    config.peers.iter().map(|peer| peer.endpoint.as_ref()?.address()).collect()
}

/// The handshakes with all peers.
pub fn handshakes(
    config: &Config,
    endpoints: &[Option<SocketAddr>],
    epoch: u64,
    random: StdRng,
    now: Instant,
) -> Handshakes {
    let peers = handshake_peers(config, endpoints).into_iter().flatten();
    let hello = Hello {
        version: PROTOCOL_VERSION,
        lanes: config.tun.queues as u8,
        ciphers: CipherSet::preferred(),
        symbol_size: 64,
        epoch,
    };
    let identity = Identity { private: config.node.private_key().clone(), hello };
    // A clock before 1970 gives 0; after a restart, peers then refuse us until the clock is set.
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Handshakes::new(identity, peers.collect(), Box::new(random), unix_time, now)
}

/// The peers as handshakes take them; `None` for one that is a peer no more.
pub fn handshake_peers(config: &Config, endpoints: &[Option<SocketAddr>]) -> Vec<Option<HandshakePeer>> {
    let peer = |(peer, &endpoint): (&config::Peer, &Option<SocketAddr>)| {
        (!peer.is_removed).then(|| HandshakePeer {
            public: peer.public_key(),
            next: peer.next_public_key,
            preshared: peer.preshared_key.clone().unwrap_or_default(),
            endpoint,
            symbol_size: peer.path.symbol_size(),
        })
    };
    config.peers.iter().zip(endpoints).map(peer).collect()
}

/// The source address that the socket's bind fixes; `None` where the kernel chooses.
pub fn bound_address(config: &Config) -> Option<IpAddr> {
    let address = config.node.listen.ip().to_canonical();
    (!address.is_unspecified()).then_some(address)
}

/// The address of a lane of a node whose lane 0 listens at `lane_0`.
pub fn lane_address(lane_0: SocketAddr, lane: u8) -> SocketAddr {
    SocketAddr::new(lane_0.ip(), lane_0.port() + u16::from(lane))
}

/// The values that make the forwarder of `lane`.
pub fn forwarder_settings(config: &Config, endpoints: &[Option<SocketAddr>], lane: u8) -> Settings {
    let peers = config.peers.iter().zip(endpoints).map(|(peer, endpoint)| PeerSettings {
        address: endpoint.map(|endpoint| lane_address(endpoint, lane)),
        symbol_size: usize::from(peer.path.symbol_size()),
        // The lanes share the rate: together they must not be faster than the path.
        bytes_per_second: peer.path.rate.map(|rate| (rate.bytes_per_second() / u64::from(config.tun.queues)).max(1)),
        queue_max: peer.path.queue,
        outer: OuterRule {
            copies_ecn: peer.path.ecn == config::OuterEcn::Copy,
            dscp: match peer.path.dscp {
                config::OuterDscp::Copy => None,
                config::OuterDscp::Fixed(dscp) => Some(dscp),
            },
        },
        signals_rebuilt: peer.path.congestion == config::Congestion::Signal,
        claims: config.notify.is_some(),
        is_removed: peer.is_removed,
        policy: Policy::new(config.policy.iter().flat_map(rules), ProfileId(peer.redundancy)),
    });
    let owned = config
        .peers
        .iter()
        .enumerate()
        .flat_map(|(number, peer)| peer.prefixes.iter().map(move |&prefix| (prefix, PeerId(number as u16))));
    // Peers whose symbols have another size get plans of their own as soon as their link is known.
    let symbol_bytes = config.peers.first().map_or(1, |peer| usize::from(peer.path.symbol_size()));
    Settings {
        lane,
        survive_burst: config.profiles.iter().map(survive_burst).max().unwrap_or_default(),
        local_prefixes: config.node.local_prefixes.iter().map(|&prefix| (prefix, ())).collect(),
        peer_prefixes: owned.collect(),
        peers: peers.collect(),
        profiles: config
            .profiles
            .iter()
            .enumerate()
            .map(|(number, it)| profile(number as u8, it, symbol_bytes))
            .collect(),
        delivery: Delivery {
            strict: config.delivery.ordering == config::Ordering::Strict,
            hold: config.delivery.hold,
            hold_max: config.delivery.hold_max,
        },
    }
}

/// What the protection of a peer is made from.
#[derive(Clone, Debug)]
pub struct ProtectionSettings {
    limits: Limits,
    /// Secret: others must not choose ports that are slow to look up.
    seed: u64,
    instances: InstanceCounter,
    evidence: Evidence,
    trust_max: Duration,
}

impl ProtectionSettings {
    /// Those of a lane. The evidence is the configured one, if timestamps are available.
    pub fn new(config: &Config, level: Level, stamps: StampState, instances: &InstanceCounter, seed: u64) -> Self {
        let evidence = match (level, stamps) {
            (Level::Queued, _) => Evidence::HandOver,
            (_, StampState::Off(_)) => Evidence::HandOverOnly,
            (_, StampState::OwnId | StampState::LoopedData) => Evidence::Timestamps,
        };
        let tables = config.peers.len() * usize::from(config.tun.queues);
        let all = Limits::default();
        let share = |limit: usize, least: usize| (limit / tables).max(least.min(limit));
        Self {
            limits: Limits { flows: share(all.flows, 4096), ranges: share(all.ranges, 16_384), ..all },
            seed,
            instances: instances.clone(),
            evidence,
            trust_max: config.notify.as_ref().map_or(TRUST_MAX, |notify| notify.trust_max),
        }
    }

    /// The protection of one peer.
    pub fn make(&self) -> PeerProtection {
        let table = FlowTable::new(self.limits, self.seed, self.instances.clone());
        let mut protection = PeerProtection::new(table, self.evidence);
        protection.limit_trust(self.trust_max);
        protection
    }
}

/// The protection of a lane.
pub fn lane_protection(settings: &ProtectionSettings, config: &Config) -> LaneProtection {
    LaneProtection::new(config.peers.iter().map(|_| settings.make()).collect())
}

const _: () = assert!(config::DEFAULT_TRUST_MAX.as_nanos() == TRUST_MAX.as_nanos(), "what is documented is what holds");

/// The values that make the notification port.
pub fn notify_port_settings(
    config: &Config,
    notify: &config::Notify,
    epoch: u64,
    secret: [u8; 32],
) -> NotifyPortSettings {
    NotifyPortSettings {
        listen: notify.listen,
        keys: key_ring(notify),
        peers: config.peers.iter().map(|peer| peer.name.clone()).collect(),
        lanes: usize::from(config.tun.queues),
        epoch,
        secret,
    }
}

/// The keys of subscribers.
pub fn key_ring(notify: &config::Notify) -> KeyRing {
    let mut keys = KeyRing::new();
    for key in &notify.keys {
        // The configuration check has made sure that there are not too many keys and that their ids differ.
        let _ = keys.insert(key.secret.to_key(key.id));
    }
    keys
}

fn profile(number: u8, profile: &config::Profile, symbol_bytes: usize) -> Profile {
    let block_symbols = usize::from(profile.block_symbols);
    let plan = match profile.repair {
        Repair::None => Plan::none(),
        Repair::Fixed { symbols, assume_loss } => Plan::fixed(block_symbols, usize::from(symbols), assume_loss),
        Repair::Targets(configured) => {
            let link = Link::assumed(configured.assume_loss);
            return planned(number, &plan::choose(&targets(&configured), &limits(profile, symbol_bytes), &link));
        }
    };
    Profile {
        number,
        block_symbols,
        close_when_idle: profile.close_when_idle,
        close_after: profile.close_after,
        plan,
        survive_burst: Duration::ZERO,
        keeps_promise: true,
    }
}

/// Some profile states what must hold in place of numbers.
pub fn has_targets(config: &Config) -> bool {
    config.profiles.iter().any(|profile| matches!(profile.repair, Repair::Targets(_)))
}

/// A plan as the sender follows it.
pub fn planned(number: u8, plan: &SendPlan) -> Profile {
    Profile {
        number,
        block_symbols: plan.block_symbols,
        close_when_idle: plan.close_when_idle,
        close_after: plan.close_after,
        plan: plan.repair.clone(),
        survive_burst: plan.survive_burst,
        keeps_promise: plan.keeps_promise(),
    }
}

/// What must hold, as the planner takes it.
pub fn targets(configured: &config::Targets) -> plan::Targets {
    plan::Targets {
        residual: configured.residual,
        survive_burst: configured.survive_burst,
        max_overhead: configured.max_overhead,
        min: configured.min.into(),
    }
}

/// Within what the plans of a profile must stay.
pub fn limits(profile: &config::Profile, symbol_bytes: usize) -> plan::Limits {
    plan::Limits {
        block_symbols: profile.block_symbols.into(),
        close_after: profile.close_after,
        base_close_when_idle: profile.close_when_idle,
        base_close_after: profile.close_after.min(plan::CLOSE_AFTER),
        symbol_bytes,
    }
}

/// The interruption of the link that blocks of this profile are promised to survive.
fn survive_burst(profile: &config::Profile) -> Duration {
    match profile.repair {
        Repair::Targets(targets) => targets.survive_burst,
        Repair::None | Repair::Fixed { .. } => Duration::ZERO,
    }
}

/// One rule for each IP family of the configured rule; without a prefix, one for both families.
fn rules(rule: &config::PolicyRule) -> Vec<Rule> {
    let everything: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let whole_family = |address: IpAddr| IpNetwork::new(address, 0).expect("0 bits fit every family");
    let destinations = match rule.to {
        Some(to) => vec![to],
        None => everything.map(whole_family).to_vec(),
    };
    destinations
        .into_iter()
        .map(|to| Rule {
            to,
            from: rule.from,
            protocol: rule.protocol.map(Protocol::Number),
            port: rule.port,
            dscp: rule.dscp,
            profile: ProfileId(rule.redundancy),
        })
        .collect()
}
