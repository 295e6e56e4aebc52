//! The emulated WAN: delay, loss, bursts, reordering, duplication, corruption, rate, MTU, `cut` and `blackhole`.
//!
//! The kernel's netem is often missing, and it drops whole trains where a wire drops datagrams. Here [`link`] is a pure
//! state machine for one direction, [`emulator`] the process that drives two of them between two TUN devices, and
//! [`control`] changes them while they run. Not a model of any real network: it does what it is told and counts it.
//!
//! Start with [`link`]; [`impairment`] has the words that set it.

pub mod control;
pub mod counters;
pub mod direction;
pub mod draw;
pub mod emulator;
pub mod impairment;
pub mod link;
pub mod train;
