//! The control side of one direction of the emulator: questions to its thread, and the answers.

use std::sync::{
    Arc,
    mpsc::{self, Sender},
};

use mio::Waker;

use super::counters::Counters;

/// A question to a direction's thread; the answer goes to the sender inside.
#[derive(Debug)]
pub enum Question {
    /// Apply these changes, all or none; answers in words.
    Set(Vec<(String, String)>, Sender<Result<String, String>>),
    /// What was done so far.
    Counters(Sender<Counters>),
}

/// The control side of one direction.
#[derive(Clone, Debug)]
pub struct DirectionControl {
    questions: Sender<Question>,
    waker: Arc<Waker>,
}

impl DirectionControl {
    pub(super) fn new(questions: Sender<Question>, waker: Arc<Waker>) -> Self {
        Self { questions, waker }
    }

    /// Changes properties; the answer is the description of what is in force, or why nothing was changed.
    pub fn set(&self, changes: Vec<(String, String)>) -> Result<String, String> {
        let (sender, answer) = mpsc::channel();
        self.ask(Question::Set(changes, sender));
        answer.recv().unwrap_or_else(|_| Err("this direction has stopped".to_owned()))
    }

    /// The counters, or `None` when the direction has stopped.
    pub fn counters(&self) -> Option<Counters> {
        let (sender, answer) = mpsc::channel();
        self.ask(Question::Counters(sender));
        answer.recv().ok()
    }

    fn ask(&self, question: Question) {
        // A direction that has stopped drops the question, and with it the sender that the answer is awaited from.
        let _ = self.questions.send(question);
        let _ = self.waker.wake();
    }
}
