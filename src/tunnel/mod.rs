//! The tunnel between two appliances as pure state machines: no I/O, no clock, no locks.

pub mod drop_reason;
pub mod forwarder;
pub mod inbound;
mod loss;
mod outbox;
mod pacer;
mod peer;
pub mod policy;
pub mod prefixes;
mod reporting;
pub mod sender;
pub mod session;
