//! Ack gates: proxies at the primary site that acknowledge what is protected, in the words of the replication protocol.
//!
//! * [`dialect`] what a replication protocol is to the gate: bytes in, bytes and marks out, no I/O and no clock;
//!   [`kinds`] which there are, [`tcp`] the one for any protocol, [`postgres`], [`redis`], [`mariadb`];
//! * [`marks`] places in the stream that the primary waits for; [`policy`] what happens when they wait too long,
//!   [`exposure`] what was acknowledged without cover, [`early`] what was with it and [`broken`] was lost nevertheless,
//!   [`returns`] what a mirror comes back without;
//! * [`subscription`] what the appliance says is protected;
//! * [`leg`] a socket and what waits for it, with [`tls`] where it ends here, by the files of [`pem`];
//!   [`connection`] two of them and a dialect;
//! * [`service`] a process of gates; [`proxy`] its loop, [`run_queue`] whom it looks at, [`listener`] a listener of it,
//!   [`arrival`] who has said nothing yet; [`status`] what it tells about itself.
//!
//! A gate never decides what is protected: the appliance tells it, over `notify`.
//!
//! Start with [`dialect`], then [`connection`]; [`tcp`] is the shortest dialect.

pub mod arrival;
pub mod connection;
pub mod dialect;
#[cfg(test)]
mod dialect_tests;
pub mod early;
pub mod exposure;
pub mod kinds;
pub mod leg;
pub mod listener;
pub mod mariadb;
pub mod marks;
pub mod pem;
pub mod policy;
pub mod postgres;
pub mod proxy;
pub mod redis;
pub mod returns;
pub mod run_queue;
pub mod service;
pub mod status;
pub mod subscription;
pub mod tcp;
pub mod tls;
pub mod violation_log;
