//! Programs that are run when something happens, by a process of their own.
//!
//! The process that works starts one more for each hook, before it gives up what starting programs takes, and sends it
//! messages through a [`Channel`]. There [`Running`] runs the program, one at a time, within its limits. What the messages say is
//! decided elsewhere.

mod channel;
mod running;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

pub use channel::{Channel, HookProcess, MESSAGE_MAX, Received};
pub use running::{End, Running, confine, end_orphans};

/// Waits until one of these can be read, or until this time.
///
/// # Errors
/// The system cannot wait for them.
pub fn wait(descriptors: &[BorrowedFd<'_>], until: Option<Instant>) -> io::Result<()> {
    let mut polled: Vec<_> = descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    // Rounded up: a poll that ends too early would spin.
    let left = left.and_then(|left| (left + Duration::from_millis(1)).try_into().ok());
    match poll(&mut polled, left.as_ref()) {
        Err(rustix::io::Errno::INTR) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
