//! The wall clock of this host: whether something keeps it, and how far it is from a clock that nobody sets.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the kernel knows of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    /// A program disciplines it, and has said so to the kernel not long ago.
    pub is_synchronised: bool,
    /// The most by which it may be wrong, as that program reckons.
    pub error_max: Duration,
}

/// Asks the kernel; changes nothing.
pub fn state() -> io::Result<ClockState> {
    // SAFETY: all fields are integers, for which zero is a value; `modes` 0 asks and sets nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads and writes one timex at the pointer, which is valid for the call.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_synchronised = state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0;
    let error_max = Duration::from_micros(u64::try_from(clock.maxerror).unwrap_or(0));
    Ok(ClockState { is_synchronised, error_max })
}

/// By how much the wall clock is ahead of the monotonic one, in nanoseconds: it changes only when the wall clock is set
/// or slewed.
pub fn wall_offset() -> i128 {
    let nanos = |id| {
        let time = clock_gettime(id);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    nanos(ClockId::Realtime) - nanos(ClockId::Monotonic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_its_clock() {
        let found = state().unwrap();
        // A clock that nothing keeps drifts from the start: the kernel's bound is 16 s then.
        assert!(found.error_max <= Duration::from_secs(17), "{found:?}");
        let (before, after) = (wall_offset(), wall_offset());
        assert!((after - before).abs() < 1_000_000_000, "{before} {after}");
    }
}
