//! The tunnel between two appliances as pure state machines: no I/O, no clock, no locks.

pub mod policy;
pub mod prefixes;
