//! Checks the protection claims of each run against its evidence and against what really arrived.
//!
//! During the run: no block is claimed before all of it has entered the link and its timestamp was read, nor while the
//! link was not proven; no position covers a byte that is neither in such a block nor at the other end; no barrier is
//! answered before this holds for everything that was read. At the end: every claimed block has arrived, unless one of
//! the [`Verdict`]s excuses it, and then the loss was reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use onwire::flow::{FlowState, Level, Violation};
use onwire::protect::{Evidence, Notification, PROOF_FLOOR, TRUST_MAX};
use onwire::wire::payload_id::BlockId;

use crate::hosts::{Direction, Hosts, SegmentInfo};
use crate::keys::Run;
use crate::model::{Model, Verdict};
use crate::outcome::Outcome;
use crate::scenario::Scenario;

/// Clocks in reports count microseconds.
const ROUNDING: Duration = Duration::from_micros(10);

/// A packet that a run put into a block.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Its number.
    pub number: u16,
    /// The block that holds it.
    pub block: BlockId,
    /// The flow instance that counted it.
    pub instance: Option<u64>,
    /// UDP packets and bytes in them.
    pub datagrams: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Block {
    handed: usize,
    refused: bool,
    /// When each datagram entered the link.
    entered: Vec<Duration>,
    stamped: bool,
    claimed: Option<Level>,
    violated: bool,
}

impl Block {
    fn is_claimed(&self, level: Level) -> bool {
        self.claimed >= Some(level) && !self.violated
    }
}

/// A barrier that waits.
#[derive(Debug)]
struct PendingBarrier {
    /// How many packets were read before, and how many of those read were dropped.
    taken: usize,
    dropped: usize,
    /// Blocks that were already known to be lost, or that were sent to an earlier run of the peer. TCP sends their
    /// bytes again, and the barrier waits for that; it cannot wait for other data.
    gone: BTreeSet<BlockId>,
}

/// What one run did, knew and claimed.
#[derive(Debug, Default)]
struct RunRecord {
    taken: Vec<Taken>,
    /// Packets that were read and put into no block, each with its flow instance.
    dropped: Vec<(u16, Option<u64>)>,
    /// The known run of the peer, and how many packets were read before it was known.
    peer_run: Option<u64>,
    stale: usize,
    /// Indices into `taken`.
    directions: HashMap<Direction, Vec<usize>>,
    instances: HashMap<u64, Vec<usize>>,
    blocks: BTreeMap<BlockId, Block>,
    /// The last reported state of each flow.
    flows: BTreeMap<u64, FlowState>,
    /// Barriers that wait.
    barriers: BTreeMap<u64, PendingBarrier>,
    /// When each report was written.
    reports: HashMap<u64, Duration>,
    /// When the newest report that each run of the peer has answered was written.
    proofs: HashMap<Run, Duration>,
    /// The least round trip with each run of the peer. No simulation lasts longer than the window in which it counts.
    least_rtt: HashMap<Run, Duration>,
}

/// The most of these moments within some window of this length.
fn most_within(moments: &[Duration], window: Duration) -> usize {
    let within = |begin: &Duration| moments.iter().filter(|at| (*begin..*begin + window).contains(*at)).count();
    moments.iter().map(within).max().unwrap_or(0)
}

/// Checks the claims of all runs.
#[derive(Debug, Default)]
pub struct ClaimChecker {
    records: BTreeMap<Run, RunRecord>,
    /// Counts of what was checked.
    pub outcome: Outcome,
}

/// What really happened, and the settings.
#[derive(Clone, Copy)]
pub struct GroundTruth<'a> {
    /// Packets and blocks.
    pub model: &'a Model,
    /// Bytes of connections.
    pub hosts: &'a Hosts,
    /// The configuration.
    pub scenario: &'a Scenario,
}

impl ClaimChecker {
    fn record(&mut self, run: Run) -> &mut RunRecord {
        self.records.entry(run).or_default()
    }

    fn block(&mut self, run: Run, block: BlockId) -> &mut Block {
        self.record(run).blocks.entry(block).or_default()
    }

    /// A packet was put into a block.
    pub fn on_taken(&mut self, run: Run, taken: Taken, hosts: &Hosts) {
        let record = self.record(run);
        let place = record.taken.len();
        record.taken.push(taken);
        if let Some(info) = hosts.segment_info(run.side, taken.number) {
            record.directions.entry(info.bytes().0).or_default().push(place);
        }
        if let (Some(instance), Some(_)) = (taken.instance, taken.datagrams) {
            record.instances.entry(instance).or_default().push(place);
        }
    }

    /// A packet was read and dropped. `instance` is its flow, if known. Not called for a packet that seems to be of
    /// another connection.
    pub fn on_dropped(&mut self, run: Run, number: u16, instance: Option<u64>) {
        self.record(run).dropped.push((number, instance));
    }

    /// The kernel took a datagram of a block, or refused it.
    pub fn on_handed(&mut self, run: Run, block: BlockId, refused: bool) {
        let block = self.block(run, block);
        block.handed += usize::from(!refused);
        block.refused |= refused;
    }

    /// A datagram of a block entered the link.
    pub fn on_entered(&mut self, run: Run, block: BlockId, now: Duration) {
        self.block(run, block).entered.push(now);
    }

    /// A timestamp was read. It is of a datagram that the host took with or after the last datagrams of the blocks in
    /// `ended`.
    pub fn on_stamp(&mut self, run: Run, ended: &[BlockId]) {
        for block in ended.iter().rev() {
            // Blocks that ended before a stamped one are stamped already.
            if std::mem::replace(&mut self.block(run, *block).stamped, true) {
                break;
            }
        }
    }

    /// A report was written.
    pub fn on_report_written(&mut self, run: Run, sent_at: u64, now: Duration) {
        self.record(run).reports.insert(sent_at, now);
    }

    /// A report of `from`, newer than the earlier ones, arrived at `run` and answers a report of that run.
    pub fn on_report_arrived(&mut self, run: Run, from: Run, echo: u64, held: u32, now: Duration) {
        let record = self.record(run);
        let Some(&written) = record.reports.get(&echo) else { return };
        let rtt = (now - written).saturating_sub(Duration::from_micros(held.into()));
        let least = record.least_rtt.entry(from).or_insert(rtt);
        *least = rtt.min(*least);
        let proof = record.proofs.entry(from).or_default();
        *proof = written.max(*proof);
    }

    /// The run of the peer that this run knows at the end of a turn.
    pub fn on_peer_run(&mut self, run: Run, epoch: Option<u64>) {
        let record = self.record(run);
        if record.peer_run != epoch {
            (record.peer_run, record.stale) = (epoch, record.taken.len());
        }
    }

    /// A barrier is requested: is everything read so far protected?
    pub fn on_barrier(&mut self, run: Run, id: u64, model: &Model, last: [Run; 2]) {
        let record = self.record(run);
        let to = last[run.side.other().index()];
        let is_gone =
            |block: &BlockId| model.is_reported_lost(run, *block) || model.sealed_for(run, *block) != Some(to);
        // Packets of an earlier peer run may have waited in this run until their block was sealed.
        let waited = record.taken[..record.stale].iter().map(|taken| taken.block);
        let waited = waited.filter(|block| model.sealed_for(run, *block).is_none());
        let gone = record.blocks.keys().copied().filter(is_gone).chain(waited).collect();
        record.barriers.insert(id, PendingBarrier { taken: record.taken.len(), dropped: record.dropped.len(), gone });
    }

    /// A run sent notifications.
    pub fn on_notifications(
        &mut self,
        run: Run,
        notifications: &[Notification],
        ground_truth: GroundTruth<'_>,
        now: Duration,
    ) {
        // A position may be reported before the block that raised it.
        for notification in notifications {
            if let Notification::Block { block, source_symbols, repair_symbols, level: Some(level), .. } = *notification
            {
                self.on_claim(run, block, (source_symbols, repair_symbols), level, ground_truth, now);
            }
        }
        for notification in notifications {
            match notification {
                Notification::Flow { state, .. } => self.on_flow(run, state, ground_truth),
                Notification::Violation(violation) => self.on_violation(run, violation),
                Notification::Barrier(id, level) => self.on_answer(run, *id, *level, ground_truth),
                Notification::Block { .. } | Notification::State(..) => {}
            }
        }
    }

    fn on_claim(
        &mut self,
        run: Run,
        block: BlockId,
        (source_symbols, repair_symbols): (u16, u16),
        level: Level,
        ground_truth: GroundTruth<'_>,
        now: Duration,
    ) {
        let record = self.records.entry(run).or_default();
        let known = record.blocks.entry(block).or_default();
        let symbols = usize::from(source_symbols + repair_symbols);
        assert!(repair_symbols > 0, "{block:?} of {run:?} has no repair symbols: {level:?}");
        assert!(!known.refused, "a datagram of {block:?} of {run:?} was refused: {level:?}");
        let profile = &ground_truth.scenario.sides[run.side.index()].profiles[usize::from(block.profile)];
        let host = &ground_truth.scenario.sides[run.side.index()].host;
        if host.evidence != Evidence::Timestamps {
            assert!(profile.keeps_promise, "{block:?} of {run:?} has not what its profile promises: {level:?}");
        }
        if level == Level::Early {
            let handed = known.handed;
            assert!(handed > source_symbols.into(), "only {handed} symbols of {block:?} of {run:?} were taken");
            assert!(
                known.entered.len() > source_symbols.into(),
                "the early part of {block:?} of {run:?} is in the host"
            );
        } else {
            assert_eq!(known.handed, symbols, "not all of {block:?} of {run:?} was taken: {level:?}");
        }
        if level >= Level::OnWire {
            assert!(profile.keeps_promise, "{block:?} of {run:?} has not what its profile promises");
            assert!(known.stamped, "no timestamp of {block:?} of {run:?} came: {level:?}");
            assert_eq!(known.entered.len(), symbols, "some of {block:?} of {run:?} is still in the host");
            self.outcome.claimed_blocks += 1;
            // The promise: no interruption of this length could take more symbols than there are repair symbols.
            if !profile.survive_burst.is_zero() {
                let most = most_within(&known.entered, profile.survive_burst);
                assert!(
                    most <= usize::from(repair_symbols),
                    "{most} symbols of {block:?} of {run:?} at once: {known:?}"
                );
                self.outcome.late_blocks += 1;
            }
        }
        let to = ground_truth.model.sealed_for(run, block).expect("it was sent");
        let proof = record.proofs.get(&to).copied();
        let least = record.least_rtt.get(&to).copied().unwrap_or_default();
        let life = (least * 3).max(PROOF_FLOOR).min(TRUST_MAX) + ROUNDING;
        let proven = proof.is_some_and(|written| now.saturating_sub(written) <= life);
        assert!(proven, "{block:?} of {run:?}: the last proof of the link is of {proof:?}, now is {now:?}");
        known.claimed = known.claimed.max(Some(level));
    }

    fn on_flow(&mut self, run: Run, flow: &FlowState, ground_truth: GroundTruth<'_>) {
        let record = self.records.entry(run).or_default();
        let before = record.flows.insert(flow.id.instance(), *flow);
        let mut above = u64::MAX;
        for level in Level::ALL {
            let position = flow.position(level);
            let known = before.map(|before| before.position(level)).unwrap_or_default();
            assert!(position.bytes >= known.bytes && position.packets >= known.packets, "{level:?} fell: {flow:?}");
            assert!(position.bytes <= above, "{level:?} is above a weaker level: {flow:?}");
            above = position.bytes;
            if (position.bytes, position.packets) != (known.bytes, known.packets) {
                record.check_position(run, flow, level, ground_truth);
                self.outcome.positions_reported += usize::from(level == Level::OnWire);
                let is_ahead = level == Level::Early && position.bytes > flow.position(Level::OnWire).bytes;
                self.outcome.early_positions += usize::from(is_ahead);
            }
        }
    }

    fn on_violation(&mut self, run: Run, violation: &Violation) {
        let record = self.records.entry(run).or_default();
        let block = record.blocks.entry(violation.block).or_default();
        assert!(block.claimed.is_some(), "{violation:?} of a block that was never claimed");
        block.violated = true;
        let named = |taken: &Taken| {
            let ranges = violation.ranges.iter().filter(|range| Some(range.flow.id.instance()) == taken.instance);
            // A small table may have forgotten the block before its contents were reported.
            violation.forgotten || violation.gone > 0 || violation.level.is_none() || ranges.count() > 0
        };
        let mut inside = record.taken.iter().filter(|taken| taken.block == violation.block);
        let unnamed = inside.find(|taken| taken.datagrams.is_some() && taken.instance.is_some() && !named(taken));
        assert!(unnamed.is_none(), "{unnamed:?} was in it: {violation:?}");
        self.outcome.violations += 1;
    }

    fn on_answer(&mut self, run: Run, id: u64, level: Option<Level>, ground_truth: GroundTruth<'_>) {
        let record = self.records.entry(run).or_default();
        let barrier = record.barriers.remove(&id).expect("each barrier is answered once");
        let Some(level) = level else {
            self.outcome.barriers_denied += 1;
            return;
        };
        if !ground_truth.scenario.sides[run.side.index()].host.has_room() {
            return;
        }
        self.outcome.barriers_granted += 1;
        for (place, taken) in record.taken[..barrier.taken].iter().enumerate() {
            let bytes = ground_truth.hosts.segment_info(run.side, taken.number);
            let is_counted = |bytes: &&SegmentInfo| record.is_counted(run, taken.instance, bytes, ground_truth);
            let resent = bytes.filter(|bytes| !ground_truth.hosts.is_over(bytes)).filter(is_counted);
            if resent.is_none() && barrier.gone.contains(&taken.block) {
                continue;
            }
            let covered = level == Level::OnWire && record.is_claimed(taken.block, level);
            let covered = covered || bytes.is_some_and(|bytes| record.is_sent_again(level, bytes, ground_truth));
            assert!(
                covered || ground_truth.model.is_delivered(run.side, taken.number),
                "barrier {id} of {run:?} is answered {level:?}, but {taken:?}, {place}, is not: {:?} {bytes:?} {:?} gone {:?}",
                record.blocks.get(&taken.block),
                taken.instance.and_then(|it| record.flows.get(&it)),
                barrier.gone,
            );
        }
        // TCP sends the bytes of dropped packets again.
        for &(number, instance) in &record.dropped[..barrier.dropped] {
            let bytes =
                ground_truth.hosts.segment_info(run.side, number).filter(|bytes| !ground_truth.hosts.is_over(bytes));
            // If the flow is not known although its bytes were read, no byte is known to be missing.
            let is_counted =
                |bytes: &&SegmentInfo| instance.is_none() || record.is_counted(run, instance, bytes, ground_truth);
            let Some(bytes) = bytes.filter(is_counted) else { continue };
            assert!(
                record.is_sent_again(level, bytes, ground_truth),
                "barrier {id} of {run:?} is answered {level:?}, but packet {number} was dropped and not sent again: {bytes:?}"
            );
        }
    }

    /// At the end of the run. `last` are the final runs of both sides.
    pub fn check(&mut self, last: [Run; 2], ground_truth: GroundTruth<'_>) {
        let verdicts = ground_truth.model.verdicts(last, ground_truth.scenario);
        let outcome = &mut self.outcome;
        for (&run, record) in &self.records {
            for (&id, block) in record.blocks.iter().filter(|(_, block)| block.claimed >= Some(Level::Early)) {
                let verdict = verdicts[&(run, id)];
                match verdict {
                    Verdict::Whole => outcome.kept += 1,
                    Verdict::Rebuilt => outcome.rebuilt += 1,
                    Verdict::TooManyLost | Verdict::NotReported => outcome.excused_lost += 1,
                    Verdict::TooLate => outcome.excused_late += 1,
                    Verdict::ReceiverRestarted => outcome.excused_restart += 1,
                    Verdict::Broken => {
                        panic!("{id:?} of {run:?} was claimed as protected and did not arrive: {block:?}")
                    }
                }
                let reported = block.violated || !matches!(verdict, Verdict::TooManyLost | Verdict::TooLate);
                assert!(reported, "the loss of {id:?} of {run:?} was never reported: {verdict:?}, {block:?}");
            }
            for flow in record.flows.values().filter(|flow| flow.position(Level::OnWire).bytes > 0) {
                let excused = |taken: &Taken| {
                    !matches!(verdicts.get(&(run, taken.block)), None | Some(Verdict::Whole | Verdict::Rebuilt))
                };
                let strict = record.is_covered(run, flow, Level::OnWire, ground_truth, |_| false);
                outcome.positions_kept += usize::from(strict);
                outcome.positions_excused += usize::from(!strict);
                assert!(
                    strict || record.is_covered(run, flow, Level::OnWire, ground_truth, excused),
                    "{run:?} reported this as protected, and it did not arrive: {flow:?}"
                );
            }
            // The hosts have stopped; TCP would have sent lost bytes again.
            let lossless = record.blocks.keys().all(|&id| {
                let verdict = verdicts.get(&(run, id)).copied();
                verdict.is_none_or(|verdict| matches!(verdict, Verdict::Whole | Verdict::Rebuilt))
            });
            let undisturbed = last.iter().all(|run| run.restarts == 0) && lossless && record.dropped.is_empty();
            if undisturbed && ground_truth.scenario.sides[run.side.index()].host.has_room() {
                assert!(record.barriers.is_empty(), "{:?} of {run:?} were never answered", record.barriers);
            }
        }
    }
}

impl RunRecord {
    /// Whether the flow counts the segment: it begins at the flow's first byte or later. Bytes before the first seen
    /// byte belong to no flow.
    fn is_counted(&self, run: Run, instance: Option<u64>, info: &SegmentInfo, ground_truth: GroundTruth<'_>) -> bool {
        let Some(instance) = instance else { return false };
        let Some(flow) = self.flows.get(&instance) else { return true };
        let ports = [flow.key.source_port, flow.key.destination_port];
        let base = flow.origin_sequence.unwrap_or_default();
        let found = ground_truth.hosts.find(run.side, flow.key.source.is_ipv4(), ports, base);
        found.is_none_or(|(direction, offset)| direction != info.bytes().0 || offset <= info.bytes().1)
    }

    fn is_claimed(&self, block: BlockId, level: Level) -> bool {
        self.blocks.get(&block).is_some_and(|block| block.is_claimed(level))
    }

    fn check_position(&self, run: Run, flow: &FlowState, level: Level, ground_truth: GroundTruth<'_>) {
        let is_claimed = |taken: &Taken| level < Level::Decoded && self.is_claimed(taken.block, level);
        assert!(
            self.is_covered(run, flow, level, ground_truth, is_claimed),
            "{run:?} reports a position without evidence: {level:?} {flow:?}"
        );
    }

    /// Whether the bytes of a segment are at the other end, or in other packets that are validly claimed.
    fn is_sent_again(&self, level: Level, bytes: &SegmentInfo, ground_truth: GroundTruth<'_>) -> bool {
        let (direction, start, end) = bytes.bytes();
        let mut spans = ground_truth.hosts.arrived(direction).clone();
        spans.add(0, start);
        for &place in self.directions.get(&direction).into_iter().flatten() {
            let taken = &self.taken[place];
            if level == Level::OnWire && self.is_claimed(taken.block, level) {
                let info = ground_truth.hosts.segment_info(direction.from, taken.number).expect("it has a direction");
                let (_, start, end) = info.bytes();
                spans.add(start, end);
            }
        }
        spans.has_all_before(end)
    }

    /// Whether everything before the position is at the other end or in a packet that is `good`.
    fn is_covered(
        &self,
        run: Run,
        flow: &FlowState,
        level: Level,
        ground_truth: GroundTruth<'_>,
        good: impl Fn(&Taken) -> bool,
    ) -> bool {
        let position = flow.position(level);
        let Some(base) = flow.origin_sequence else {
            let (mut packets, mut bytes) = (0, 0);
            for &place in self.instances.get(&flow.id.instance()).into_iter().flatten() {
                if packets >= position.packets {
                    break;
                }
                let taken = &self.taken[place];
                if !good(taken) && !ground_truth.model.is_delivered(run.side, taken.number) {
                    return false;
                }
                let (more, len) = taken.datagrams.expect("only UDP packets are indexed by instance");
                (packets, bytes) = (packets + more, bytes + len);
            }
            return (packets, bytes) == (position.packets, position.bytes);
        };
        assert_eq!(position.sequence, base.wrapping_add(position.bytes as u32), "{flow:?}");
        let key = flow.key;
        let found =
            ground_truth.hosts.find(run.side, key.source.is_ipv4(), [key.source_port, key.destination_port], base);
        let (direction, offset) = found.unwrap_or_else(|| panic!("no host has sent this: {flow:?}"));
        let mut spans = ground_truth.hosts.arrived(direction).clone();
        for &place in self.directions.get(&direction).into_iter().flatten() {
            let taken = &self.taken[place];
            if good(taken) {
                let info = ground_truth.hosts.segment_info(run.side, taken.number).expect("it has a direction");
                let (_, start, end) = info.bytes();
                spans.add(start, end);
            }
        }
        spans.has_all_before(offset + position.bytes as u32)
    }
}
