//! onwire: a pair of transparent layer-3 appliances that make a wide-area link keep what it carries.
//!
//! To understand the code, read [`architecture`] first. The modules, from the pure middle outwards; `tests/layering.rs` holds
//! who may import whom:
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
//! * [`gate`] ack gates: proxies that acknowledge what is protected;
//! * [`lab`] namespaces, an emulated WAN, scenarios;
//! * [`cli`] one file a subcommand.
//!
//! Without the feature `appliance` there is [`notify`] alone, for programs that want to know what is protected.

#[cfg(feature = "appliance")]
pub mod appliance;
#[cfg(feature = "appliance")]
pub mod cli;
#[cfg(feature = "appliance")]
pub mod config;
#[cfg(feature = "appliance")]
pub mod fec;
#[cfg(feature = "appliance")]
pub mod flow;
#[cfg(feature = "appliance")]
pub mod gate;
#[cfg(feature = "appliance")]
pub mod io;
#[cfg(feature = "appliance")]
pub mod lab;
pub mod notify;
#[cfg(feature = "appliance")]
pub mod protect;
#[cfg(feature = "appliance")]
pub mod tunnel;
#[cfg(feature = "appliance")]
pub mod wire;

#[cfg(feature = "appliance")]
#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}
