//! The configuration: golden errors, the reference file, and randomly damaged files.
#![allow(clippy::unwrap_used)]

mod changes;
mod invalid;
mod reference;
mod robust;
