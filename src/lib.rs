//! onwire: a pair of transparent layer-3 appliances that make a wide-area link keep what it carries.
//!
//! Read [`architecture`] first. The modules, from the pure core outwards; `tests/layering` checks which module may
//! import which:
//!
//! * [`wire`] bytes to values and back;
//! * [`fec`] the erasure code, the block being built and the block being filled;
//! * [`plan`] from what must hold on a link to block lengths and numbers of repair symbols;
//! * [`tunnel`] the state machines of a peer: sender, receiver, session;
//! * [`flow`] TCP sequence numbers to the position up to which a flow is protected;
//! * [`protect`] when a block may be called protected, and what takes it back;
//! * [`io`] every system call, and all of the `unsafe` but the vector instructions of the code;
//! * [`config`] one YAML file, checked;
//! * [`metrics`] values of a status as metrics, and the port at which they are asked for;
//! * [`appliance`] where state machines meet system calls;
//! * [`notify`] tells programs which bytes of which flow are protected: the crate `onwire-notify`, usable alone;
//! * [`gate`] ack gates: proxies that acknowledge what is protected;
//! * [`doctor`] what around an appliance keeps it from working, and what to do about it;
//! * [`bugreport`] one text about a host, without secrets;
//! * [`manual`] manual pages and completions of a command line;
//! * `lab` namespaces, an emulated WAN, scenarios: the program `onwire-lab`, with the feature `lab`;
//! * [`cli`] one file a subcommand.

pub mod appliance;
pub mod bugreport;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod fec;
pub mod flow;
pub mod gate;
pub mod io;
#[cfg(feature = "lab")]
pub mod lab;
pub mod manual;
pub mod metrics;
pub mod plan;
pub mod protect;
pub mod tunnel;
pub mod wire;

pub use onwire_notify as notify;

#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}
