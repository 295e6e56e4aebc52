//! Real programs that send through a lab, and what the kernel says of them.

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
