//! One flow that a program waits for: which instance it is, and what was claimed about it.
//!
//! A 5-tuple is used again by later connections, so what was told about an earlier one must not count for this one. The
//! instance is therefore taken from the answer to a question that was asked *after* the program had its connection.
//! What was told in an earlier run of the appliance stands: bytes that were protected then are so now.

use super::losses::Losses;
use super::status::{Reason, Status};
use crate::message::{Event, Flow, FlowKey, Level, Origin, Positions, Range};

/// What is known about one flow.
#[derive(Debug)]
pub struct Watch {
    key: FlowKey,
    /// Which instance, in the present run of the appliance.
    pinned: Option<u64>,
    /// Peer and configured level of the pinned flow.
    told: Option<(u32, Level)>,
    /// Claims of earlier runs, as offsets in the stream.
    floor: Positions,
    /// Claims about the pinned instance, as it counts.
    current: Positions,
    /// The stream offset of the pinned instance's position 0; `None` when it is not known.
    shift: Option<i64>,
    /// The absolute sequence number of the stream's first byte.
    first_seq: Option<u32>,
    /// Lost after the claim.
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

    /// Whether the publisher must still be asked which instance it is.
    pub fn is_open(&self) -> bool {
        self.pinned.is_none() && self.end.is_none()
    }

    /// The peer the flow is sent to.
    pub fn peer(&self) -> Option<u32> {
        self.told.map(|(peer, _)| peer)
    }

    /// The highest position claimed at any level, for comparison with what the program has written.
    pub fn highest(&self) -> u64 {
        Level::ALL.into_iter().filter_map(|level| self.reach(level)).max().unwrap_or(0)
    }

    /// The answer to a question asked after the program had its connection.
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
            // In the order of this run: what an earlier one told says nothing about which message is newer.
            let [acked, told] = [&self.current, &flow.positions]
                .map(|positions| positions.acked.map_or(0, |position| self.placed(position)));
            self.losses.on_told(flow.violated.map(|start| self.placed(start)), told, acked);
            self.current.raise(&flow.positions);
            self.losses.on_acked(self.acked());
            self.told = Some((flow.peer, flow.level));
            if let Event::Gone(reason) = flow.event {
                self.end = Some(Reason::Gone(reason));
            }
        }
    }

    /// Bytes were lost after they had been called protected. Where they lie in the stream, if they are of this instance.
    pub fn on_violation(&mut self, range: &Range) -> Option<std::ops::Range<u64>> {
        if range.key != self.key || self.pinned.is_none_or(|pinned| pinned != range.instance) {
            return None;
        }
        // Without a place in the stream the loss may be anywhere.
        let place = |shift| place(shift, range.start)..place(shift, range.end);
        let lost = self.shift.map_or(0..u64::MAX, place);
        self.losses.on_range(lost.clone(), self.acked());
        Some(lost)
    }

    /// The lowest offset that is lost and was called protected; `None` when nothing is.
    pub fn lowest_loss(&self) -> Option<u64> {
        self.losses.lowest()
    }

    /// Where a position lies in the stream; at its beginning when nobody knows.
    fn placed(&self, position: u64) -> u64 {
        self.shift.map_or(0, |shift| place(shift, position))
    }

    /// What the mirror has acknowledged.
    fn acked(&self) -> u64 {
        self.reach(Level::Acked).unwrap_or(0)
    }

    /// The program's socket tells that this is not its connection.
    pub fn on_mismatch(&mut self) {
        self.end = Some(Reason::OtherConnection);
        self.current = Positions::default();
        self.floor = Positions::default();
    }

    /// The appliance restarted: claims stand, the instance must be asked for again.
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

    /// What can be said about everything below `offset`, `least` or better. `trusting` is false while a loss is known to
    /// have happened and is not known exactly: then only the mirror's own acknowledgement counts.
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

    /// Up to which stream offset everything was claimed at `least` or better, violations apart: to tell people how much is
    /// missing. Use [`Watch::status`] to decide.
    pub fn covered(&self, least: Level) -> u64 {
        let levels = Level::ALL.into_iter().filter(|level| *level >= least);
        levels.filter_map(|level| self.reach(level)).max().unwrap_or(0)
    }

    /// Up to which stream offset everything is covered at this level.
    fn reach(&self, level: Level) -> Option<u64> {
        let floor = self.floor.at(level);
        let Some(shift) = self.shift else {
            return floor;
        };
        // What came before the first byte this run has seen must be covered too: by a claim of an earlier run, or by the
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
        // A flow that is gone may be an earlier connection's.
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
                // Sequence numbers wrap; the nearest place to what is known is taken. Were it wrong by whole turns, it
                // would be too low, and too low is safe.
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
        }
    }

    fn pinned(on_wire: u64) -> Watch {
        let mut watch = Watch::new(flow(3, 0).key);
        watch.on_answer(&flow(3, on_wire));
        watch
    }

    fn says(watch: &Watch, offset: u64) -> Status {
        watch.status(offset, Level::OnWire, true)
    }

    const YES: Status = Status::Protected { level: Level::OnWire };

    #[test]
    fn nothing_counts_before_the_instance_is_known() {
        let mut watch = Watch::new(flow(3, 0).key);
        watch.on_flow(&flow(3, 500));
        assert_eq!(says(&watch, 0), Status::Pending(Reason::UnknownFlow));
        watch.on_answer(&flow(3, 100));
        assert_eq!(says(&watch, 100), YES);
        assert_eq!(says(&watch, 101), Status::Pending(Reason::Deadline));
        watch.on_flow(&flow(2, 900));
        assert_eq!(says(&watch, 101), Status::Pending(Reason::Deadline));
    }

    #[test]
    fn a_flow_that_is_gone_is_not_taken_for_a_new_one() {
        let mut watch = Watch::new(flow(3, 0).key);
        watch.on_answer(&Flow { event: Event::Gone(GoneReason::Closed), ..flow(3, 500) });
        assert_eq!(says(&watch, 10), Status::Pending(Reason::UnknownFlow));
        let mut watch = pinned(100);
        watch.on_flow(&Flow { event: Event::Gone(GoneReason::Closed), ..flow(3, 500) });
        assert_eq!(says(&watch, 500), YES);
        assert_eq!(says(&watch, 501), Status::Never(Reason::Gone(GoneReason::Closed)));
    }

    #[test]
    fn the_next_connection_ends_the_watch_and_what_was_claimed_stands() {
        let mut watch = pinned(100);
        watch.on_flow(&flow(4, 5000));
        assert_eq!(says(&watch, 100), YES);
        assert_eq!(says(&watch, 101), Status::Never(Reason::OtherConnection));
    }

    #[test]
    fn levels_are_not_mixed_up() {
        let watch = pinned(100);
        assert_eq!(watch.status(50, Level::Decoded, true), Status::Pending(Reason::Level(Level::OnWire)));
        let mut watch = Watch::new(flow(3, 0).key);
        let queued = Positions { queued: Some(90), ..Positions::default() };
        watch.on_answer(&Flow { positions: queued, level: Level::Queued, ..flow(3, 0) });
        assert_eq!(says(&watch, 50), Status::Pending(Reason::Level(Level::Queued)));
        assert_eq!(watch.status(50, Level::Queued, true), Status::Protected { level: Level::Queued });
    }

    #[test]
    fn a_violation_voids_what_lies_behind_it_until_the_mirror_has_it() {
        let mut watch = pinned(100);
        watch.on_violation(&Range { key: flow(3, 0).key, instance: 3, start: 40, end: 60 });
        assert_eq!(says(&watch, 40), YES);
        assert_eq!(says(&watch, 41), Status::Pending(Reason::Violated));
        let acked = Positions { acked: Some(70), ..Positions::default() };
        watch.on_flow(&Flow { positions: acked, ..flow(3, 0) });
        assert_eq!(says(&watch, 70), Status::Protected { level: Level::Acked });
        assert_eq!(says(&watch, 100), YES, "made good, and what is behind it was never lost");
        assert_eq!(pinned(100).status(50, Level::OnWire, false), Status::Pending(Reason::Violated));
    }

    #[test]
    fn a_loss_that_a_new_run_tells_counts_although_an_earlier_one_knew_of_more_acknowledged() {
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
        assert_eq!(says(&watch, 150), YES);
        watch.on_flow(&middle(50, Some(10)));
        assert_eq!(says(&watch, 110), YES);
        assert_eq!(says(&watch, 150), Status::Pending(Reason::Violated));
    }

    #[test]
    fn after_a_restart_positions_are_joined_by_sequence_numbers_or_not_at_all() {
        let middle = |seq: u32, on_wire: u64, acked: Option<u64>| Flow {
            origin: Origin::Middle,
            origin_seq: Some(seq),
            positions: Positions { on_wire: Some(on_wire), acked, ..Positions::default() },
            ..flow(1, 0)
        };
        // First byte seen, bytes since, acknowledged since; what is then covered.
        let table = [(1100, 50, None, 150), (1060, 50, None, 110), (1130, 50, None, 100), (1130, 50, Some(0), 180)];
        for (seq, on_wire, acked, covered) in table {
            let mut watch = pinned(100);
            watch.on_restart();
            assert_eq!(says(&watch, 100), YES);
            watch.on_answer(&middle(seq, on_wire, acked));
            assert!(matches!(says(&watch, covered), Status::Protected { .. }), "{seq}");
            assert!(matches!(says(&watch, covered + 1), Status::Pending(_)), "{seq}");
        }
        let mut watch = pinned(100);
        watch.on_restart();
        watch.on_answer(&Flow { origin_seq: Some(7777), ..flow(1, 5000) });
        assert_eq!(says(&watch, 101), Status::Never(Reason::OtherConnection));
        let mut watch = Watch::new(flow(3, 0).key);
        watch.on_answer(&middle(1100, 50, Some(50)));
        assert_eq!(says(&watch, 1), Status::Pending(Reason::MiddleOfFlow));
    }

    #[test]
    fn a_violation_of_another_instance_is_none_of_this_one() {
        let mut watch = pinned(100);
        for instance in [2, 4] {
            watch.on_violation(&Range { key: flow(3, 0).key, instance, start: 40, end: 60 });
        }
        assert_eq!(says(&watch, 100), YES);
    }

    #[test]
    fn a_loss_without_a_place_in_the_stream_may_be_anywhere() {
        let mut watch = pinned(100);
        watch.on_restart();
        let nowhere = Flow { origin: Origin::Middle, origin_seq: None, ..flow(1, 50) };
        watch.on_answer(&nowhere);
        assert_eq!(says(&watch, 100), YES, "of the earlier run");
        watch.on_violation(&Range { key: nowhere.key, instance: 1, start: 10, end: 20 });
        assert_eq!(says(&watch, 1), Status::Pending(Reason::Violated));
    }

    #[test]
    fn a_loss_that_the_flow_told_of_outlives_the_run_that_told_it() {
        let mut watch = pinned(100);
        watch.on_flow(&Flow { violated: Some(40), ..flow(3, 100) });
        assert_eq!(says(&watch, 90), Status::Pending(Reason::Violated));
        watch.on_restart();
        let positions = Positions { on_wire: Some(100), acked: Some(60), ..Positions::default() };
        watch.on_answer(&Flow { positions, ..flow(1, 0) });
        assert_eq!(says(&watch, 60), Status::Protected { level: Level::Acked });
        assert_eq!(says(&watch, 90), Status::Pending(Reason::Violated), "up to 100 it was claimed, and may be lost");
    }
}
