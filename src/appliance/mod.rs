//! A running appliance: lanes and the control thread.

pub mod lane;
mod outlet;
pub mod snapshot;
