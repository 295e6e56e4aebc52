//! From the events of a lane to the notifications of subscribers.
//!
//! [`protection_driver`] feeds the events of a lane to [`crate::protect`]; before it trusts a timestamp,
//! [`egress_watch`] checks the egress to the peers. The result is a [`notification`]. It goes along the
//! [`publish_path`] to lane 0, where [`port`] has the socket and the publisher. [`violation_log`], [`link_log`]
//! and [`excess_log`] write to the log what subscribers see.
//!
//! Start with [`protection_driver`]. What may be called protected is decided in [`crate::protect`].

pub(super) mod egress_watch;
mod excess_log;
mod link_log;
pub(super) mod notification;
pub(super) mod port;
pub(super) mod port_news;
pub(super) mod protection_driver;
pub(super) mod publish_path;
mod violation_log;
