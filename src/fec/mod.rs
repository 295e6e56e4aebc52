//! Forward erasure correction: Reed-Solomon over symbols, blocks, and the mathematics of loss.
