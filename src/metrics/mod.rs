//! Metrics of a process for Prometheus: tables that say which value of a status is which metric, and the port at which they are
//! asked for.
//!
//! [`family`] has the tables and their text, [`port`] the thread that answers, [`process`] what an appliance and a gate process both
//! export. The tables of each are beside its status: `appliance/metrics`, `gate/metrics.rs`. Nothing is counted here, and
//! nothing of a connection or a flow becomes a label: the number of series is bounded by the configuration.

pub mod family;
pub mod port;
pub mod process;
