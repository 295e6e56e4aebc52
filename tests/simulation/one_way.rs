//! The path of a datagram through the host, the link and the receiving side, where the result is checked against what
//! was sent.

use std::net::SocketAddr;

use onwire::tunnel::PeerId;
use onwire::tunnel::drop_reason::DropReason;
use rand::Rng;

use crate::endpoint::{Snapshot, newly_dropped};
use crate::keys::{Content, Sealed};
use crate::link::{damage, forge};
use crate::protection_driver::{block_of, ends_block};
use crate::side::Side;
use crate::world::{Event, World};

/// A datagram on the link.
#[derive(Debug)]
pub(super) struct Flight {
    bytes: Vec<u8>,
    /// The datagram as it was sealed; `None` if it was damaged or forged.
    genuine: Option<Sealed>,
}

/// What the host does with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostFate {
    /// It takes the datagram and sends it in its turn.
    Taken,
    /// It refuses the datagram.
    Refused,
    /// It takes the datagram and drops it silently.
    Dropped,
}

impl World {
    /// Hands one datagram to the host, which puts it on the link in its turn.
    pub(super) fn send(&mut self, side: Side, datagram: Vec<u8>, fate: HostFate, stamp: Option<u32>) {
        let sealed = self.keys.read(&datagram);
        match &sealed.content {
            Content::Source(id, symbol) => self.model.on_source(sealed.from, sealed.to, *id, symbol),
            Content::Repair(id) => self.model.on_repair(sealed.from, *id),
            Content::Report(report) => {
                report.sent.iter().for_each(|sent| self.model.on_closed(sealed.from, *sent));
                self.claim_checker.on_report_written(sealed.from, report.sent_at, self.now);
            }
        }
        if let Some(block) = block_of(&sealed.content) {
            self.claim_checker.on_handed(sealed.from, block, fate == HostFate::Refused);
        }
        if fate != HostFate::Taken {
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

    /// Puts one datagram on the link and applies the link's faults, unless the device drops it.
    pub(super) fn depart(&mut self, side: Side, datagram: Vec<u8>, sealed: Sealed) {
        let device_loss = self.scenario.sides[side.index()].host.device_loss;
        if self.now < self.scenario.faults_end && self.random.random_bool(device_loss) {
            self.ends[side.index()].device_has_dropped = true;
            return;
        }
        if let Some(block) = block_of(&sealed.content) {
            self.claim_checker.on_entered(sealed.from, block, self.now);
        }
        let random = &mut self.random;
        let transmission = self.ends[side.index()].link.transmit(random, self.now);
        let to = side.other();
        for (after, damaged) in transmission.copies {
            let mut bytes = datagram.clone();
            if damaged {
                damage(&mut bytes, &mut self.random);
            }
            let genuine = (!damaged).then(|| sealed.clone());
            self.schedule(self.now + after, Event::Arrival(to, Flight { bytes, genuine }));
        }
        let captured = &self.ends[to.index()].captured;
        if let (Some(after), false) = (transmission.replay, captured.is_empty()) {
            let (bytes, sealed) = captured[self.random.random_range(0..captured.len())].clone();
            self.schedule(self.now + after, Event::Arrival(to, Flight { bytes, genuine: Some(sealed) }));
        }
        if let Some(after) = transmission.forgery {
            let bytes = forge(self.keys.newest_index(to), self.scenario.lane, &mut self.random);
            self.schedule(self.now + after, Event::Arrival(to, Flight { bytes, genuine: None }));
        }
    }

    /// A datagram arrives at the end of the link.
    pub(super) fn arrive(&mut self, side: Side, flight: Flight) {
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
            self.take_feedback(side);
        }
        let end = &mut self.ends[side.index()];
        let drops = end.forwarder.drops().clone();
        let before = Snapshot::of(&end.forwarder, now);
        let mut bytes = flight.bytes.clone();
        match flight.genuine {
            None => {
                // A forger sends from another address.
                end.forwarder.handle_datagram(&mut bytes, SocketAddr::from(([198, 51, 100, 1], 9)), now);
                let dropped = newly_dropped(&drops, end.forwarder.drops());
                use DropReason::{BadTag, NotOurs, UnknownSession, WrongLane};
                assert!(
                    matches!(dropped[..], [(NotOurs | UnknownSession | WrongLane | BadTag, 1)]),
                    "a forged datagram was accepted: {dropped:?}"
                );
                before.check(&end.forwarder, 0, now);
            }
            Some(sealed) if end.expected_reception.has(sealed.receiver_index, sealed.count) => {
                end.forwarder.handle_datagram(&mut bytes, SocketAddr::from(([198, 51, 100, 2], 9)), now);
                let dropped = newly_dropped(&drops, end.forwarder.drops());
                let again = match dropped[..] {
                    [(DropReason::Replayed, 1)] => 1,
                    [(DropReason::UnknownSession, 1)] if self.sessions_end => 0,
                    _ => panic!("a replayed datagram was accepted: {dropped:?}"),
                };
                end.expected_reception.duplicates += again;
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
        end.expected_reception.insert(sealed.receiver_index, sealed.count);
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
                self.model.reported_outcomes.on_report(sealed.from, at, report.sent_at, report.echo);
                if end.reporter != Some(sealed.from)
                    || end.newest_report.as_ref().is_some_and(|it| it.sent_at < report.sent_at)
                {
                    self.claim_checker.on_report_arrived(at, sealed.from, report.echo, report.echo_delay, now);
                    report.sent.iter().for_each(|sent| self.model.on_sent_below(sealed.from, *sent, at, now));
                    end.newest_report = Some(report.as_ref().clone());
                }
                end.reporter = Some(sealed.from);
            }
        }
        if self.random.random_bool(0.7) {
            self.take_feedback(side);
        }
        let end = &mut self.ends[side.index()];
        if end.captured.len() < 200 {
            end.captured.push((bytes, sealed));
        }
    }

    /// Takes the feedback that a side's reports brought, and checks it against the model.
    pub(super) fn take_feedback(&mut self, side: Side) {
        let end = &mut self.ends[side.index()];
        let Some((peer, feedback)) = end.forwarder.poll_feedback() else { return };
        assert_eq!(peer, PeerId(0));
        assert!(feedback.proven_at.is_none_or(|at| at <= self.start + self.now), "a proof must not lie in the future");
        let reporter = end.reporter.expect("feedback comes from a report");
        let symbol_size = self.scenario.sides[side.index()].symbol_size;
        self.model.on_feedback(end.run, reporter, &feedback, symbol_size);
        if let Some(lane_protection) = &mut end.lane_protection {
            // Block events come first, as in a lane.
            while let Some((peer, event)) = end.forwarder.poll_block_event() {
                lane_protection.on_block(peer, event, self.start + self.now);
            }
            lane_protection.on_feedback(peer, &feedback, self.start + self.now);
        }
    }
}
