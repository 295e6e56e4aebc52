//! What happens to a block on its way out of this host, for whoever has to know when it is protected.
//!
//! Told only toward peers for which protection is claimed, in order. Nothing is decided here.

use crate::wire::payload_id::BlockId;

/// A step of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockEvent {
    /// It is complete: all its symbols wait to be sent or were sent.
    Closed {
        /// The block.
        block: BlockId,
        /// k, its source symbols.
        source_symbols: u16,
        /// m, its repair symbols.
        repair_symbols: u16,
    },
    /// The kernel took its last datagram, and every one before it unless [`Unsendable`](Self::Unsendable) said otherwise.
    Sent {
        /// The block.
        block: BlockId,
        /// With which of all sends, counted from 0.
        last: u64,
        /// That send was of its last datagram alone.
        alone: bool,
    },
    /// It ended before it was complete, and nothing more of it is sent.
    Abandoned {
        /// The block.
        block: BlockId,
    },
    /// A datagram could not be sent: no block that was not sent as a whole before this can be whole on the link.
    Unsendable,
    /// Datagrams go to another address from now on, perhaps by another device: no departure after this shows that what was
    /// begun before has left, and no proof of the round trip from before is one of the new path.
    Moved,
    /// The peer was started anew, or is heard for the first time: it has no block that was sent before.
    /// [`Void`](Self::Void) follows for each profile.
    PeerRestarted,
    /// The blocks of the profile before this one were not sent to the present run of the peer.
    Void {
        /// The first that is, or will be.
        below: BlockId,
    },
}
