//! The memory that one peer may use on one lane, all its profiles together.
//!
//! Each profile may use what the others leave. Before all is used, the profile that holds most gives up its oldest
//! blocks, so that a small profile is not without room for long. How a profile counts its memory is in
//! [`super::super::receiver`].

use std::time::Instant;

use super::Peer;
use crate::fec::code::Code;
use crate::tunnel::drop_reason::DropReason;
use crate::tunnel::receiver::{Ingress, MEMORY_HIGH, MEMORY_MAX, Receiver};

/// The least that is freed when something has found no room.
const RELIEF: usize = MEMORY_MAX - MEMORY_HIGH;

impl Peer {
    /// Bytes held for incomplete blocks, for spare ones, and for the lists of them.
    pub fn memory(&self) -> usize {
        self.held
    }

    /// Runs `act` for the receiver of a profile, within the peer's memory limit.
    pub(super) fn with_ingress(
        &mut self,
        profile: u8,
        code: &mut Code,
        now: Instant,
        act: impl FnOnce(&mut Receiver, &mut Ingress<'_>) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let index = usize::from(profile);
        if self.receivers.len() <= index {
            self.receivers.resize_with(index + 1, || None);
        }
        if self.receivers[index].is_none() {
            // Without a session the symbol size is not known.
            let session = self.sessions.current().ok_or(DropReason::UnknownSession)?;
            let symbol_size = usize::from(session.remote().symbol_size);
            let mut receiver = Box::new(Receiver::new(profile, symbol_size, self.delivery));
            receiver.set_late_spread(self.reporting.peer_late_spread().unwrap_or_default());
            self.receivers[index] = Some(receiver);
        }
        let receiver = self.receivers[index].as_mut().expect("it was made above if it was not there");
        let others = self.held - receiver.memory();
        receiver.set_memory_max(MEMORY_MAX.saturating_sub(others));
        let outcome = act(receiver, &mut Ingress { code, reception: &mut self.reception, now });
        self.held = others + receiver.memory();
        let excess = self.held.saturating_sub(MEMORY_HIGH);
        if excess > 0 || outcome == Err(DropReason::NoRoom) {
            self.relieve(excess.max(RELIEF));
        }
        outcome
    }

    fn relieve(&mut self, bytes: usize) {
        let Some(largest) = self.receivers.iter_mut().flatten().max_by_key(|receiver| receiver.memory()) else {
            return;
        };
        self.held -= largest.memory();
        largest.relieve(bytes);
        self.held += largest.memory();
    }
}
