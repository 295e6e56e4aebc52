//! Forward erasure correction: Reed-Solomon over symbols, blocks, and the mathematics of loss.

pub mod code;
mod locator;
pub mod plan;
mod positions;
pub mod residual;
mod transform;
