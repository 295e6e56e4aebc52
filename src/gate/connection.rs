//! One connection through a gate: two legs, a dialect between them, and the marks that the primary waits for.
//!
//! 1. [`Connection::pump`] reads what the sockets have, passes it to the dialect and does what the dialect wants;
//! 2. [`Connection::release`] asks the subscription about the marks and lets the dialect acknowledge what is protected;
//! 3. [`Connection::on_tick`] checks from time to time whether the appliance sees the flow at all.
//!
//! `ends` holds how a connection ends, `report` its status and counters, `overdue` its time limits. A connection never
//! blocks and knows no other connection; the event loop is [`super::proxy`].

mod ends;
mod overdue;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use self::report::remedy;
use super::dialect::{Dialect, Note, Release, Side, Turn};
use super::early::Early;
use super::exposure::Exposure;
use super::leg::{Leg, ReadOutcome};
use super::marks::Marks;
use super::policy::{GRACE, PolicyState};
use super::returns::{EarlyPosition, EarlyPositions, Key};
use super::status::Totals;
use super::subscription::Subscription;
use super::tls::Tls;
use crate::config::gate::Gate;
use crate::notify::client::Reason;
use crate::notify::message::FlowKey;

/// Bytes read from one side in one turn, so that no connection delays the others.
const BUDGET: usize = 256 * 1024;

/// Memory that all connections of a thread share while they are served.
pub struct Scratch {
    bytes: Box<[u8]>,
    plain: Vec<u8>,
    turn: Turn,
    /// What was acknowledged early for mirrors whose connections have ended.
    returns: EarlyPositions,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let bytes = vec![0; 64 * 1024].into_boxed_slice();
        Scratch { bytes, plain: Vec::new(), turn: Turn::default(), returns: EarlyPositions::default() }
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
    /// The last mark whose bytes wait for the TLS handshake, and so have no offset yet.
    unplaced: Option<u64>,
    policy: PolicyState,
    exposure: Exposure,
    early: Early,
    /// The mirror, once it is known, and the last position acknowledged early for it on this connection.
    mirror_key: Option<Key>,
    early_position: Option<EarlyPosition>,
    /// Whether released marks are acknowledged to the primary, or were once.
    gives_early: bool,
    /// Whether the dialect was notified of the end of each side: primary, mirror.
    ended: (bool, bool),
    /// The caller left without sending anything, before the server ended the connection.
    left_silently: bool,
    closing: bool,
    /// When the connection is dropped, whatever still waits.
    deadline: Option<Instant>,
    accepted: Instant,
    /// When the gate began to connect to the server.
    connecting_since: Instant,
    /// When the server's end, and everything before it, was passed on to the caller.
    server_ended_at: Option<Instant>,
    /// Every mark up to this offset was released because it was protected, or acknowledged by the mirror itself.
    released_to: u64,
    condition: Reason,
    logged_blind: Option<Reason>,
    /// The start of a loss for which no range has come yet.
    unreported_loss: Option<u64>,
    counts: Totals,
}

impl Connection {
    /// A connection that `client` made to the gate over the leg `accepted`; `upstream` may still be connecting.
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
            mirror_key: None,
            early_position: None,
            gives_early: false,
            ended: (false, false),
            left_silently: false,
            closing: false,
            deadline: None,
            accepted: now,
            connecting_since: now,
            server_ended_at: None,
            released_to: 0,
            condition: Reason::Deadline,
            logged_blind: None,
            unreported_loss: None,
            counts: Totals { connections: 1, ..Totals::default() },
            gate,
        }
    }

    /// Sets when the gate accepted it, which was before the gate connected to the server.
    pub fn accepted_at(self, accepted: Instant) -> Connection {
        Connection { accepted, ..self }
    }

    /// The leg to the caller, or the leg that the gate opened.
    pub fn leg(&mut self, is_caller: bool) -> &mut Leg {
        match (self.caller, is_caller) {
            (Side::Primary, true) | (Side::Mirror, false) => &mut self.primary,
            (Side::Mirror, true) | (Side::Primary, false) => &mut self.mirror,
        }
    }

    /// Moves all bytes that can move now. True when there is more to do at once: the loop serves other connections
    /// first.
    pub fn pump(&mut self, scratch: &mut Scratch, subscription: &mut Subscription, now: Instant) -> bool {
        if !self.opened && !self.open(scratch, subscription, now) {
            return false;
        }
        self.primary.flush();
        self.mirror.flush();
        // Before more is written: a claim for an earlier connection with the same addresses can be recognised as too
        // large only while fewer bytes than claimed were written.
        self.compare_written(subscription);
        // The mirror first: its acknowledgements are short, and the primary waits for them.
        let more = self.pump_side(Side::Mirror, scratch, now) | self.pump_side(Side::Primary, scratch, now);
        self.on_ends(scratch, now);
        self.on_deserted(now);
        more
    }

    /// Acknowledges to the primary what is protected, or what has waited long enough. True when marks were released.
    pub fn release(&mut self, scratch: &mut Scratch, subscription: &mut Subscription, now: Instant) -> bool {
        // Marks wait while the primary does not read its acknowledgements: that bounds our memory.
        if self.marks.is_empty() || self.closing || !self.primary.has_room() {
            return false;
        }
        let protected = self.release_protected(scratch, subscription, now);
        let policy = &self.policy;
        let exposed = self.marks.release(|waiting| policy.exposes(waiting.since).is_some_and(|due| due <= now));
        if let Some(last) = exposed {
            let covered = self.key.map_or(0, |key| subscription.covered(&key, self.gate.need(), now));
            self.counts.exposures += 1;
            let safe = self.released_to.max(covered);
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
        let need = self.gate.need();
        let Some(last) = self.marks.release(|waiting| subscription.covers(&key, waiting.offset, need, now)) else {
            return false;
        };
        self.released_to = self.released_to.max(last.offset);
        self.early.on_released(last.offset, last.mark);
        self.counts.released += 1;
        self.dialect.on_released(last.mark, Release::Protected, &mut scratch.turn);
        self.apply(scratch, now);
        true
    }

    /// Reports to the subscription how many bytes were written. Not after the end of the stream: nothing more is
    /// written then, and a claim may include the end itself.
    fn compare_written(&self, subscription: &mut Subscription) {
        if let Some(key) = &self.key
            && let Some(written) = self.mirror.written().filter(|_| !self.mirror.is_done())
        {
            subscription.handle_written(key, written);
        }
    }

    /// Checks whether the appliance sees the flow. Under `strict`, a connection that the appliance does not see ends.
    pub fn on_tick(&mut self, subscription: &mut Subscription, now: Instant) {
        let alarm = self.exposure.poll_alarm(now);
        self.alarm(alarm);
        let (Some(key), true, false) = (self.key, self.policy.replicates(), self.closing) else {
            return;
        };
        self.condition = subscription.condition(&key, self.gate.need(), now);
        if let Some(reason) = self.policy.on_condition(self.condition, now) {
            self.counts.ended_by_strict += 1;
            let why = format!(
                "{reason}, for {} s: the policy strict does not let it go on. {}",
                GRACE.as_secs(),
                remedy(reason, &key, subscription.address())
            );
            return self.close(&why, now);
        }
        self.log_blind(subscription.address(), now);
    }

    /// When something is due if no event comes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let exposes = self.marks.oldest().and_then(|oldest| self.policy.exposes(oldest.since));
        // If the primary has no room, its socket wakes the loop.
        let exposes = exposes.filter(|_| self.primary.has_room() && !self.closing);
        self.deadline.or_else(|| self.overdue_at()).into_iter().chain(exposes).min()
    }

    /// Whether marks wait to be released.
    pub fn is_waiting(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Whether it has noted marks.
    pub fn replicates(&self) -> bool {
        self.policy.replicates()
    }

    /// Logs what is still to be logged. Returns the flow whose watch ends, and the counters.
    pub fn end(mut self) -> (Option<FlowKey>, Totals) {
        let alarm = self.exposure.last_alarm();
        self.alarm(alarm);
        let counts = self.counts();
        let failure = self.primary.failure().or(self.mirror.failure()).unwrap_or("closed");
        tracing::debug!(gate = %self.gate.name, connection = self.number, "over: {failure}");
        (self.key, counts)
    }

    /// Whether both legs are connected: false while one is not, or if it cannot be.
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
                // The far end may keep sending while its connection ends: those bytes are dropped.
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
            self.released_to = self.released_to.max(exposed.unwrap_or(0)).max(waited.unwrap_or(0));
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

    /// TLS was established on `side`: what waited for the handshake was sent, and has an offset now.
    fn place(&mut self, side: Side, now: Instant) {
        if side == Side::Mirror
            && let Some(mark) = self.unplaced.take()
        {
            self.marks.note(self.mirror.offset(), mark, now);
        }
    }

    /// Sends this turn's bytes for one side, starts TLS where the turn asks for it, and notes the marks with their
    /// offsets.
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
            // Plain bytes have their offsets before they are sent: one write for all.
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
