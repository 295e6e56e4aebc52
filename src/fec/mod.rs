//! Forward erasure correction: Reed-Solomon over symbols, blocks, and the mathematics of loss.
//!
//! [`source_block`] is a block being built from packets, [`received_block`] one being filled from datagrams, [`code`]
//! computes symbols between the two, [`plan`] says how many repair symbols a block deserves and [`residual`] how safe it is
//! then. Nothing here sends, seals, or knows time.
//!
//! Start with [`source_block`]: its picture is the layout of both. `transform`, `positions` and `locator` are the inside of
//! the code.

pub mod code;
pub mod layout;
mod locator;
pub mod plan;
mod positions;
pub mod received_block;
pub mod residual;
pub mod source_block;
mod transform;
