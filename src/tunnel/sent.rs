//! Counts of what was sent to a peer.

/// Counts of what was sent to a peer since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets and super-packets.
    pub adus: u64,
    /// Bytes in them.
    pub adu_bytes: u64,
    /// Blocks closed.
    pub blocks: u64,
    /// Source symbols sent.
    pub source_symbols: u64,
    /// Repair symbols sent, late ones included.
    pub repair_symbols: u64,
    /// Repair symbols sent late.
    pub late_symbols: u64,
    /// Late repair symbols that were not sent: there was no room, or their block did not leave in time.
    pub late_dropped: u64,
    /// Source and repair symbols of full length. Their datagrams are the longest that we send.
    pub full_symbols: u64,
    /// Datagrams of every kind.
    pub datagrams: u64,
    /// UDP payload bytes in them.
    pub bytes: u64,
    /// Packets and super-packets that were dropped because too much waited for the path's rate.
    pub queue_dropped: u64,
    /// Packets, and first segments of super-packets, that were dropped because the queue for the path's rate stands.
    pub standing_dropped: u64,
    /// Packets and super-packets that were marked for the same reason.
    pub standing_marked: u64,
    /// Repair symbols that were not sent for the same reason.
    pub repair_shed: u64,
    /// Packets, and first segments of super-packets, that were dropped because the code had repaired as many losses of a full
    /// queue on the path.
    pub repaired_dropped: u64,
}

impl Sent {
    /// Adds the counts of another lane.
    pub fn add(&mut self, other: &Self) {
        self.adus += other.adus;
        self.adu_bytes += other.adu_bytes;
        self.blocks += other.blocks;
        self.source_symbols += other.source_symbols;
        self.repair_symbols += other.repair_symbols;
        self.late_symbols += other.late_symbols;
        self.late_dropped += other.late_dropped;
        self.full_symbols += other.full_symbols;
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
        self.queue_dropped += other.queue_dropped;
        self.standing_dropped += other.standing_dropped;
        self.standing_marked += other.standing_marked;
        self.repair_shed += other.repair_shed;
        self.repaired_dropped += other.repaired_dropped;
    }
}
