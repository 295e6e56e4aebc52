//! Ack gates: proxies at the primary site that send the replication protocol's acknowledgement as soon as the data is
//! protected.
//!
//! * [`dialect`]: the interface of a replication protocol: bytes in, bytes and marks out, no I/O and no clock.
//!   [`kinds`] lists the dialects: [`tcp`] for any protocol, [`postgres`], [`redis`], [`mariadb`];
//! * [`marks`]: positions in the stream that the primary waits for. [`policy`]: what happens when a mark waits too
//!   long. [`exposure`]: bytes acknowledged without protection. [`early`]: acknowledgements given early, and how many
//!   of them a loss hits. [`violation_log`]: the log of such losses. [`returns`]: what a mirror lacks when it
//!   reconnects;
//! * [`subscription`]: what the appliance reports as protected;
//! * [`leg`]: a socket and the bytes that wait for it, with [`tls`] where TLS ends at the gate and [`pem`] for its
//!   files. [`connection`]: two legs and a dialect;
//! * [`service`]: a gate process. [`proxy`]: its event loop, and how it follows a file that was read again ([`prepared`]).
//!   [`run_queue`]: the connections that the loop serves next. [`listener`]: one listening gate. [`arrival`]: callers
//!   that have sent nothing yet. [`status`]: the status output. [`metrics`]: the same for Prometheus.
//!   [`health`]: whether all is well.
//!
//! A gate never decides what is protected: the appliance notifies the gate, over `notify`.
//!
//! Start with [`dialect`], then [`connection`]; [`tcp`] is the shortest dialect.

pub mod arrival;
pub mod connection;
pub mod dialect;
#[cfg(test)]
mod dialect_tests;
pub mod early;
pub mod exposure;
pub mod health;
pub mod kinds;
pub mod leg;
pub mod listener;
pub mod mariadb;
pub mod marks;
pub mod metrics;
pub mod pem;
pub mod policy;
pub mod postgres;

pub mod prepared;
mod privileges;
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
