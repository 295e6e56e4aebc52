//! From what a lane knows to what subscribers hear.
//!
//! [`protection_driver`] brings events of a lane to [`crate::protect`], and looks with [`egress_watch`] at the way to the
//! peers before it believes a timestamp. What follows is a [`notification`]; it goes by the [`publish_path`] to lane 0, where
//! [`port`] has the socket and the publisher. [`violation_log`] and [`excess_log`] say in the log what subscribers see.
//!
//! Start with [`protection_driver`]. What may be called protected is decided in [`crate::protect`].

pub(super) mod egress_watch;
mod excess_log;
pub(super) mod notification;
pub(super) mod port;
pub(super) mod protection_driver;
pub(super) mod publish_path;
mod violation_log;
