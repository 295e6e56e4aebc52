//! The lab as a user runs it.
#![allow(clippy::unwrap_used)]

mod emulator;
mod scenarios;
