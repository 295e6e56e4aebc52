//! onwire: a pair of transparent layer-3 appliances that make a wide-area link keep what it carries.
//!
//! The modules, from the pure middle outwards; `tests/layering.rs` holds who may import whom:
//!
//! * [`wire`] bytes to values and back;
//! * [`fec`] the erasure code, the block being built and the block being filled;
//! * [`tunnel`] the state machines of a peer: sender, receiver, session;
//! * [`flow`] TCP sequence numbers to the position up to which a flow is protected;
//! * [`protect`] when a block may be called protected, and what takes it back;
//! * [`io`] every system call and all of the `unsafe`;
//! * [`config`] one YAML file, checked;
//! * [`appliance`] where state machines and system calls meet;
//! * [`notify`] which bytes of which flow are protected, told to programs;
//! * [`lab`] namespaces, an emulated WAN, scenarios;
//! * [`cli`] one file a subcommand.

pub mod appliance;
pub mod cli;
pub mod config;
pub mod fec;
pub mod flow;
pub mod io;
pub mod lab;
pub mod notify;
pub mod protect;
pub mod tunnel;
pub mod wire;
