//! Runs the lab as a user does.
#![allow(clippy::unwrap_used)]

mod emulator;
mod scenarios;
