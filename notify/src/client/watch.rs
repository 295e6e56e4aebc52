//! One watched flow: its instance, and the claims about it.
//!
//! Later connections use a 5-tuple again, so claims about an earlier connection must not count for this one. The
//! instance is therefore taken from the answer to a lookup that was sent *after* the program had its connection.
//! Claims of an earlier run of the appliance stand: bytes that were protected then are protected now.

use super::losses::Losses;
use super::status::{Reason, Status};
use crate::message::{Event, Flow, FlowKey, Level, Origin, Positions, Range};

/// What is known about one flow.
#[derive(Debug)]
pub struct Watch {
    key: FlowKey,
    /// The instance in the present run of the appliance.
    pinned: Option<u64>,
    /// Peer and configured level of the pinned flow.
    told: Option<(u32, Level)>,
    /// Claims of earlier runs, as stream offsets.
    floor: Positions,
    /// Claims about the pinned instance, in its own positions.
    current: Positions,
    /// The stream offset of the pinned instance's position 0; `None` when unknown.
    shift: Option<i64>,
    /// The absolute sequence number of the stream's first byte.
    first_seq: Option<u32>,
    /// Losses after the claim.
    losses: Losses,
    end: Option<Reason>,
}

impl Watch {
    /// Nothing is known yet.
    pub fn new(key: FlowKey) -> Watch {
        Watch {
            key,
            pinned: None,
            told: None,
            floor: Positions::default(),
            current: Positions::default(),
            shift: None,
            first_seq: None,
            losses: Losses::default(),
            end: None,
        }
    }

    /// Whether the instance is unknown and must still be looked up.
    pub fn is_open(&self) -> bool {
        self.pinned.is_none() && self.end.is_none()
    }

    /// The peer that the flow is sent to.
    pub fn peer(&self) -> Option<u32> {
        self.told.map(|(peer, _)| peer)
    }

    /// The highest position claimed at any level, for comparison with what the program has written.
    pub fn highest(&self) -> u64 {
        Level::ALL.into_iter().filter_map(|level| self.reach(level)).max().unwrap_or(0)
    }

    /// The answer to a lookup that was sent after the program had its connection.
    pub fn on_answer(&mut self, flow: &Flow) {
        if flow.key != self.key || self.end.is_some() {
            return;
        }
        if self.pinned.is_none() {
            self.pin(flow);
        }
        self.on_flow(flow);
    }

    /// A notification.
    pub fn on_flow(&mut self, flow: &Flow) {
        let Some(pinned) = self.pinned.filter(|_| flow.key == self.key && self.end.is_none()) else {
            return;
        };
        if flow.instance > pinned {
            self.end = Some(Reason::OtherConnection);
        } else if flow.instance == pinned {
            // Only acknowledgements of this run order its messages; those of an earlier run do not.
            let [acked, reported] = [&self.current, &flow.positions]
                .map(|positions| positions.acked.map_or(0, |position| self.placed(position)));
            self.losses.on_reported(flow.violated.map(|start| self.placed(start)), reported, acked);
            self.current.raise(&flow.positions);
            self.losses.on_acked(self.acked());
            self.told = Some((flow.peer, flow.level));
            if let Event::Gone(reason) = flow.event {
                self.end = Some(Reason::Gone(reason));
            }
        }
    }

    /// Bytes were lost after they had been called protected. Returns their stream offsets if this instance is affected.
    pub fn on_violation(&mut self, range: &Range) -> Option<std::ops::Range<u64>> {
        if range.key != self.key || self.pinned.is_none_or(|pinned| pinned != range.instance) {
            return None;
        }
        // With an unknown shift the loss may be anywhere in the stream.
        let place = |shift| place(shift, range.start)..place(shift, range.end);
        let lost = self.shift.map_or(0..u64::MAX, place);
        self.losses.on_range(lost.clone(), self.acked());
        Some(lost)
    }

    /// The lowest lost offset that was called protected; `None` when nothing is lost.
    pub fn lowest_loss(&self) -> Option<u64> {
        self.losses.lowest()
    }

    /// The stream offset of a position; 0 when the shift is unknown.
    fn placed(&self, position: u64) -> u64 {
        self.shift.map_or(0, |shift| place(shift, position))
    }

    /// The stream offset up to which the mirror has acknowledged.
    fn acked(&self) -> u64 {
        self.reach(Level::Acked).unwrap_or(0)
    }

    /// The program's socket shows that this is another connection.
    pub fn on_mismatch(&mut self) {
        self.end = Some(Reason::OtherConnection);
        self.current = Positions::default();
        self.floor = Positions::default();
    }

    /// The appliance restarted: claims stand, the instance must be looked up again.
    pub fn on_restart(&mut self) {
        let reached = Level::ALL.map(|level| self.reach(level));
        for (level, reach) in Level::ALL.into_iter().zip(reached) {
            if let Some(reach) = reach {
                self.floor.set(level, reach);
            }
        }
        self.losses.on_restart(self.highest());
        self.pinned = None;
        self.told = None;
        self.current = Positions::default();
        self.shift = None;
    }

    /// The status of all bytes below `offset`, at `least` or better. `trusting` is false while a counted violation is
    /// not known exactly: then only the mirror's acknowledgement counts.
    pub fn status(&self, offset: u64, least: Level, trusting: bool) -> Status {
        let suspect = !trusting || self.losses.lowest().is_some_and(|start| offset > start);
        let least_now = if suspect { Level::Acked } else { least };
        let covered = |level: &Level| *level >= least_now && self.reach(*level).is_some_and(|reach| reach >= offset);
        if let Some(level) = Level::ALL.into_iter().rev().find(covered) {
            return Status::Protected { level };
        }
        match (self.end, self.told) {
            (Some(reason), _) => Status::Never(reason),
            (None, None) => Status::Pending(Reason::UnknownFlow),
            _ if suspect => Status::Pending(Reason::Violated),
            _ if self.shift.is_none() => Status::Pending(Reason::MiddleOfFlow),
            (None, Some((_, level))) if level < least => Status::Pending(Reason::Level(level)),
            _ => Status::Pending(Reason::Deadline),
        }
    }

    /// The stream offset below which all bytes were claimed at `least` or better, whatever was violated: to show people
    /// how much is missing. Use [`Watch::status`] to decide.
    pub fn covered(&self, least: Level) -> u64 {
        let levels = Level::ALL.into_iter().filter(|level| *level >= least);
        levels.filter_map(|level| self.reach(level)).max().unwrap_or(0)
    }

    /// The stream offset below which all bytes are covered at this level.
    fn reach(&self, level: Level) -> Option<u64> {
        let floor = self.floor.at(level);
        let Some(shift) = self.shift else {
            return floor;
        };
        // The bytes before the first one that this run saw must be covered too: by a claim of an earlier run, or by the
        // mirror's acknowledgement, which covers everything before it.
        let from = place(shift, 0);
        let mut better = Level::ALL.into_iter().filter(|better| *better >= level);
        let joined = from == 0
            || self.current.acked.is_some()
            || better.any(|better| self.floor.at(better).is_some_and(|floor| floor >= from));
        let current = self.current.at(level).filter(|_| joined).map(|position| place(shift, position));
        floor.max(current)
    }

    fn pin(&mut self, flow: &Flow) {
        // A gone flow may be an earlier connection.
        if matches!(flow.event, Event::Gone(_)) && self.first_seq.is_none() {
            return;
        }
        self.shift = match (flow.origin, self.first_seq, flow.origin_seq) {
            (Origin::Start, None, seq) => {
                self.first_seq = seq;
                Some(0)
            }
            (Origin::Start, Some(known), Some(seq)) if seq == known => Some(0),
            (Origin::Start, Some(_), _) => {
                self.end = Some(Reason::OtherConnection);
                return;
            }
            (Origin::Middle, Some(first), Some(seq)) => {
                // Sequence numbers wrap: take the offset nearest to what is known. If it is wrong by whole turns, it is
                // too low, which is safe.
                let anchor = Level::ALL.into_iter().filter_map(|level| self.floor.at(level)).max().unwrap_or(0);
                let distance = seq.wrapping_sub(first.wrapping_add(anchor as u32)).cast_signed();
                Some(anchor.cast_signed().saturating_add(i64::from(distance)))
            }
            (Origin::Middle, _, _) => None,
        };
        self.pinned = Some(flow.instance);
    }
}

/// The stream offset of a position.
fn place(shift: i64, position: u64) -> u64 {
    position.saturating_add_signed(shift)
}

#[cfg(test)]
mod tests {
    use crate::message::GoneReason;

    use super::*;

    fn flow(instance: u64, on_wire: u64) -> Flow {
        let key = FlowKey::tcp(([10, 1, 0, 1], 5).into(), ([10, 2, 0, 1], 6).into());
        Flow {
            key,
            instance,
            peer: 0,
            event: Event::Protected,
            level: Level::OnWire,
            origin: Origin::Start,
            origin_seq: Some(1000),
            positions: Positions { on_wire: Some(on_wire), ..Positions::default() },
            violated: None,
            packets: None,
            cookie: None,
            block: None,
            survives_burst: 0,
        }
    }

    fn pinned(on_wire: u64) -> Watch {
        let mut watch = Watch::new(flow(3, 0).key);
        watch.on_answer(&flow(3, on_wire));
        watch
    }

    fn status_at(watch: &Watch, offset: u64) -> Status {
        watch.status(offset, Level::OnWire, true)
    }

    const YES: Status = Status::Protected { level: Level::OnWire };

    #[test]
    fn nothing_counts_before_the_instance_is_known() {
        let mut watch = Watch::new(flow(3, 0).key);
        watch.on_flow(&flow(3, 500));
        assert_eq!(status_at(&watch, 0), Status::Pending(Reason::UnknownFlow));
        watch.on_answer(&flow(3, 100));
        assert_eq!(status_at(&watch, 100), YES);
        assert_eq!(status_at(&watch, 101), Status::Pending(Reason::Deadline));
        watch.on_flow(&flow(2, 900));
        assert_eq!(status_at(&watch, 101), Status::Pending(Reason::Deadline));
    }

    #[test]
    fn a_gone_flow_is_not_taken_for_a_new_one() {
        let mut watch = Watch::new(flow(3, 0).key);
        watch.on_answer(&Flow { event: Event::Gone(GoneReason::Closed), ..flow(3, 500) });
        assert_eq!(status_at(&watch, 10), Status::Pending(Reason::UnknownFlow));
        let mut watch = pinned(100);
        watch.on_flow(&Flow { event: Event::Gone(GoneReason::Closed), ..flow(3, 500) });
        assert_eq!(status_at(&watch, 500), YES);
        assert_eq!(status_at(&watch, 501), Status::Never(Reason::Gone(GoneReason::Closed)));
    }

    #[test]
    fn the_next_connection_ends_the_watch_and_earlier_claims_stand() {
        let mut watch = pinned(100);
        watch.on_flow(&flow(4, 5000));
        assert_eq!(status_at(&watch, 100), YES);
        assert_eq!(status_at(&watch, 101), Status::Never(Reason::OtherConnection));
    }

    #[test]
    fn levels_are_not_mixed_up() {
        let watch = pinned(100);
        assert_eq!(watch.status(50, Level::Decoded, true), Status::Pending(Reason::Level(Level::OnWire)));
        let mut watch = Watch::new(flow(3, 0).key);
        let queued = Positions { queued: Some(90), ..Positions::default() };
        watch.on_answer(&Flow { positions: queued, level: Level::Queued, ..flow(3, 0) });
        assert_eq!(status_at(&watch, 50), Status::Pending(Reason::Level(Level::Queued)));
        assert_eq!(watch.status(50, Level::Queued, true), Status::Protected { level: Level::Queued });
    }

    #[test]
    fn a_violation_voids_later_bytes_until_the_mirror_has_them() {
        let mut watch = pinned(100);
        watch.on_violation(&Range { key: flow(3, 0).key, instance: 3, start: 40, end: 60 });
        assert_eq!(status_at(&watch, 40), YES);
        assert_eq!(status_at(&watch, 41), Status::Pending(Reason::Violated));
        let acked = Positions { acked: Some(70), ..Positions::default() };
        watch.on_flow(&Flow { positions: acked, ..flow(3, 0) });
        assert_eq!(status_at(&watch, 70), Status::Protected { level: Level::Acked });
        assert_eq!(status_at(&watch, 100), YES, "the loss is repaired, and the bytes after it were never lost");
        assert_eq!(pinned(100).status(50, Level::OnWire, false), Status::Pending(Reason::Violated));
    }

    #[test]
    fn a_loss_in_a_new_run_counts_whatever_the_earlier_run_saw_acknowledged() {
        let mut watch = pinned(100);
        watch.on_flow(&Flow { positions: Positions { acked: Some(90), ..Positions::default() }, ..flow(3, 0) });
        watch.on_restart();
        let middle = |on_wire, violated| Flow {
            origin: Origin::Middle,
            origin_seq: Some(1100),
            positions: Positions { on_wire: Some(on_wire), ..Positions::default() },
            violated,
            ..flow(1, 0)
        };
        watch.on_answer(&middle(50, None));
        assert_eq!(status_at(&watch, 150), YES);
        watch.on_flow(&middle(50, Some(10)));
        assert_eq!(status_at(&watch, 110), YES);
        assert_eq!(status_at(&watch, 150), Status::Pending(Reason::Violated));
    }

    #[test]
    fn after_a_restart_positions_join_by_sequence_numbers_or_not_at_all() {
        let middle = |seq: u32, on_wire: u64, acked: Option<u64>| Flow {
            origin: Origin::Middle,
            origin_seq: Some(seq),
            positions: Positions { on_wire: Some(on_wire), acked, ..Positions::default() },
            ..flow(1, 0)
        };
        // Sequence number of the first byte seen, bytes since, acknowledged since; the offset that is then covered.
        let table = [(1100, 50, None, 150), (1060, 50, None, 110), (1130, 50, None, 100), (1130, 50, Some(0), 180)];
        for (seq, on_wire, acked, covered) in table {
            let mut watch = pinned(100);
            watch.on_restart();
            assert_eq!(status_at(&watch, 100), YES);
            watch.on_answer(&middle(seq, on_wire, acked));
            assert!(matches!(status_at(&watch, covered), Status::Protected { .. }), "{seq}");
            assert!(matches!(status_at(&watch, covered + 1), Status::Pending(_)), "{seq}");
        }
        let mut watch = pinned(100);
        watch.on_restart();
        watch.on_answer(&Flow { origin_seq: Some(7777), ..flow(1, 5000) });
        assert_eq!(status_at(&watch, 101), Status::Never(Reason::OtherConnection));
        let mut watch = Watch::new(flow(3, 0).key);
        watch.on_answer(&middle(1100, 50, Some(50)));
        assert_eq!(status_at(&watch, 1), Status::Pending(Reason::MiddleOfFlow));
    }

    #[test]
    fn a_violation_of_another_instance_is_ignored() {
        let mut watch = pinned(100);
        for instance in [2, 4] {
            watch.on_violation(&Range { key: flow(3, 0).key, instance, start: 40, end: 60 });
        }
        assert_eq!(status_at(&watch, 100), YES);
    }

    #[test]
    fn a_loss_at_an_unknown_offset_may_be_anywhere() {
        let mut watch = pinned(100);
        watch.on_restart();
        let nowhere = Flow { origin: Origin::Middle, origin_seq: None, ..flow(1, 50) };
        watch.on_answer(&nowhere);
        assert_eq!(status_at(&watch, 100), YES, "claims of the earlier run stand");
        watch.on_violation(&Range { key: nowhere.key, instance: 1, start: 10, end: 20 });
        assert_eq!(status_at(&watch, 1), Status::Pending(Reason::Violated));
    }

    #[test]
    fn a_loss_reported_by_the_flow_outlives_the_run_that_reported_it() {
        let mut watch = pinned(100);
        watch.on_flow(&Flow { violated: Some(40), ..flow(3, 100) });
        assert_eq!(status_at(&watch, 90), Status::Pending(Reason::Violated));
        watch.on_restart();
        let positions = Positions { on_wire: Some(100), acked: Some(60), ..Positions::default() };
        watch.on_answer(&Flow { positions, ..flow(1, 0) });
        assert_eq!(status_at(&watch, 60), Status::Protected { level: Level::Acked });
        assert_eq!(status_at(&watch, 90), Status::Pending(Reason::Violated), "claimed up to 100, and may be lost");
    }
}
