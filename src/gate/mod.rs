//! Ack gates: proxies at the primary site that acknowledge what is protected, in the words of the replication protocol.
//!
//! * [`dialect`] what a replication protocol is to the gate: bytes in, bytes and marks out, no I/O and no clock.
//!
//! A gate never decides what is protected: the appliance tells it, over `notify`.

pub mod dialect;
