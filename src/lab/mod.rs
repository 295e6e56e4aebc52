//! The lab: network namespaces, an emulated WAN, scenarios and their reports.
//!
//! [`topology`] reads a lab's plan, [`network`] builds it with [`wan`] in its middle, and [`pair`] starts two
//! appliances in it, in whose place [`carrier`] can use the plain route or a [`bare_tunnel`]. [`workload`] sends traffic through them, [`servers`] are the databases that replicate through
//! them. [`bird`] routes between several pairs, [`fault`] is what befalls an appliance, and [`injection`] lets its system
//! calls fail. [`subscriber`] receives the notifications, directly or through [`relay`], which corrupts what it forwards.
//! [`path_attacker`] delays and drops the datagrams between the appliances. A [`scenario`] measures and checks claims.
//! The lab runs the executables as a user would; nothing here is part of an appliance.
//!
//! Start with [`scenario`], whose table lists all experiments, then [`pair`] and [`network`].

pub mod bare_tunnel;
pub mod binomial;
pub mod bird;
pub mod carrier;
pub mod cleanup;
pub mod command;
pub mod error;
pub mod fault;
pub mod injection;
pub mod load;
pub mod median;
pub mod monotonic;
pub mod network;
pub mod page;
pub mod pair;
pub mod path_attacker;
pub mod plot;
pub mod private;
pub mod process;
pub mod program;
pub mod relay;
pub mod report;
pub mod route_watch;
pub mod scenario;
pub mod servers;
pub mod star;
pub mod status;
pub mod subscriber;
pub mod timeline;
pub mod times;
pub mod topology;
pub mod trace;
pub mod units;
pub mod wan;
pub mod workload;
