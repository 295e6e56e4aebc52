//! The tunnel between two appliances as pure state machines: no I/O, no clock, no locks.
//!
//! ```text
//!   Forwarder ─▶ Peer, one for each ─┬─▶ Sessions            keys, replay windows
//!   one a lane                       ├─▶ Sender   ─▶ Outbox  one sender a profile: blocks, repair; then trains
//!                                    ├─▶ Receiver            one a profile of the peer: blocks being filled, order
//!                                    └─▶ Reporting           when to report, the proof of the round trip
//!   Handshakes, one a node, on the control thread: keys for all lanes
//! ```
//!
//! Start with [`forwarder`], then [`peer`], [`sender`] and [`receiver`]. [`Peer::reserve`](peer::Peer::reserve) and
//! [`Reservation::commit`](reservation::Reservation::commit) put a packet into a block; a receiver takes a symbol with
//! an [`Ingress`](receiver::Ingress). Decided elsewhere: what is protected ([`crate::protect`]), when to read, send and
//! sleep ([`crate::appliance`]).
//!
//! # How to drive a `Forwarder`
//!
//! Its methods are of four kinds. No input fails: bad input is counted in [`drops`](forwarder::Forwarder::drops).
//!
//! * **Inputs.** [`handle_packet`](forwarder::Forwarder::handle_packet) takes the packet that was read into
//!   [`room`](forwarder::Forwarder::room), [`handle_arrival`](forwarder::Forwarder::handle_arrival) a datagram from
//!   UDP, with whether the path marked it, [`install`](forwarder::Forwarder::install) the keys of a handshake.
//!   [`handle_idle`](forwarder::Forwarder::handle_idle) reports that the TUN is empty,
//!   [`flush`](forwarder::Forwarder::flush) closes the open blocks. `on_sent`, `on_unsendable`, `on_unroutable` and
//!   `on_refused` report what became of an output.
//! * **Outputs.** Poll each until it returns `None`: [`poll_delivery`](forwarder::Forwarder::poll_delivery),
//!   [`poll_transmit`](forwarder::Forwarder::poll_transmit),
//!   [`poll_block_event`](forwarder::Forwarder::poll_block_event),
//!   [`poll_feedback`](forwarder::Forwarder::poll_feedback), `poll_confirmed`, `poll_request`, `poll_train_news`.
//!   `poll_stray` returns only the last one.
//! * **Timers.** [`poll_timeout`](forwarder::Forwarder::poll_timeout) returns when to call
//!   [`handle_timeout`](forwarder::Forwarder::handle_timeout) and poll all outputs. Call it last in a turn.
//! * **Queries.** `wants_packets`, `has_full_train`, `hold`, `held_until`, `is_own`, `owner`, `peers`, `drops`,
//!   `memory`. They change nothing.
//!
//! The order of a turn, as in [`crate::appliance::lane`]:
//!
//! 1. `install` the keys that the control thread has sent.
//! 2. While `wants_packets`: read into `room`, `handle_packet`; while `has_full_train`, transmit
//!    [`Trains::Full`](outbox::Trains::Full). When the TUN is empty: `handle_idle`.
//! 3. `handle_timeout`, then transmit [`Trains::All`](outbox::Trains::All). For each [`Transmit`](outbox::Transmit)
//!    that `poll_transmit` returns, call `on_sent` with the bytes that the socket took, 0 if none. After an error also
//!    call `on_unsendable`, for the datagram at the front of what is left. If a send works only without our address,
//!    call `on_unroutable` before `on_sent`. Until bytes are taken or skipped, `poll_transmit` returns the same train
//!    again.
//! 4. For each train received: `handle_datagram` for each of its datagrams, then `poll_delivery`. A delivered packet is
//!    valid until the next call. Then `on_refused`, with the number of packets that the TUN did not take.
//! 5. `poll_block_event`, then `poll_feedback`: a report may decide the fate of a block whose events must be known
//!    first.
//! 6. `poll_confirmed`, `poll_request`, `poll_train_news`, `poll_stray`; then `poll_timeout`.
//!
//! What is not drained waits. Trains accumulate until `wants_packets` is false, or until packets for a path with a rate
//! are dropped. ADUs accumulate until the peer's memory is full; then symbols without room are dropped. Block events
//! accumulate without bound; they are made only where protection is claimed. Feedback is merged: no loss is forgotten,
//! but ranges may become wider. Without `poll_request` no new session is requested, and after 180 s the present one
//! ends.

pub mod block_event;
mod codel;
mod curve;
mod datagram_loss;
pub mod drop_reason;
pub mod endpoint;
pub mod estimate;
pub mod feedback;
pub mod forwarder;
pub mod handshake;
pub mod hello;
pub mod keys;
pub mod late_repair;
pub mod lone_packets;
pub mod lost_blocks;
pub mod mac;
pub mod outbox;
pub mod outer_class;
mod pacer;
pub mod peer;
pub mod policy;
pub mod prefixes;
pub mod receive_wait;
pub mod receiver;
pub mod replay;
pub mod reporting;
pub mod reservation;
mod round_trips;
pub mod seal;
pub mod sender;
pub mod sent;
pub mod session;
pub mod train_watch;
mod unreported_losses;

/// A configured peer: its index in the configuration's list of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u16);
