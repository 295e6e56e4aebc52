//! Hooks: programs that are run when a link changes its state, a promise is broken, or a drain has a verdict.
//!
//! Start with [`Hooks`], the appliance's side: it sends events and hears how the runs went, and waits for nothing. The programs
//! are run by a process for each hook ([`process`]), because the appliance itself can start none once it runs.

pub mod event;
pub mod process;
pub mod report;
mod waiting;

use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use event::{Event, Fact};
use report::{Outcome, Report};
use waiting::Waiting;

use crate::appliance::status::hooks::HookStatus;
use crate::config::hooks::{Hook, HookEvent};
use crate::io::hook::{HookProcess, Received};

/// The subcommand that is the process of a hook.
const SUBCOMMAND: &str = "hook";
/// When to try again to send what found no room.
const SEND_AGAIN: Duration = Duration::from_millis(100);
/// Reports that are read in a turn.
const READ_BUDGET: usize = 16;

/// All hooks of an appliance.
#[derive(Debug)]
pub struct Hooks {
    node: String,
    hooks: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    hook: Hook,
    process: HookProcess,
    /// What found no room in the channel: that process does not read, because it stands still.
    unsent: Waiting,
    status: HookStatus,
}

impl Hooks {
    /// Starts the processes, before the appliance gives up what that takes.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn start(node: &str, hooks: &[Hook]) -> io::Result<Self> {
        let entry = |hook: &Hook| -> io::Result<Entry> {
            let process = HookProcess::start(Path::new("/proc/self/exe"), &arguments(hook))?;
            let status = HookStatus::new(hook, process.pid());
            Ok(Entry { hook: hook.clone(), process, unsent: Waiting::default(), status })
        };
        let hooks = hooks.iter().map(entry).collect::<io::Result<_>>()?;
        Ok(Self { node: node.to_owned(), hooks })
    }

    /// For the poll, with the number of each hook. `None` once its process has ended.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.hooks.iter().filter_map(|entry| entry.process.descriptor())
    }

    /// Some hook is run for this.
    pub fn wants(&self, event: HookEvent) -> bool {
        self.hooks.iter().any(|entry| entry.hook.on.contains(&event))
    }

    /// Sends an event to the hooks that are run for it. Returns how many these are.
    pub fn tell(&mut self, peer: &str, fact: Fact) -> usize {
        let at_s = SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| (since.as_secs_f64() * 1e3).round() / 1e3);
        let event = Event { node: self.node.clone(), peer: peer.to_owned(), at_s, merged: 0, fact };
        let mut count = 0;
        for entry in self.hooks.iter_mut().filter(|entry| entry.hook.on.contains(&event.fact.kind())) {
            entry.unsent.push(event.clone());
            entry.send();
            count += 1;
        }
        count
    }

    /// Reads how runs went, and sends what found no room before.
    pub fn turn(&mut self) {
        for entry in &mut self.hooks {
            for _ in 0..READ_BUDGET {
                match entry.process.receive() {
                    Received::Message(message) => {
                        if let Ok(report) = serde_json::from_slice(&message) {
                            entry.on_report(report);
                        }
                    }
                    Received::Nothing => break,
                    Received::End => entry.on_end(),
                }
            }
            entry.send();
        }
    }

    /// When something is to be sent again.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let waits = |entry: &Entry| entry.process.is_there() && !entry.unsent.is_empty();
        self.hooks.iter().any(waits).then_some(now + SEND_AGAIN)
    }

    /// For status.
    pub fn status(&self) -> Vec<HookStatus> {
        // Its process counts what was dropped there; what found no room on the way is dropped here.
        let status = |entry: &Entry| HookStatus {
            dropped: entry.status.dropped + entry.unsent.dropped(),
            ..entry.status.clone()
        };
        self.hooks.iter().map(status).collect()
    }
}

impl Entry {
    fn send(&mut self) {
        while let Some(event) = self.unsent.first() {
            if !self.process.send(&event.emit()) {
                return;
            }
            self.unsent.pop();
        }
    }

    fn on_report(&mut self, report: Report) {
        let (program, limit) = (self.hook.program.display(), self.hook.time_limit);
        let Report { event, peer, outcome, output, took_ms, .. } = &report;
        let words = outcome.words(limit);
        // The log's own fields: what the program writes cannot begin a line.
        let output = if report.output_left_out > 0 { format!("{output} ...") } else { output.clone() };
        match outcome.is_good() {
            true => tracing::info!(%program, event, peer, took_ms, output, "the hook {words}"),
            false => tracing::warn!(%program, event, peer, took_ms, output, "the hook {words}"),
        }
        if report.left > 0 {
            tracing::warn!(%program, "the hook has left {} processes behind that cannot be ended", report.left);
        }
        if report.dropped > self.status.dropped {
            let more = report.dropped - self.status.dropped;
            tracing::warn!(%program, "{more} events were dropped: the hook is too slow for so many peers");
        }
        let status = &mut self.status;
        status.runs += 1;
        status.failed += u64::from(!outcome.is_good());
        status.overdue += u64::from(*outcome == Outcome::Overdue);
        status.merged += report.merged;
        status.dropped = report.dropped;
        status.last = Some(words);
    }

    fn on_end(&mut self) {
        self.status.pid = None;
        tracing::error!(
            program = %self.hook.program.display(),
            "the process of the hook has ended, so it is not run any more; its last words are on standard error; restart onwire"
        );
    }
}

/// The command line of the process of a hook.
fn arguments(hook: &Hook) -> Vec<String> {
    let program = hook.program.display().to_string();
    let limit = format!("{}ms", hook.time_limit.as_millis());
    let first = [SUBCOMMAND.to_owned(), "--time-limit".to_owned(), limit, "--".to_owned(), program];
    first.into_iter().chain(hook.arguments.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_that_stands_still_has_no_room_for_is_bounded_and_counted() {
        let hook = Hook {
            on: vec![HookEvent::Link],
            program: "/bin/page".into(),
            arguments: Vec::new(),
            time_limit: Duration::from_secs(1),
        };
        // It never reads, and ends by itself.
        let process = HookProcess::start(Path::new("/bin/sleep"), &["3".to_owned()]).unwrap();
        let status = HookStatus::new(&hook, process.pid());
        let entry = Entry { hook, process, unsent: Waiting::default(), status };
        let mut hooks = Hooks { node: "ithaca".to_owned(), hooks: vec![entry] };
        assert_eq!(hooks.poll_timeout(Instant::now()), None);
        let fact = |state: &str| Fact::Link { state: state.into(), reason: "none".into(), before: "down".into() };
        for number in 0..5000 {
            hooks.tell(&format!("peer-{number}"), fact("up"));
        }
        let dropped = hooks.status()[0].dropped;
        assert!((1..5000).contains(&dropped), "{dropped}");
        assert!(hooks.poll_timeout(Instant::now()).is_some(), "the rest waits");
        assert!(!hooks.wants(HookEvent::Drain) && hooks.tell("peer-1", Fact::of_drain("complete", &[], 1.0)) == 0);
    }
}
