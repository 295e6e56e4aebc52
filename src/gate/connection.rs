//! One connection through a gate: two legs, a dialect between them, and the marks that the primary waits for.
//!
//! 1. [`Connection::pump`] reads what may be read, gives it to the dialect and does what that wants;
//! 2. [`Connection::release`] asks the subscription about the marks and lets the dialect acknowledge what is protected;
//! 3. [`Connection::on_tick`] looks now and then whether the appliance sees the flow at all.
//!
//! How it ends is in `ends`, what it tells about itself in `told`, what it is let go for when it does not happen in
//! `overdue`. It waits for nothing and knows no other connection; the loop is [`super::proxy`].

mod ends;
mod overdue;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::dialect::{Dialect, Note, Release, Side, Turn};
use super::early::Early;
use super::exposure::Exposure;
use super::leg::{Leg, ReadOutcome};
use super::marks::Marks;
use super::policy::{GRACE, PolicyState};
use super::returns::{Key, Returns, Spoken};
use super::status::Totals;
use super::subscription::Subscription;
use super::tls::Tls;
use crate::config::gate::Gate;
use crate::notify::client::Reason;
use crate::notify::message::FlowKey;

/// Bytes read from one side in one turn, so that no connection keeps the others waiting.
const BUDGET: usize = 256 * 1024;

/// Memory that all connections of a thread share while they are served.
pub struct Scratch {
    bytes: Box<[u8]>,
    plain: Vec<u8>,
    turn: Turn,
    /// What mirrors were spoken for on connections that are no more.
    returns: Returns,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let bytes = vec![0; 64 * 1024].into_boxed_slice();
        Scratch { bytes, plain: Vec::new(), turn: Turn::default(), returns: Returns::default() }
    }
}

/// Two legs and what happens between them.
pub struct Connection {
    number: u64,
    gate: Arc<Gate>,
    client: SocketAddr,
    /// The side that connected to the gate.
    caller: Side,
    tls: Tls,
    dialect: Box<dyn Dialect>,
    primary: Leg,
    mirror: Leg,
    opened: bool,
    /// The flow toward the mirror.
    key: Option<FlowKey>,
    marks: Marks,
    /// The last mark of what waits for the TLS handshake, and so has no place yet.
    unplaced: Option<u64>,
    policy: PolicyState,
    exposure: Exposure,
    early: Early,
    /// Whom it replicates to, once that is known, and up to where it has spoken for that one.
    whom: Option<Key>,
    spoken: Option<Spoken>,
    /// What is released is acknowledged to the primary, or was once.
    gives_early: bool,
    /// Sides whose end the dialect knows of: primary, mirror.
    ended: (bool, bool),
    /// The caller left without a word, and before the server did.
    mute: bool,
    closing: bool,
    /// When it is dropped, whatever waits.
    deadline: Option<Instant>,
    accepted: Instant,
    /// Since when the server is being connected to.
    called: Instant,
    /// Since when its server has ended it, and everything of that is given to the caller.
    deserted: Option<Instant>,
    /// Up to here everything was released because it was protected, or really acknowledged.
    settled: u64,
    condition: Reason,
    told_blind: Option<Reason>,
    /// A loss of which no range has come yet.
    untold_loss: Option<u64>,
    counts: Totals,
}

impl Connection {
    /// A connection that `client` has made to the gate by the leg `accepted`; `upstream` may still be connecting.
    pub fn new(
        number: u64,
        gate: Arc<Gate>,
        (dialect, caller, tls): (Box<dyn Dialect>, Side, Tls),
        (client, accepted, upstream): (SocketAddr, Leg, Leg),
        now: Instant,
    ) -> Connection {
        let (primary, mirror) = match caller {
            Side::Mirror => (upstream, accepted),
            Side::Primary => (accepted, upstream),
        };
        Connection {
            number,
            client,
            caller,
            tls,
            dialect,
            primary,
            mirror,
            opened: false,
            key: None,
            marks: Marks::default(),
            unplaced: None,
            policy: PolicyState::new(gate.policy),
            exposure: Exposure::default(),
            early: Early::default(),
            whom: None,
            spoken: None,
            gives_early: false,
            ended: (false, false),
            mute: false,
            closing: false,
            deadline: None,
            accepted: now,
            called: now,
            deserted: None,
            settled: 0,
            condition: Reason::Deadline,
            told_blind: None,
            untold_loss: None,
            counts: Totals { connections: 1, ..Totals::default() },
            gate,
        }
    }

    /// It was accepted at this time, before the server was called.
    pub fn accepted_at(self, accepted: Instant) -> Connection {
        Connection { accepted, ..self }
    }

    /// The leg that somebody made to us, or that we made.
    pub fn leg(&mut self, is_caller: bool) -> &mut Leg {
        match (self.caller, is_caller) {
            (Side::Primary, true) | (Side::Mirror, false) => &mut self.primary,
            (Side::Mirror, true) | (Side::Primary, false) => &mut self.mirror,
        }
    }

    /// Moves bytes as far as they go now. True when there is more to do at once: others are served first.
    pub fn pump(&mut self, scratch: &mut Scratch, subscription: &mut Subscription, now: Instant) -> bool {
        if !self.opened && !self.open(scratch, subscription, now) {
            return false;
        }
        self.primary.flush();
        self.mirror.flush();
        // Before more is written: what was claimed about an earlier connection of these addresses shows as too much only
        // while less than that was written.
        self.compare_written(subscription);
        // The mirror first: its acknowledgements are short and awaited.
        let more = self.pump_side(Side::Mirror, scratch, now) | self.pump_side(Side::Primary, scratch, now);
        self.on_ends(scratch, now);
        self.on_deserted(now);
        more
    }

    /// Lets the primary know of what is protected, or has waited long enough. True when marks were released.
    pub fn release(&mut self, scratch: &mut Scratch, subscription: &mut Subscription, now: Instant) -> bool {
        // Marks wait while the primary does not read what it is told: that bounds our memory.
        if self.marks.is_empty() || self.closing || !self.primary.has_room() {
            return false;
        }
        let protected = self.release_protected(scratch, subscription, now);
        let policy = &self.policy;
        let exposed = self.marks.release(|waiting| policy.exposes(waiting.since).is_some_and(|due| due <= now));
        if let Some(last) = exposed {
            let covered = self.key.map_or(0, |key| subscription.covered(&key, self.gate.level, now));
            self.counts.exposures += 1;
            let safe = self.settled.max(covered);
            self.counts.exposed_bytes += self.exposure.on_released(safe, (last.offset, last.mark));
            self.dialect.on_released(last.mark, Release::Exposed, &mut scratch.turn);
            self.apply(scratch, now);
            let alarm = self.exposure.poll_alarm(now);
            self.alarm(alarm);
        }
        protected || exposed.is_some()
    }

    fn release_protected(&mut self, scratch: &mut Scratch, subscription: &mut Subscription, now: Instant) -> bool {
        let Some(key) = self.key else {
            return false;
        };
        self.compare_written(subscription);
        let level = self.gate.level;
        let Some(last) = self.marks.release(|waiting| subscription.covers(&key, waiting.offset, level, now)) else {
            return false;
        };
        self.settled = self.settled.max(last.offset);
        self.early.on_released(last.offset, last.mark);
        self.counts.released += 1;
        self.dialect.on_released(last.mark, Release::Protected, &mut scratch.turn);
        self.apply(scratch, now);
        true
    }

    /// Behind the end of the stream nothing is written, and the end itself may be claimed.
    fn compare_written(&self, subscription: &mut Subscription) {
        if let Some(key) = &self.key
            && let Some(written) = self.mirror.written().filter(|_| !self.mirror.is_done())
        {
            subscription.handle_written(key, written);
        }
    }

    /// Looks whether the appliance sees the flow: under `strict` a connection that it does not see ends.
    pub fn on_tick(&mut self, subscription: &mut Subscription, now: Instant) {
        let alarm = self.exposure.poll_alarm(now);
        self.alarm(alarm);
        let (Some(key), true, false) = (self.key, self.policy.replicates(), self.closing) else {
            return;
        };
        self.condition = subscription.condition(&key, self.gate.level, now);
        if let Some(reason) = self.policy.on_condition(self.condition, now) {
            self.counts.ended_by_strict += 1;
            let why = format!(
                "{reason}, for {} s: the policy strict does not let it go on. Does the route from {} to {} lead into the \
                 appliance's TUN, and is {} that appliance?",
                GRACE.as_secs(),
                key.source.ip(),
                key.destination.ip(),
                subscription.address()
            );
            return self.close(&why, now);
        }
        self.tell_blind(now);
    }

    /// When something is due if nothing comes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let exposes = self.marks.oldest().and_then(|oldest| self.policy.exposes(oldest.since));
        // Where the primary has no room, its socket wakes us.
        let exposes = exposes.filter(|_| self.primary.has_room() && !self.closing);
        self.deadline.or_else(|| self.overdue_at()).into_iter().chain(exposes).min()
    }

    /// Marks wait to be released.
    pub fn is_waiting(&self) -> bool {
        !self.marks.is_empty()
    }

    /// It has noted marks.
    pub fn replicates(&self) -> bool {
        self.policy.replicates()
    }

    /// The last words; gives the flow whose watch ends, and the counts.
    pub fn end(mut self) -> (Option<FlowKey>, Totals) {
        let alarm = self.exposure.last_alarm();
        self.alarm(alarm);
        let counts = self.counts();
        let failure = self.primary.failure().or(self.mirror.failure()).unwrap_or("closed");
        tracing::debug!(gate = %self.gate.name, connection = self.number, "over: {failure}");
        (self.key, counts)
    }

    /// Both legs are connected; false while they are not, or when they cannot be.
    fn open(&mut self, scratch: &mut Scratch, subscription: &mut Subscription, now: Instant) -> bool {
        let connected = self.leg(false).poll_connected();
        if let Ok(false) = connected {
            return false;
        }
        let addresses = connected.and_then(|_| self.mirror.addresses());
        let (local, far) = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                self.counts.connect_failures += 1;
                let (gate, upstream) = (&self.gate.name, self.gate.upstream);
                tracing::warn!(%gate, client = %self.client, "cannot connect to {upstream}: {error}");
                self.deadline = Some(now);
                return false;
            }
        };
        self.opened = true;
        let key = FlowKey::tcp(local, far);
        match subscription.watch(key, self.number, now) {
            true => self.key = Some(key),
            false => tracing::warn!(gate = %self.gate.name, "too many flows are watched: this one is not protected"),
        }
        tracing::debug!(gate = %self.gate.name, connection = self.number, client = %self.client, "open");
        self.dialect.on_open(&mut scratch.turn);
        self.apply(scratch, now);
        true
    }

    fn pump_side(&mut self, side: Side, scratch: &mut Scratch, now: Instant) -> bool {
        let mut budget = BUDGET;
        loop {
            let most = match side {
                Side::Primary if !self.closing => self.dialect.may_read(),
                _ => usize::MAX,
            };
            let (from, to) = match side {
                Side::Primary => (&mut self.primary, &self.mirror),
                Side::Mirror => (&mut self.mirror, &self.primary),
            };
            if most == 0 || !to.has_room() || !from.may_read() {
                return false;
            }
            if budget == 0 {
                return true;
            }
            match from.read(&mut scratch.bytes, &mut scratch.plain, most.min(budget)) {
                // A program may keep on sending while its connection ends: that goes nowhere.
                ReadOutcome::Bytes(bytes, _) if self.closing => budget = budget.saturating_sub(bytes.len().max(1)),
                ReadOutcome::Bytes(bytes, established) => {
                    budget = budget.saturating_sub(bytes.len().max(1));
                    if established {
                        self.place(side, now);
                        self.dialect.on_tls(side, &mut scratch.turn);
                    }
                    if !bytes.is_empty() {
                        self.dialect.on_bytes(side, bytes, &mut scratch.turn);
                    }
                    self.apply(scratch, now);
                }
                ReadOutcome::Nothing | ReadOutcome::End => return false,
            }
        }
    }

    /// Does what the dialect wants.
    fn apply(&mut self, scratch: &mut Scratch, now: Instant) {
        let turn = &scratch.turn;
        let (gate, number) = (&self.gate.name, self.number);
        for note in turn.notes() {
            match note {
                Note::Info(text) => tracing::info!(%gate, connection = number, "{text}"),
                Note::Warning(text) => tracing::warn!(%gate, connection = number, "{text}"),
            }
        }
        let sent = self.deliver(Side::Primary, turn, now).and_then(|()| self.deliver(Side::Mirror, turn, now));
        let (real, injected) = turn.counts();
        self.counts.real_acks += real;
        self.counts.injected_acks += injected;
        self.gives_early |= self.dialect.gives_early();
        if let Some(mark) = turn.acknowledged() {
            let exposed = self.exposure.on_acknowledged(mark);
            let waited = self.marks.on_acknowledged(mark).map(|last| last.offset);
            self.settled = self.settled.max(exposed.unwrap_or(0)).max(waited.unwrap_or(0));
            self.early.on_acknowledged(mark, waited.max(exposed));
            self.unplaced = self.unplaced.filter(|unplaced| *unplaced > mark);
        }
        self.remember(turn, &mut scratch.returns, now);
        if let Some(why) = sent.err().as_deref().or(turn.closing()) {
            let why = why.to_owned();
            self.close(&why, now);
        }
        scratch.turn.clear();
    }

    /// TLS was established on `side`: what waited for it was sent, and has a place now.
    fn place(&mut self, side: Side, now: Instant) {
        if side == Side::Mirror
            && let Some(mark) = self.unplaced.take()
        {
            self.marks.note(self.mirror.offset(), mark, now);
        }
    }

    /// Sends what a turn has for one side, begins TLS where it wants, and notes the marks with their places.
    fn deliver(&mut self, side: Side, turn: &Turn, now: Instant) -> Result<(), String> {
        let bytes = turn.sent(side);
        let (leg, marks) = match side {
            Side::Primary => (&mut self.primary, &[][..]),
            Side::Mirror => (&mut self.mirror, turn.marks()),
        };
        if !marks.is_empty() {
            self.policy.on_mark(now);
            self.counts.marks += marks.len() as u64;
        }
        let mut starts = turn.tls().iter().filter(|(at, _)| *at == side).map(|(_, after)| *after).peekable();
        if !leg.has_tls() && starts.peek().is_none() {
            // Plain bytes have their places before they are sent: one write for all.
            let before = leg.offset();
            leg.send(bytes);
            marks.iter().for_each(|mark| self.marks.note(before + mark.after as u64, mark.mark, now));
            return Ok(());
        }
        let session = || match side == self.caller {
            true => self.tls.accept(),
            false => self.tls.connect(),
        };
        let mut sent = 0;
        for mark in marks {
            while let Some(after) = starts.next_if(|after| *after < mark.after) {
                leg.send(&bytes[sent..after]);
                leg.start_tls(session()?);
                sent = after;
            }
            leg.send(&bytes[sent..mark.after]);
            sent = mark.after;
            match leg.place() {
                Some(place) => self.marks.note(place, mark.mark, now),
                None => self.unplaced = Some(mark.mark),
            }
        }
        for after in starts {
            leg.send(&bytes[sent..after]);
            leg.start_tls(session()?);
            sent = after;
        }
        leg.send(&bytes[sent..]);
        Ok(())
    }
}
