//! The configuration: golden errors, the reference file, randomly damaged files, and the systemd units.
#![allow(clippy::unwrap_used)]

mod changes;
mod invalid;
mod monitoring;
mod reference;
mod robust;
mod units;
