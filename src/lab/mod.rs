//! The lab: network namespaces, an emulated WAN, scenarios and their reports.
