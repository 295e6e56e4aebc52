//! A publisher and its clients on virtual time, over a link that loses, duplicates, reorders, replays and forges
//! datagrams. The true state of each flow is known: bytes that a client calls protected must be protected.
//!
//! A failing run prints its seed; run it alone with `SEED=n cargo test -p onwire-notify --test notify simulation`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use onwire_notify::client::{Core, Need, Outcome, Status, Wish};
use onwire_notify::envelope::{Key, KeyRing};
use onwire_notify::message::*;
use onwire_notify::publisher::{Asked, Limits, Publisher};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TICK: Duration = Duration::from_micros(250);
/// The interruption that some clients demand to survive, and promises of flows, in microseconds.
const DEMANDED: u32 = 2000;
const PROMISES: [u32; 4] = [0, 1999, DEMANDED, 60_000];
const FLOWS: usize = 6;
const CLIENTS: usize = 3;

/// What the link does to datagrams, in parts of one hundred.
#[derive(Clone, Copy)]
struct Faults {
    loss: u32,
    double: u32,
    late: u32,
    replay: u32,
    forge: u32,
}

const NONE: Faults = Faults { loss: 0, double: 0, late: 0, replay: 0, forge: 0 };
const ALL: Faults = Faults { loss: 30, double: 10, late: 10, replay: 5, forge: 5 };

/// One connection and its true state.
struct Connection {
    key: FlowKey,
    isn: u32,
    /// Bytes written.
    written: u64,
    /// Every byte below is protected or acknowledged.
    truth: u64,
    /// Every byte below has left with its early repair, or is acknowledged.
    early_truth: u64,
    /// Every byte below is on the wire and survives an interruption of [`DEMANDED`], or is acknowledged.
    burst_truth: u64,
    acked: u64,
    /// In the present run of the appliance: instance, first byte seen, bytes protected since, bytes early since, bytes
    /// protected since that survive [`DEMANDED`], and the promise.
    instance: u64,
    origin: u64,
    since: u64,
    early: u64,
    surviving: u64,
    promise: u32,
    /// When the protected position last rose.
    raised: Option<Instant>,
}

struct World {
    rng: StdRng,
    faults: Faults,
    start: Instant,
    now: Instant,
    publisher: Publisher,
    instances: u64,
    clients: Vec<Core>,
    connections: Vec<Connection>,
    /// Datagrams in flight, by arrival time: whether to the publisher, from or to which client, bytes.
    link: BTreeMap<(Instant, u64), (bool, usize, Vec<u8>)>,
    sent: u64,
    recorded: Vec<(bool, usize, Vec<u8>)>,
    /// How long after the truth each client knew it.
    delays: Vec<Duration>,
    /// For each client and connection: the position whose delay was measured last.
    measured: BTreeMap<(usize, usize), u64>,
    /// How often a true claim was accepted: as promised, early, with a burst demanded.
    protected: [u64; 3],
}

fn address(client: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 40_000 + client as u16))
}

fn flow_key(flow: usize) -> FlowKey {
    FlowKey::tcp(SocketAddr::from(([10, 1, 0, 1], 5000 + flow as u16)), SocketAddr::from(([10, 2, 0, 10], 5432)))
}

fn key() -> Key {
    Key::new(3, b"0123456789abcdef0123456789abcdef").unwrap()
}

fn publisher(rng: &mut StdRng, now: Instant) -> Publisher {
    let mut keys = KeyRing::new();
    keys.insert(key()).unwrap();
    let mut publisher = Publisher::new(keys, Limits::default(), rng.random(), &rng.random(), now);
    let up = Peer { id: 1, name: Some("syracuse".into()), state: LinkState::Up, reason: StateReason::None };
    publisher.publish_state(&up, now);
    publisher
}

impl World {
    fn new(seed: u64, faults: Faults) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let publisher = publisher(&mut rng, start);
        let clients = (0..CLIENTS).map(|_| Core::new(key(), Wish::default(), rng.random(), start)).collect();
        let mut world = World {
            rng,
            faults,
            start,
            now: start,
            publisher,
            instances: 0,
            clients,
            connections: vec![],
            link: BTreeMap::new(),
            sent: 0,
            recorded: vec![],
            delays: vec![],
            measured: BTreeMap::new(),
            protected: [0; 3],
        };
        for flow in 0..FLOWS {
            let connection = world.connect(flow);
            world.connections.push(connection);
            world.publish(flow, Event::New);
        }
        world.watch_all();
        world
    }

    fn connect(&mut self, flow: usize) -> Connection {
        self.instances += 1;
        Connection {
            key: flow_key(flow),
            isn: self.rng.random(),
            written: 0,
            truth: 0,
            early_truth: 0,
            burst_truth: 0,
            acked: 0,
            instance: self.instances,
            origin: 0,
            since: 0,
            early: 0,
            surviving: 0,
            promise: PROMISES[self.rng.random_range(0..PROMISES.len())],
            raised: None,
        }
    }

    fn watch_all(&mut self) {
        for client in &mut self.clients {
            for flow in 0..FLOWS {
                assert!(client.watch(flow_key(flow), self.now));
            }
        }
    }

    fn publish(&mut self, flow: usize, event: Event) {
        let connection = &self.connections[flow];
        let middle = connection.origin > 0;
        let acked = connection.acked.checked_sub(connection.origin);
        let flow = Flow {
            key: connection.key,
            instance: connection.instance,
            peer: 1,
            event,
            level: Level::OnWire,
            origin: if middle { Origin::Middle } else { Origin::Start },
            origin_seq: Some(connection.isn.wrapping_add(connection.origin as u32)),
            positions: Positions {
                early: Some(connection.early),
                on_wire: Some(connection.since),
                acked,
                ..Positions::default()
            },
            violated: None,
            packets: None,
            cookie: None,
            block: Some((32, 4)),
            survives_burst: connection.promise,
        };
        self.publisher.publish_flow(&flow, self.now);
    }

    /// More bytes of a flow become protected.
    fn protect(&mut self, flow: usize) {
        let more = self.rng.random_range(1..100_000);
        self.connections[flow].since += more;
        self.settle(flow);
    }

    /// More bytes leave with their early repair; late repair has not left.
    fn leave_early(&mut self, flow: usize) {
        let more = self.rng.random_range(1..100_000);
        self.connections[flow].early += more;
        self.settle(flow);
    }

    /// The plan changes: from now on another interruption is survived, by all bytes that the peer does not hold.
    fn plan(&mut self, flow: usize) {
        self.connections[flow].promise = PROMISES[self.rng.random_range(0..PROMISES.len())];
        self.settle(flow);
    }

    /// Makes the truth of what the flow's positions say now, and publishes them.
    fn settle(&mut self, flow: usize) {
        let now = self.now;
        let connection = &mut self.connections[flow];
        connection.early = connection.early.max(connection.since);
        let reached = connection.origin + connection.since;
        let early = connection.origin + connection.early;
        connection.written = connection.written.max(early);
        // Positions count only when everything before the first byte seen is covered too.
        if connection.origin <= connection.truth && reached > connection.truth {
            connection.truth = reached;
            connection.raised = Some(now);
        }
        if connection.origin <= connection.early_truth {
            connection.early_truth = connection.early_truth.max(early);
        }
        if connection.promise >= DEMANDED {
            connection.surviving = connection.since;
        }
        if connection.origin <= connection.burst_truth {
            connection.burst_truth = connection.burst_truth.max(connection.origin + connection.surviving);
        }
        self.publish(flow, Event::Protected);
    }

    /// The mirror acknowledges some of what was written.
    fn acknowledge(&mut self, flow: usize) {
        let now = self.now;
        let connection = &mut self.connections[flow];
        connection.acked = self.rng.random_range(connection.acked..=connection.written);
        for truth in [&mut connection.truth, &mut connection.early_truth, &mut connection.burst_truth] {
            *truth = connection.acked.max(*truth);
        }
        if connection.acked >= connection.origin {
            connection.since = connection.since.max(connection.acked - connection.origin);
            connection.raised = Some(now);
        }
        self.settle(flow);
    }

    /// A new connection takes over the addresses, and the clients watch it.
    fn reconnect(&mut self, flow: usize) {
        self.connections[flow] = self.connect(flow);
        self.publish(flow, Event::New);
        for (at, client) in self.clients.iter_mut().enumerate() {
            client.watch(flow_key(flow), self.now);
            self.measured.remove(&(at, flow));
        }
    }

    /// The appliance restarts: it misses some bytes of each flow, and sees the flows from their middle.
    fn restart_publisher(&mut self) {
        self.publisher = publisher(&mut self.rng, self.now);
        self.instances = 0;
        for flow in 0..FLOWS {
            self.instances += 1;
            let connection = &mut self.connections[flow];
            connection.instance = self.instances;
            connection.written += self.rng.random_range(0..2) * self.rng.random_range(0..50_000);
            connection.origin = self.rng.random_range(connection.truth..=connection.written).max(1);
            (connection.since, connection.early, connection.surviving) = (0, 0, 0);
            connection.promise = PROMISES[self.rng.random_range(0..PROMISES.len())];
            connection.raised = None;
            self.publish(flow, Event::New);
        }
    }

    fn restart_client(&mut self, client: usize) {
        self.clients[client] = Core::new(key(), Wish::default(), self.rng.random(), self.now);
        for flow in 0..FLOWS {
            self.clients[client].watch(flow_key(flow), self.now);
            self.measured.remove(&(client, flow));
        }
    }

    fn hits(&mut self, parts: u32) -> bool {
        self.rng.random_range(0..100) < parts
    }

    fn carry(&mut self, to_publisher: bool, client: usize, datagram: &[u8]) {
        let faults = self.faults;
        self.recorded.push((to_publisher, client, datagram.to_vec()));
        if !self.hits(faults.loss) {
            self.put(to_publisher, client, datagram.to_vec());
        }
        if self.hits(faults.double) {
            self.put(to_publisher, client, datagram.to_vec());
        }
        if self.hits(faults.replay) {
            // Any recorded datagram, to any client, in either direction.
            let at = self.rng.random_range(0..self.recorded.len());
            let (direction, _, old) = self.recorded[at].clone();
            let (direction, client) = (direction ^ self.hits(20), self.rng.random_range(0..CLIENTS));
            self.put(direction, client, old);
        }
        if self.hits(faults.forge) {
            let mut forged = datagram.to_vec();
            let at = self.rng.random_range(0..forged.len());
            forged[at] ^= 1 << self.rng.random_range(0..8);
            self.put(to_publisher, client, forged);
        }
    }

    fn put(&mut self, to_publisher: bool, client: usize, datagram: Vec<u8>) {
        let late = if self.hits(self.faults.late) { 8_000 } else { 0 };
        let delay = Duration::from_micros(self.rng.random_range(50..500) + late);
        self.sent += 1;
        self.link.insert((self.now + delay, self.sent), (to_publisher, client, datagram));
    }

    fn tick(&mut self) {
        self.now += TICK;
        while let Some(entry) = self.link.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (to_publisher, client, datagram) = entry.remove();
            match to_publisher {
                true => self.publisher.handle_datagram(address(client), &datagram, self.now),
                false => self.clients[client].handle_datagram(&datagram, self.now),
            }
        }
        self.publisher.handle_timeout(self.now);
        while let Some(asked) = self.publisher.poll_asked() {
            if let Asked::Barrier { id } = asked {
                self.publisher.publish_barrier(id, Some(Level::OnWire));
            }
        }
        let mut out = vec![];
        self.publisher.poll_datagrams(64, self.now, |to, bytes| {
            out.push((usize::from(to.port()) - 40_000, bytes.to_vec()));
            assert!(bytes.len() <= MAX_DATAGRAM);
            true
        });
        for (client, datagram) in out {
            self.carry(false, client, &datagram);
        }
        let mut datagram = vec![];
        for client in 0..CLIENTS {
            while self.clients[client].poll_datagram(&mut datagram, self.now) {
                let datagram = datagram.clone();
                self.carry(true, client, &datagram);
            }
        }
        self.check();
    }

    /// Checks that no client calls more protected than is, and measures how long each took to learn it.
    fn check(&mut self) {
        for (at, client) in self.clients.iter().enumerate() {
            for (flow, connection) in self.connections.iter().enumerate() {
                let burst = Duration::from_micros(DEMANDED.into());
                let needs = [
                    (Need::from(Level::OnWire), connection.truth),
                    (Need::surviving(Duration::ZERO), connection.early_truth),
                    (Need::surviving(burst), connection.burst_truth),
                ];
                for ((need, truth), known) in needs.into_iter().zip(&mut self.protected) {
                    let status = |offset| client.status(&connection.key, offset, need, self.now);
                    let more = status(truth + 1);
                    let is_more = matches!(more, Status::Protected { .. });
                    assert!(!is_more, "client {at}, flow {flow}, {need:?}: {more:?}");
                    *known += u64::from(truth > 0 && matches!(status(truth), Status::Protected { .. }));
                }
                let Some(raised) = connection.raised else {
                    continue;
                };
                let status = client.status(&connection.key, connection.truth, Level::OnWire, self.now);
                if matches!(status, Status::Protected { .. })
                    && self.measured.insert((at, flow), connection.truth) != Some(connection.truth)
                {
                    self.delays.push(self.now - raised);
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick();
        }
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

fn quantile(delays: &mut [Duration], of: f64) -> Duration {
    delays.sort();
    delays[((delays.len() - 1) as f64 * of) as usize]
}

#[test]
fn bytes_that_a_client_calls_protected_are_protected_whatever_the_link_and_restarts_do() {
    for seed in seeds(24) {
        println!("seed {seed}");
        let mut world = World::new(seed, ALL);
        for _ in 0..160 {
            let flow = world.rng.random_range(0..FLOWS);
            match world.rng.random_range(0..100) {
                0..=1 => world.restart_publisher(),
                2..=4 => {
                    let client = world.rng.random_range(0..CLIENTS);
                    // A restarted program has no claims of its earlier run: it watches its flows again.
                    world.restart_client(client);
                }
                5..=12 => world.reconnect(flow),
                13..=30 => world.acknowledge(flow),
                31..=45 => world.leave_early(flow),
                46..=50 => world.plan(flow),
                _ => world.protect(flow),
            }
            let pause = Duration::from_micros(world.rng.random_range(250..20_000));
            world.run(pause);
        }
        let seldom = world.protected.contains(&0);
        assert!(!seldom, "a test in which nothing is ever protected shows nothing: {:?}", world.protected);
        assert!(world.publisher.subscribers().count() < 64);
    }
}

#[test]
fn a_changed_position_is_known_within_30_ms_for_99_of_100_at_30_percent_loss() {
    let mut delays = vec![];
    for seed in seeds(12) {
        println!("seed {seed}");
        let mut world = World::new(seed, Faults { replay: 0, forge: 0, ..ALL });
        world.run(Duration::from_millis(600));
        world.delays.clear();
        for _ in 0..60 {
            let flow = world.rng.random_range(0..FLOWS);
            world.protect(flow);
            let pause = Duration::from_micros(world.rng.random_range(10_000..60_000));
            world.run(pause);
        }
        world.run(Duration::from_millis(500));
        delays.append(&mut world.delays);
    }
    let (p50, p99) = (quantile(&mut delays, 0.5), quantile(&mut delays, 0.99));
    println!("{} positions: p50 {p50:?}, p99 {p99:?}, max {:?}", delays.len(), delays.last());
    assert!(p99 <= Duration::from_millis(30), "{p99:?}");
}

#[test]
fn a_quiet_link_needs_no_repetition_and_no_second_subscription() {
    let mut world = World::new(1, NONE);
    world.run(Duration::from_secs(3));
    let counters = world.publisher.counters();
    assert_eq!(counters.challenged, CLIENTS as u64);
    assert_eq!((counters.replayed, counters.forged, counters.leases_ended), (0, 0, 0));
    assert!(world.clients.iter().all(|client| !client.is_stale() && client.has_contact(world.now)));
    // Heartbeats, a renewal each quarter of a second, and the start with its repetitions; nothing repeats for ever.
    assert!(world.sent < CLIENTS as u64 * 200, "{}", world.sent);
}

#[test]
fn replays_and_forgeries_are_counted_and_change_nothing() {
    let mut world = World::new(6, Faults { replay: 40, forge: 40, ..NONE });
    world.run(Duration::from_secs(2));
    let counters = world.publisher.counters();
    assert!(counters.forged > 0 && counters.replayed > 0 && counters.wrong_direction > 0, "{counters:?}");
    assert_eq!((counters.leases_ended, counters.refused), (0, 0), "{counters:?}");
    assert!(world.clients.iter().all(|client| client.has_contact(world.now)));
}

#[test]
fn silence_ends_protection_within_a_lease_and_contact_restores_it() {
    let mut world = World::new(2, NONE);
    world.protect(0);
    world.run(Duration::from_millis(50));
    let truth = world.connections[0].truth;
    let status = |world: &World| world.clients[0].status(&flow_key(0), truth, Level::OnWire, world.now);
    assert!(matches!(status(&world), Status::Protected { .. }));
    world.faults.loss = 100;
    world.run(Duration::from_millis(1200));
    assert!(matches!(status(&world), Status::Pending(_)), "{:?}", status(&world));
    world.faults.loss = 0;
    world.run(Duration::from_millis(500));
    assert!(matches!(status(&world), Status::Protected { .. }), "{:?}", status(&world));
}

#[test]
fn a_restart_of_the_publisher_is_noticed_at_once_and_claims_stand() {
    let mut world = World::new(3, NONE);
    for flow in 0..FLOWS {
        world.protect(flow);
    }
    world.run(Duration::from_millis(50));
    let truths: Vec<u64> = world.connections.iter().map(|connection| connection.truth).collect();
    world.restart_publisher();
    world.run(Duration::from_millis(600));
    for (flow, truth) in truths.iter().enumerate() {
        for client in &world.clients {
            let status = client.status(&flow_key(flow), *truth, Level::OnWire, world.now);
            assert!(matches!(status, Status::Protected { .. }), "{status:?}");
        }
    }
    // Once the mirror has acknowledged, positions of the new run join those of the old one.
    world.connections[0].acked = world.connections[0].written;
    world.acknowledge(0);
    world.protect(0);
    world.run(Duration::from_millis(50));
    let truth = world.connections[0].truth;
    let status = world.clients[0].status(&flow_key(0), truth, Level::OnWire, world.now);
    assert!(matches!(status, Status::Protected { .. }), "{status:?}");
}

#[test]
fn a_barrier_of_an_earlier_run_is_not_answered_by_the_next() {
    let mut world = World::new(4, NONE);
    world.run(Duration::from_millis(100));
    let first = world.clients[0].request(Request::Barrier, world.now).unwrap();
    world.run(Duration::from_millis(50));
    assert_eq!(world.clients[0].poll_outcome(first), Some(Outcome::Barrier(Some(Level::OnWire))));
    world.faults.loss = 100;
    let second = world.clients[0].request(Request::Barrier, world.now).unwrap();
    world.run(Duration::from_millis(50));
    world.restart_publisher();
    world.faults.loss = 0;
    world.run(Duration::from_secs(1));
    assert_eq!(world.clients[0].poll_outcome(second), Some(Outcome::Restarted));
}

#[test]
fn a_large_dump_arrives_whole_at_30_percent_loss() {
    let mut world = World::new(5, Faults { replay: 0, forge: 0, ..ALL });
    let now = world.now;
    for port in 0..300u16 {
        let key = FlowKey::tcp(([10, 1, 0, 2], port).into(), ([10, 2, 0, 1], 80).into());
        let flow = Flow {
            key,
            instance: 1000 + u64::from(port),
            peer: 1,
            event: Event::New,
            level: Level::OnWire,
            origin: Origin::Start,
            origin_seq: Some(1),
            positions: Positions { on_wire: Some(7), ..Positions::default() },
            violated: None,
            packets: None,
            cookie: None,
            block: None,
            survives_burst: 0,
        };
        world.publisher.publish_flow(&flow, now);
    }
    // The repetitions are over before the subscriber comes.
    for second in 0..20 {
        world.publisher.handle_timeout(now + Duration::from_secs(second));
    }
    world.clients[0] = Core::new(key(), Wish { follow: true, ..Wish::default() }, 99, world.now);
    let mut seen = std::collections::BTreeSet::new();
    let deadline = world.start + Duration::from_secs(20);
    while seen.len() < 300 && world.now < deadline {
        world.tick();
        while let Some(message) = world.clients[0].poll_message() {
            if let Message::Flow(flow) = message
                && flow.instance >= 1000
            {
                seen.insert(flow.instance);
            }
        }
    }
    println!("{} flows after {:?}", seen.len(), world.now - world.start);
    assert_eq!(seen.len(), 300);
}
