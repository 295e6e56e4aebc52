//! Forward erasure correction: Reed-Solomon over symbols, blocks, and the mathematics of loss.

pub mod code;
pub mod received_block;
pub mod source_block;
