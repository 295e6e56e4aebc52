//! Two forwarders, two links and one clock: everything that happens, in the order of virtual time.
//!
//! A side is driven as a lane drives it: packets in, idle, timeouts, datagrams out, packets out, each with a budget.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use onwire::protect::Evidence;
use onwire::tunnel::PeerId;
use onwire::tunnel::drop_reason::DropReason;
use onwire::tunnel::handshake::Established;
use onwire::tunnel::outbox::Trains;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::endpoint::{Endpoint, Snapshot, newly_dropped};
use crate::hosts::{Hosts, Meaning};
use crate::keys::{Content, Keys, Party, Run, Sealed};
use crate::link::{damage, forge};
use crate::model::Model;
use crate::outcome::Outcome;
use crate::packets::{Packet, number_of, profile_of, random_packet, set_number};
use crate::promises::{Promises, Taken, Truths};
use crate::scenario::{Disaster, Scenario};
use crate::side::Side;
use crate::warden::{block_of, ends_block};
use onwire::flow::FlowKey;
use onwire::wire::packet::UDP;
use onwire::wire::segment::segment_count;

/// No turn is over before this.
const TURN: Duration = Duration::from_micros(1);
/// More turns in a run mean that one side wakes for nothing.
const TURNS_MAX: usize = 60_000;

/// A datagram under way.
#[derive(Debug)]
pub(super) struct Flight {
    bytes: Vec<u8>,
    /// What it is; `None` when it was damaged or forged.
    genuine: Option<Sealed>,
}

pub(super) enum Event {
    /// A packet comes to the TUN; with its meaning, if it is of a connection.
    Packet(Side, Packet, Option<Meaning>),
    /// Something happens to this connection.
    Act(usize),
    /// A datagram leaves the host; some are stamped, under a number, and are behind the ends of so many blocks.
    Departure(Run, Vec<u8>, Sealed, Option<(u32, usize)>),
    /// A timestamp comes.
    Stamp(Run, u32, usize),
    Arrival(Side, Flight),
    Initiation {
        initiator: Run,
    },
    Install(Run, Box<Established>),
    /// As above for the initiator, whose newer initiations void the older.
    Complete(Run, usize, Box<Established>),
    Disaster(Side, Disaster),
    Calm,
}

/// The simulation of one scenario.
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) random: SmallRng,
    pub(super) start: Instant,
    pub(super) now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    pub(super) sequence: u64,
    pub(super) ends: [Endpoint; 2],
    keys: Keys,
    pub(super) model: Model,
    pub(super) hosts: Hosts,
    pub(super) promises: Promises,
    /// How many packets came to each TUN.
    packets: [u16; 2],
    sessions: usize,
    /// There was a second session or a restart: datagrams of sessions that are gone may come.
    sessions_end: bool,
    turns: usize,
}

impl World {
    /// Runs the scenario of `seed` to its end; panics when a promise is broken.
    pub fn run(seed: u64) -> Outcome {
        let scenario = Scenario::of(seed);
        let mut random = SmallRng::seed_from_u64(seed ^ 0x5eed);
        let start = Instant::now();
        let ends = Side::BOTH.map(|side| Endpoint::new(side, &scenario, start, &mut random));
        let mut world = Self {
            scenario,
            random,
            start,
            now: Duration::ZERO,
            events: BTreeMap::new(),
            sequence: 0,
            ends,
            keys: Keys::default(),
            model: Model::default(),
            hosts: Hosts::default(),
            promises: Promises::default(),
            packets: [0; 2],
            sessions: 0,
            sessions_end: false,
            turns: 0,
        };
        world.schedule_all();
        world.run_to_end();
        world.check()
    }

    fn schedule_all(&mut self) {
        for side in Side::BOTH {
            for (at, profile) in self.scenario.sides[side.index()].traffic.clone() {
                let packet = random_packet(profile, side, &mut self.random);
                self.schedule(at, Event::Packet(side, packet, None));
            }
            for times in self.scenario.sides[side.index()].connections.clone() {
                let random = &mut self.random;
                let profiles =
                    [0, 1].map(|side| random.random_range(0..self.scenario.sides[side].profiles.len()) as u8);
                let connection = self.hosts.open(side, profiles, random);
                times.into_iter().for_each(|at| self.schedule(at, Event::Act(connection)));
            }
        }
        for (at, side, disaster) in self.scenario.disasters.clone() {
            self.schedule(at, Event::Disaster(side, disaster));
        }
        self.schedule(self.scenario.calm, Event::Calm);
        let initiator = self.ends[self.random.random_range(0..2)].run;
        self.schedule(Duration::ZERO, Event::Initiation { initiator });
    }

    pub(super) fn schedule(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    fn run_to_end(&mut self) {
        loop {
            let wake = self.ends.iter().filter_map(|end| Some((end.wake_at?, end.run.side))).min();
            let next = self.events.keys().next().map(|&(at, _)| at);
            let Some(now) = wake.map(|(at, _)| at).into_iter().chain(next).min() else { break };
            if now > self.scenario.end {
                break;
            }
            self.now = now;
            match next {
                Some(at) if at == now => {
                    let (_, event) = self.events.pop_first().expect("its time was read above");
                    self.handle(event);
                }
                _ => {
                    let (_, side) = wake.expect("otherwise an event was next");
                    self.turn(side);
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Packet(side, mut packet, meaning) => {
                let number = self.packets[side.index()];
                self.packets[side.index()] += 1;
                set_number(&mut packet.bytes, number);
                if let Some(meaning) = meaning {
                    self.hosts.on_sent(side, number, meaning);
                }
                self.ends[side.index()].tun.push_back((number, packet));
                self.turn_soon(side);
            }
            Event::Act(connection) => {
                for (side, meaning, packet) in self.hosts.act(connection, &mut self.random) {
                    self.handle(Event::Packet(side, packet, Some(meaning)));
                }
            }
            Event::Departure(run, datagram, sealed, stamp) => {
                let lives = self.ends[run.side.index()].run == run;
                if lives || !self.scenario.sides[run.side.index()].host.dies {
                    self.depart(run.side, datagram, sealed);
                }
                if let (Some(stamp), true) = (stamp, lives) {
                    self.stamp(run.side, stamp);
                }
            }
            Event::Stamp(run, number, ended) => {
                let end = &mut self.ends[run.side.index()];
                if end.run == run {
                    end.stamps.push((number, ended));
                    self.turn_soon(run.side);
                }
            }
            Event::Arrival(side, flight) => {
                self.arrive(side, flight);
                self.turn_soon(side);
            }
            Event::Initiation { initiator } => self.initiate(initiator),
            Event::Install(run, established) => {
                let end = &mut self.ends[run.side.index()];
                if end.run == run {
                    end.forwarder.install(&established, self.start + self.now);
                    self.turn_soon(run.side);
                }
            }
            Event::Complete(run, initiation, established) => {
                if self.ends[run.side.index()].initiation == initiation {
                    self.handle(Event::Install(run, established));
                }
            }
            Event::Disaster(side, Disaster::Rekey) => self.initiate(self.ends[side.index()].run),
            Event::Disaster(side, Disaster::Restart) => self.restart(side),
            Event::Disaster(side, Disaster::Blackhole(span)) => self.ends[side.index()].link.blacken(self.now + span),
            Event::Calm => self.ends.iter_mut().for_each(|end| end.link.heal()),
        }
    }

    /// A lane may be busy when something comes: sometimes the turn is a little later and meets more at once.
    fn turn_soon(&mut self, side: Side) {
        if self.random.random_bool(0.6) {
            self.turn(side);
        } else {
            let at = self.now + Duration::from_micros(self.random.random_range(1..60));
            let end = &mut self.ends[side.index()];
            end.wake_at = Some(end.wake_at.map_or(at, |wake| wake.min(at)));
        }
    }

    fn party(&self, side: Side) -> Party {
        let end = &self.ends[side.index()];
        let symbol_size = self.scenario.sides[side.index()].symbol_size;
        Party { run: end.run, epoch: end.epoch, symbol_size, address: end.address }
    }

    /// The responder has its keys after one delay, the initiator after two.
    fn initiate(&mut self, initiator: Run) {
        let side = initiator.side;
        if self.ends[side.index()].run != initiator {
            return;
        }
        let out = self.now + self.ends[side.index()].link.delay();
        let back = out + self.ends[side.other().index()].link.delay();
        let responder = self.party(side.other());
        let (party, at) = (self.party(side), self.start + self.now);
        let [ours, theirs] = self.keys.agree(party, responder, &mut self.random, at);
        self.sessions += 1;
        self.sessions_end |= self.sessions > 1;
        self.schedule(out, Event::Install(responder.run, Box::new(theirs)));
        self.ends[side.index()].initiation = self.sessions;
        self.schedule(back, Event::Complete(initiator, self.sessions, Box::new(ours)));
    }

    fn restart(&mut self, side: Side) {
        self.model.on_restart(self.now);
        self.sessions_end = true;
        let mut end = Endpoint::new(side, &self.scenario, self.start + self.now, &mut self.random);
        let old = &mut self.ends[side.index()];
        end.run.restarts = old.run.restarts + 1;
        end.tun = std::mem::take(&mut old.tun);
        end.captured = std::mem::take(&mut old.captured);
        end.queue_free_at = old.queue_free_at;
        std::mem::swap(&mut end.link, &mut old.link);
        self.ends[side.index()] = end;
        let initiator = self.ends[side.index()].run;
        let at = self.now + Duration::from_micros([0, 0, 300, 2000][self.random.random_range(0..4)]);
        self.schedule(at, Event::Initiation { initiator });
        self.turn(side);
    }

    /// One turn of a lane.
    fn turn(&mut self, side: Side) {
        self.turns += 1;
        assert!(self.turns < TURNS_MAX, "{TURNS_MAX} turns by {:?}: a side wakes for nothing", self.now);
        let now = self.start + self.now;
        let budget = self.scenario.budget;
        let mut leftover = self.take_packets(side, budget);
        let end = &mut self.ends[side.index()];
        if end.tun.is_empty() {
            end.forwarder.handle_idle(now);
        }
        end.forwarder.handle_timeout(now);
        self.check_queue(side);
        leftover |= self.transmit(side, budget);
        leftover |= self.deliver(side, budget);
        if self.ends[side.index()].forwarder.poll_request(now).is_some() {
            self.initiate(self.ends[side.index()].run);
        }
        self.keep_promises(side);
        let end = &mut self.ends[side.index()];
        let wake = end.forwarder.poll_timeout(now);
        let due = end.guard.as_mut().and_then(|guard| guard.deadline(now));
        let wake = wake.into_iter().chain(due).min();
        if leftover {
            end.wake_at = Some(self.now + TURN * self.random.random_range(1..40));
        } else {
            assert!(wake.is_none_or(|at| at > now), "all work is done at {:?}, and still a timeout is due", self.now);
            assert!(end.tun.is_empty() || wake.is_some(), "packets wait and nothing will wake the lane");
            end.wake_at = wake.map(|at| at - self.start);
        }
    }

    /// Reads the TUN; `true` if there is more that could be read.
    fn take_packets(&mut self, side: Side, budget: usize) -> bool {
        let now = self.start + self.now;
        let end = &mut self.ends[side.index()];
        for _ in 0..budget {
            if !end.forwarder.wants_packets() {
                return false;
            }
            let Some((number, packet)) = end.tun.pop_front() else { return false };
            let drops = end.forwarder.drops().clone();
            end.forwarder.room()[..packet.bytes.len()].copy_from_slice(&packet.bytes);
            let guard = &mut end.guard;
            let mut taken = None;
            end.forwarder.handle_packet(packet.header, packet.bytes.len(), now, |outgoing| {
                if let Some(guard) = guard {
                    let strays = guard.peers()[0].flows().counters().strays;
                    guard.on_outgoing(&outgoing, now);
                    let is_stray = guard.peers()[0].flows().counters().strays > strays;
                    let view = outgoing.view;
                    let flow = FlowKey::sent(view).and_then(|key| guard.peers()[0].flows().find(&key));
                    let len = outgoing.packet.len().saturating_sub(view.transport_offset + 8) as u64;
                    let packets = segment_count(outgoing.header, outgoing.packet) as u64;
                    let datagrams = (view.protocol == UDP && flow.is_some()).then_some((packets, len));
                    // What could not be noted of UDP is not counted, nor what seems to be of another connection.
                    let counted =
                        flow.filter(|flow| if view.protocol == UDP { flow.sent.packets > 0 } else { !is_stray });
                    let instance = counted.map(|flow| flow.id.instance());
                    taken = Some(Taken { number, block: outgoing.block, instance, datagrams });
                }
            });
            match newly_dropped(&drops, end.forwarder.drops())[..] {
                [] => {
                    if let Some(taken) = taken {
                        self.promises.on_taken(end.run, taken, &self.hosts);
                    }
                    let profile = profile_of(&packet.bytes);
                    self.model.on_taken(end.run, number, profile, packet);
                }
                [(DropReason::NoSession, 1)] => {}
                ref other => panic!("a good packet was dropped: {other:?}"),
            }
        }
        !end.tun.is_empty() && end.forwarder.wants_packets()
    }

    /// Sends; `true` if there is more that could be sent.
    fn transmit(&mut self, side: Side, budget: usize) -> bool {
        let now = self.start + self.now;
        for _ in 0..budget {
            let end = &mut self.ends[side.index()];
            let Some((peer, train)) = end.forwarder.poll_transmit(Trains::All, now) else { return false };
            assert_eq!(peer, PeerId(0));
            let guard = end.guard.as_mut().filter(|guard| guard.peers()[0].evidence() == Evidence::Timestamps);
            let stamp = train.proves.and_then(|blocks| Some(guard?.next_stamp(peer, blocks, now)));
            if train.proves.is_some() && self.random.random_bool(0.02) {
                // The socket is full: the same again, under another number.
                return true;
            }
            let mut datagrams: Vec<Vec<u8>> = train.bytes.chunks(train.datagram_len).map(<[u8]>::to_vec).collect();
            let refusal = self.scenario.sides[side.index()].host.refusal;
            let refused = self.now < self.scenario.calm && self.random.random_bool(refusal);
            if refused {
                datagrams.truncate(1);
                end.forwarder.on_unsendable(peer, datagrams[0].len(), now);
            } else {
                if self.random.random_bool(0.2) {
                    datagrams.truncate(self.random.random_range(1..=datagrams.len()));
                }
                let bytes: usize = datagrams.iter().map(Vec::len).sum();
                end.forwarder.on_sent(peer, bytes, now);
            }
            for datagram in datagrams {
                self.ends[side.index()].drained += datagram.len() as u64;
                self.send(side, datagram, refused, stamp);
            }
        }
        self.ends[side.index()].forwarder.poll_transmit(Trains::All, now).is_some()
    }

    /// Hands one datagram to the host, which puts it on the link when its turn has come.
    fn send(&mut self, side: Side, datagram: Vec<u8>, refused: bool, stamp: Option<u32>) {
        let sealed = self.keys.read(&datagram);
        match &sealed.content {
            Content::Source(id, symbol) => self.model.on_source(sealed.from, sealed.to, *id, symbol),
            Content::Repair(id) => self.model.on_repair(sealed.from, *id),
            Content::Report(report) => {
                report.sent.iter().for_each(|told| self.model.on_closed(sealed.from, *told));
                self.promises.on_report_written(sealed.from, report.sent_at, self.now);
            }
        }
        if let Some(block) = block_of(&sealed.content) {
            self.promises.on_handed(sealed.from, block, refused);
        }
        if refused {
            return;
        }
        let ended = &mut self.ends[side.index()].ended;
        ended.extend(block_of(&sealed.content).filter(|_| ends_block(&sealed.content)));
        let stamp = stamp.map(|number| (number, ended.len()));
        let at = self.leaves_at(side);
        if at > self.now {
            self.schedule(at, Event::Departure(sealed.from, datagram, sealed, stamp));
            return;
        }
        self.depart(side, datagram, sealed);
        if let Some(stamp) = stamp {
            self.stamp(side, stamp);
        }
    }

    /// Puts one datagram on the link, with all that may happen to it there.
    fn depart(&mut self, side: Side, datagram: Vec<u8>, sealed: Sealed) {
        if let Some(block) = block_of(&sealed.content) {
            self.promises.on_entered(sealed.from, block);
        }
        let random = &mut self.random;
        let fate = self.ends[side.index()].link.fate(random, self.now);
        let to = side.other();
        for (after, damaged) in fate.copies {
            let mut bytes = datagram.clone();
            if damaged {
                damage(&mut bytes, &mut self.random);
            }
            let genuine = (!damaged).then(|| sealed.clone());
            self.schedule(self.now + after, Event::Arrival(to, Flight { bytes, genuine }));
        }
        let captured = &self.ends[to.index()].captured;
        if let (Some(after), false) = (fate.replay, captured.is_empty()) {
            let (bytes, sealed) = captured[self.random.random_range(0..captured.len())].clone();
            self.schedule(self.now + after, Event::Arrival(to, Flight { bytes, genuine: Some(sealed) }));
        }
        if let Some(after) = fate.forgery {
            let bytes = forge(self.keys.newest_index(to), self.scenario.lane, &mut self.random);
            self.schedule(self.now + after, Event::Arrival(to, Flight { bytes, genuine: None }));
        }
    }

    /// A datagram comes out of the link.
    fn arrive(&mut self, side: Side, flight: Flight) {
        let now = self.start + self.now;
        let from = self.ends[side.other().index()].address;
        let end = &mut self.ends[side.index()];
        let written_by_another = end.reporter.is_some_and(|reporter| {
            flight
                .genuine
                .as_ref()
                .is_some_and(|sealed| matches!(sealed.content, Content::Report(_)) && sealed.from != reporter)
        });
        if written_by_another {
            self.ask_for_fates(side);
        }
        let end = &mut self.ends[side.index()];
        let drops = end.forwarder.drops().clone();
        let before = Snapshot::of(&end.forwarder, now);
        let mut bytes = flight.bytes.clone();
        match flight.genuine {
            None => {
                // Whoever forges sends from elsewhere.
                end.forwarder.handle_datagram(&mut bytes, SocketAddr::from(([198, 51, 100, 1], 9)), now);
                let dropped = newly_dropped(&drops, end.forwarder.drops());
                use DropReason::{BadTag, NotOurs, UnknownSession, WrongLane};
                assert!(
                    matches!(dropped[..], [(NotOurs | UnknownSession | WrongLane | BadTag, 1)]),
                    "a forged datagram was taken: {dropped:?}"
                );
                before.check(&end.forwarder, 0, now);
            }
            Some(sealed) if end.truth.has(sealed.receiver_index, sealed.count) => {
                end.forwarder.handle_datagram(&mut bytes, SocketAddr::from(([198, 51, 100, 2], 9)), now);
                let dropped = newly_dropped(&drops, end.forwarder.drops());
                let again = match dropped[..] {
                    [(DropReason::Replayed, 1)] => 1,
                    [(DropReason::UnknownSession, 1)] if self.sessions_end => 0,
                    _ => panic!("a replayed datagram was taken: {dropped:?}"),
                };
                end.truth.duplicates += again;
                before.check(&end.forwarder, again, now);
            }
            Some(sealed) => {
                end.forwarder.handle_datagram(&mut bytes, from, now);
                match newly_dropped(&drops, end.forwarder.drops())[..] {
                    [] | [(DropReason::LateSymbol, 1)] => self.note_arrival(side, flight.bytes, sealed),
                    [(DropReason::UnknownSession, 1)] if self.sessions_end => {
                        before.check(&end.forwarder, 0, now);
                    }
                    ref other => panic!("a good datagram was dropped: {other:?}"),
                }
            }
        }
    }

    fn note_arrival(&mut self, side: Side, bytes: Vec<u8>, sealed: Sealed) {
        let end = &mut self.ends[side.index()];
        end.truth.insert(sealed.receiver_index, sealed.count);
        let (at, now) = (end.run, self.now);
        match &sealed.content {
            Content::Source(id, _) => {
                self.model.on_arrival(sealed.from, id.profile, id.sbn, id.esi, at, now);
                if id.previous_symbols > 0 {
                    self.model.on_mention(sealed.from, id.profile, id.sbn - 1, at, now);
                }
            }
            Content::Repair(id) => self.model.on_arrival(sealed.from, id.profile, id.sbn, id.esi, at, now),
            Content::Report(report) => {
                self.model.fates.on_report(sealed.from, at, report.sent_at, report.echo);
                self.promises.on_report_arrived(at, sealed.from, report.echo, report.echo_delay, now);
                if end.reporter != Some(sealed.from) || end.heard.as_ref().is_some_and(|it| it.sent_at < report.sent_at)
                {
                    report.sent.iter().for_each(|told| self.model.on_told(sealed.from, *told, at, now));
                    end.heard = Some(report.as_ref().clone());
                }
                end.reporter = Some(sealed.from);
            }
        }
        if self.random.random_bool(0.7) {
            self.ask_for_fates(side);
        }
        let end = &mut self.ends[side.index()];
        if end.captured.len() < 200 {
            end.captured.push((bytes, sealed));
        }
    }

    /// Asks a side what it was told of its blocks, and holds that against the truth.
    pub(super) fn ask_for_fates(&mut self, side: Side) {
        let end = &mut self.ends[side.index()];
        let Some((peer, heard)) = end.forwarder.poll_heard() else { return };
        assert_eq!(peer, PeerId(0));
        assert!(heard.proven_at.is_none_or(|at| at <= self.start + self.now), "the future proves nothing");
        let reporter = end.reporter.expect("what was told was in a report");
        let symbol_size = self.scenario.sides[side.index()].symbol_size;
        self.model.on_heard(end.run, reporter, &heard, symbol_size);
        if let Some(guard) = &mut end.guard {
            // What happened to blocks comes first, as in a lane.
            while let Some((peer, event)) = end.forwarder.poll_block_event() {
                guard.on_block(peer, event, self.start + self.now);
            }
            guard.on_heard(peer, &heard, self.start + self.now);
        }
    }

    /// Writes the TUN; `true` if there may be more.
    fn deliver(&mut self, side: Side, budget: usize) -> bool {
        let now = self.start + self.now;
        for _ in 0..budget {
            let end = &mut self.ends[side.index()];
            let Some(deliverable) = end.forwarder.poll_delivery(now) else { return false };
            if let Some(guard) = &mut end.guard {
                guard.on_incoming(&deliverable, now);
            }
            let packet = Packet { header: deliverable.header, bytes: deliverable.packet.to_vec() };
            end.truth.adus += 1;
            end.truth.adu_bytes += packet.bytes.len() as u64;
            let number = number_of(&packet.bytes).expect("what is delivered is a packet");
            self.model.on_delivered(end.run, packet, &self.scenario);
            let answer = self.hosts.on_delivered(side.other(), number, &mut self.random);
            if let Some((side, meaning, packet)) = answer.filter(|_| self.now < self.scenario.calm) {
                let at = self.now + Duration::from_micros(self.random.random_range(1..1000));
                self.schedule(at, Event::Packet(side, packet, Some(meaning)));
            }
        }
        true
    }

    /// What waits to be sent and what is held for later is bounded.
    fn check_queue(&self, side: Side) {
        let end = &self.ends[side.index()];
        let settings = &self.scenario.sides[side.index()];
        let longest: u64 = settings
            .profiles
            .iter()
            .map(|profile| {
                let symbols = profile.block_symbols + 65_600 / settings.symbol_size + 2;
                ((symbols + profile.plan.repair_symbols(symbols)) * (settings.symbol_size + 44)) as u64
            })
            .sum();
        let waiting = end.forwarder.peers()[0].sent().bytes - end.drained;
        assert!(waiting <= 4 * 65_000 + longest + 1000, "{waiting} bytes wait to be sent");
        let memory = end.forwarder.memory();
        assert!(memory <= 4 << 20, "{memory} bytes are held for what little is under way");
    }

    fn check(mut self) -> Outcome {
        let mut outcome = Outcome { turns: self.turns, ..Outcome::default() };
        for side in Side::BOTH {
            let end = &self.ends[side.index()];
            let peer = &end.forwarder.peers()[0];
            let reception = peer.reception();
            end.truth.check(&reception);
            assert!(end.tun.is_empty(), "packets were left in the TUN");
            let told = self.ends[side.other().index()].heard.as_ref().expect("a report came in the calm");
            let mut told = told.reception;
            // Reports are datagrams too: the last ones may have crossed.
            assert!(reception.received - told.received <= 2, "{told:?} was reported, {reception:?} is true");
            told.received = reception.received;
            assert_eq!(told, reception, "what was reported is true");
            outcome.taken += self.model.taken_at(side);
            outcome.delivered += self.model.delivered_to(side);
            outcome.datagrams += peer.sent().datagrams;
            outcome.recovered_blocks += reception.recovered_blocks;
            outcome.unrecoverable_blocks += reception.unrecoverable_blocks;
        }
        Side::BOTH.into_iter().for_each(|side| self.ask_for_fates(side));
        let last = Side::BOTH.map(|side| self.ends[side.index()].run);
        self.model.check(last, &self.scenario);
        self.model.check_fates(last, &self.scenario, &mut outcome);
        Side::BOTH.into_iter().for_each(|side| self.keep_promises(side));
        let truths = Truths { model: &self.model, hosts: &self.hosts, scenario: &self.scenario };
        self.promises.check(last, truths);
        outcome.add(&self.promises.outcome);
        if self.scenario.disasters.is_empty() {
            self.model.check_blocks(&self.scenario);
        }
        outcome
    }
}
