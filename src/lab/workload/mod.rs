//! Real programs that send through a lab, and what the kernel says of them.
//!
//! Some run programs that a user has ([`rsync`], [`iperf`], [`pgbench`]), others are threads of the lab with sockets inside
//! the nodes ([`stream`], [`request_response`], [`steady_writes`], [`many_flows`], [`rows`]). [`data`] makes what is sent, [`kernel`] reads
//! counters. What a result proves is not decided here.
//!
//! Start with [`stream`], which shows how a socket is made inside a node.

pub mod data;
pub mod iperf;
pub mod kernel;
pub mod many_flows;
pub mod pgbench;
pub mod request_response;
pub mod rows;
pub mod rsync;
pub mod steady_writes;
pub mod stream;
