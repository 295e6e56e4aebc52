//! What other threads may ask of the loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mio::Waker;

use crate::gate::prepared::Prepared;

/// A file that was read again, or what is wrong with it.
pub(super) type Read = Result<Prepared, String>;

/// Asks a running [`Proxy`](super::Proxy) to do something, from any thread.
#[derive(Clone, Debug)]
pub struct Stop {
    stop: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    reload: SyncSender<Read>,
    waker: Arc<Waker>,
}

impl Stop {
    /// For a loop that this wakes, and the files that were read again for it.
    pub(super) fn new(waker: Waker) -> (Stop, Receiver<Read>) {
        let (reload, read) = sync_channel(1);
        (Stop { stop: Arc::default(), report: Arc::default(), reload, waker: Arc::new(waker) }, read)
    }

    /// Closes the sockets, ends the connections, and makes [`Proxy::run`](super::Proxy::run) return.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Writes the status to the log.
    pub fn report(&self) {
        self.report.store(true, Ordering::Release);
        self.wake();
    }

    /// Follows what was read, all of it or nothing; the status says how that ended. Waits while an earlier one has not begun.
    pub fn reload(&self, read: Result<Prepared, String>) {
        // It fails only when the loop is gone.
        let _ = self.reload.send(read);
        self.wake();
    }

    pub(super) fn is_asked_to_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether a report was asked for since the last call.
    pub(super) fn poll_report(&self) -> bool {
        self.report.swap(false, Ordering::AcqRel)
    }

    pub(super) fn wake(&self) {
        // It fails only when the loop is gone, and then there is nothing to wake.
        let _ = self.waker.wake();
    }
}
