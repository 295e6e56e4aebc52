//! One deadline that wakes a poll: a `timerfd`.
//!
//! `mio` rounds its timeouts up to milliseconds; a block that closes after 50 µs of silence needs better. The
//! descriptor joins the poll beside the sockets (`mio::unix::SourceFd`). There is only one deadline: a caller with many
//! sets the earliest.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

/// A timer that is readable once its deadline has passed.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
    armed: Option<Instant>,
    /// The same moment on both clocks: an [`Instant`] does not show its reading of the monotonic clock.
    origin: (Instant, Duration),
}

impl Timer {
    /// A timer that is not armed.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .map_err(|errno| super::explain(&errno.into(), format_args!("cannot create a timer")))?;
        Ok(Self { fd, armed: None, origin: same_moment() })
    }

    /// Moves the deadline, or disarms the timer with `None`. A deadline already passed fires at once.
    ///
    /// Costs no system call when nothing changes, which is the usual case in a busy loop.
    pub fn set(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<()> {
        let unchanged = match (self.armed, deadline) {
            (None, None) => true,
            // Both have passed: the descriptor is readable already.
            (Some(armed), Some(wanted)) => armed == wanted || (armed <= now && wanted <= now),
            _ => false,
        };
        if unchanged {
            return Ok(());
        }
        let value = match deadline {
            Some(deadline) => self.on_kernel_clock(deadline),
            None => ZERO,
        };
        // Absolute time: a loop that read its clock some time ago still wakes at the right moment.
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: ZERO, it_value: value })?;
        self.armed = deadline;
        Ok(())
    }

    /// The deadline that is set, if any.
    pub fn deadline(&self) -> Option<Instant> {
        self.armed
    }

    /// Sleeps until then, and returns how long that was; no descriptor ends it. A signal may.
    pub fn pause_until(&self, moment: Instant) -> Duration {
        let begun = Instant::now();
        // Whatever fails, the caller only looks sooner.
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &self.on_kernel_clock(moment));
        begun.elapsed()
    }

    /// Acknowledges an expiry, so that the descriptor is no longer readable. True if the deadline had passed; the timer
    /// is then disarmed.
    pub fn acknowledge(&mut self) -> io::Result<bool> {
        let mut expirations = [0u8; 8];
        match rustix::io::read(&self.fd, &mut expirations) {
            Ok(_) => {
                self.armed = None;
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn on_kernel_clock(&self, deadline: Instant) -> Timespec {
        let (instant, reading) = self.origin;
        // All zeros would disarm the timer. A deadline before the timer existed has passed, whatever its value.
        let at = (reading + deadline.saturating_duration_since(instant)).max(Duration::from_nanos(1));
        Timespec { tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX), tv_nsec: at.subsec_nanos().into() }
    }
}

const ZERO: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Reads both views of the monotonic clock together. The closest pair of a few tries counts: a thread may be scheduled
/// away between two readings.
fn same_moment() -> (Instant, Duration) {
    let reading = || {
        let at = clock_gettime(ClockId::Monotonic);
        Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
    };
    let mut tightest = (Duration::MAX, (Instant::now(), reading()));
    for _ in 0..5 {
        let before = reading();
        let instant = Instant::now();
        let after = reading();
        // The later reading: a timer may be late, never early.
        if after.saturating_sub(before) < tightest.0 {
            tightest = (after.saturating_sub(before), (instant, after));
        }
    }
    tightest.1
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};

    fn wait(poll: &mut Poll, limit: Duration) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(limit)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn a_deadline_wakes_the_poll_and_not_before() {
        let mut timer = Timer::new().unwrap();
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), Token(0), Interest::READABLE).unwrap();
        for delay in [200, 1000, 3000].map(Duration::from_micros) {
            let now = Instant::now();
            timer.set(Some(now + delay), now).unwrap();
            assert!(wait(&mut poll, Duration::from_secs(5)));
            let slept = now.elapsed();
            assert!(slept >= delay, "woke after {slept:?} of {delay:?}");
            assert!(slept < delay + Duration::from_millis(500), "woke after {slept:?}");
            assert!(timer.acknowledge().unwrap());
            assert!(!timer.acknowledge().unwrap());
            assert_eq!(timer.deadline(), None);
        }
    }

    #[test]
    fn a_pause_lasts_until_its_end_and_one_that_has_passed_not_at_all() {
        let timer = Timer::new().unwrap();
        let now = Instant::now();
        let said = timer.pause_until(now + Duration::from_millis(2));
        let paused = now.elapsed();
        assert!(paused >= Duration::from_millis(2) && paused < Duration::from_millis(500), "{paused:?}");
        assert!(said <= paused, "{said:?} of {paused:?}");
        timer.pause_until(now);
    }

    #[test]
    fn a_passed_deadline_fires_at_once_and_a_cleared_one_never() {
        let mut timer = Timer::new().unwrap();
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), Token(0), Interest::READABLE).unwrap();
        let now = Instant::now();
        timer.set(Some(now.checked_sub(Duration::from_millis(5)).unwrap()), now).unwrap();
        assert!(wait(&mut poll, Duration::from_secs(5)));
        assert!(timer.acknowledge().unwrap());
        timer.set(Some(now + Duration::from_millis(5)), now).unwrap();
        timer.set(None, now).unwrap();
        assert!(!wait(&mut poll, Duration::from_millis(20)));
    }
}
