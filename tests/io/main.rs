//! System calls, tested against the kernel of this host.
#![allow(clippy::unwrap_used)]

mod signal;
mod tun;
mod udp;
