//! The commands of `onwire` as a user runs them.
#![allow(clippy::unwrap_used)]

mod keys;
mod notify;
