//! Questions whether everything read from the TUN so far is protected, until they can be answered.
//!
//! A barrier remembers where each profile's blocks ended when it was asked for, nothing of what is in them.

use std::collections::VecDeque;

use super::ledger::Ledger;
use crate::flow::Level;
use crate::wire::payload_id::BlockId;

/// Barriers that may wait; beyond, they fail at once.
const WAITING_MAX: usize = 256;

#[derive(Debug)]
struct Barrier {
    id: u64,
    /// The first block of each profile that is not asked about.
    ends: Vec<BlockId>,
    /// Nothing was ever read for this peer when it was asked.
    is_empty: bool,
}

/// The barriers of one lane toward one peer.
#[derive(Debug, Default)]
pub(super) struct Barriers(VecDeque<Barrier>);

impl Barriers {
    /// Asks; false if too many wait.
    pub fn push(&mut self, id: u64, ledger: &Ledger) -> bool {
        if self.0.len() >= WAITING_MAX {
            return false;
        }
        self.0.push_back(Barrier { id, ends: ledger.ends().collect(), is_empty: !ledger.has_begun() });
        true
    }

    /// `block` will never be protected: whoever asked about it is answered no. Calls `fail` with each.
    pub fn on_void(&mut self, block: BlockId, mut fail: impl FnMut(u64)) {
        self.0.retain(|barrier| {
            let asked = barrier.ends.iter().any(|end| end.profile == block.profile && end.sbn > block.sbn);
            if asked {
                fail(barrier.id);
            }
            !asked
        });
    }

    /// All that wait are answered no.
    pub fn fail_all(&mut self, fail: impl FnMut(u64)) {
        self.0.drain(..).map(|barrier| barrier.id).for_each(fail);
    }

    /// Answers those of which everything is protected by now. `made_good` tells how far bytes have come that were in blocks
    /// that had failed before; while some are still to be sent again nothing is answered.
    ///
    /// One asked before anything was read is answered [`Level::Acked`], which nothing read can be: whoever asked several
    /// peers sees that it was about nothing here.
    pub fn settle(
        &mut self,
        ledger: &Ledger,
        made_good: impl FnOnce() -> Option<Level>,
        mut answer: impl FnMut(u64, Level),
    ) {
        if self.0.is_empty() {
            return;
        }
        let Some(made_good) = made_good() else { return };
        // Each asks for all that those before it ask for: one that waits is waited for by all behind it.
        while let Some(barrier) = self.0.front() {
            let mut decoded = made_good >= Level::Decoded && !ledger.has_void_claims();
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
