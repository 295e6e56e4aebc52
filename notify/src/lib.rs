//! The notification protocol: which bytes of which flow are protected, told over UDP in netlink's message format.
//!
//! * [`message`] the messages and requests; [`attribute`] their building blocks;
//! * [`envelope`] authentication; [`secret`] its keys as text; [`replay`] each datagram once;
//! * [`publisher`] the appliance's side; [`client`] the side of programs that wait;
//! * [`pcap`] what came, as a file for Wireshark;
//! * [`tcp_info`] how much a local TCP socket has been given to send.
//!
//! `docs/protocol.md` describes the bytes for other languages. This module imports nothing of the appliance: other
//! programs can use it alone. It does not decide what is protected.
//!
//! Start with [`message`], then [`publisher`] or [`client`].

pub mod attribute;
pub mod client;
pub mod envelope;
pub mod message;
#[cfg(test)]
mod pair;
pub mod pcap;
pub mod publisher;
pub mod replay;
pub mod secret;
pub mod tcp_info;
