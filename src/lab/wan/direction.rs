//! The control side of one direction of the emulator: requests to its thread, and the answers.

use std::sync::{
    Arc,
    mpsc::{self, Sender},
};

use mio::Waker;

use super::counters::Counters;

/// A request to a direction's thread; the thread answers through the sender inside.
#[derive(Debug)]
pub enum Request {
    /// Apply these changes, all or none; the answer is a description or an error.
    Set(Vec<(String, String)>, Sender<Result<String, String>>),
    /// Return the counters.
    Counters(Sender<Counters>),
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

    fn ask(&self, request: Request) {
        // A stopped direction drops the request and its sender, so the caller's `recv` fails.
        let _ = self.requests.send(request);
        let _ = self.waker.wake();
    }
}
