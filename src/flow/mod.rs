//! Which bytes of which flow are protected: maps TCP sequence numbers and decided blocks to contiguous positions.
//!
//! ```text
//!   on_sent ──▶ key ─▶ instance: bytes [a, b) ─▶ blocks: block 91 holds [a, b) of flow f
//!   on_block_protected(91, level) ──▶ block_outcome ─▶ coverage of f at that level ─▶ poll_event: protected up to b
//!   on_received ──▶ the peer's acknowledgement raises f, too
//! ```
//!
//! One table serves one lane and one peer, whose blocks share one numbering. The module reads no clock and no socket
//! and knows nothing of link health. It never decides that a block is protected: the caller does, and the table derives
//! the positions. In doubt a position stays where it is: a false "protected" is lost data, a missing one costs a round
//! trip.
//!
//! Start with `table`, then read `block_outcome` (decided blocks) and `instance` (one connection and its positions).
//! [`arrivals`] and [`retained`] serve the receiving end: what was delivered here, for drain and for the last hop.

pub mod arrivals;
mod block_outcome;
mod blocks;
mod cookies;
mod coverage;
mod events;
mod idle_order;
mod index;
mod instance;
mod key;
mod plausible;
pub mod retained;
mod sequence;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub use block_outcome::{BlockRange, Violation};
pub use cookies::TooManyCookies;
pub use events::Event;
pub use key::FlowKey;
pub use state::{Counters, FlowId, FlowState, InstanceCounter, Limits, Position};
pub use table::FlowTable;

pub use crate::notify::message::{GoneReason, Level, Origin};
pub use crate::wire::payload_id::BlockId;
