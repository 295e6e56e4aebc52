//! Requests to a publisher are bounded, in each turn and over time, and a flood does not affect other programs: floods
//! beside a well-behaved program, on virtual time.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use onwire_notify::client::{Core, Outcome, Status, Wish};
use onwire_notify::envelope::{Direction, Envelope, Key, KeyRing, LEN};
use onwire_notify::message::*;
use onwire_notify::publisher::{Asked, Limits, Publisher};

const EPOCH: u64 = 42;
const TURN: Duration = Duration::from_millis(1);
/// Datagrams of one turn, as in the appliance.
const BUDGET: usize = 256;

fn key(id: u16) -> Key {
    Key::new(id, &[id as u8; 32]).unwrap()
}

fn flow(number: u16) -> Flow {
    Flow {
        key: flow_key(number),
        instance: u64::from(number) + 1,
        peer: 0,
        event: Event::Protected,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(1),
        positions: Positions { on_wire: Some(100), ..Positions::default() },
        violated: None,
        packets: None,
        cookie: None,
        block: None,
        survives_burst: 0,
    }
}

fn flow_key(number: u16) -> FlowKey {
    FlowKey::tcp(([10, 1, 0, 1], number).into(), ([10, 2, 0, 1], 80).into())
}

fn pages(filter: Filter) -> Request {
    Request::GetFlows { since: 0, begun: None, count: 48, filter }
}

/// A program that floods the publisher with requests.
struct Flooder {
    at: SocketAddr,
    key: u16,
    epoch: u64,
    token: Token,
    count: u64,
}

impl Flooder {
    fn new(number: u16) -> Flooder {
        let at = ([10, 0, 1, (number % 16) as u8], 20_000 + number).into();
        Flooder { at, key: 1, epoch: 1000 + u64::from(number), token: Token::default(), count: 0 }
    }

    /// A datagram with these requests, each with a number of its own.
    fn ask(&mut self, requests: &[Request], publisher: &mut Publisher, now: Instant) {
        self.count += 1;
        let mut datagram = vec![0; LEN];
        for (seq, request) in (4 * self.count as u32..).zip(requests) {
            request.emit(seq, 9, &mut datagram);
        }
        let envelope = Envelope {
            direction: Direction::Request,
            key: self.key,
            sender: self.epoch,
            receiver: if self.token == Token::default() { 0 } else { EPOCH },
            counter: self.count,
        };
        key(self.key).seal(&envelope, &mut datagram);
        publisher.handle_datagram(self.at, &datagram, now);
    }

    fn subscription(&self) -> Request {
        // The longest lease: it need not renew.
        let lease = Duration::from_secs(60);
        Request::Subscribe { lease, groups: 0, filter: Filter::default(), token: self.token }
    }
}

/// What the publisher sent to the flooding programs in a turn.
#[derive(Default)]
struct Sent {
    /// Messages of pages, their ends included.
    pages: usize,
    ends: usize,
    grants: usize,
    challenges: usize,
}

/// A publisher, programs that ask too much, and one client that does not.
struct World {
    start: Instant,
    now: Instant,
    publisher: Publisher,
    ring: KeyRing,
    loud: Vec<Flooder>,
    client: Core,
    client_at: SocketAddr,
    outcomes: Vec<Asked>,
}

impl World {
    /// The flows are at rest: nothing is sent about them unless it is requested.
    fn new(flows: u16, loud: u16) -> World {
        let start = Instant::now();
        let mut ring = KeyRing::new();
        [1, 2].into_iter().for_each(|id| ring.insert(key(id)).unwrap());
        let mut publisher = Publisher::new(ring.clone(), Limits::default(), EPOCH, &[3; 32], start);
        (0..flows).for_each(|number| publisher.publish_flow(&flow(number), start));
        let mut now = start;
        while let Some(due) = publisher.poll_timeout() {
            publisher.handle_timeout(due);
            now = now.max(due);
        }
        let mut world = World {
            start: now,
            now,
            publisher,
            ring,
            loud: vec![],
            client: Core::new(key(2), Wish::default(), 7, now),
            client_at: ([10, 0, 0, 1], 4000).into(),
            outcomes: vec![],
        };
        for number in 0..loud {
            let mut loud = Flooder::new(number);
            loud.ask(&[loud.subscription()], &mut world.publisher, now);
            world.loud.push(loud);
            world.turn();
            let loud = world.loud.last_mut().unwrap();
            assert!(loud.token != Token::default());
            let request = loud.subscription();
            loud.ask(&[request], &mut world.publisher, world.now);
            world.turn();
        }
        assert_eq!(world.publisher.subscribers().count(), usize::from(loud));
        world.start = world.now;
        world
    }

    fn flood(&mut self, requests: &[Request]) {
        for loud in &mut self.loud {
            loud.ask(requests, &mut self.publisher, self.now);
        }
    }

    /// The client sends its requests, after all others.
    fn client_asks(&mut self) {
        let mut out = vec![];
        while self.client.poll_datagram(&mut out, self.now) {
            self.publisher.handle_datagram(self.client_at, &out, self.now);
        }
    }

    /// One turn of the publisher, then a millisecond passes. Returns what was sent to the flooding programs.
    fn turn(&mut self) -> Sent {
        while let Some(asked) = self.publisher.poll_asked() {
            if let Asked::Barrier { id } = asked {
                self.publisher.publish_barrier(id, Some(Level::OnWire));
            }
            self.outcomes.push(asked);
        }
        self.publisher.handle_timeout(self.now);
        let mut sent = Sent::default();
        let World { publisher, client, client_at, loud, ring, now, .. } = self;
        publisher.poll_datagrams(BUDGET, *now, |to, bytes| {
            if to == *client_at {
                client.handle_datagram(bytes, *now);
                return true;
            }
            let (_, messages) = ring.open(Direction::Notification, bytes).unwrap();
            for raw in Messages::new(messages) {
                let raw = raw.unwrap();
                sent.pages += usize::from(raw.header.flags & flags::MULTI != 0);
                match Message::parse(&raw).unwrap() {
                    Message::Done(_) => sent.ends += 1,
                    Message::Subscribed(_) => sent.grants += 1,
                    Message::Challenge(challenge) => {
                        sent.challenges += 1;
                        if let Some(loud) = loud.iter_mut().find(|loud| loud.at == to) {
                            loud.token = challenge.token;
                        }
                    }
                    _ => {}
                }
            }
            true
        });
        self.now += TURN;
        sent
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn knows(&self, number: u16) -> bool {
        matches!(self.client.status(&flow_key(number), 100, Level::OnWire, self.now), Status::Protected { .. })
    }
}

/// A leaky bucket: it drains at a rate, and its level must never exceed the burst, whatever the window.
struct Meter {
    each_turn: f64,
    most: f64,
    level: f64,
    total: usize,
}

impl Meter {
    fn new(a_second: u32, burst: u32, spare: u32) -> Meter {
        Meter { each_turn: f64::from(a_second) / 1000.0, most: f64::from(burst + spare), level: 0.0, total: 0 }
    }

    fn on_turn(&mut self, count: usize) {
        self.total += count;
        self.level += count as f64;
        assert!(self.level <= self.most, "{} at once, {} in all", self.level, self.total);
        self.level = (self.level - self.each_turn).max(0.0);
    }
}

#[test]
fn pages_are_bounded_per_subscriber_in_all_and_per_turn() {
    for (loud, mut meter, least) in
        [(1, Meter::new(32_000, 24_000, 100), 24_000), (40, Meter::new(64_000, 32_000, 100), 32_000)]
    {
        let mut world = World::new(9000, loud);
        for _ in 0..4000 {
            world.flood(&[pages(Filter::default()); 4]);
            let sent = world.turn();
            assert!(sent.pages <= 2048 + 64, "{} in one turn", sent.pages);
            meter.on_turn(sent.pages);
        }
        assert!(meter.total > least + 100_000, "a bound that lets nothing through shows nothing: {}", meter.total);
        assert!(world.publisher.counters().excess > 0);
        assert!(world.publisher.poll_excessive().is_some());
    }
}

/// Such a page is short on the wire, one message, but hundreds of entries are looked at to make it.
#[test]
fn pages_without_matches_count_as_the_work_they_cause() {
    let nothing = Filter { cookie: Some(1), ..Filter::default() };
    let mut world = World::new(30_000, 40);
    // Each looks at 1024 entries: 65 units of work.
    let mut meter = Meter::new(64_000 / 65 + 1, 32_000 / 65, 40);
    for _ in 0..3000 {
        world.flood(&[pages(nothing); 4]);
        let ends = world.turn().ends;
        assert!(ends <= 2048 / 65 + 40, "{ends} in one turn");
        meter.on_turn(ends);
    }
    assert!(meter.total > 2000, "{}", meter.total);
}

#[test]
fn a_dump_of_nine_thousand_flows_is_not_delayed() {
    let mut world = World::new(9000, 0);
    world.client = Core::new(key(2), Wish { follow: true, ..Wish::default() }, 7, world.now);
    assert_eq!(dumped(&mut world, &[]), 9000);
    assert!(world.elapsed() < Duration::from_millis(400), "{:?}", world.elapsed());
    assert_eq!(world.publisher.counters().excess, 0);
}

/// How many flows the client has received when its dump is complete.
fn dumped(world: &mut World, flood: &[Request]) -> usize {
    let mut seen = BTreeSet::new();
    while !(world.client.run().is_some() && world.client.is_complete()) && world.elapsed() < Duration::from_secs(60) {
        world.flood(flood);
        world.client_asks();
        world.turn();
        while let Some(message) = world.client.poll_message() {
            if let Message::Flow(flow) = message {
                seen.insert(flow.instance);
            }
        }
    }
    seen.len()
}

#[test]
fn a_dump_beside_floods_of_dumps_gets_its_share() {
    for (loud, most) in [(1, Duration::from_millis(600)), (40, Duration::from_secs(10))] {
        let mut world = World::new(9000, loud);
        world.client = Core::new(key(2), Wish { follow: true, ..Wish::default() }, 7, world.now);
        assert_eq!(dumped(&mut world, &[pages(Filter::default()); 4]), 9000);
        assert!(world.elapsed() < most, "{loud}: {:?}", world.elapsed());
    }
}

/// A subscriber that asks for pages without end must not be served alone.
#[test]
fn a_subscriber_beside_a_flood_keeps_its_lease_and_is_answered() {
    let nothing = Filter { cookie: Some(1), ..Filter::default() };
    let register = |cookie| Request::Register { key: flow_key(1), cookie };
    let floods: [&[Request]; 4] = [
        &[pages(Filter::default()); 4],
        &[pages(nothing); 4],
        &[register(1), register(2), Request::Barrier, Request::Flush],
        &[Request::Subscribe {
            lease: Duration::from_secs(60),
            groups: 0,
            filter: Filter::default(),
            token: Token([1; 16]),
        }; 4],
    ];
    for (number, flood) in floods.into_iter().enumerate() {
        for loud in [1, 40] {
            let mut world = World::new(9000, loud);
            for turn in 0..3000u16 {
                for _ in 0..2 {
                    world.flood(flood);
                }
                // Every 50 ms the client looks up a new flow and asks for a barrier.
                let wanted = turn / 50;
                if turn % 50 == 0 {
                    world.client.watch(flow_key(wanted), world.now);
                }
                let barrier = (turn % 50 == 0).then(|| world.client.request(Request::Barrier, world.now).unwrap());
                world.client_asks();
                world.turn();
                if let Some(barrier) = barrier.filter(|_| turn > 50) {
                    // The first request was carried out: there was no repetition within the turn.
                    let done = Some(Outcome::Barrier(Some(Level::OnWire)));
                    assert_eq!(world.client.poll_outcome(barrier), done, "{number}, {loud}, {turn}");
                }
                if turn > 50 {
                    assert!(world.client.has_contact(world.now), "{number}, {loud}, {turn}");
                    let silence = world.now - world.client.last_received().unwrap();
                    assert!(silence < Duration::from_millis(110), "{number}, {loud}, {turn}: {silence:?}");
                }
                // The answer arrives within a round of all others, whatever they ask for.
                if turn % 50 == 49 && turn > 50 {
                    assert!(world.knows(wanted - 1), "{number}, {loud}, {turn}");
                }
            }
            let counters = world.publisher.counters();
            assert!(counters.excess > 0 && counters.leases_ended == 0, "{number}, {loud}: {counters:?}");
        }
    }
}

#[test]
fn requests_to_the_appliance_are_bounded_per_subscriber_and_in_all() {
    for loud in [1, 40] {
        let mut world = World::new(1, loud);
        let mut meter = Meter::new(4000 + 100 * u32::from(loud), 4096 + 128 * u32::from(loud), 40);
        for turn in 0..4000 {
            let register = Request::Register { key: flow_key(1), cookie: turn };
            world.flood(&[register, Request::Flush, Request::Barrier, register]);
            world.turn();
            meter.on_turn(world.outcomes.len());
            world.outcomes.clear();
        }
        assert!(meter.total > 16_000 / 4, "{}", meter.total);
    }
}

#[test]
fn renewals_are_bounded() {
    let mut world = World::new(1, 3);
    let mut meter = Meter::new(300, 3 * 128, 3);
    for _ in 0..4000 {
        let renewal = world.loud[0].subscription();
        world.flood(&[renewal; 4]);
        meter.on_turn(world.turn().grants);
    }
    assert!(meter.total >= 1200, "{}", meter.total);
}

#[test]
fn challenges_are_bounded_per_key_and_other_keys_are_not_affected() {
    let mut world = World::new(1, 0);
    let mut meter = Meter::new(500, 512, 1);
    let mut came = None;
    for turn in 0..4000u16 {
        for port in 0..20 {
            let mut newcomer = Flooder::new(turn.wrapping_mul(20).wrapping_add(port) % 40_000);
            newcomer.ask(&[newcomer.subscription()], &mut world.publisher, world.now);
        }
        if turn >= 2000 {
            world.client_asks();
        }
        meter.on_turn(world.turn().challenges);
        came = came.or(world.client.has_contact(world.now).then_some(turn));
    }
    assert!(meter.total > 2000, "{}", meter.total);
    assert!(came.is_some_and(|turn| turn < 2005), "{came:?}");
}

#[test]
fn a_newcomer_beside_a_flood_of_another_newcomer_is_answered_at_once() {
    let mut world = World::new(1, 0);
    world.client = Core::new(key(1), Wish::default(), 7, world.now);
    let mut meter = Meter::new(17, 16, 1);
    let mut newcomer = Flooder::new(1);
    for turn in 0..4000u16 {
        let request = newcomer.subscription();
        for _ in 0..20 {
            newcomer.ask(&[request], &mut world.publisher, world.now);
        }
        if turn >= 2000 {
            world.client_asks();
        }
        meter.on_turn(world.turn().challenges);
        assert!(turn < 2005 || world.client.has_contact(world.now), "{turn}");
    }
    assert!(meter.total > 64, "{}", meter.total);
}

/// Each subscription begins with a share of its own.
#[test]
fn ending_and_beginning_a_subscription_again_gains_nothing() {
    let mut world = World::new(1, 1);
    let mut meter = Meter::new(4000 + 300, 4096 + 512, 40);
    for turn in 0..4000 {
        let register = Request::Register { key: flow_key(1), cookie: turn };
        let begin = world.loud[0].subscription();
        for requests in [&[register; 4][..], &[register; 4], &[Request::Unsubscribe], &[begin]] {
            world.flood(requests);
        }
        world.turn();
        meter.on_turn(world.outcomes.len());
        world.outcomes.clear();
    }
    assert!(meter.total > 500, "{}", meter.total);
}
