//! The steps of a block on its way out of this host, from which its protection is decided.
//!
//! Events are made only toward peers for which protection is claimed, in order. Nothing is decided here.

use std::time::Duration;

use crate::wire::payload_id::BlockId;

/// A part of a block whose datagrams leave together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The source symbols and the repair symbols that leave right behind them.
    Early,
    /// The repair symbols that leave later, so that an interruption of the link cannot take both parts.
    Late,
}

/// A step of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockEvent {
    /// It is complete: all its symbols wait to be sent or were sent.
    Closed {
        /// The block.
        block: BlockId,
        /// k, its source symbols.
        source_symbols: u16,
        /// m, its repair symbols, late ones included.
        repair_symbols: u16,
        /// A late part follows.
        has_late: bool,
        /// It gets all that its profile promises; otherwise it is protected early at most.
        keeps_promise: bool,
        /// The interruption of the link that it survives if it does. It is that of the profile under which the block closed,
        /// whatever the profile is when the block has left.
        survives: Duration,
    },
    /// The kernel took the last datagram of a part, and all datagrams of it before that, unless an
    /// [`Unsendable`](Self::Unsendable) came before. Only for blocks with repair symbols.
    Sent {
        /// The block.
        block: BlockId,
        /// The part.
        part: Part,
        /// The number of the send that took it; sends to a peer are counted from 0.
        last: u64,
        /// That send took only this datagram.
        alone: bool,
    },
    /// The late part does not leave, or too late: the promise is not kept.
    PromiseBroken {
        /// The block.
        block: BlockId,
    },
    /// It was ended before it was complete; nothing more of it is sent.
    Abandoned {
        /// The block.
        block: BlockId,
    },
    /// A datagram could not be sent. A block that was not sent completely before this event may be incomplete on the
    /// link.
    Unsendable,
    /// Datagrams take another path from now on, perhaps through another device. A departure after this does not show
    /// that a block begun before has left, and a proof of the round trip from before does not hold for the new path.
    Moved,
    /// The peer was restarted, or this is its first session: it has no block that was sent before. [`Void`](Self::Void)
    /// follows for each profile.
    PeerRestarted,
    /// Blocks of this profile below `below` were not sent to the present run of the peer.
    Void {
        /// The first block that was or will be sent to it.
        below: BlockId,
    },
}
