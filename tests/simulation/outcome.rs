//! Counts over runs, so that a run in which everything was lost does not count as a success.

/// The counts of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Packets that a forwarder took.
    pub taken: usize,
    /// Packets delivered.
    pub delivered: usize,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Blocks in which symbols were rebuilt.
    pub recovered_blocks: u64,
    /// Blocks given up.
    pub unrecoverable_blocks: u64,
    /// Blocks reported to their sender as decoded.
    pub reported_decoded: usize,
    /// Blocks reported to their sender as lost.
    pub reported_lost: usize,
    /// Of them, those for which only the end was never announced: the sender can see that they are whole.
    pub whole_although_lost: usize,
    /// Profiles whose last block did not arrive at all, with nothing sent after it.
    pub silent_tails: usize,
    /// Blocks claimed as protected.
    pub claimed_blocks: usize,
    /// Of them: with a late part.
    pub late_blocks: usize,
    /// Positions reported at level early alone.
    pub early_positions: usize,
    /// Of them: arrived without losing a datagram.
    pub kept: usize,
    /// Of them: arrived although datagrams were lost, at most as many as there were repair symbols.
    pub rebuilt: usize,
    /// Of them: lost more datagrams than they had repair symbols.
    pub excused_lost: usize,
    /// Of them: came later than the receiver waits.
    pub excused_late: usize,
    /// Of them: under way when the receiver was restarted.
    pub excused_restart: usize,
    /// Violations reported.
    pub violations: usize,
    /// Positions reported.
    pub positions_reported: usize,
    /// Final positions of flows whose claimed bytes all arrived.
    pub positions_kept: usize,
    /// Final positions of flows with bytes in an excused block.
    pub positions_excused: usize,
    /// Barriers answered with a level.
    pub barriers_granted: usize,
    /// Barriers that failed.
    pub barriers_denied: usize,
    /// Turns of both sides.
    pub turns: usize,
}

impl Outcome {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.taken += other.taken;
        self.delivered += other.delivered;
        self.datagrams += other.datagrams;
        self.recovered_blocks += other.recovered_blocks;
        self.unrecoverable_blocks += other.unrecoverable_blocks;
        self.reported_decoded += other.reported_decoded;
        self.reported_lost += other.reported_lost;
        self.whole_although_lost += other.whole_although_lost;
        self.silent_tails += other.silent_tails;
        self.claimed_blocks += other.claimed_blocks;
        self.late_blocks += other.late_blocks;
        self.early_positions += other.early_positions;
        self.kept += other.kept;
        self.rebuilt += other.rebuilt;
        self.excused_lost += other.excused_lost;
        self.excused_late += other.excused_late;
        self.excused_restart += other.excused_restart;
        self.violations += other.violations;
        self.positions_reported += other.positions_reported;
        self.positions_kept += other.positions_kept;
        self.positions_excused += other.positions_excused;
        self.barriers_granted += other.barriers_granted;
        self.barriers_denied += other.barriers_denied;
        self.turns += other.turns;
    }
}
