//! Signals as events: stop, reload, report.
//!
//! `ctrlc` handles interrupts, `signal-hook` the rest (`ctrlc` cannot tell hang-up from terminate). Each has its own
//! thread, so nothing here runs inside a signal handler. The caller decides how to react to a signal.

use std::io;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR1};
use signal_hook::iterator::{backend::SignalDelivery, exfiltrator::SignalOnly};

use super::explain;
use super::restriction::without_privileges;

/// A signal to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGINT`: stop, from the terminal. One that comes more than a moment after the first ends the process at once,
    /// with code 130.
    Interrupt,
    /// `SIGTERM`: stop, from the service manager.
    Terminate,
    /// `SIGHUP`: read the configuration again.
    HangUp,
    /// `SIGUSR1`: print statistics.
    User1,
}

impl Signal {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Interrupts that come this close together are one.
const SAME_INTERRUPT: Duration = Duration::from_millis(300);

/// How late a signal is seen whose wake-up the kernel has refused (`ENOBUFS`): the handler has noted it, so looking finds
/// it.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Calls `deliver` for each signal, on a thread of this module that has no privileges. Once per process.
pub fn listen(deliver: impl Fn(Signal) + Send + Sync + 'static) -> io::Result<()> {
    without_privileges(|| start(deliver))
}

fn start(deliver: impl Fn(Signal) + Send + Sync + 'static) -> io::Result<()> {
    let deliver = Arc::new(deliver);
    let mut others = UnixStream::pair()
        .and_then(|(read, write)| SignalDelivery::with_pipe(read, write, SignalOnly, [SIGTERM, SIGHUP, SIGUSR1]))
        .map_err(|error| explain(&error, format_args!("cannot listen to signals")))?;
    let first: OnceLock<Instant> = OnceLock::new();
    let on_interrupt = Arc::clone(&deliver);
    // `try_set_handler` would refuse where a shell has started us in the background, with interrupts ignored.
    ctrlc::set_handler(move || {
        let now = Instant::now();
        // `timeout` and some terminals send the signal to the process and then to its group: that is one interrupt, not
        // two.
        if now.saturating_duration_since(*first.get_or_init(|| now)) > SAME_INTERRUPT {
            process::exit(130);
        }
        on_interrupt(Signal::Interrupt);
    })
    .map_err(|error| io::Error::other(format!("cannot listen to interrupts: {error}")))?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            loop {
                let polled = poll(&mut [PollFd::new(others.get_read(), PollFlags::IN)], Some(&LOOK_EVERY));
                if polled.is_err_and(|error| error != Errno::INTR) {
                    // Not in a loop without a pause.
                    thread::sleep(Duration::from_secs(1));
                }
                for number in others.pending() {
                    deliver(match number {
                        SIGHUP => Signal::HangUp,
                        SIGUSR1 => Signal::User1,
                        _ => Signal::Terminate,
                    });
                }
            }
        })
        .map_err(|error| explain(&error, format_args!("cannot start the thread for signals")))?;
    Ok(())
}

/// The signals that have come and are not taken yet.
#[derive(Debug, Default)]
pub struct PendingSignals(AtomicU8);

impl PendingSignals {
    /// Starts to listen; notes each signal and then calls `wake`, for a loop that sleeps in a poll (`move ||
    /// drop(waker.wake())`). Once per process.
    pub fn listen(wake: impl Fn() + Send + Sync + 'static) -> io::Result<Arc<Self>> {
        let pending = Arc::new(Self::default());
        let noted = Arc::clone(&pending);
        listen(move |signal| {
            noted.0.fetch_or(signal.bit(), Ordering::Release);
            wake();
        })?;
        Ok(pending)
    }

    /// Takes the signal: true if it has come since the last call.
    pub fn take(&self, signal: Signal) -> bool {
        self.0.fetch_and(!signal.bit(), Ordering::Acquire) & signal.bit() != 0
    }
}
