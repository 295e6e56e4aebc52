//! System calls: TUN, UDP, timers, routes, queues, sockets of others, signals, namespaces, limits, the log. Knows buffers and
//! addresses, not FEC.
//!
//! Everything `unsafe` of the crate is below this folder, one system call a block. What is not here: any decision
//! about what the bytes mean, and any thread that the caller did not ask for.
//!
//! Start with [`tun`] and [`udp`], which carry all packets; [`netlink`] and [`qdisc`] ask the kernel about the way that
//! they take.

pub mod cpu;
pub mod descriptors;
pub mod log;
#[cfg(feature = "lab")]
pub mod namespace;
pub mod netlink;
pub mod paced;
pub mod qdisc;
pub mod retry;
pub mod signal;
pub mod sock_diag;
pub mod status_socket;
pub mod tcp;
pub mod timer;
pub mod tun;
pub mod udp;

/// An error of the same kind that says what was being done and what to do about it.
fn explain(error: &std::io::Error, words: std::fmt::Arguments<'_>) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{words}: {error}"))
}
