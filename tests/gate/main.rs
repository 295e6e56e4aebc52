//! Ack gates.
//!
//! Over the loopback, with an appliance that says what each test wants and a protocol made for them: [`protected`] what is
//! acknowledged, and when; [`arrivals`] who has said nothing; [`bytes`] what passes, and how much waits; [`secure`] TLS that
//! ends at the gate; [`command`] the program itself. [`postgres_dialect`] drives that dialect by bytes.
//!
//! With real servers: [`postgres`], [`redis`] and [`mariadb`]. What is missing fails, and says what installs it.
#![allow(clippy::unwrap_used)]

mod arrivals;
mod bytes;
mod command;
mod mariadb;
mod postgres;
mod postgres_dialect;
mod protected;
mod redis;
mod secure;
mod servers;
mod testbed;
