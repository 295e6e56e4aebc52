//! What congestion on the path to or from a peer means for packets: which ones tell their senders, and how.
//!
//! A symbol that comes with a mark was marked by a router on the path. Its mark goes to the packets with bytes in it. A
//! mark that finds none (a repair symbol's, or one whose packets have left) goes to the next packet that can carry it: the
//! queue was full for all of them. Nothing is dropped for a mark. The receiver notes which packets are concerned; the
//! forwarder marks the packet itself, because the block may still need its bytes to rebuild others.

use std::time::{Duration, Instant};

use super::Peer;
use crate::fec::code::Code;
use crate::tunnel::drop_reason::DropReason;
use crate::tunnel::receiver::Ready;
use crate::wire::payload_id::{RepairId, SourceId};
use crate::wire::traffic_class::TrafficClass;

/// The queue in front of a peer, in its socket, is kept at half of this.
pub(super) const PEER_QUEUE_MAX: Duration = Duration::from_millis(4);
/// A packet of this many bytes is one of a bulk transfer.
const BULK_LEN: usize = 1000;

/// Marks on packets from a peer: what was counted, and what is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Packets and super-packets marked because the path marked a datagram.
    pub from_path: u64,
    /// Packets and super-packets marked because they were rebuilt while the peer met congestion.
    pub rebuilt: u64,
    /// A mark came that no packet carries yet.
    owed: bool,
    /// The peer meets congestion: what the code rebuilds, a full queue has dropped.
    marks_rebuilt: bool,
}

impl Marks {
    /// Adds the counts of another lane.
    pub fn add(&mut self, other: &Self) {
        self.from_path += other.from_path;
        self.rebuilt += other.rebuilt;
    }
}

impl Peer {
    /// Takes a source symbol; `marked` if the path marked its datagram.
    pub fn handle_source(
        &mut self,
        opened: &[u8],
        marked: bool,
        code: &mut Code,
        now: Instant,
    ) -> Result<(), DropReason> {
        let (id, symbol) = SourceId::parse(opened).ok_or(DropReason::BadPayload)?;
        let mut owed = marked;
        let outcome = self.with_ingress(id.profile, code, now, |receiver, ingress| {
            receiver.handle_source(id, symbol, ingress)?;
            owed = marked && !receiver.mark(id);
            Ok(())
        });
        self.marks.owed |= owed;
        outcome
    }

    /// Takes a repair symbol; `marked` if the path marked its datagram.
    pub fn handle_repair(
        &mut self,
        opened: &[u8],
        marked: bool,
        code: &mut Code,
        now: Instant,
    ) -> Result<(), DropReason> {
        let (id, symbol) = RepairId::parse(opened).ok_or(DropReason::BadPayload)?;
        self.marks.owed |= marked;
        self.with_ingress(id.profile, code, now, |receiver, ingress| receiver.handle_repair(id, symbol, ingress))
    }

    /// Whether packets that the code rebuilds are marked from now on, if the configuration lets them be: their loss was
    /// the signal of a full queue, and rebuilding would hide it.
    pub fn set_marks_rebuilt(&mut self, marks: bool) {
        self.marks.marks_rebuilt = marks && self.settings.signals_rebuilt;
    }

    /// A packet of this class is about to leave. Returns whether it has to be marked.
    pub(in crate::tunnel) fn takes_mark(&mut self, ready: &Ready, class: TrafficClass) -> bool {
        if !class.is_ect() {
            return false;
        }
        // Read before: one mark is enough for both.
        let from_path = ready.marked | std::mem::take(&mut self.marks.owed);
        let rebuilt = ready.rebuilt && self.marks.marks_rebuilt;
        if class.is_ce() || !(from_path || rebuilt) {
            return false;
        }
        self.marks.from_path += u64::from(from_path);
        self.marks.rebuilt += u64::from(rebuilt && !from_path);
        true
    }

    /// What was marked, for status.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// A packet is about to be put into a block. Returns whether it is to tell its sender that the queue for the path's
    /// rate stands. False without a session: nothing is queued then.
    pub(in crate::tunnel) fn picks(&mut self, now: Instant) -> bool {
        let is_queued = self.settings.bytes_per_second.is_some() && self.sessions.sealing(now).is_some();
        is_queued && !self.outbox.is_over(now) && self.outbox.picks(now)
    }

    /// A packet of `len` bytes is about to be put into a block. Returns whether it is to tell its sender that the queue in front
    /// of the peer stands: the peer reads more slowly than we send. Only what fills queues is picked.
    pub(in crate::tunnel) fn picks_for_peer(&mut self, len: usize, now: Instant) -> bool {
        len >= BULK_LEN
            && self.sessions.sealing(now).is_some()
            && self.peer_codel.on_packet(self.reporting.peer_receive_wait(now), now)
    }

    /// Whether a TCP packet of `len` bytes is to be dropped, so that its sender hears of a loss that a full queue caused and the
    /// code has repaired. Only what fills queues is: a short packet is a request, a commit or an acknowledgement. Senders that
    /// understand marks hear of the loss itself, at the peer.
    pub(in crate::tunnel) fn takes_repaired_loss(&mut self, len: usize, class: TrafficClass, now: Instant) -> bool {
        self.settings.signals_rebuilt
            && len >= BULK_LEN
            && self.sessions.sealing(now).is_some()
            && self.estimator.takes_repaired_loss(now)
            && !class.is_ect()
    }

    /// The packet that was to hear of a repaired loss, or its first segment, is dropped.
    pub(in crate::tunnel) fn on_repaired_dropped(&mut self) {
        self.sent.repaired_dropped += 1;
    }

    /// The packet that was picked is marked.
    pub(in crate::tunnel) fn on_marked(&mut self) {
        self.sent.standing_marked += 1;
    }

    /// The packet that was picked, or its first segment, is dropped.
    pub(in crate::tunnel) fn on_picked_dropped(&mut self) {
        self.sent.standing_dropped += 1;
    }
}
