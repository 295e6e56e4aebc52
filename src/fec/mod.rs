//! Forward erasure correction: Reed-Solomon over symbols, blocks, and the mathematics of loss.

pub mod code;
mod locator;
pub mod plan;
mod positions;
pub mod received_block;
pub mod residual;
pub mod source_block;
mod transform;
