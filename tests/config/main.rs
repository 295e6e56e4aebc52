//! The configuration: golden errors, the reference file, randomly damaged files, and the systemd units.
#![allow(clippy::unwrap_used)]

mod changes;
mod invalid;
mod json_schema;
mod monitoring;
mod reference;
mod robust;
#[path = "../json_schema/mod.rs"]
mod schema_check;
mod units;
