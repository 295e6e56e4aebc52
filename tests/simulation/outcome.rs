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
        self.turns += other.turns;
    }
}
