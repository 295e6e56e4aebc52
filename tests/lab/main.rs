//! Runs the lab as a user does.
#![allow(clippy::unwrap_used)]

mod bird;
mod browser;
mod emulator;
mod scenarios;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Scenarios may run beside each other. A test of the emulator runs alone: it measures, and each run of the lab removes what
/// dead runs have left, which one of these tests must see first.
static MACHINE: RwLock<()> = RwLock::new(());

fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}
