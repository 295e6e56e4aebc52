//! Real programs that send through a lab, and what the kernel says of them.
//!
//! Some run programs that a user has ([`rsync`], [`iperf`], [`pgbench`]), others are threads of the lab with sockets inside
//! the nodes ([`stream`], [`dialogue`], [`trickle`], [`crowd`], [`rows`]). [`data`] makes what is sent, [`kernel`] reads
//! counters. What a result proves is not decided here.
//!
//! Start with [`stream`], which shows how a socket is made inside a node.

pub mod crowd;
pub mod data;
pub mod dialogue;
pub mod iperf;
pub mod kernel;
pub mod pgbench;
pub mod rows;
pub mod rsync;
pub mod stream;
pub mod trickle;
