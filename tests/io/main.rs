//! System calls against this machine's kernel.
#![allow(clippy::unwrap_used)]

mod signal;
mod tun;
mod udp;
