//! One watched flow: its instance, and the claims about it.
//!
//! Later connections use a 5-tuple again, so claims about an earlier connection must not count for this one. The
//! instance is therefore taken from the answer to a lookup that was sent *after* the program had its connection.
//! Claims of an earlier run of the appliance stand: bytes that were protected then are protected now.

use std::time::Duration;

use super::claims::Claims;
use super::early_losses::EarlyLosses;
use super::losses::Losses;
use super::need::Need;
use super::status::{Reason, Status};
use crate::message::{Event, Flow, FlowKey, Level, Origin, Range};

/// What a message says of its flow besides positions.
#[derive(Clone, Copy, Debug)]
struct Report {
    peer: u32,
    /// The level that the appliance's configuration calls protected.
    level: Level,
    /// The interruption that bytes on the wire survive.
    survives_burst: Duration,
}

/// What is known about one flow.
#[derive(Debug)]
pub struct Watch {
    key: FlowKey,
    /// The instance in the present run of the appliance.
    pinned: Option<u64>,
    /// What the last message about the pinned flow said.
    report: Option<Report>,
    /// Claims of earlier runs, as stream offsets.
    floor: Claims,
    /// Claims about the pinned instance, in its own positions.
    current: Claims,
    /// The stream offset of the pinned instance's position 0; `None` when unknown.
    shift: Option<i64>,
    /// The absolute sequence number of the stream's first byte.
    first_seq: Option<u32>,
    /// Losses after the claim.
    losses: Losses,
    /// Losses reported while the instance is not known.
    early_losses: EarlyLosses,
    /// Another publisher is asked than the one that made these claims, and has not answered about the flow yet.
    is_moved: bool,
    end: Option<Reason>,
}

impl Watch {
    /// Nothing is known yet.
    pub fn new(key: FlowKey) -> Watch {
        Watch {
            key,
            pinned: None,
            report: None,
            floor: Claims::default(),
            current: Claims::default(),
            shift: None,
            first_seq: None,
            losses: Losses::default(),
            early_losses: EarlyLosses::default(),
            is_moved: false,
            end: None,
        }
    }

    /// Whether the instance is unknown and must still be looked up.
    pub fn is_open(&self) -> bool {
        self.pinned.is_none() && self.end.is_none()
    }

    /// The peer that the flow is sent to.
    pub fn peer(&self) -> Option<u32> {
        self.report.map(|report| report.peer)
    }

    /// The interruption that the flow's bytes on the wire survive, as reported last.
    pub fn survives_burst(&self) -> Option<Duration> {
        self.report.map(|report| report.survives_burst)
    }

    /// The highest position claimed at any level, for comparison with what the program has written.
    pub fn highest(&self) -> u64 {
        Level::ALL.into_iter().filter_map(|level| self.reach(level.into())).max().unwrap_or(0)
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
        if flow.key != self.key || self.end.is_some() {
            return;
        }
        let Some(pinned) = self.pinned else {
            if let Some(start) = flow.violated {
                // What the message claims above the loss may be void too.
                let claimed = Level::ALL.into_iter().filter_map(|level| flow.positions.at(level)).max();
                self.early_losses.note(flow.instance, start..claimed.unwrap_or(start).max(start.saturating_add(1)));
            }
            return;
        };
        if flow.instance > pinned {
            self.end = Some(Reason::OtherConnection);
        } else if flow.instance == pinned {
            // Only acknowledgements of this run order its messages; those of an earlier run do not.
            let acked = self.current.at(Level::Acked, Duration::ZERO);
            let [acked, reported] =
                [acked, flow.positions.acked].map(|acked| acked.map_or(0, |position| self.placed(position)));
            self.losses.on_reported(flow.violated.map(|start| self.placed(start)), reported, acked);
            self.current.raise(&flow.positions, flow.survives_burst);
            self.losses.on_acked(self.acked());
            let survives_burst = Duration::from_micros(flow.survives_burst.into());
            self.report = Some(Report { peer: flow.peer, level: flow.level, survives_burst });
            if let Event::Gone(reason) = flow.event {
                self.end = Some(Reason::Gone(reason));
            }
        }
    }

    /// Bytes were lost after they had been called protected. Returns their stream offsets if this instance is affected.
    pub fn on_violation(&mut self, range: &Range) -> Option<std::ops::Range<u64>> {
        if range.key != self.key {
            return None;
        }
        if self.is_open() {
            self.early_losses.note(range.instance, range.start..range.end);
        }
        if self.pinned != Some(range.instance) {
            return None;
        }
        Some(self.lose(range.start..range.end))
    }

    /// These positions of the pinned instance are lost. Returns their stream offsets.
    fn lose(&mut self, range: std::ops::Range<u64>) -> std::ops::Range<u64> {
        // With an unknown shift the loss may be anywhere in the stream.
        let place = |shift| place(shift, range.start)..place(shift, range.end);
        let lost = self.shift.map_or(0..u64::MAX, place);
        self.losses.on_range(lost.clone(), self.acked());
        lost
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
        self.reach(Level::Acked.into()).unwrap_or(0)
    }

    /// The program's socket shows that this is another connection.
    pub fn on_mismatch(&mut self) {
        self.end = Some(Reason::OtherConnection);
        self.current = Claims::default();
        self.floor = Claims::default();
    }

    /// Another publisher is asked from now on. It may be the same run, and have counted a loss meanwhile: it says so when it answers
    /// about the flow, and until then no claim counts. A flow that is gone from the one before may be alive at this one.
    pub fn on_move(&mut self) {
        self.is_moved = true;
        self.end.take_if(|end| matches!(end, Reason::Gone(_)));
        // What is known of the instance is of the one before.
        self.on_restart();
    }

    /// The appliance restarted: claims stand, the instance must be looked up again.
    pub fn on_restart(&mut self) {
        let mut floor = self.floor.clone();
        for level in Level::ALL {
            self.reach(level.into()).into_iter().for_each(|reach| floor.raise_level(level, reach));
        }
        for burst in self.floor.bursts().chain(self.current.bursts()) {
            let need = Need::surviving(Duration::from_micros(burst.into()));
            self.reach(need).into_iter().for_each(|reach| floor.raise_burst(burst, reach));
        }
        self.losses.on_restart(self.highest());
        self.floor = floor;
        self.pinned = None;
        self.report = None;
        self.current = Claims::default();
        self.shift = None;
        // The next run counts its instances anew.
        self.early_losses = EarlyLosses::default();
    }

    /// The status of all bytes below `offset`: whether they meet `need`. `trusting` is false while a counted violation
    /// is not known exactly: then only the mirror's acknowledgement counts.
    pub fn status(&self, offset: u64, need: Need, trusting: bool) -> Status {
        let suspect = !trusting || self.is_moved || self.losses.lowest().is_some_and(|start| offset > start);
        let least = if suspect { Level::Acked } else { need.level };
        let reach = |level: Level| self.reach(Need { level, ..need });
        let covered = |level: &Level| *level >= least && reach(*level).is_some_and(|reach| reach >= offset);
        if let Some(level) = Level::ALL.into_iter().rev().find(covered) {
            return Status::Protected { level };
        }
        match (self.end, self.report) {
            (Some(reason), _) => Status::Never(reason),
            (None, None) => Status::Pending(Reason::UnknownFlow),
            _ if suspect => Status::Pending(Reason::Violated),
            _ if self.shift.is_none() => Status::Pending(Reason::MiddleOfFlow),
            (None, Some(report)) if report.level < need.level => Status::Pending(Reason::Level(report.level)),
            (None, Some(report)) if report.survives_burst < need.survives_burst => {
                Status::Pending(Reason::SurvivesBurst(report.survives_burst))
            }
            _ => Status::Pending(Reason::Deadline),
        }
    }

    /// The stream offset below which all bytes were claimed to meet `need`, whatever was violated: to show people how
    /// much is missing. Use [`Watch::status`] to decide.
    pub fn covered(&self, need: Need) -> u64 {
        let levels = Level::ALL.into_iter().filter(|level| *level >= need.level);
        levels.filter_map(|level| self.reach(Need { level, ..need })).max().unwrap_or(0)
    }

    /// The stream offset below which all bytes are covered at exactly the level of this need.
    fn reach(&self, Need { level, survives_burst: burst }: Need) -> Option<u64> {
        let floor = self.floor.at(level, burst);
        let Some(shift) = self.shift else {
            return floor;
        };
        // The bytes before the first one that this run saw must be covered too: by a claim of an earlier run, or by the
        // mirror's acknowledgement, which covers everything before it.
        let from = place(shift, 0);
        let mut better = Level::ALL.into_iter().filter(|better| *better >= level);
        let joined = from == 0
            || self.current.at(Level::Acked, burst).is_some()
            || better.any(|better| self.floor.at(better, burst).is_some_and(|floor| floor >= from));
        let current = self.current.at(level, burst).filter(|_| joined).map(|position| place(shift, position));
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
                let floor = |level| self.floor.at(level, Duration::ZERO);
                let anchor = Level::ALL.into_iter().filter_map(floor).max().unwrap_or(0);
                let distance = seq.wrapping_sub(first.wrapping_add(anchor as u32)).cast_signed();
                Some(anchor.cast_signed().saturating_add(i64::from(distance)))
            }
            (Origin::Middle, _, _) => None,
        };
        self.pinned = Some(flow.instance);
        self.is_moved = false;
        for range in self.early_losses.take(flow.instance) {
            self.lose(range);
        }
    }
}

/// The stream offset of a position.
fn place(shift: i64, position: u64) -> u64 {
    position.saturating_add_signed(shift)
}

#[cfg(test)]
mod tests {
    use crate::message::{GoneReason, Positions};

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
        watch.status(offset, Level::OnWire.into(), true)
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
    fn a_loss_that_overtakes_the_answer_counts_when_the_instance_is_known() {
        let range = |instance| Range { key: flow(3, 0).key, instance, start: 40, end: 60 };
        let violated = |instance| Flow { violated: Some(40), ..flow(instance, 60) };
        for early in 0..4 {
            let mut watch = Watch::new(flow(3, 0).key);
            match early {
                0 => assert_eq!(watch.on_violation(&range(3)), None),
                1 => watch.on_flow(&violated(3)),
                2 => assert_eq!(watch.on_violation(&range(2)), None, "of an earlier connection"),
                _ => {
                    watch.on_flow(&violated(3));
                    watch.on_restart();
                }
            }
            watch.on_answer(&flow(3, 100));
            let is_hit = early < 2;
            assert_eq!(status_at(&watch, 40), YES, "{early}");
            assert_eq!(status_at(&watch, 41) == Status::Pending(Reason::Violated), is_hit, "{early}");
            let acked = Positions { acked: Some(60), ..flow(3, 100).positions };
            watch.on_flow(&Flow { positions: acked, ..flow(3, 100) });
            assert_eq!(status_at(&watch, 100), YES, "{early}: the mirror has what was lost");
        }
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
        assert_eq!(watch.status(50, Level::Decoded.into(), true), Status::Pending(Reason::Level(Level::OnWire)));
        let mut watch = Watch::new(flow(3, 0).key);
        let queued = Positions { queued: Some(90), ..Positions::default() };
        watch.on_answer(&Flow { positions: queued, level: Level::Queued, ..flow(3, 0) });
        assert_eq!(status_at(&watch, 50), Status::Pending(Reason::Level(Level::Queued)));
        assert_eq!(watch.status(50, Level::Queued.into(), true), Status::Protected { level: Level::Queued });
    }

    #[test]
    fn early_counts_only_for_a_program_that_asks_for_no_more() {
        let mut watch = pinned(100);
        watch.on_flow(&Flow { positions: Positions { early: Some(150), ..flow(3, 100).positions }, ..flow(3, 0) });
        let early = Need::surviving(Duration::ZERO);
        assert_eq!(watch.status(150, early, true), Status::Protected { level: Level::Early });
        assert_eq!(watch.status(100, early, true), YES);
        assert_eq!(watch.status(151, early, true), Status::Pending(Reason::Deadline));
        assert_eq!(watch.status(150, Level::Queued.into(), true), Status::Protected { level: Level::Early });
        for need in [Need::from(Level::OnWire), Need::surviving(Duration::from_micros(1))] {
            assert!(matches!(watch.status(101, need, true), Status::Pending(_)), "{need:?}");
            assert!(watch.covered(need) <= 100);
        }
        // An appliance without timestamps can say nothing of it.
        watch.on_flow(&Flow { level: Level::Queued, ..flow(3, 0) });
        assert_eq!(watch.status(151, early, true), Status::Pending(Reason::Level(Level::Queued)));
    }

    #[test]
    fn on_wire_counts_only_under_a_promise_that_is_long_enough() {
        let (demanded, less) = (Duration::from_millis(2), Duration::from_micros(1999));
        let (need, short) = (Need::surviving(demanded), Status::Pending(Reason::SurvivesBurst(less)));
        let mut watch = pinned(100);
        assert_eq!(watch.status(100, need, true), Status::Pending(Reason::SurvivesBurst(Duration::ZERO)));
        watch.on_flow(&Flow { survives_burst: 1999, ..flow(3, 100) });
        assert_eq!((watch.status(100, need, true), watch.covered(need)), (short, 0));
        assert_eq!(watch.survives_burst(), Some(less));
        watch.on_flow(&Flow { survives_burst: 2000, ..flow(3, 200) });
        assert_eq!((watch.status(200, need, true), watch.covered(need)), (YES, 200));
        watch.on_flow(&Flow { survives_burst: 1999, ..flow(3, 300) });
        assert_eq!((watch.status(200, need, true), watch.status(201, need, true)), (YES, short));
        assert_eq!(status_at(&watch, 300), YES);
        for (level, positions) in [
            (Level::Decoded, Positions { decoded: Some(250), ..Positions::default() }),
            (Level::Acked, Positions { acked: Some(300), ..Positions::default() }),
        ] {
            let end = positions.at(level).unwrap();
            watch.on_flow(&Flow { positions, ..flow(3, 0) });
            assert_eq!(watch.status(end, need, true), Status::Protected { level }, "it is at the peer");
        }
    }

    #[test]
    fn a_promise_of_an_earlier_run_stands_and_a_lesser_one_does_not_join_it() {
        let need = Need::surviving(Duration::from_millis(2));
        // What the new run promises, and the offset that is then known to survive 2 ms.
        for (survives_burst, end) in [(2000, 150), (1999, 100)] {
            let mut watch = pinned(0);
            watch.on_flow(&Flow { survives_burst: 5000, ..flow(3, 100) });
            watch.on_restart();
            assert_eq!(watch.status(100, need, true), YES);
            let middle = Flow { origin: Origin::Middle, origin_seq: Some(1080), survives_burst, ..flow(1, 70) };
            watch.on_answer(&middle);
            assert_eq!(watch.status(end, need, true), YES, "{survives_burst}");
            assert!(matches!(watch.status(end + 1, need, true), Status::Pending(_)), "{survives_burst}");
            assert_eq!(status_at(&watch, 150), YES);
        }
        // Bytes before the first one seen were on the wire under a lesser promise only.
        let mut watch = pinned(0);
        watch.on_flow(&Flow { survives_burst: 1000, ..flow(3, 100) });
        watch.on_restart();
        let middle = Flow { origin: Origin::Middle, origin_seq: Some(1080), survives_burst: 2000, ..flow(1, 70) };
        watch.on_answer(&middle);
        assert_eq!((status_at(&watch, 150), watch.covered(need)), (YES, 0));
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
        assert_eq!(pinned(100).status(50, Level::OnWire.into(), false), Status::Pending(Reason::Violated));
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
