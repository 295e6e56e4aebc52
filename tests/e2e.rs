//! End to end: two appliances of the real executable between real kernels, in network namespaces.
//!
//! ```text
//!   primary ──────── ithaca ══════ wan ══════ syracuse ──────── mirror
//!   10.1.0.1         appliance, 192.0.2.1     appliance, .2     10.2.0.1
//!   fd00:1::1        2001:db8::1              ::2               fd00:2::1
//! ```
//!
//! The WAN is a veth pair where nothing is lost, else the lab's emulator. The tests count packets and compare checksums;
//! times are only bounded. They need root and the programs `ip`, `sysctl` and `ping`; without them they fail and say so.

#![allow(clippy::unwrap_used)]

#[path = "e2e/appliance.rs"]
mod appliance;
#[path = "e2e/capture.rs"]
mod capture;
#[path = "e2e/datagrams.rs"]
mod datagrams;
#[path = "e2e/streams.rs"]
mod streams;
#[path = "e2e/testbed.rs"]
mod testbed;

#[path = "e2e/addresses.rs"]
mod addresses;
#[path = "e2e/drain.rs"]
mod drain;
#[path = "e2e/ends.rs"]
mod ends;
#[path = "e2e/icmp.rs"]
mod icmp;
#[path = "e2e/log.rs"]
mod log;
#[path = "e2e/loss.rs"]
mod loss;
#[path = "e2e/paths.rs"]
mod paths;
#[path = "e2e/protected.rs"]
mod protected;
#[path = "e2e/protected_commands.rs"]
mod protected_commands;
#[path = "e2e/protected_lanes.rs"]
mod protected_lanes;
#[path = "e2e/protected_levels.rs"]
mod protected_levels;
#[path = "e2e/protected_loss.rs"]
mod protected_loss;
#[path = "e2e/protected_restart.rs"]
mod protected_restart;
#[path = "e2e/protected_site.rs"]
mod protected_site;
#[path = "e2e/protected_strangers.rs"]
mod protected_strangers;
#[path = "e2e/restart.rs"]
mod restart;
#[path = "e2e/routes.rs"]
mod routes;
#[path = "e2e/settings.rs"]
mod settings;
#[path = "e2e/setup_faults.rs"]
mod setup_faults;
#[path = "e2e/strangers.rs"]
mod strangers;
#[path = "e2e/tunnels.rs"]
mod tunnels;
