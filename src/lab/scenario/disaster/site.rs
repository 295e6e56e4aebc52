//! The two sites of a disaster for one arm at one loss: restored before each trial, and destroyed in it.
//!
//! The order of a disaster: the WAN begins to lose; some time later it is cut at its entrance, so that datagrams in
//! flight arrive; then the primary's processes are killed. Notifications after the cut began do not count: data that
//! leaves a dying site by its only path cannot be saved, and the guarantee excludes it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    arm::{Arm, BLOCK_SYMBOLS, Fault},
    drain::{self, Drained},
};
use crate::{
    lab::{
        error::LabError,
        monotonic::Monotonic,
        network::Network,
        pair::{Pair, PairOptions, Publisher, RunningAppliance},
        scenario::{Stage, stage::plain_route},
        subscriber::Subscriber,
        wan::counters::Counters,
    },
    notify::message::Message,
};

/// The one-way delay of the WAN.
pub const ONE_WAY: Duration = Duration::from_millis(50);
/// From the first loss to the cut.
const LOSS_BEFORE_CUT: Duration = Duration::from_millis(500);
/// The same in the arm that must report a violation: TCP would repair earlier losses before the cut.
const SHORT_LOSS: Duration = Duration::from_millis(80);
/// How long after the cut the peer's report may take: two one-way delays, the hold time of a gap, a report, and a busy
/// machine.
const PEER_REPORT: Duration = Duration::from_millis(500);
/// If nothing has arrived at the mirror's appliance for this long, nothing is in flight any more.
const QUIET: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(20);
/// From the order of an interruption to its beginning, and how long the emulator may take to hear of the cut.
const LEAD: Duration = Duration::from_millis(5);
const UNTIL_TOLD: Duration = Duration::from_millis(500);

/// A WAN without loss.
const WHOLE: &str = "set loss 0%, passage open";

/// Both sites.
#[derive(Debug)]
pub struct Site<'s> {
    /// The stage of the scenario.
    pub stage: &'s Stage<'s>,
    /// The network.
    pub network: &'s Network<'s>,
    /// The arm.
    pub arm: Arm,
    /// The loss of the WAN.
    pub loss: f64,
    pair: Option<Pair<'s>>,
}

/// The end of the primary site.
#[derive(Debug)]
pub struct Strike {
    /// Just before the cut; later notifications do not count.
    pub cut: Instant,
    /// When violations were reported, by an appliance that outlives its site for this purpose.
    pub violations: Vec<Instant>,
}

impl Strike {
    /// Whether a violation was reported in time.
    pub fn is_violation_told(&self, slack: f64) -> bool {
        self.violations.iter().any(|told| *told < self.cut + PEER_REPORT.mul_f64(slack))
    }
}

impl<'s> Site<'s> {
    /// The sites for an arm at a loss: with the appliances it needs, or the plain route.
    pub fn make(stage: &'s Stage<'s>, network: &'s Network<'s>, arm: Arm, loss: f64) -> Result<Self, LabError> {
        // The previous arm left the WAN cut.
        network.tell_wan(WHOLE)?;
        if !arm.has_appliances() {
            plain_route(network, "add")?;
            return Ok(Self { stage, network, arm, loss, pair: None });
        }
        let options = PairOptions {
            label: format!("{}-{}", arm.name(), loss * 100.0),
            repair: arm.repair_text(loss),
            block_symbols: BLOCK_SYMBOLS,
            notify: Some("on_wire"),
            ..PairOptions::default()
        };
        let pair = Pair::start(network, &options)?;
        Ok(Self { stage, network, arm, loss, pair: Some(pair) })
    }

    /// Restores everything: no loss, both appliances restarted.
    pub fn mend(&mut self) -> Result<(), LabError> {
        self.network.tell_wan(WHOLE)?;
        self.pair.as_mut().map_or(Ok(()), Pair::restart)
    }

    /// The publisher of the notifications, in arms with appliances.
    pub fn publisher(&self) -> Result<Option<&Publisher>, LabError> {
        self.pair.as_ref().map(|pair| pair.appliances[0].publisher()).transpose()
    }

    /// One of the appliances: 0 is the primary's.
    pub fn appliance(&mut self, at: usize) -> Result<&mut RunningAppliance, LabError> {
        let missing = || LabError::Sentence(format!("{} has no appliances", self.arm.name()));
        self.pair.as_mut().and_then(|pair| pair.appliances.get_mut(at)).ok_or_else(missing)
    }

    /// Runs the disaster. `kill` ends the programs of the primary site.
    pub fn strike(&mut self, kill: impl FnOnce()) -> Result<Strike, LabError> {
        let violations = Arc::<Mutex<Vec<Instant>>>::default();
        let is_told = self.arm == Arm::TooLittleRepair;
        let listener = match self.publisher()? {
            Some(publisher) if is_told => {
                let received = violations.clone();
                let look = move |message: &Message, at: Instant| {
                    if matches!(message, Message::Violation(_)) {
                        received.lock().unwrap_or_else(PoisonError::into_inner).push(at);
                    }
                };
                Some(Subscriber::start(self.network, "ithaca", publisher, look)?)
            }
            _ => None,
        };
        let before_cut = if is_told { SHORT_LOSS } else { LOSS_BEFORE_CUT };
        let cut = match self.arm.fault() {
            Fault::Interruption(length) => self.interrupt_until_cut(length)?,
            fault => {
                let loss = match fault {
                    Fault::Loss(loss) => loss.to_owned(),
                    _ => format!("{}%", self.loss * 100.0),
                };
                self.network.tell_wan(&format!("set loss {loss}"))?;
                self.stage.pause(before_cut)?;
                Instant::now()
            }
        };
        self.network.tell_wan(if is_told { "cut forth" } else { "cut" })?;
        kill();
        if is_told {
            self.stage.pause(PEER_REPORT.mul_f64(self.stage.options.slack))?;
        }
        if let Some(pair) = &mut self.pair {
            pair.appliances[0].process.kill();
        }
        listener.map_or(Ok(0), Subscriber::finish)?;
        let violations = violations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Strike { cut, violations })
    }

    /// Interrupts the WAN; returns its moment of the cut, which is `length` after the beginning. The interruption lasts until the
    /// emulator has been told of the cut, so that nothing enters between the two.
    fn interrupt_until_cut(&self, length: Duration) -> Result<Instant, LabError> {
        let missing = || LabError::Sentence("an interruption needs an emulator".to_owned());
        let wan = self.network.wan().ok_or_else(missing)?;
        let window = wan.interrupt(length + UNTIL_TOLD, LEAD).map_err(LabError::doing("order an interruption"))?;
        let cut = Monotonic::now().to_instant(window.from_ns) + length;
        std::thread::sleep(cut.saturating_duration_since(Instant::now()));
        Ok(cut)
    }

    /// Drains the mirror as its operator would, then waits until the WAN is empty; on the plain route it only waits.
    pub fn drain(&self) -> Result<Option<Drained>, LabError> {
        let drained = match &self.pair {
            Some(pair) => {
                let verdict = drain::ask(self.network.trace(), pair.appliances[1].socket())?;
                let wan = self.network.wan().map(|wan| wan.truth()).transpose();
                let truth = wan.map_err(LabError::doing("read the emulator's counters"))?;
                let of = |count: fn(&Counters) -> u64| truth.as_ref().map_or(0, |truth| count(&truth.forth));
                Some(Drained {
                    verdict,
                    in_flight: of(|forth| forth.in_flight),
                    lost_last: of(|forth| forth.lost_last),
                    late: pair.appliances[1].status(self.network)?.drops.get("late_symbol").copied().unwrap_or(0),
                })
            }
            None => None,
        };
        self.wait_empty()?;
        Ok(drained)
    }

    /// Waits until nothing is in flight and nothing has arrived for a while.
    pub fn wait_empty(&self) -> Result<(), LabError> {
        let Some(wan) = self.network.wan() else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        let (mut last, mut since) = (None, Instant::now());
        loop {
            let truth = wan.truth().map_err(LabError::doing("read the emulator's counters"))?;
            let now = Some((truth.forth.delivered, truth.forth.in_flight));
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if truth.forth.in_flight == 0 && since.elapsed() > QUIET {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(LabError::Sentence(format!("the WAN is not empty {PATIENCE:?} after it was cut")));
            }
            self.stage.pause(Duration::from_millis(5))?;
        }
    }

    /// Ends the appliances, or removes the plain route.
    pub fn clear(self) -> Result<(), LabError> {
        match self.pair {
            // One of them is dead already.
            Some(mut pair) => pair.appliances.iter_mut().for_each(|appliance| appliance.process.kill()),
            None => plain_route(self.network, "del")?,
        }
        Ok(())
    }
}
