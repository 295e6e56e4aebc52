//! Two forwarders, two links and one clock: handles all events in the order of virtual time.
//!
//! A side's turn is in [`turn`](crate::turn), the path of its datagrams in [`one_way`](crate::one_way).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use onwire::tunnel::handshake::Established;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::claims::{ClaimChecker, GroundTruth};
use crate::endpoint::Endpoint;
use crate::hosts::{Hosts, SegmentInfo};
use crate::keys::{Keys, Party, Run, Sealed};
use crate::model::Model;
use crate::one_way::Flight;
use crate::outcome::Outcome;
use crate::packets::{Packet, random_packet, set_number};
use crate::scenario::{Disruption, Scenario};
use crate::side::Side;

pub(super) enum Event {
    /// A packet comes to the TUN; with its segment info if it belongs to a connection.
    Packet(Side, Packet, Option<SegmentInfo>),
    /// One end of this connection acts.
    Act(usize),
    /// A datagram leaves the host. A stamped one has a timestamp id and the number of blocks whose last datagram the
    /// host had taken by then.
    Departure(Run, Vec<u8>, Sealed, Option<(u32, usize)>),
    /// A timestamp comes.
    Stamp(Run, u32, usize),
    Arrival(Side, Flight),
    Initiation {
        initiator: Run,
    },
    Install(Run, Box<Established>),
    /// As above, for the initiator; a newer initiation voids older ones.
    Complete(Run, usize, Box<Established>),
    Disruption(Side, Disruption),
    FaultsEnd,
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
    pub(super) keys: Keys,
    pub(super) model: Model,
    pub(super) hosts: Hosts,
    pub(super) claim_checker: ClaimChecker,
    /// Packets that came to each TUN.
    packets: [u16; 2],
    sessions: usize,
    /// There was a second session or a restart, so datagrams of ended sessions may arrive.
    pub(super) sessions_end: bool,
    pub(super) turns: usize,
}

impl World {
    /// Runs the scenario of `seed` to its end; panics if a rule is violated.
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
            claim_checker: ClaimChecker::default(),
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
        for (at, side, disruption) in self.scenario.disruptions.clone() {
            self.schedule(at, Event::Disruption(side, disruption));
        }
        self.schedule(self.scenario.faults_end, Event::FaultsEnd);
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
            Event::Packet(side, mut packet, info) => {
                let number = self.packets[side.index()];
                self.packets[side.index()] += 1;
                set_number(&mut packet.bytes, number);
                if let Some(info) = info {
                    self.hosts.on_sent(side, number, info);
                }
                self.ends[side.index()].tun.push_back((number, packet));
                self.turn_soon(side);
            }
            Event::Act(connection) => {
                for (side, info, packet) in self.hosts.act(connection, &mut self.random) {
                    self.handle(Event::Packet(side, packet, Some(info)));
                }
            }
            Event::Departure(run, datagram, sealed, stamp) => {
                let lives = self.ends[run.side.index()].run == run;
                if lives || !self.scenario.sides[run.side.index()].host.lost_on_restart {
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
            Event::Disruption(side, Disruption::Rekey) => self.initiate(self.ends[side.index()].run),
            Event::Disruption(side, Disruption::Restart) => self.restart(side),
            Event::Disruption(side, Disruption::Blackhole(span)) => {
                self.ends[side.index()].link.black_out(self.now + span)
            }
            Event::FaultsEnd => self.ends.iter_mut().for_each(|end| end.link.heal()),
        }
    }

    /// A lane may be busy when an event comes: sometimes the turn runs a little later and handles several events at
    /// once.
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

    /// The responder gets its keys after one delay, the initiator after two.
    pub(super) fn initiate(&mut self, initiator: Run) {
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

    fn check(mut self) -> Outcome {
        let mut outcome = Outcome { turns: self.turns, ..Outcome::default() };
        for side in Side::BOTH {
            let end = &self.ends[side.index()];
            let peer = &end.forwarder.peers()[0];
            let reception = peer.reception();
            end.expected_reception.check(&reception);
            assert!(end.tun.is_empty(), "packets were left in the TUN");
            let reported =
                self.ends[side.other().index()].newest_report.as_ref().expect("a report came after the faults");
            let mut reported = reported.reception;
            // Reports are datagrams, too: the last ones may be under way.
            assert!(reception.received - reported.received <= 2, "{reported:?} was reported, {reception:?} is correct");
            reported.received = reception.received;
            assert_eq!(reported, reception, "the reported reception is correct");
            outcome.taken += self.model.taken_at(side);
            outcome.delivered += self.model.delivered_to(side);
            outcome.datagrams += peer.sent().datagrams;
            outcome.recovered_blocks += reception.recovered_blocks;
            outcome.unrecoverable_blocks += reception.unrecoverable_blocks;
        }
        Side::BOTH.into_iter().for_each(|side| self.take_feedback(side));
        let last = Side::BOTH.map(|side| self.ends[side.index()].run);
        self.model.check(last, &self.scenario);
        self.model.check_reported_outcomes(last, &self.scenario, &mut outcome);
        Side::BOTH.into_iter().for_each(|side| self.follow_protection(side));
        let ground_truth = GroundTruth { model: &self.model, hosts: &self.hosts, scenario: &self.scenario };
        self.claim_checker.check(last, ground_truth);
        outcome.add(&self.claim_checker.outcome);
        if self.scenario.disruptions.is_empty() {
            self.model.check_blocks(&self.scenario);
        }
        outcome
    }
}
