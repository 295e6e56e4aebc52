//! One peer on one lane: sessions, what is being sent, what is being received.
//!
//! [`super::forwarder`] finds the peer of a packet or datagram, and checks the addresses of packets. Start with
//! [`Peer::reserve`] for packets out and [`Peer::handle_source`] for datagrams in.

mod address;
mod congestion;
mod leaving;
mod link;
mod memory;
mod receive_progress;
mod reload;
mod reports;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::block_event::BlockEvent;
use super::codel::Codel;
use super::drop_reason::DropReason;
use super::estimate::Estimator;
use super::feedback::Feedback;
use super::handshake::{Established, Role};
use super::late_repair;
use super::lost_blocks::Losses;
use super::outbox::Outbox;
use super::outer_class::OuterRule;
use super::pacer::Pacer;
use super::policy::Policy;
use super::receiver::{Delivery, Ready, Receiver};
use super::reporting::Reporting;
use super::reservation::Reservation;
use super::sender::{Egress, Profile, Sender};
use super::sent::Sent;
use super::session::{Change, Sessions};
use super::train_watch::{TrainNews, TrainWatch};
use crate::fec::code::Code;
use crate::wire::report::Reception;

pub use congestion::Marks;

/// What is configured about a peer.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// The address where the same lane of the peer listens, if known.
    pub address: Option<SocketAddr>,
    /// Bytes of a full symbol toward this peer.
    pub symbol_size: usize,
    /// The rate of the path in bytes per second; `None`: no pacing.
    pub bytes_per_second: Option<u64>,
    /// How long a packet may wait for that rate.
    pub queue_max: Duration,
    /// The DSCP and ECN field of datagrams.
    pub outer: OuterRule,
    /// Senders hear of losses that a full queue caused and the code has repaired: packets that were rebuilt are marked while
    /// the peer meets congestion, and packets whose senders understand no marks are dropped while we do.
    pub signals_rebuilt: bool,
    /// Which packet gets which profile.
    pub policy: Policy,
    /// Protection is claimed toward this peer: blocks are followed until they have left this host, and the peer is
    /// asked to report often also when idle.
    pub claims: bool,
    /// It is no peer any more. Its number stays taken: it may come back.
    pub is_removed: bool,
}

/// One peer on one lane.
pub struct Peer {
    settings: PeerSettings,
    lane: u8,
    delivery: Delivery,
    /// The address that datagrams go to.
    address: Option<SocketAddr>,
    /// The address that they leave from; `None`: the kernel chooses.
    local: Option<IpAddr>,
    /// The last address from which nothing could be sent.
    refused: Option<IpAddr>,
    /// Keys.
    pub(super) sessions: Sessions,
    /// What waits to be sent.
    pub(super) outbox: Outbox,
    /// Reports in both directions.
    pub(super) reporting: Reporting,
    /// By our profile number; made when first used.
    senders: Vec<Option<Box<Sender>>>,
    /// By the peer's profile number; made when first used.
    receivers: Vec<Option<Box<Receiver>>>,
    /// Receivers of earlier runs of the peer that still hold ADUs. These leave before those of the present run.
    retiring: VecDeque<Box<Receiver>>,
    /// Bytes that `receivers` and `retiring` hold.
    held: usize,
    /// Blocks of earlier runs of the peer that were given up.
    losses: Losses,
    /// When the last authentic datagram came.
    last_heard: Option<Instant>,
    /// By our profile number: the first block begun for the present run of the peer; 0 where it is not set.
    sent_from: Vec<u64>,
    sent: Sent,
    /// What replaces the configured profiles, by number.
    profiles: Vec<Option<Profile>>,
    /// The caller learns when blocks have left.
    shows_departures: bool,
    /// Block events that were not polled yet; drained each turn.
    block_events: VecDeque<BlockEvent>,
    /// What reports say about our blocks, until the next poll.
    feedback: Option<Feedback>,
    /// The profile that the next report begins with. It rotates, because not all may have room in one report.
    report_turn: usize,
    /// Blocks and ADUs; datagrams are counted by the sessions.
    reception: Reception,
    marks: Marks,
    train_watch: TrainWatch,
    /// A finding about trains that was not polled yet.
    train_news: Option<TrainNews>,
    estimator: Estimator,
    /// Which packets tell their senders that the queue in front of the peer stands.
    peer_codel: Codel,
    /// The receiver index of the newest authentic datagram.
    heard_under: Option<u32>,
    scratch: Vec<u8>,
}

impl Peer {
    /// A peer without a session.
    pub fn new(settings: PeerSettings, lane: u8, delivery: Delivery, survive_burst: Duration, now: Instant) -> Self {
        let mut reporting = Reporting::new(now);
        reporting.set_claims(settings.claims);
        reporting.set_late_spread(late_repair::spread(survive_burst));
        Self {
            address: settings.address,
            local: None,
            refused: None,
            outbox: Outbox::new(Pacer::new(settings.bytes_per_second), settings.queue_max),
            settings,
            lane,
            delivery,
            sessions: Sessions::default(),
            reporting,
            senders: Vec::new(),
            receivers: Vec::new(),
            retiring: VecDeque::new(),
            held: 0,
            losses: Losses::default(),
            last_heard: None,
            sent_from: Vec::new(),
            sent: Sent::default(),
            profiles: Vec::new(),
            shows_departures: false,
            block_events: VecDeque::new(),
            feedback: None,
            report_turn: 0,
            reception: Reception::default(),
            marks: Marks::default(),
            train_watch: TrainWatch::default(),
            train_news: None,
            estimator: Estimator::new(now),
            peer_codel: Codel::new(congestion::PEER_QUEUE_MAX),
            heard_under: None,
            scratch: Vec::new(),
        }
    }

    /// Which packet gets which profile.
    pub fn policy(&self) -> &Policy {
        &self.settings.policy
    }

    /// The buffer for a packet of this profile.
    pub fn room(&mut self, profile: &Profile) -> &mut [u8] {
        self.sender(profile).room()
    }

    /// Reserves the place of the next packet of this profile. Needs a session that seals and a queue with room.
    ///
    /// # Errors
    /// Why the packet has to be dropped.
    pub fn reserve<'a>(
        &'a mut self,
        profile: &Profile,
        code: &'a mut Code,
        now: Instant,
    ) -> Result<Reservation<'a>, DropReason> {
        if self.sessions.sealing(now).is_none() {
            self.abandon_blocks();
            return Err(DropReason::NoSession);
        }
        if self.outbox.is_over(now) {
            self.sent.queue_dropped += 1;
            return Err(DropReason::PathQueueFull);
        }
        self.sender(profile);
        let sender = self.senders.get_mut(usize::from(profile.number)).and_then(Option::as_mut);
        let (Some(session), Some(sender)) = (self.sessions.sealing(now), sender) else {
            return Err(DropReason::NoSession);
        };
        let egress = Egress {
            session,
            outbox: &mut self.outbox,
            code,
            sent: &mut self.sent,
            events: self.settings.claims.then_some(&mut self.block_events),
            now,
        };
        Ok(Reservation::new(sender, egress, &mut self.reporting))
    }

    /// The TUN is empty.
    pub fn handle_idle(&mut self, code: &mut Code, now: Instant) {
        self.with_egress(code, now, |sender, egress| sender.handle_idle(egress));
    }

    /// Closes blocks whose deadline has passed, and writes a report if one is due.
    pub fn handle_timeout(&mut self, code: &mut Code, receive_wait: Duration, now: Instant) {
        if self.senders.iter().flatten().any(|sender| sender.deadline().is_some_and(|deadline| deadline <= now)) {
            self.with_egress(code, now, |sender, egress| sender.handle_timeout(egress));
        }
        if self.reporting.is_due(now) {
            self.reporting.set_receive_wait(receive_wait);
            self.report(code, now);
        }
    }

    /// Closes every open block now, for example before the lane stops.
    pub fn flush(&mut self, code: &mut Code, now: Instant) {
        self.with_egress(code, now, |sender, egress| sender.close(egress));
    }

    /// Takes the keys of a finished handshake.
    ///
    /// Only a response to our own initiation shows the peer's address. An initiation may be a copy of an old one from
    /// any sender. The first datagram under its keys cannot be a copy, so it shows the address.
    pub fn install(&mut self, established: &Established, code: &mut Code, now: Instant) {
        // The handshake may have ended just before the peer was removed.
        if self.settings.is_removed {
            return;
        }
        if established.role == Role::Initiator {
            let heard_from = established.endpoint.remote;
            let moved = self.address.is_none_or(|address| address.ip() != heard_from.ip());
            if self.lane == 0 {
                self.send_to(heard_from, now);
            } else if moved {
                self.send_to(SocketAddr::new(heard_from.ip(), heard_from.port().wrapping_add(self.lane.into())), now);
            }
        }
        if let Some(change) = self.sessions.install(established, self.lane) {
            self.on_session(change, code, now);
        }
    }

    /// Notes an authentic, fresh datagram under `receiver_index`; `newest` if it may show the peer's address.
    pub fn on_authentic(
        &mut self,
        receiver_index: u32,
        is_data: bool,
        from: SocketAddr,
        newest: bool,
        code: &mut Code,
        now: Instant,
    ) {
        if let Some(change) = self.sessions.confirm(receiver_index) {
            self.on_session(change, code, now);
        }
        self.reporting.on_authentic(is_data, now);
        self.last_heard = Some(now);
        self.heard_under = Some(receiver_index);
        // A datagram that was overtaken or is under an older session may be from before the peer moved.
        if newest && self.sessions.is_current(receiver_index) {
            self.send_to(from, now);
        }
    }

    /// The next ADU that may leave, and its profile.
    pub fn next_adu(&mut self, now: Instant) -> Option<(u8, Ready)> {
        let (reception, held) = (&mut self.reception, &mut self.held);
        while let Some(retiring) = self.retiring.front_mut() {
            *held -= retiring.memory();
            if let Some(ready) = retiring.next_adu(reception, now) {
                *held += retiring.memory();
                return Some((retiring.profile(), ready));
            }
            self.losses.append(retiring.losses());
            self.retiring.pop_front();
        }
        let mut news = false;
        let next = self.receivers.iter_mut().enumerate().find_map(|(profile, receiver)| {
            let receiver = receiver.as_mut()?;
            *held -= receiver.memory();
            let ready = receiver.next_adu(reception, now);
            *held += receiver.memory();
            news |= receiver.given_up().has_unnamed();
            Some((profile as u8, ready?))
        });
        if news {
            self.reporting.on_news(now);
        }
        next
    }

    /// The packet that [`next_adu`](Self::next_adu) has just returned.
    pub fn packet(&self, profile: u8, ready: &Ready) -> &[u8] {
        let receiver = match ready.retired {
            true => self.retiring.front(),
            false => self.receivers[usize::from(profile)].as_ref(),
        };
        receiver.expect("it has just named an ADU").packet(ready)
    }

    /// Counts a delivered ADU.
    pub fn on_delivered(&mut self, bytes: usize) {
        self.reception.adus += 1;
        self.reception.adu_bytes += bytes as u64;
    }

    /// Counts a datagram that was seen before.
    pub fn on_duplicate(&mut self) {
        self.reception.duplicates += 1;
    }

    /// The next block event, in order.
    pub fn poll_block_event(&mut self) -> Option<BlockEvent> {
        self.block_events.pop_front()
    }

    /// Datagrams wait for the socket, for the rate of the path, or for their time.
    pub fn has_unsent(&self) -> bool {
        !self.outbox.is_empty() || self.senders.iter().flatten().any(|sender| sender.has_late())
    }

    /// Sessions, for status.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Reports, for status.
    pub fn reporting(&self) -> &Reporting {
        &self.reporting
    }

    /// What was sent.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// The next deadline if no input comes.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let senders = self.senders.iter().flatten().filter_map(|sender| sender.deadline());
        let receivers = self.held_until();
        let session = self.sessions.current();
        let report = session.filter(|session| session.can_seal(now)).and_then(|_| self.reporting.due_at());
        let request = session.and_then(|session| self.reporting.request_at(session.is_worn(now), now));
        senders.chain(receivers).chain(report).chain(request).chain(self.outbox.ready_at(now)).min()
    }

    /// A new session is wanted: the one in use is worn, or the peer seems to have lost it. True once per interval.
    pub fn wants_session(&mut self, now: Instant) -> bool {
        let Some(session) = self.sessions.current() else { return false };
        self.reporting.wants_session(session.is_worn(now), now)
    }

    fn sender(&mut self, profile: &Profile) -> &mut Sender {
        let index = usize::from(profile.number);
        if self.senders.len() <= index {
            self.senders.resize_with(index + 1, || None);
        }
        let (symbol_size, outer) = (self.settings.symbol_size, self.settings.outer);
        let planned = self.profiles.get(index).and_then(Option::as_ref);
        self.senders[index].get_or_insert_with(|| {
            let mut sender = Box::new(Sender::new(profile.clone(), symbol_size, outer));
            planned.into_iter().for_each(|planned| sender.set_profile(planned.clone()));
            sender
        })
    }

    /// Runs `act` for each sender and returns true. Without a session, abandons their blocks and returns false.
    fn with_egress(
        &mut self,
        code: &mut Code,
        now: Instant,
        mut act: impl FnMut(&mut Sender, &mut Egress<'_>),
    ) -> bool {
        let Some(session) = self.sessions.sealing(now) else {
            self.abandon_blocks();
            return false;
        };
        let mut egress = Egress {
            session,
            outbox: &mut self.outbox,
            code,
            sent: &mut self.sent,
            events: self.settings.claims.then_some(&mut self.block_events),
            now,
        };
        let senders = self.senders.iter_mut().flatten();
        senders.for_each(|sender| act(sender, &mut egress));
        true
    }

    fn abandon_blocks(&mut self) {
        for sender in self.senders.iter_mut().flatten() {
            sender.drop_late(&mut self.sent, self.settings.claims.then_some(&mut self.block_events));
        }
        for block in self.senders.iter_mut().flatten().filter_map(|sender| sender.abandon()) {
            if self.settings.claims {
                self.block_events.push_back(BlockEvent::Abandoned { block });
            }
        }
    }

    /// Every hole is final now. A whole ADU behind one still leaves: it may have been called protected, and its sender
    /// may not be there to repeat it.
    fn retire_receivers(&mut self) {
        for mut receiver in self.receivers.drain(..).flatten() {
            receiver.retire();
            match receiver.is_empty() {
                true => {
                    self.held -= receiver.memory();
                    self.losses.append(receiver.losses());
                }
                false => self.retiring.push_back(receiver),
            }
        }
    }

    fn on_session(&mut self, change: Change, code: &mut Code, now: Instant) {
        if change == Change::NewEpoch {
            self.retire_receivers();
            self.abandon_blocks();
            self.sent_from.clear();
            let closed_below = |sender: &Option<Box<Sender>>| sender.as_ref().map_or(0, |it| it.closed_below().0);
            self.sent_from.extend(self.senders.iter().map(closed_below));
            if self.settings.claims {
                self.block_events.push_back(BlockEvent::PeerRestarted);
                let ends = self.senders.iter().flatten().map(|sender| sender.block_id());
                self.block_events.extend(ends.map(|below| BlockEvent::Void { below }));
            }
            // Feedback of the earlier run stays; its proof does not hold for the new run.
            self.feedback.iter_mut().for_each(|feedback| feedback.proven_at = None);
            self.reporting.on_new_epoch(now);
            self.train_watch.on_new_epoch();
            self.estimator.on_new_epoch(now);
        }
        let local = self.sessions.current().and_then(|session| session.local());
        self.set_local(local, now);
        self.reporting.on_session(now);
        self.report(code, now);
    }
}
