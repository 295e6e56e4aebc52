//! Ack gates.
//!
//! Over the loopback, with an appliance that reports what each test wants, and a protocol made for these tests:
//! [`protected`]: what is acknowledged, and when; [`arrivals`]: callers that have sent nothing; [`bytes`]: which bytes
//! pass, and how many wait; [`secure`]: TLS that ends at the gate; [`reload`]: settings that change while a gate runs;
//! [`metrics`]: the metrics port; [`command`] and [`reload_command`]: the program itself.
//! [`postgres_dialect`] drives that dialect directly with bytes.
//!
//! With real servers: [`postgres`], [`redis`] and [`mariadb`]. If a server is missing, the test fails, and its message
//! names the command that installs the server.
#![allow(clippy::unwrap_used)]

#[path = "../appliance/mod.rs"]
mod appliance;
mod arrivals;
mod bytes;
mod command;
mod mariadb;
mod metrics;
mod postgres;
mod postgres_dialect;
mod protected;
mod redis;
mod reload;
mod reload_command;
mod secure;
mod servers;
mod testbed;
