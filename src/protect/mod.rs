//! When a block may be claimed as protected, and what voids the claim: the evidence, the link health and the affected
//! flows.
//!
//! ```text
//!   packet ─▶ flow table: whose bytes, in which block
//!   closed ─▶ sent ─▶ timestamp ─┐
//!   report: both ways work ──────┴▶ block protected ─▶ flow table ─▶ notification
//!   report: block lost ─▶ violation ─▶ notification; the link is degraded
//! ```
//!
//! One [`PeerProtection`] serves one lane and one peer. It does no I/O: it requests no timestamps and publishes
//! nothing. In doubt, nothing is claimed: a false "protected" is lost data, a missing one costs a round trip.
//!
//! Start with `peer_protection`: it queries `ledger` and `tx_timestamps` about blocks and `health` about the link.
//! `lane_protection` holds one per peer, and the ids of the timestamps.

mod barrier;
mod evidence;
mod health;
mod lane_protection;
mod ledger;
mod notification;
mod peer_protection;
mod send_lag;
#[cfg(test)]
mod tests;
mod trust;
mod tx_timestamps;

pub use evidence::Evidence;
pub use lane_protection::LaneProtection;
pub use notification::{Counters, Notification, StateTimes};
pub use peer_protection::PeerProtection;
pub use trust::{PROOF_FLOOR, TRUST_MAX};
pub use tx_timestamps::{Stamps, TakenSend};
