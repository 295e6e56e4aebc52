//! Barriers that wait: each asks whether everything read from the TUN so far is protected.
//!
//! A barrier records where each profile's blocks ended when it was requested, but not what they hold.

use std::collections::VecDeque;

use super::ledger::Ledger;
use crate::flow::Level;
use crate::wire::payload_id::BlockId;

/// Barriers that may wait; beyond, a new one fails at once.
const WAITING_MAX: usize = 256;

#[derive(Debug)]
struct Barrier {
    id: u64,
    /// The end of each profile: its first block that the barrier does not cover.
    ends: Vec<BlockId>,
    /// No packet had been read for this peer when the barrier was requested.
    is_empty: bool,
}

/// The barriers of one lane toward one peer.
#[derive(Debug, Default)]
pub(super) struct Barriers(VecDeque<Barrier>);

impl Barriers {
    /// Adds a barrier; returns false if too many wait.
    pub fn push(&mut self, id: u64, ledger: &Ledger) -> bool {
        if self.0.len() >= WAITING_MAX {
            return false;
        }
        self.0.push_back(Barrier { id, ends: ledger.ends().collect(), is_empty: !ledger.has_begun() });
        true
    }

    /// `block` will never be protected: calls `fail` for each barrier that covers it.
    pub fn on_void(&mut self, block: BlockId, mut fail: impl FnMut(u64)) {
        self.0.retain(|barrier| {
            let asked = barrier.ends.iter().any(|end| end.profile == block.profile && end.sbn > block.sbn);
            if asked {
                fail(barrier.id);
            }
            !asked
        });
    }

    /// Fails all waiting barriers.
    pub fn fail_all(&mut self, fail: impl FnMut(u64)) {
        self.0.drain(..).map(|barrier| barrier.id).for_each(fail);
    }

    /// Answers the barriers whose blocks are all protected. `repaired_level` returns the level that the bytes of failed
    /// blocks have reached since; while some are not sent again, no barrier is answered.
    ///
    /// A barrier requested before any packet was read is answered with [`Level::Acked`], which no block can reach. A
    /// client that asked several peers sees from it that this peer had nothing to protect.
    pub fn settle(
        &mut self,
        ledger: &Ledger,
        repaired_level: impl FnOnce() -> Option<Level>,
        mut answer: impl FnMut(u64, Level),
    ) {
        if self.0.is_empty() {
            return;
        }
        let Some(repaired_level) = repaired_level() else { return };
        // Each barrier covers everything that the earlier ones cover, so the later ones wait for the first.
        while let Some(barrier) = self.0.front() {
            let mut decoded = repaired_level >= Level::Decoded && !ledger.has_void_claims();
            for end in &barrier.ends {
                match ledger.is_covered(*end) {
                    Some(with_peer) => decoded &= with_peer,
                    None => return,
                }
            }
            answer(
                barrier.id,
                match decoded {
                    true if barrier.is_empty => Level::Acked,
                    true => Level::Decoded,
                    false => Level::OnWire,
                },
            );
            self.0.pop_front();
        }
    }
}
