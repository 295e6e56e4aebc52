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
        self.turns += other.turns;
    }
}
