//! The notification protocol: which bytes of which flow are protected, sent over UDP in netlink's message format.
//!
//! * [`message`] messages and requests; [`attribute`] their building blocks;
//! * [`envelope`] authentication; [`secret`] its keys as text; [`replay`] accepts each datagram once;
//! * [`publisher`] the appliance's side; [`client`] the side of waiting programs;
//! * [`pcap`] datagrams as a capture file for Wireshark;
//! * [`tcp_info`] how many bytes a program has written into a local TCP socket.
//!
//! `docs/protocol.md` describes the bytes for other languages. The crate imports nothing of the appliance, so other
//! programs can use it alone. It does not decide what is protected.
//!
//! A program that waits needs only [`client::Client`]. To read the code, start with [`message`], then [`publisher`] or
//! [`client`].

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
