//! The control side of one direction of the emulator: requests to its thread, and the answers.

use std::{
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    time::Instant,
};

use mio::Waker;

use super::{counters::Counters, interruptions::Window};

/// A request to a direction's thread; the thread answers through the sender inside.
#[derive(Debug)]
pub enum Request {
    /// Apply these changes, all or none; the answer is a description or an error.
    Set(Vec<(String, String)>, Sender<Result<String, String>>),
    /// Return the counters.
    Counters(Sender<Counters>),
    /// Lose what enters from the first to the second moment; the answer is the true window, which never begins in the past.
    Interrupt(Instant, Instant, Sender<Window>),
    /// Lose the next datagrams, so many of at least so many bytes.
    LoseNext(u64, u64, Sender<()>),
    /// Return the interruptions.
    Interruptions(Sender<Vec<Window>>),
}

/// The control side of one direction.
#[derive(Clone, Debug)]
pub struct DirectionHandle {
    requests: Sender<Request>,
    waker: Arc<Waker>,
}

impl DirectionHandle {
    pub(super) fn new(requests: Sender<Request>, waker: Arc<Waker>) -> Self {
        Self { requests, waker }
    }

    /// Changes properties; returns the description of the new properties, or why nothing was changed.
    pub fn set(&self, changes: Vec<(String, String)>) -> Result<String, String> {
        let (sender, answer) = mpsc::channel();
        self.ask(Request::Set(changes, sender));
        answer.recv().unwrap_or_else(|_| Err("this direction has stopped".to_owned()))
    }

    /// The counters, or `None` when the direction has stopped.
    pub fn counters(&self) -> Option<Counters> {
        let (sender, answer) = mpsc::channel();
        self.ask(Request::Counters(sender));
        answer.recv().ok()
    }

    /// Loses what enters from `from` until `until`; returns the true window, or `None` when the direction has stopped.
    pub fn interrupt(&self, from: Instant, until: Instant) -> Option<Window> {
        let (sender, answer) = mpsc::channel();
        self.ask(Request::Interrupt(from, until, sender));
        answer.recv().ok()
    }

    /// Loses the next `count` datagrams of at least `bytes` bytes; `None` when the direction has stopped.
    pub fn lose_next(&self, count: u64, bytes: u64) -> Option<()> {
        let (sender, answer) = mpsc::channel();
        self.ask(Request::LoseNext(count, bytes, sender));
        answer.recv().ok()
    }

    /// The interruptions to come and the last that were, or `None` when the direction has stopped.
    pub fn interruptions(&self) -> Option<Vec<Window>> {
        let (sender, answer) = mpsc::channel();
        self.ask(Request::Interruptions(sender));
        answer.recv().ok()
    }

    fn ask(&self, request: Request) {
        // A stopped direction drops the request and its sender, so the caller's `recv` fails.
        let _ = self.requests.send(request);
        let _ = self.waker.wake();
    }
}
