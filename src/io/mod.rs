//! System calls: TUN, UDP, timers, routes, queues, sockets of other programs, signals, namespaces, limits, the log.
//! Knows buffers and addresses, not FEC.
//!
//! Everything `unsafe` of the crate is in this folder, one system call a block. This module decides nothing about the
//! meaning of bytes, and starts no thread that the caller did not ask for.
//!
//! Start with [`tun`] and [`udp`], which carry all packets. [`netlink`] and [`qdisc`] ask the kernel about the egress
//! of these packets.

pub mod clock;
pub mod command;
pub mod cpu;
pub mod descriptors;
pub mod echo;
pub mod episode;
pub mod ethtool;
#[cfg(feature = "lab")]
pub mod hold;
pub mod hook;
pub mod http;
pub mod journal;
pub mod local_listener;
pub mod log;
#[cfg(feature = "lab")]
pub mod namespace;
pub mod netlink;
pub mod paced;
pub mod problem;
pub mod qdisc;
pub mod request_socket;
pub mod restriction;
pub mod retry;
pub mod sd_notify;
pub mod signal;
pub mod since;
pub mod sock_diag;
pub mod socket_owner;
pub mod status_socket;
pub mod tcp;
pub mod timer;
pub mod tun;
pub mod udp;
pub mod watchdog;

/// An error of the same kind that names the failed action and the remedy.
fn explain(error: &std::io::Error, words: std::fmt::Arguments<'_>) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{words}: {error}"))
}
