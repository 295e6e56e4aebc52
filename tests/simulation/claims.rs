//! What each run that claims protection has said, held against what it had evidence of and what became of it.
//!
//! At once: no block is called protected before all of it has entered the link and its timestamp was read, nor while the
//! link was not proven; no position covers a byte that is neither in such a block nor at the other end; no barrier is
//! answered before that is true of all that was read. In the end: whatever was called protected has arrived, unless one
//! of the [`Verdict`]s excuses it, and then that was told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use onwire::flow::{FlowState, Level, Violation};
use onwire::protect::{Notification, PROOF_FLOOR, TRUST_MAX};
use onwire::wire::payload_id::BlockId;

use crate::hosts::{Direction, Hosts, Meaning};
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
    /// Where it lies.
    pub block: BlockId,
    /// The flow that it was counted in.
    pub instance: Option<u64>,
    /// Packets of UDP and bytes in them.
    pub datagrams: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Block {
    handed: usize,
    refused: bool,
    entered: usize,
    stamped: bool,
    claimed: Option<Level>,
    violated: bool,
}

impl Block {
    fn stands(&self, level: Level) -> bool {
        self.claimed >= Some(level) && !self.violated
    }
}

/// A barrier that waits.
#[derive(Debug)]
struct Asked {
    /// How much was read before, and how much of what was read was dropped before.
    taken: usize,
    dropped: usize,
    /// Blocks that were known to be lost by then, or that were sent to an earlier run of the peer. What TCP had in
    /// them it sends again, and that is waited for; nothing else can be.
    gone: BTreeSet<BlockId>,
}

/// What one run did, knew and said.
#[derive(Debug, Default)]
struct Account {
    taken: Vec<Taken>,
    /// What was read and put into no block, with the flow it is of.
    dropped: Vec<(u16, Option<u64>)>,
    /// The run of the peer that is known of, and how much was read before that.
    peer_run: Option<u64>,
    stale: usize,
    /// Places in `taken`.
    directions: HashMap<Direction, Vec<usize>>,
    instances: HashMap<u64, Vec<usize>>,
    blocks: BTreeMap<BlockId, Block>,
    /// The last that was told of each flow.
    told: BTreeMap<u64, FlowState>,
    /// Those that wait.
    barriers: BTreeMap<u64, Asked>,
    /// When each report was written.
    reports: HashMap<u64, Duration>,
    /// When the newest report was written that each run of the peer has answered.
    proofs: HashMap<Run, Duration>,
    /// The least round trip with each run of the peer. No simulation is longer than the window in which it counts.
    least_rtt: HashMap<Run, Duration>,
}

/// What all runs said.
#[derive(Debug, Default)]
pub struct Promises {
    accounts: BTreeMap<Run, Account>,
    /// What was checked so far.
    pub outcome: Outcome,
}

/// Where the truth is.
#[derive(Clone, Copy)]
pub struct Truths<'a> {
    /// Of packets and blocks.
    pub model: &'a Model,
    /// Of bytes.
    pub hosts: &'a Hosts,
    /// What is configured.
    pub scenario: &'a Scenario,
}

impl Promises {
    fn account(&mut self, run: Run) -> &mut Account {
        self.accounts.entry(run).or_default()
    }

    fn block(&mut self, run: Run, block: BlockId) -> &mut Block {
        self.account(run).blocks.entry(block).or_default()
    }

    /// A packet was put into a block.
    pub fn on_taken(&mut self, run: Run, taken: Taken, hosts: &Hosts) {
        let account = self.account(run);
        let place = account.taken.len();
        account.taken.push(taken);
        if let Some(meaning) = hosts.meaning(run.side, taken.number) {
            account.directions.entry(meaning.bytes().0).or_default().push(place);
        }
        if let (Some(instance), Some(_)) = (taken.instance, taken.datagrams) {
            account.instances.entry(instance).or_default().push(place);
        }
    }

    /// A packet of this flow, as far as it is known, was read and dropped; none that seems to be of another connection.
    pub fn on_dropped(&mut self, run: Run, number: u16, instance: Option<u64>) {
        self.account(run).dropped.push((number, instance));
    }

    /// The kernel took a datagram of a block, or refused it.
    pub fn on_handed(&mut self, run: Run, block: BlockId, refused: bool) {
        let block = self.block(run, block);
        block.handed += usize::from(!refused);
        block.refused |= refused;
    }

    /// A datagram of a block entered the link.
    pub fn on_entered(&mut self, run: Run, block: BlockId) {
        self.block(run, block).entered += 1;
    }

    /// A timestamp was read, of a datagram that the host took with or after the last ones of these blocks.
    pub fn on_stamp(&mut self, run: Run, ended: &[BlockId]) {
        for block in ended.iter().rev() {
            // Whatever ended before it was stamped with it.
            if std::mem::replace(&mut self.block(run, *block).stamped, true) {
                break;
            }
        }
    }

    /// A report was written.
    pub fn on_report_written(&mut self, run: Run, sent_at: u64, now: Duration) {
        self.account(run).reports.insert(sent_at, now);
    }

    /// A report of `from`, newer than those before, arrived at `run`, and answers what that run had written.
    pub fn on_report_arrived(&mut self, run: Run, from: Run, echo: u64, held: u32, now: Duration) {
        let account = self.account(run);
        let Some(&written) = account.reports.get(&echo) else { return };
        let rtt = (now - written).saturating_sub(Duration::from_micros(held.into()));
        let least = account.least_rtt.entry(from).or_insert(rtt);
        *least = rtt.min(*least);
        let proof = account.proofs.entry(from).or_default();
        *proof = written.max(*proof);
    }

    /// The run of the peer that this run knows of at the end of a turn.
    pub fn on_peer_run(&mut self, run: Run, epoch: Option<u64>) {
        let account = self.account(run);
        if account.peer_run != epoch {
            (account.peer_run, account.stale) = (epoch, account.taken.len());
        }
    }

    /// Somebody asks whether everything read so far is protected.
    pub fn on_barrier(&mut self, run: Run, id: u64, model: &Model, last: [Run; 2]) {
        let account = self.account(run);
        let to = last[run.side.other().index()];
        let is_gone = |block: &BlockId| model.is_told_lost(run, *block) || model.addressee(run, *block) != Some(to);
        // What was sealed for an earlier run may have waited in this one for its turn, all of it.
        let waited = account.taken[..account.stale].iter().map(|taken| taken.block);
        let waited = waited.filter(|block| model.addressee(run, *block).is_none());
        let gone = account.blocks.keys().copied().filter(is_gone).chain(waited).collect();
        account.barriers.insert(id, Asked { taken: account.taken.len(), dropped: account.dropped.len(), gone });
    }

    /// A run tells something.
    pub fn on_notifications(&mut self, run: Run, notifications: &[Notification], truths: Truths<'_>, now: Duration) {
        // A position may be told before the block that raised it.
        for notification in notifications {
            if let Notification::Block { block, source_symbols, repair_symbols, level: Some(level), .. } = *notification
            {
                self.on_claim(run, block, (source_symbols, repair_symbols), level, truths, now);
            }
        }
        for notification in notifications {
            match notification {
                Notification::Flow { state, .. } => self.on_flow(run, state, truths),
                Notification::Violation(violation) => self.on_violation(run, violation),
                Notification::Barrier(id, level) => self.on_answer(run, *id, *level, truths),
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
        truths: Truths<'_>,
        now: Duration,
    ) {
        let account = self.accounts.entry(run).or_default();
        let known = account.blocks.entry(block).or_default();
        let symbols = usize::from(source_symbols + repair_symbols);
        assert!(repair_symbols > 0, "{block:?} of {run:?} has no repair symbols: {level:?}");
        assert!(!known.refused, "a datagram of {block:?} of {run:?} was refused: {level:?}");
        assert_eq!(known.handed, symbols, "not all of {block:?} of {run:?} was taken: {level:?}");
        if level >= Level::OnWire {
            assert!(known.stamped, "no timestamp of {block:?} of {run:?} came: {level:?}");
            assert_eq!(known.entered, symbols, "some of {block:?} of {run:?} is still in the host");
            self.outcome.claimed_blocks += 1;
        }
        let to = truths.model.addressee(run, block).expect("it was sent");
        let proof = account.proofs.get(&to).copied();
        let least = account.least_rtt.get(&to).copied().unwrap_or_default();
        let life = (least * 3).max(PROOF_FLOOR).min(TRUST_MAX) + ROUNDING;
        let proven = proof.is_some_and(|written| now.saturating_sub(written) <= life);
        assert!(proven, "{block:?} of {run:?}: the last proof of the link is of {proof:?}, now is {now:?}");
        known.claimed = known.claimed.max(Some(level));
    }

    fn on_flow(&mut self, run: Run, flow: &FlowState, truths: Truths<'_>) {
        let account = self.accounts.entry(run).or_default();
        let before = account.told.insert(flow.id.instance(), *flow);
        let mut above = u64::MAX;
        for level in Level::ALL {
            let position = flow.position(level);
            let known = before.map(|before| before.position(level)).unwrap_or_default();
            assert!(position.bytes >= known.bytes && position.packets >= known.packets, "{level:?} fell: {flow:?}");
            assert!(position.bytes <= above, "{level:?} is above a weaker level: {flow:?}");
            above = position.bytes;
            if (position.bytes, position.packets) != (known.bytes, known.packets) {
                account.check_position(run, flow, level, truths);
                self.outcome.positions_told += usize::from(level == Level::OnWire);
            }
        }
    }

    fn on_violation(&mut self, run: Run, violation: &Violation) {
        let account = self.accounts.entry(run).or_default();
        let block = account.blocks.entry(violation.block).or_default();
        assert!(block.claimed.is_some(), "{violation:?} of what was never claimed");
        block.violated = true;
        let named = |taken: &Taken| {
            let ranges = violation.ranges.iter().filter(|range| Some(range.flow.id.instance()) == taken.instance);
            // A small table may have forgotten the block before anything was said of what is in it.
            violation.forgotten || violation.gone > 0 || violation.level.is_none() || ranges.count() > 0
        };
        let mut inside = account.taken.iter().filter(|taken| taken.block == violation.block);
        let unnamed = inside.find(|taken| taken.datagrams.is_some() && taken.instance.is_some() && !named(taken));
        assert!(unnamed.is_none(), "{unnamed:?} was in it: {violation:?}");
        self.outcome.violations += 1;
    }

    fn on_answer(&mut self, run: Run, id: u64, level: Option<Level>, truths: Truths<'_>) {
        let account = self.accounts.entry(run).or_default();
        let asked = account.barriers.remove(&id).expect("each barrier is answered once");
        let Some(level) = level else {
            self.outcome.barriers_denied += 1;
            return;
        };
        if !truths.scenario.sides[run.side.index()].host.has_room() {
            return;
        }
        self.outcome.barriers_granted += 1;
        for (place, taken) in account.taken[..asked.taken].iter().enumerate() {
            let bytes = truths.hosts.meaning(run.side, taken.number);
            let is_counted = |bytes: &&Meaning| account.is_counted(run, taken.instance, bytes, truths);
            let resent = bytes.filter(|bytes| !truths.hosts.is_over(bytes)).filter(is_counted);
            if resent.is_none() && asked.gone.contains(&taken.block) {
                continue;
            }
            let covered = level == Level::OnWire && account.stands(taken.block, level);
            let covered = covered || bytes.is_some_and(|bytes| account.is_sent_again(level, bytes, truths));
            assert!(
                covered || truths.model.is_delivered(run.side, taken.number),
                "barrier {id} of {run:?} is answered {level:?}, but {taken:?}, {place}, is not: {:?} {bytes:?} {:?} gone {:?}",
                account.blocks.get(&taken.block),
                taken.instance.and_then(|it| account.told.get(&it)),
                asked.gone,
            );
        }
        // Of what was dropped TCP sends its bytes again.
        for &(number, instance) in &account.dropped[..asked.dropped] {
            let bytes = truths.hosts.meaning(run.side, number).filter(|bytes| !truths.hosts.is_over(bytes));
            // Of a flow that is not known, though its bytes were read, nothing is known to be missing.
            let is_counted = |bytes: &&Meaning| instance.is_none() || account.is_counted(run, instance, bytes, truths);
            let Some(bytes) = bytes.filter(is_counted) else { continue };
            assert!(
                account.is_sent_again(level, bytes, truths),
                "barrier {id} of {run:?} is answered {level:?}, but packet {number} was dropped and not sent again: {bytes:?}"
            );
        }
    }

    /// At the end of all. `last` are the runs that saw it.
    pub fn check(&mut self, last: [Run; 2], truths: Truths<'_>) {
        let verdicts = truths.model.verdicts(last, truths.scenario);
        let outcome = &mut self.outcome;
        for (&run, account) in &self.accounts {
            for (&id, block) in account.blocks.iter().filter(|(_, block)| block.claimed >= Some(Level::OnWire)) {
                let verdict = verdicts[&(run, id)];
                match verdict {
                    Verdict::Whole => outcome.kept += 1,
                    Verdict::Rebuilt => outcome.rebuilt += 1,
                    Verdict::TooManyLost | Verdict::NotTold => outcome.excused_lost += 1,
                    Verdict::TooLate => outcome.excused_late += 1,
                    Verdict::ReceiverRestarted => outcome.excused_restart += 1,
                    Verdict::Broken => panic!("{id:?} of {run:?} was called protected and did not arrive: {block:?}"),
                }
                let told = block.violated || !matches!(verdict, Verdict::TooManyLost | Verdict::TooLate);
                assert!(told, "the loss of {id:?} of {run:?} was never told: {verdict:?}, {block:?}");
            }
            for flow in account.told.values().filter(|flow| flow.position(Level::OnWire).bytes > 0) {
                let excused = |taken: &Taken| {
                    !matches!(verdicts.get(&(run, taken.block)), None | Some(Verdict::Whole | Verdict::Rebuilt))
                };
                let strict = account.is_covered(run, flow, Level::OnWire, truths, |_| false);
                outcome.positions_kept += usize::from(strict);
                outcome.positions_excused += usize::from(!strict);
                assert!(
                    strict || account.is_covered(run, flow, Level::OnWire, truths, excused),
                    "{run:?} called this protected, and it did not arrive: {flow:?}"
                );
            }
            // The hosts have stopped; TCP would have sent again what was lost.
            let lossless = account.blocks.keys().all(|&id| {
                let verdict = verdicts.get(&(run, id)).copied();
                verdict.is_none_or(|verdict| matches!(verdict, Verdict::Whole | Verdict::Rebuilt))
            });
            let undisturbed = last.iter().all(|run| run.restarts == 0) && lossless && account.dropped.is_empty();
            if undisturbed && truths.scenario.sides[run.side.index()].host.has_room() {
                assert!(account.barriers.is_empty(), "nobody answered {:?} of {run:?}", account.barriers);
            }
        }
    }
}

impl Account {
    /// The segment begins where the flow does or later: what comes before the first byte seen belongs to nobody.
    fn is_counted(&self, run: Run, instance: Option<u64>, meaning: &Meaning, truths: Truths<'_>) -> bool {
        let Some(instance) = instance else { return false };
        let Some(flow) = self.told.get(&instance) else { return true };
        let ports = [flow.key.source_port, flow.key.destination_port];
        let base = flow.origin_sequence.unwrap_or_default();
        let found = truths.hosts.find(run.side, flow.key.source.is_ipv4(), ports, base);
        found.is_none_or(|(direction, offset)| direction != meaning.bytes().0 || offset <= meaning.bytes().1)
    }

    fn stands(&self, block: BlockId, level: Level) -> bool {
        self.blocks.get(&block).is_some_and(|block| block.stands(level))
    }

    fn check_position(&self, run: Run, flow: &FlowState, level: Level, truths: Truths<'_>) {
        let stands = |taken: &Taken| level < Level::Decoded && self.stands(taken.block, level);
        assert!(
            self.is_covered(run, flow, level, truths, stands),
            "{run:?} says what has no evidence: {level:?} {flow:?}"
        );
    }

    /// The bytes of a segment are at the other end, or in other packets that are as good as there.
    fn is_sent_again(&self, level: Level, bytes: &Meaning, truths: Truths<'_>) -> bool {
        let (direction, start, end) = bytes.bytes();
        let mut spans = truths.hosts.arrived(direction).clone();
        spans.add(0, start);
        for &place in self.directions.get(&direction).into_iter().flatten() {
            let taken = &self.taken[place];
            if level == Level::OnWire && self.stands(taken.block, level) {
                let meaning = truths.hosts.meaning(direction.from, taken.number).expect("it has a direction");
                let (_, start, end) = meaning.bytes();
                spans.add(start, end);
            }
        }
        spans.has_all_before(end)
    }

    /// Everything before the position is at the other end, or in a packet that is as good as there.
    fn is_covered(
        &self,
        run: Run,
        flow: &FlowState,
        level: Level,
        truths: Truths<'_>,
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
                if !good(taken) && !truths.model.is_delivered(run.side, taken.number) {
                    return false;
                }
                let (more, len) = taken.datagrams.expect("only these have an instance here");
                (packets, bytes) = (packets + more, bytes + len);
            }
            return (packets, bytes) == (position.packets, position.bytes);
        };
        assert_eq!(position.sequence, base.wrapping_add(position.bytes as u32), "{flow:?}");
        let key = flow.key;
        let found = truths.hosts.find(run.side, key.source.is_ipv4(), [key.source_port, key.destination_port], base);
        let (direction, offset) = found.unwrap_or_else(|| panic!("nobody has sent this: {flow:?}"));
        let mut spans = truths.hosts.arrived(direction).clone();
        for &place in self.directions.get(&direction).into_iter().flatten() {
            let taken = &self.taken[place];
            if good(taken) {
                let meaning = truths.hosts.meaning(run.side, taken.number).expect("it has a direction");
                let (_, start, end) = meaning.bytes();
                spans.add(start, end);
            }
        }
        spans.has_all_before(offset + position.bytes as u32)
    }
}
