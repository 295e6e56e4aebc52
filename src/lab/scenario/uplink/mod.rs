//! E12: the uplink of the primary's host fails in ways that drop packets silently: the cable's far end, the device, the
//! neighbour, the address, the queue and the route fail and recover under load. Does the mirror have everything that
//! was called protected?
//!
//! Nothing is lost after the uplink, so data reported as on the wire must be at the mirror, whatever the appliance's
//! own counters show: numbered UDP packets in every trial, bytes of TCP in trials that end with a disaster, where no
//! host can retransmit them. Taps at the ends of the cable count what the cable lost; the emulator has its own
//! counters. The control is a sender that takes one timestamp as proof for all earlier datagrams.
//!
//! Start with [`run`], then `faults` (what can happen) and `verdict` (what counts); `notified` and `losses` are the two
//! sides that are compared, `one_stamp` is the control.

mod faults;
pub(super) mod load;
mod losses;
pub(super) mod notified;
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
/// Faults per trial, and the time in ms between the end of one and the beginning of the next.
const FAULTS: std::ops::RangeInclusive<u32> = 2..=4;
const BETWEEN: std::ops::Range<u64> = 30..350;
/// Time in ms from the last step of the last fault to the disaster.
const BEFORE_CUT: std::ops::Range<u64> = 0..60;
/// How long a link may take to be up before a trial, and to be trusted again after the last fault.
const RECOVERY: Duration = Duration::from_secs(10);
/// A silence of this length means that nothing more will arrive.
const QUIET: Duration = Duration::from_millis(350);
/// Maximum number of UDP source ports in a trial.
const PORTS: u32 = 256;
/// Time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The parts that all trials share.
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
        if said.elapsed() > PROGRESS_EVERY {
            stage.say(&format!("  {} of {trials}: {totals}", number + 1));
            said = Instant::now();
        }
    }
    Ok(totals.report(stage.options.slack))
}

impl Lab<'_> {
    /// Runs one trial; those with odd numbers end with a disaster.
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
        sent.compare(&lock(&notes), &losses, &mut outcome);
        sent.load.end()?;
        Ok(outcome)
    }

    /// Restores the network and starts both appliances if they do not run.
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

    /// The disaster: the WAN is cut at its entrance, after the uplink, and the primary's appliance is killed.
    /// Notifications before the cut count.
    fn strike(&mut self, mut load: Load, outcome: &mut Outcome) -> Result<Sent, LabError> {
        let cut = Instant::now();
        self.network.tell_wan("cut")?;
        self.pair.appliances[0].process.kill();
        let flows = load.stop()?;
        outcome.verdict = Some(drain::ask(self.stage.trace, self.pair.appliances[1].socket())?);
        load.wait_quiet(QUIET);
        Ok(Sent { load, flows, until: cut })
    }

    /// Without a disaster: the load goes on until something new is called protected, and then stops.
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

    /// Datagrams that the emulator has lost so far. Those that met the cut do not count: their site was already dead.
    fn lost_behind(&self) -> Result<u64, LabError> {
        let wan = self.network.wan().map(|wan| wan.truth()).transpose();
        let forth = wan.map_err(LabError::doing("read the emulator's counters"))?.unwrap_or_default().forth;
        Ok(forth.lost.total() - forth.lost.cut)
    }

    fn pause(&self, rng: &mut SmallRng, range: std::ops::Range<u64>) -> Result<(), LabError> {
        self.stage.pause(Duration::from_millis(rng.random_range(range)))
    }
}

/// The traffic of a trial.
struct Sent {
    /// The load, stopped.
    load: Load,
    /// UDP flows, and when they began.
    flows: Vec<(FlowKey, Instant)>,
    /// Later notifications do not count.
    until: Instant,
}

impl Sent {
    /// Compares the notifications with the data at the mirror.
    fn compare(&self, notes: &Notes, losses: &Losses, outcome: &mut Outcome) {
        outcome.by_departure = notes.by_departure;
        outcome.violations = notes.violations();
        outcome.least_repair = notes.least_repair;
        outcome.lost = losses.total();
        outcome.never_left = losses.never_left;
        for (key, began) in &self.flows {
            let Some(claim) = notes.before(key, self.until) else { continue };
            // The claimed packets were sent between these two moments; if the path lost too much then, the claim was
            // not guaranteed.
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
