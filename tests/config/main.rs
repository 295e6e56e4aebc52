//! The configuration: golden errors, the reference file, and files that nobody meant to write.
#![allow(clippy::unwrap_used)]

mod invalid;
mod reference;
mod robust;
