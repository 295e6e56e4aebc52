//! Forward erasure correction: Reed-Solomon over symbols, blocks, and the mathematics of loss.
//!
//! [`source_block`] is a block being built from packets, [`received_block`] a block being filled from datagrams.
//! [`code`] computes symbols between the two. [`plan`] gives the number of repair symbols of a block, and [`residual`]
//! the chance that the block is lost then; [`gilbert_elliott`] is that chance on a link that loses in bursts, [`block_failures`]
//! computes it for every length at once, and [`burst`] is the interruption that a block survives with certainty. Nothing here sends or seals.
//!
//! Start with [`source_block`]: its diagram is the layout of both blocks. `transform`, `engine`, `gfni`, `positions` and `locator`
//! are internals of the code.

pub mod beta;
pub mod block_failures;
pub mod burst;
pub mod code;
mod engine;
#[cfg(target_arch = "x86_64")]
mod gfni;
pub mod gilbert_elliott;
pub mod layout;
mod locator;
pub mod plan;
mod positions;
pub mod received_block;
pub mod residual;
pub mod source_block;
mod transform;
