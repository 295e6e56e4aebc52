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

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::block_event::BlockEvent;
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
    pub fn handle_timeout(&mut self, code: &mut Code, now: Instant) {
        if self.senders.iter().flatten().any(|sender| sender.deadline().is_some_and(|deadline| deadline <= now)) {
            self.with_egress(code, now, |sender, egress| sender.handle_timeout(egress));
        }
        if self.reporting.is_due(now) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::fec::plan::Plan;
    use crate::tunnel::PeerId;
    use crate::tunnel::block_event::Part;
    use crate::tunnel::endpoint::Endpoint;
    use crate::tunnel::hello::{Hello, PROTOCOL_VERSION};
    use crate::tunnel::outbox::Trains;
    use crate::tunnel::policy::ProfileId;
    use crate::tunnel::seal::{Cipher, CipherSet, OpeningKey, SealingKey};
    use crate::wire::payload_id::BlockId;
    use crate::wire::report::{Extension, Report};
    use crate::wire::virtio::VirtioHeader;

    const HOLD: Duration = Duration::from_millis(20);

    fn peer(address: Option<SocketAddr>, lane: u8, now: Instant) -> Peer {
        let settings = PeerSettings {
            address,
            symbol_size: 1408,
            bytes_per_second: None,
            queue_max: Duration::ZERO,
            outer: OuterRule::default(),
            signals_rebuilt: false,
            policy: Policy::new([], ProfileId(0)),
            claims: true,
            is_removed: false,
        };
        Peer::new(settings, lane, Delivery { strict: true, hold: HOLD, hold_max: HOLD }, Duration::ZERO, now)
    }

    fn established(role: Role, endpoint: SocketAddr, at: Instant) -> Established {
        Established {
            peer: PeerId(0),
            role,
            local_index: 1,
            remote_index: 2,
            sealing: Arc::new(SealingKey::new(Cipher::ChaCha20Poly1305, &[1; 32])),
            opening: Arc::new(OpeningKey::new(Cipher::ChaCha20Poly1305, &[2; 32])),
            remote: Hello {
                version: PROTOCOL_VERSION,
                lanes: 2,
                ciphers: CipherSet::only(Cipher::ChaCha20Poly1305),
                symbol_size: 1408,
                epoch: 7,
            },
            endpoint: endpoint.into(),
            at,
        }
    }

    #[test]
    fn each_new_address_of_the_peer_makes_one_moved_event() {
        let (now, mut code) = (Instant::now(), Code::new());
        let at = |host: u8| SocketAddr::from(([192, 0, 2, host], 7117));
        let mut peer = peer(None, 0, now);
        peer.install(&established(Role::Initiator, at(1), now), &mut code, now);
        let mut moves = |peer: &mut Peer, host| {
            peer.on_authentic(1, false, at(host), true, &mut code, now);
            std::iter::from_fn(|| peer.poll_block_event()).filter(|event| *event == BlockEvent::Moved).count()
        };
        assert_eq!(moves(&mut peer, 1), 0, "nothing was sent to another address");
        assert_eq!(moves(&mut peer, 3), 1);
        assert_eq!(moves(&mut peer, 3), 0);
    }

    #[test]
    fn datagrams_leave_from_the_address_that_the_peer_used_until_it_is_gone() {
        let (now, mut code) = (Instant::now(), Code::new());
        let [called, other]: [IpAddr; 2] = ["198.51.100.7", "2001:db8::7"].map(|text| text.parse().unwrap());
        let remote = SocketAddr::from(([192, 0, 2, 1], 7117));
        let mut peer = peer(None, 0, now);
        let call = Established {
            endpoint: Endpoint { remote, local: Some(called) },
            ..established(Role::Responder, remote, now)
        };
        peer.install(&call, &mut code, now);
        assert_eq!(peer.endpoint(), None, "the initiator has not proven its keys");
        peer.on_authentic(1, false, remote, true, &mut code, now);
        assert_eq!(peer.endpoint(), Some(call.endpoint));
        let moved = |peer: &mut Peer| std::iter::from_fn(|| peer.poll_block_event()).any(|it| it == BlockEvent::Moved);
        moved(&mut peer);
        assert_eq!(peer.on_unroutable(now), Some(called));
        assert!(moved(&mut peer), "the new path needs its own proof");
        assert_eq!(peer.endpoint(), Some(remote.into()));
        assert_eq!(peer.on_unroutable(now), None);
        assert!(!moved(&mut peer));
        // The peer uses that address again.
        let again = Established { local_index: 2, ..call.clone() };
        peer.install(&again, &mut code, now);
        peer.on_authentic(2, false, remote, true, &mut code, now);
        assert_eq!(peer.endpoint(), Some(call.endpoint));
        assert_eq!(peer.on_unroutable(now), None, "reported before");
        assert!(moved(&mut peer));
        // The initiation came to an address of the other family, the data comes over this one: the kernel chooses.
        let call = Established { local_index: 3, endpoint: Endpoint { remote, local: Some(other) }, ..call };
        peer.install(&call, &mut code, now);
        peer.on_authentic(3, false, remote, true, &mut code, now);
        assert_eq!(peer.endpoint(), Some(remote.into()));
    }

    #[test]
    fn a_replayed_initiation_does_not_move_the_peer() {
        let (now, mut code) = (Instant::now(), Code::new());
        let at = |host: u8, port: u16| SocketAddr::from(([192, 0, 2, host], port));
        for lane in [0, 1] {
            let mut peer = peer(Some(at(1, 7117 + u16::from(lane))), lane, now);
            peer.install(&established(Role::Responder, at(66, 6666), now), &mut code, now);
            assert_eq!(peer.address(), Some(at(1, 7117 + u16::from(lane))), "lane {lane}: initiations can be replayed");
            peer.on_authentic(1, false, at(3, 7117 + u16::from(lane)), true, &mut code, now);
            assert_eq!(peer.address(), Some(at(3, 7117 + u16::from(lane))), "lane {lane}: only the peer has the keys");
            peer.install(&established(Role::Initiator, at(4, 7117), now), &mut code, now);
            assert_eq!(peer.address(), Some(at(4, 7117 + u16::from(lane))), "lane {lane}: it answered from there");
        }
    }

    #[test]
    fn a_peer_that_knows_no_late_repair_is_promised_none_with_timestamps_and_without() {
        for (shows_departures, knows_late) in [(true, false), (true, true), (false, false), (false, true)] {
            let (now, mut code) = (Instant::now(), Code::new());
            let to = SocketAddr::from(([192, 0, 2, 1], 7117));
            let mut peer = peer(Some(to), 0, now);
            peer.install(&established(Role::Initiator, to, now), &mut code, now);
            peer.set_shows_departures(shows_departures);
            let extension = knows_late.then(Extension::default);
            let echo = peer.reporting.begin(true, now).sent_at;
            peer.reporting.handle_report(&Report { sent_at: 1, echo, extension, ..Report::default() }, now);
            let profile = Profile {
                number: 0,
                block_symbols: 4,
                close_when_idle: Duration::ZERO,
                close_after: Duration::from_millis(1),
                plan: Plan::fixed(4, 2, 0.01),
                survive_burst: Duration::from_millis(2),
                keeps_promise: true,
            };
            peer.reserve(&profile, &mut code, now).unwrap().commit(VirtioHeader::default(), 50);
            peer.flush(&mut code, now);
            while let Some(train) = peer.outbox.front(to.into(), Trains::All, now) {
                let bytes = train.bytes.len();
                peer.on_sent(bytes, now);
            }
            let block = BlockId { profile: 0, sbn: 0 };
            if shows_departures {
                peer.on_early_left(block, Duration::ZERO, now);
            }
            let events: Vec<_> = std::iter::from_fn(|| peer.poll_block_event()).collect();
            let early = events.iter().position(|it| matches!(it, BlockEvent::Sent { part: Part::Early, .. }));
            let broken = events.iter().position(|it| *it == BlockEvent::PromiseBroken { block });
            assert_eq!(broken.is_some(), !knows_late, "{events:?}");
            assert!(early.is_some() && broken.is_none_or(|broken| Some(broken) > early), "{events:?}");
        }
    }
}
