//! The emulated WAN: delay, loss, bursts, reordering, duplication, corruption, rate, MTU, `cut` and `blackhole`.
//!
//! The kernel's netem is often missing, and it drops whole trains where a wire drops datagrams. Here [`link`] is a pure
//! state machine for one direction, [`emulator`] is the process that runs two of them between two TUN devices, and
//! [`control`] changes them at run time. It is not a model of any real network: it applies its settings and counts what
//! it did.
//!
//! Start with [`link`]; [`impairment`] defines its settings.

pub mod control;
pub mod counters;
pub mod direction;
pub mod draw;
pub mod emulator;
pub mod impairment;
pub mod interruptions;
pub mod link;
pub mod loss;
pub mod loss_trace;
pub mod train;
