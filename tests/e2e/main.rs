//! End to end: two appliances of the real executable between real kernels, in network namespaces.
//!
//! ```text
//!   primary ──────── ithaca ══════ wan ══════ syracuse ──────── mirror
//!   10.1.0.1         appliance, 192.0.2.1     appliance, .2     10.2.0.1
//!   fd00:1::1        2001:db8::1              ::2               fd00:2::1
//! ```
//!
//! The WAN is a veth pair in tests without loss, otherwise the lab's emulator. The tests count packets and compare
//! checksums; they only bound times. They need root and the programs `ip`, `sysctl` and `ping`; without them they fail
//! with a message. Start with `testbed` and `appliance`.

#![allow(clippy::unwrap_used)]

mod appliance;
mod bypass;
mod capture;
mod datagrams;
mod streams;
mod testbed;

mod addresses;
mod apply;
mod apply_terminal;
mod congestion;
mod doctor;
mod drain;
mod ends;
mod hooks;
mod icmp;
mod keys;
mod load;
mod log;
mod loss;
mod metrics;
mod pacemaker;
mod paths;
mod privileges;
mod protected;
mod protected_commands;
mod protected_lanes;
mod protected_levels;
mod protected_loss;
mod protected_restart;
mod protected_site;
mod protected_strangers;
mod python_client;
mod reload;
mod restart;
mod routes;
#[path = "../json_schema/mod.rs"]
mod schema_check;
mod service;
mod settings;
mod setup_faults;
mod status;
mod strangers;
mod tunnels;
mod way_back;
