//! The lab: network namespaces, an emulated WAN, scenarios and their reports.
//!
//! [`topology`] reads what is to be built, [`network`] builds it with [`wan`] in its middle, [`pair`] puts two appliances
//! in, [`workload`] sends through them, [`subscriber`] is told what is protected (through [`relay`], which garbles on
//! purpose what it forwards), [`path_attacker`] stands on the path between the appliances, [`servers`] are the databases that are
//! replicated through them, and a [`scenario`] measures and claims. Everything runs the executable and other programs as a
//! user would; nothing here is part of an appliance.
//!
//! Start with [`scenario`], whose table names all experiments, then [`pair`] and [`network`].

pub mod cleanup;
pub mod command;
pub mod error;
pub mod load;
pub mod median;
pub mod network;
pub mod pair;
pub mod path_attacker;
pub mod plot;
pub mod private;
pub mod process;
pub mod program;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod servers;
pub mod star;
pub mod status;
pub mod subscriber;
pub mod times;
pub mod topology;
pub mod trace;
pub mod units;
pub mod wan;
pub mod workload;
