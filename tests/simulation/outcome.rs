//! What runs came to, so that a storm that lost everything is not taken for a success.

/// What a run came to.
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
    /// Blocks that their sender was told to be decoded.
    pub told_decoded: usize,
    /// Blocks that their sender was told to be lost.
    pub told_lost: usize,
    /// Of them, those whose end alone was never told: their sender can see that they are whole.
    pub whole_although_lost: usize,
    /// Profiles of whose last block nothing arrived, with nothing sent after it.
    pub silent_tails: usize,
    /// Blocks called protected.
    pub claimed_blocks: usize,
    /// Of them: arrived without losing a datagram.
    pub kept: usize,
    /// Arrived although datagrams were lost, at most as many as there were repair symbols.
    pub rebuilt: usize,
    /// Lost more datagrams than they had repair symbols.
    pub excused_lost: usize,
    /// Came later than the receiver waits.
    pub excused_late: usize,
    /// Under way when the receiver was restarted.
    pub excused_restart: usize,
    /// Violations told.
    pub violations: usize,
    /// Positions told.
    pub positions_told: usize,
    /// Last positions of flows of which everything arrived.
    pub positions_kept: usize,
    /// Last positions of flows of which something is in a block that is excused.
    pub positions_excused: usize,
    /// Barriers answered yes.
    pub barriers_granted: usize,
    /// Barriers answered no.
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
        self.told_decoded += other.told_decoded;
        self.told_lost += other.told_lost;
        self.whole_although_lost += other.whole_although_lost;
        self.silent_tails += other.silent_tails;
        self.claimed_blocks += other.claimed_blocks;
        self.kept += other.kept;
        self.rebuilt += other.rebuilt;
        self.excused_lost += other.excused_lost;
        self.excused_late += other.excused_late;
        self.excused_restart += other.excused_restart;
        self.violations += other.violations;
        self.positions_told += other.positions_told;
        self.positions_kept += other.positions_kept;
        self.positions_excused += other.positions_excused;
        self.barriers_granted += other.barriers_granted;
        self.barriers_denied += other.barriers_denied;
        self.turns += other.turns;
    }
}
