//! Ack gates over the loopback, with an appliance that says what each test wants and a protocol made for them.
//!
//! [`promises`]: what is acknowledged, and when. [`arrivals`]: who has said nothing. [`bytes`]: what passes, and how much
//! waits. [`secure`]: TLS that ends at the gate. [`command`]: the program itself.
#![allow(clippy::unwrap_used)]

mod arrivals;
mod bytes;
mod command;
mod protected;
mod secure;
mod testbed;
