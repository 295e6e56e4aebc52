//! E12: the uplink of the primary's host fails in the ways in which it drops without a word: the cable's far end, the device,
//! the neighbour, the address, the queue and the route come and go under load. Is what was called protected there?
//!
//! Nothing is lost behind the uplink, so what is told to be on the wire must be at the mirror, whatever the appliance
//! thinks of it: numbered UDP packets in every trial, bytes of TCP where a disaster ends the trial and nobody can send them
//! again. What the cable has lost is seen by taps at its ends; the emulator counts for itself. The control is a sender for
//! which one timestamp speaks for all that was sent before.
//!
//! Start with [`run`], then `faults` (what can happen) and `verdict` (what counts); `told` and `losses` are the two sides
//! that are compared, `one_stamp` is the control.

mod faults;
mod load;
mod losses;
mod notified;
mod one_stamp;
mod testbed;
mod verdict;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use self::{
    faults::{Kind, Queue, Step},
    load::Load,
    losses::{Losses, Taps},
    notified::Notes,
    one_stamp::OneStamp,
    testbed::Uplink,
    verdict::{Outcome, Totals},
};
use super::{
    Stage,
    disaster::drain,
    stage::{WAN_TCP, ends},
};
use crate::{
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        report::Report,
        subscriber::Subscriber,
        workload::stream::Sink,
    },
    notify::message::{FlowKey, Message},
};

const TRIALS: u32 = 200;
/// Faults of a trial, and the time between the end of one and the beginning of the next.
const FAULTS: std::ops::RangeInclusive<u32> = 2..=4;
const BETWEEN: std::ops::Range<u64> = 30..350;
/// From the last step of the last fault to the disaster.
const BEFORE_CUT: std::ops::Range<u64> = 0..60;
/// How long a link may take to be trusted again when the fault is over, and to be up before a trial.
const RECOVERY: Duration = Duration::from_secs(10);
/// When nothing has come to the mirror for this long, nothing will.
const QUIET: Duration = Duration::from_millis(350);
/// Source ports of UDP that a trial uses at most.
const PORTS: u32 = 256;
/// How often the user is told how far it is.
const NEWS: Duration = Duration::from_secs(5);

/// What all trials share.
struct Lab<'n> {
    stage: &'n Stage<'n>,
    network: &'n Network<'n>,
    pair: Pair<'n>,
    uplink: Uplink<'n>,
    sink: Sink,
    ends: [IpAddr; 2],
    kinds: Vec<Kind>,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let trials = stage.options.trials.unwrap_or(TRIALS);
    let kinds = Kind::chosen(&stage.options.arms)?;
    stage.say(&format!(
        "uplink: under UDP and TCP, the uplink of the primary's appliance fails at random moments: carrier, device, neighbour, address,\n\
         queue, route. It drops what the kernel took, and says nothing. Half of the {trials} trials end with the loss of the site.\n\
         Is everything at the mirror that was told to be on the wire? Control: one timestamp speaks for all that was sent before it.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    let ends = ends(&network)?;
    let uplink = Uplink::open(&network)?;
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let sink = Sink::listen(&network, "primary", "mirror", ends[1])?;
    let mut lab = Lab { stage, network: &network, pair, uplink, sink, ends, kinds };
    let mut totals = Totals::default();
    let mut said = Instant::now();
    for number in 0..trials {
        let outcome = lab.trial(number)?;
        if let Some(words) = outcome.surprise() {
            stage.say(&format!("  trial {number}: {words}"));
        }
        totals.on_trial(&outcome);
        if said.elapsed() > NEWS {
            stage.say(&format!("  {} of {trials}: {totals}", number + 1));
            said = Instant::now();
        }
    }
    Ok(totals.report(stage.options.slack))
}

impl Lab<'_> {
    /// One trial; those with odd numbers end with a disaster.
    fn trial(&mut self, number: u32) -> Result<Outcome, LabError> {
        let seed = self.stage.options.seed.wrapping_mul(1_000_003).wrapping_add(number.into());
        let mut rng = SmallRng::seed_from_u64(seed);
        self.begin(Queue::draw(&mut rng))?;
        let notes = Arc::<Mutex<Notes>>::default();
        let taking = notes.clone();
        let near = &self.pair.appliances[0];
        let look = move |message: &Message, at| lock(&taking).take(message, at);
        let subscriber = Subscriber::start(self.network, near.node(), near.publisher()?, look)?;
        self.wait_for("the link is not up", &notes, Notes::is_up)?;
        let unread = self.uplink.unread()?;
        let behind = self.lost_behind()?;
        let taps = Taps::start(self.network, testbed::NEAR, testbed::FAR)?;
        let load = Load::start(self.network, &self.sink, self.ends, (number * PORTS, seed))?;
        let control = OneStamp::start(self.network)?;
        self.pause(&mut rng, BETWEEN)?;

        let mut outcome = Outcome { is_disaster: number % 2 == 1, ..Outcome::default() };
        for _ in 0..rng.random_range(FAULTS) {
            if !outcome.faults.is_empty() {
                self.pause(&mut rng, BETWEEN)?;
            }
            let kind = self.kinds[rng.random_range(0..self.kinds.len())];
            self.play(&kind.draw(&mut rng))?;
            outcome.faults.push(kind);
        }
        let sent = match outcome.is_disaster {
            true => {
                self.pause(&mut rng, BEFORE_CUT)?;
                outcome.is_unread = self.uplink.unread()? != unread;
                self.strike(load, &mut outcome)?
            }
            false => {
                let sent = self.recover(load, &notes, &mut outcome)?;
                outcome.is_unread = self.uplink.unread()? != unread;
                sent
            }
        };
        outcome.control = control.finish()?;
        subscriber.finish()?;
        let losses = taps.finish(self.lost_behind()? - behind);
        sent.judge(&lock(&notes), &losses, &mut outcome);
        sent.load.end()?;
        Ok(outcome)
    }

    /// Makes the network whole and both appliances run.
    fn begin(&mut self, queue: Queue) -> Result<(), LabError> {
        self.network.tell_wan("open")?;
        self.uplink.mend(queue)?;
        if !self.pair.appliances[0].process.is_running() {
            self.pair.restart()?;
        }
        Ok(())
    }

    fn play(&mut self, steps: &[Step]) -> Result<(), LabError> {
        let begin = Instant::now();
        for step in steps {
            std::thread::sleep((begin + step.at).saturating_duration_since(Instant::now()));
            self.uplink.act(&step.action)?;
        }
        self.stage.trace.check_stop()
    }

    /// The disaster: the WAN is cut at its entrance, behind the uplink, and the primary's appliance dies. What was told
    /// before the cut counts.
    fn strike(&mut self, mut load: Load, outcome: &mut Outcome) -> Result<Sent, LabError> {
        let cut = Instant::now();
        self.network.tell_wan("cut")?;
        self.pair.appliances[0].process.kill();
        let flows = load.stop()?;
        outcome.verdict = Some(drain::ask(self.stage.trace, self.pair.appliances[1].socket())?);
        load.wait_quiet(QUIET);
        Ok(Sent { load, flows, until: cut })
    }

    /// No disaster: what is sent goes on until something new is called protected again, and then stops.
    fn recover(&self, mut load: Load, notes: &Mutex<Notes>, outcome: &mut Outcome) -> Result<Sent, LabError> {
        let over = Instant::now();
        load.ease();
        let is_back = |notes: &Notes| notes.last_by_departure.is_some_and(|at| at > over);
        let waited = self.wait_for("nothing is called protected any more", notes, is_back);
        outcome.recovery = waited.is_ok().then(|| over.elapsed());
        if let Err(LabError::Stopped) = waited {
            return Err(LabError::Stopped);
        }
        let flows = load.stop()?;
        load.wait_quiet(QUIET);
        Ok(Sent { load, flows, until: Instant::now() })
    }

    fn wait_for(&self, what: &str, notes: &Mutex<Notes>, is_so: impl Fn(&Notes) -> bool) -> Result<(), LabError> {
        let limit = RECOVERY.mul_f64(self.stage.options.slack);
        let deadline = Instant::now() + limit;
        while !is_so(&lock(notes)) {
            if Instant::now() > deadline {
                return Err(LabError::Sentence(format!("{what} within {limit:?}")));
            }
            self.stage.pause(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// What the emulator has lost so far. What met the cut does not count: it was sent by a site that was dead already.
    fn lost_behind(&self) -> Result<u64, LabError> {
        let wan = self.network.wan().map(|wan| wan.truth()).transpose();
        let forth = wan.map_err(LabError::doing("read the emulator's counters"))?.unwrap_or_default().forth;
        Ok(forth.lost.total() - forth.lost.cut)
    }

    fn pause(&self, rng: &mut SmallRng, range: std::ops::Range<u64>) -> Result<(), LabError> {
        self.stage.pause(Duration::from_millis(rng.random_range(range)))
    }
}

/// What was sent in a trial.
struct Sent {
    /// It has stopped.
    load: Load,
    /// UDP flows, and when they began.
    flows: Vec<(FlowKey, Instant)>,
    /// What was told later does not count.
    until: Instant,
}

impl Sent {
    /// Compares what was told with what is at the mirror.
    fn judge(&self, notes: &Notes, losses: &Losses, outcome: &mut Outcome) {
        outcome.by_departure = notes.by_departure;
        outcome.violations = notes.violations();
        outcome.least_repair = notes.least_repair;
        outcome.lost = losses.total();
        outcome.never_left = losses.never_left;
        for (key, began) in &self.flows {
            let Some(claim) = notes.before(key, self.until) else { continue };
            // What was told was sent between these two moments; if the path took too much then, nothing was promised.
            if outcome.is_unread || outcome.is_too_much(losses.between(*began, claim.at)) {
                outcome.packets_excused += claim.packets;
                continue;
            }
            outcome.packets += claim.packets;
            outcome.packets_missing += self.load.missing(key, claim.packets);
        }
        for stream in &self.load.streams {
            let bytes = notes.before(&stream.key(), self.until).map_or(0, |claim| claim.bytes);
            outcome.bytes += bytes;
            outcome.bytes_missing += bytes.saturating_sub(stream.received());
        }
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}
