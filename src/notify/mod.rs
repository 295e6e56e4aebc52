//! The notification protocol: which bytes of which flow are protected, told over UDP in netlink's message format.
//!
//! * [`message`] the messages and requests; [`attribute`] their building blocks;
//! * [`envelope`] authentication; [`replay`] each datagram once;
//!
//! `docs/protocol.md` describes the bytes for other languages. This module imports nothing of the appliance: other
//! programs can use it alone. It does not decide what is protected.

pub mod attribute;
pub mod envelope;
pub mod message;
pub mod replay;
