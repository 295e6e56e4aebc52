//! What a peer may have us hold on a lane, all its profiles together.
//!
//! Each profile may take what the others leave. Before everything is taken the profile that holds most gives its oldest blocks
//! up, so that none that holds little goes without for long. How a profile counts is in [`super::super::inbound`].

use super::Peer;
use crate::tunnel::drop_reason::DropReason;
use crate::tunnel::inbound::{Inbound, MEMORY_HIGH, MEMORY_MAX};
use crate::wire::report::Reception;

/// What is given back at least where something has found no room.
const RELIEF: usize = MEMORY_MAX - MEMORY_HIGH;

impl Peer {
    /// Bytes held for blocks that are not complete, for the next ones, and for lists of them.
    pub fn memory(&self) -> usize {
        self.held
    }

    /// Lets the blocks of the peer's profile take something in, within what may be held.
    pub(super) fn with_inbound(
        &mut self,
        profile: u8,
        act: impl FnOnce(&mut Inbound, &mut Reception) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let index = usize::from(profile);
        if self.inbounds.len() <= index {
            self.inbounds.resize_with(index + 1, || None);
        }
        if self.inbounds[index].is_none() {
            // No session tells how long the symbols are.
            let session = self.sessions.current().ok_or(DropReason::UnknownSession)?;
            let symbol_size = usize::from(session.remote().symbol_size);
            self.inbounds[index] = Some(Box::new(Inbound::new(profile, symbol_size, self.delivery)));
        }
        let inbound = self.inbounds[index].as_mut().expect("it was made above if it was not there");
        let others = self.held - inbound.memory();
        inbound.set_memory_max(MEMORY_MAX.saturating_sub(others));
        let outcome = act(inbound, &mut self.reception);
        self.held = others + inbound.memory();
        let excess = self.held.saturating_sub(MEMORY_HIGH);
        if excess > 0 || outcome == Err(DropReason::NoRoom) {
            self.relieve(excess.max(RELIEF));
        }
        outcome
    }

    fn relieve(&mut self, bytes: usize) {
        let Some(largest) = self.inbounds.iter_mut().flatten().max_by_key(|inbound| inbound.memory()) else { return };
        self.held -= largest.memory();
        largest.relieve(bytes);
        self.held += largest.memory();
    }
}
