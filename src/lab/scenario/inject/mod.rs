//! E25: each system call of an appliance fails with each error that the kernel has for it: once, every third time, always,
//! and then no more. Is a "protected" ever false, does a process die, does it all come back, is it said?
//!
//! `strace` puts the errors into the real program ([`crate::lab::injection`]). Nothing is lost on the WAN, so a numbered UDP
//! packet that was reported on the wire must be at the mirror, whatever failed. A call that fails is not run: what could not
//! be read stays where it is, what could not be written is lost.
//!
//! Start with [`run`], then `faults` (which calls, which errors) and `verdict` (what counts). `start` is about calls that
//! are made once, before an appliance runs.

mod faults;
mod start;
mod verdict;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use self::{
    faults::{Fault, Object, Outcome, Trigger},
    verdict::{Totals, Trial},
};
use super::{
    Stage,
    stage::{WAN_TCP, ends},
    uplink::{load::Load, notified::Notes},
};
use crate::{
    lab::{
        error::LabError,
        injection::{Injected, Injection},
        network::Network,
        pair::{Pair, PairOptions},
        report::Report,
        subscriber::Subscriber,
        workload::stream::{Sink, Stream},
    },
    notify::message::Message,
};

/// The name of the part about an appliance's start, for `--arm`.
const START: &str = "start";
/// Which calls fail: the first, the first and each third after it, all.
const PHASES: [(&str, Duration); 3] =
    [("1", Duration::from_millis(300)), ("1+3", Duration::from_millis(600)), ("1+1", Duration::from_millis(1000))];
/// How long traffic runs before the first error.
const BEFORE: Duration = Duration::from_millis(200);
/// How long a link may take to be up before a trial, and something new to be called protected after the last error. A
/// feature that the kernel seemed to refuse is tried again after ten seconds.
const RECOVERY: Duration = Duration::from_secs(15);
/// How long an appliance that cannot go on may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// A silence of this length means that nothing more will arrive.
const QUIET: Duration = Duration::from_millis(350);
/// An end is logged after a minute without an error.
const SAID_WITHIN: Duration = Duration::from_secs(75);
/// Maximum number of UDP source ports in a trial.
const PORTS: u32 = 512;
/// Time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The parts that all trials share.
struct Lab<'n> {
    stage: &'n Stage<'n>,
    network: &'n Network<'n>,
    pair: Pair<'n>,
    sink: Sink,
    number: u32,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let names = &stage.options.arms;
    let faults = if names.is_empty() { Fault::all() } else { Fault::chosen(names)? };
    let is_start_tried = names.is_empty() || names.iter().any(|name| name == START);
    let rounds = stage.options.trials.unwrap_or(1);
    let trials: usize = faults.iter().map(|fault| fault.errors.len()).sum::<usize>() * rounds as usize;
    stage.say(&format!(
        "inject: under UDP and TCP, each system call of an appliance fails with each error that the kernel has for it: once, every\n\
         third time, always, and then no more: {trials} trials. Is everything at the mirror that was told to be on the wire? Does the\n\
         appliance live, and is all well again? Then it is started, and each call of its start fails once.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    let sink = Sink::listen(&network, "primary", "mirror", ends(&network)?[1])?;
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let mut lab = Lab { stage, network: &network, pair, sink, number: 0 };
    let mut totals = Totals::default();
    let (lasting, ending): (Vec<_>, Vec<_>) = faults
        .into_iter()
        .partition(|fault| matches!(fault.outcome, Outcome::GoesOn(_)) && fault.object != Object::Log);
    lab.try_all(&lasting, rounds, &mut totals)?;
    lab.read_logs(&lasting, &mut totals)?;
    lab.try_all(&ending, rounds, &mut totals)?;
    if is_start_tried {
        totals.starts = start::try_all(stage, &network, &mut lab.pair)?;
    }
    Ok(totals.report(stage.options.slack))
}

impl Lab<'_> {
    fn try_all(&mut self, faults: &[Fault], rounds: u32, totals: &mut Totals) -> Result<(), LabError> {
        let mut said = Instant::now();
        for (fault, error) in faults.iter().flat_map(|fault| fault.errors.iter().map(move |error| (fault, *error))) {
            for _ in 0..rounds {
                let trial = self.trial(fault, error)?;
                if let Some(words) = trial.surprise() {
                    self.stage.say(&format!("  {words}"));
                }
                totals.on_trial(trial);
            }
            if said.elapsed() > PROGRESS_EVERY {
                self.stage.say(&format!("  {} {error}: {totals}", fault.name));
                said = Instant::now();
            }
        }
        Ok(())
    }

    fn trial(&mut self, fault: &Fault, error: &'static str) -> Result<Trial, LabError> {
        self.number += 1;
        if self.pair.appliances.iter_mut().any(|appliance| !appliance.process.is_running()) {
            self.pair.restart()?;
        }
        let notes = Arc::<Mutex<Notes>>::default();
        let taking = notes.clone();
        let near = &self.pair.appliances[0];
        let look = move |message: &Message, at| lock(&taking).take(message, at);
        let subscriber = Subscriber::start(self.network, near.node(), near.publisher()?, look)?;
        self.wait_for(&notes, Notes::is_up)?.ok_or_else(|| {
            LabError::Sentence(format!("the link is not up before {} {error}, within {RECOVERY:?}", fault.name))
        })?;
        let ends = ends(self.network)?;
        let before = self.pair.status()?;
        let seed = self.stage.options.seed.wrapping_add(self.number.into());
        let mut load = Load::start(self.network, &self.sink, ends, (self.number * PORTS, seed))?;
        self.stage.pause(BEFORE)?;

        let mut trial = Trial { fault: *fault, error, ..Trial::new() };
        for (phase, injected) in PHASES.iter().zip(&mut trial.injected) {
            *injected = self.inject(fault, error, phase)?;
            if matches!(fault.outcome, Outcome::Ends(_)) {
                self.pair.appliances[fault.side].process.wait_end(ENDS_WITHIN);
            }
            if !self.pair.appliances[fault.side].process.is_running() {
                break;
            }
        }
        let over = Instant::now();
        let appliance = &mut self.pair.appliances[fault.side];
        trial.ended = (!appliance.process.is_running()).then(|| appliance.process.exit_code());
        trial.log = appliance.process.output();
        if trial.ended.is_none() {
            let is_back = |notes: &Notes| notes.last_by_departure.is_some_and(|at| at > over);
            trial.recovery = self.wait_for(&notes, is_back)?;
            trial.answers = self.pair.status().is_ok();
        }
        let flows = load.stop()?;
        load.wait_quiet(QUIET);
        subscriber.finish()?;
        let notes = lock(&notes);
        (trial.by_departure, trial.violations) = (notes.by_departure, notes.violations());
        let now = Instant::now();
        for claim in flows.iter().filter_map(|(key, _)| Some((key, notes.before(key, now)?))) {
            trial.packets += claim.1.packets;
            trial.packets_missing += load.missing(claim.0, claim.1.packets);
        }
        // TCP sends again what the mirror's TUN has refused; after a second without an answer it takes its time.
        let missing = || {
            let told = |stream: &Stream| notes.before(&stream.key(), now).map_or(0, |claim| claim.bytes);
            load.streams.iter().map(|stream| told(stream).saturating_sub(stream.received())).sum::<u64>()
        };
        while missing() > 0 && now.elapsed() < RECOVERY.mul_f64(self.stage.options.slack) {
            self.stage.pause(Duration::from_millis(10))?;
        }
        trial.bytes_missing = missing();
        if let (true, Ok(after)) = (trial.ended.is_none(), self.pair.status()) {
            let count = |of: &[crate::lab::status::Status; 2], side: usize, name: &str| {
                of[side].drops.get(name).copied().unwrap_or_default()
            };
            trial.refused = count(&after, 1, "tun_refused").saturating_sub(count(&before, 1, "tun_refused"));
            trial.is_unread = after[0].tun.tx_dropped != before[0].tun.tx_dropped;
        }
        load.end()?;
        Ok(trial)
    }

    /// Lets calls fail for a while; returns how many did.
    fn inject(&self, fault: &Fault, error: &str, &(when, lasting): &(&str, Duration)) -> Result<u64, LabError> {
        let appliance = &self.pair.appliances[fault.side];
        let plans: Vec<_> = self.network.topology().appliances().collect();
        let paths = fault.object.paths(appliance, plans[fault.side].1.listen.port())?;
        let injected = Injected { calls: fault.calls, error, when, paths: &paths };
        let injection = Injection::attach(self.stage.trace, appliance.process.id(), &injected)?;
        // These may fail: that is what is tried.
        match fault.trigger {
            Trigger::Traffic => {}
            Trigger::Status => drop(appliance.status(self.network)),
            Trigger::Reload => drop(appliance.reload(self.network)),
        }
        self.stage.pause(lasting)?;
        injection.detach()
    }

    /// How long it takes until `is_so`; nothing if that is too long.
    fn wait_for(&self, notes: &Mutex<Notes>, is_so: impl Fn(&Notes) -> bool) -> Result<Option<Duration>, LabError> {
        let (begin, limit) = (Instant::now(), RECOVERY.mul_f64(self.stage.options.slack));
        while !is_so(&lock(notes)) {
            if begin.elapsed() > limit {
                return Ok(None);
            }
            self.stage.pause(Duration::from_millis(1))?;
        }
        Ok(Some(begin.elapsed()))
    }

    /// Waits until each problem that an appliance has logged is also logged as over, and keeps the logs.
    fn read_logs(&mut self, faults: &[Fault], totals: &mut Totals) -> Result<(), LabError> {
        let deadline = Instant::now() + SAID_WITHIN.mul_f64(self.stage.options.slack);
        loop {
            totals.logs = self.pair.appliances.each_ref().map(|appliance| appliance.process.output());
            let unended = verdict::unended(faults, &totals.logs);
            if unended.is_empty() || Instant::now() > deadline {
                totals.unended = unended;
                return Ok(());
            }
            self.stage.say(&format!("  waiting for the end of {} in the logs", unended.join(", ")));
            self.stage.pause(PROGRESS_EVERY)?;
        }
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}
