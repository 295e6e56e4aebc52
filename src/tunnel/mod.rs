//! The tunnel between two appliances as pure state machines: no I/O, no clock, no locks.
//!
//! ```text
//!   Forwarder ─▶ Peer, one for each ─┬─▶ Sessions            keys, replay windows
//!   one a lane                       ├─▶ Sender   ─▶ Outbox  one sender a profile: blocks, repair; then trains
//!                                    ├─▶ Receiver             one a profile of the peer: blocks being filled, order
//!                                    └─▶ Reporting           when to report, the proof of the round trip
//!   Handshakes, one a node, on the control thread: keys for all lanes
//! ```
//!
//! Start with [`forwarder`], then [`peer`], [`sender`] and [`receiver`]. Decided elsewhere: what is protected
//! ([`crate::protect`]), when to read, send and sleep ([`crate::appliance`]).
//!
//! # How to drive a `Forwarder`
//!
//! Methods are of four kinds. No input fails: what is wrong is counted in [`drops`](forwarder::Forwarder::drops).
//!
//! * **Inputs.** [`handle_packet`](forwarder::Forwarder::handle_packet) takes what was read into
//!   [`room`](forwarder::Forwarder::room), [`handle_datagram`](forwarder::Forwarder::handle_datagram) what came over UDP,
//!   [`install`](forwarder::Forwarder::install) the keys of a handshake. [`handle_idle`](forwarder::Forwarder::handle_idle)
//!   says that the TUN is empty, [`flush`](forwarder::Forwarder::flush) closes the open blocks. `on_sent`, `on_unsendable`,
//!   `on_unroutable` and `on_refused` say what became of an output.
//! * **Outputs**, each to be polled until it gives nothing: [`poll_delivery`](forwarder::Forwarder::poll_delivery),
//!   [`poll_transmit`](forwarder::Forwarder::poll_transmit), [`poll_block_event`](forwarder::Forwarder::poll_block_event),
//!   [`poll_feedback`](forwarder::Forwarder::poll_feedback), `poll_confirmed`, `poll_request`, `poll_train_news`; `poll_stray`
//!   gives the last one.
//! * **Timers.** [`poll_timeout`](forwarder::Forwarder::poll_timeout) says when to call
//!   [`handle_timeout`](forwarder::Forwarder::handle_timeout) and poll all outputs; ask it last in a turn.
//! * **Queries**: `wants_packets`, `has_full_train`, `hold`, `held_until`, `is_own`, `owner`, `peers`, `drops`, `memory`.
//!   They change nothing.
//!
//! The order of a turn, as [`crate::appliance::lane`] keeps it:
//!
//! 1. `install` what the control thread has.
//! 2. While `wants_packets`: `room`, `handle_packet`; while `has_full_train`, transmit
//!    [`Trains::Full`](outbox::Trains::Full). `handle_idle` when the TUN is empty.
//! 3. `handle_timeout`, then transmit [`Trains::All`](outbox::Trains::All). Each [`Transmit`](outbox::Transmit) that
//!    `poll_transmit` gives is answered with `on_sent`, of 0 bytes if the socket took nothing, and after an error with
//!    `on_unsendable` for the datagram at its front. Unanswered, the same train is given again.
//! 4. `handle_datagram` for each datagram of a train that came, then `poll_delivery`. A delivered packet lies in its block
//!    only until the next call.
//! 5. `poll_block_event`, then `poll_feedback`: a report may tell the fate of a block whose steps must be known first.
//! 6. `poll_confirmed`, `poll_request`, `poll_train_news`, `poll_stray`; then `poll_timeout`.
//!
//! What is not drained waits. Trains pile up until `wants_packets` says no, or packets for a path with a rate are dropped.
//! ADUs pile up until the peer's memory is full, and symbols without room are dropped. Block events pile up without bound;
//! they are made only where protection is claimed. What reports told is merged: nothing lost is forgotten, ranges may
//! become wider. Without `poll_request` no new session is asked for, and the present one ends after 180 s.

pub mod block_event;
mod datagram_loss;
pub mod drop_reason;
pub mod endpoint;
pub mod feedback;
pub mod forwarder;
pub mod handshake;
pub mod hello;
pub mod keys;
pub mod lost_blocks;
mod mac;
pub mod outbox;
mod pacer;
pub mod peer;
pub mod policy;
pub mod prefixes;
pub mod receiver;
pub mod replay;
pub mod reporting;
pub mod reservation;
mod round_trips;
pub mod seal;
pub mod sender;
pub mod session;
pub mod train_watch;
mod unreported_losses;

/// A configured peer: its place in the configuration's list of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u16);
