//! Real programs that send traffic through a lab, and the kernel's counters of it.
//!
//! Some run programs that a user has ([`rsync`], [`iperf`], [`pgbench`], [`ping`]); others are threads of the lab with sockets
//! inside the nodes ([`stream`], [`request_response`], [`steady_writes`], [`many_flows`], [`numbered`], [`busy_flows`], [`both_ways`],
//! [`checked_stream`], [`rows`]). [`data`] generates
//! files, [`kernel`] reads counters. The scenario decides what a result proves.
//!
//! Start with [`stream`], which shows how a socket is made inside a node.

pub mod both_ways;
pub mod busy_flows;
pub mod checked_stream;
pub mod data;
pub mod iperf;
pub mod kernel;
pub mod many_flows;
pub mod numbered;
pub mod pgbench;
pub mod ping;
pub mod request_response;
pub mod rows;
pub mod rsync;
pub mod steady_writes;
pub mod stream;
