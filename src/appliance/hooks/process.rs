//! The process of one hook: `onwire hook`, which the appliance starts before it gives up what starting programs takes.
//!
//! It can run this one program and nothing else: what comes from the appliance is events, never a program. It always reads, so that
//! events wait here, and ends when the appliance has ended.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use super::event::Event;
use super::report::Report;
use super::waiting::Waiting;
use crate::config::hooks::Hook;
use crate::io::hook::{Channel, Received, Running, confine, wait};
use crate::io::watchdog::outlive_signals;

/// Runs the hook for each event that comes, until the appliance has ended.
///
/// # Errors
/// The channel cannot be used, or the process cannot be confined.
pub fn run(hook: &Hook) -> io::Result<()> {
    outlive_signals()?;
    let channel = Channel::from_stdin()?;
    confine()?;
    Process { hook, channel, waiting: Waiting::default(), running: None, has_ended: false }.run()
}

struct Process<'a> {
    hook: &'a Hook,
    channel: Channel,
    waiting: Waiting,
    running: Option<(Running, Event)>,
    /// The appliance has.
    has_ended: bool,
}

impl Process<'_> {
    fn run(mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            self.read(now);
            self.follow(now);
            match (self.running.is_some(), self.has_ended) {
                (false, true) => return Ok(()),
                (false, false) if self.start_next(now) => {}
                _ => self.sleep()?,
            }
        }
    }

    fn read(&mut self, now: Instant) {
        while !self.has_ended {
            match self.channel.receive() {
                // What is no event comes from no version of ours: the appliance is this program.
                Received::Message(message) => {
                    Event::parse(&message).into_iter().for_each(|event| self.waiting.push(event))
                }
                Received::Nothing => return,
                Received::End => {
                    self.has_ended = true;
                    self.waiting = Waiting::default();
                    if let Some((running, _)) = &mut self.running {
                        running.stop(now);
                    }
                }
            }
        }
    }

    fn follow(&mut self, now: Instant) {
        let Some((running, event)) = &mut self.running else { return };
        if let Some(end) = running.poll(now) {
            let report = Report::of_end(event, end, self.waiting.dropped());
            self.running = None;
            self.send(&report);
        }
    }

    /// Starts the program for the next event; `false` if none waits.
    fn start_next(&mut self, now: Instant) -> bool {
        let Some(event) = self.waiting.pop() else { return false };
        let Hook { program, arguments, time_limit, .. } = self.hook;
        match Running::start(program, arguments, &event.emit(), &event.variables(), *time_limit, now) {
            Ok(running) => self.running = Some((running, event)),
            Err(error) => {
                let report = Report::of_failed_start(&event, error.to_string(), self.waiting.dropped());
                self.send(&report);
            }
        }
        true
    }

    /// A report that finds no room is lost: the appliance stands still, and nobody reads it.
    fn send(&self, report: &Report) {
        self.channel.send(&serde_json::to_vec(report).expect("a report is plain values"));
    }

    fn sleep(&self) -> io::Result<()> {
        let running = self.running.as_ref().map(|(running, _)| running);
        let mut descriptors = Vec::new();
        if !self.has_ended {
            descriptors.push(self.channel.as_fd());
        }
        descriptors.extend(running.into_iter().flat_map(|running| running.descriptors()));
        wait(&descriptors, running.map(Running::deadline))
    }
}
