//! The cost of a subscriber: the same flows through the same pair, in short slices alternately with and without it.
//!
//! Two transfers differ by more than a subscriber can cost: the scheduler places each differently, and a shared machine
//! is faster in some seconds than in others. So the flows stay, only the subscription changes from one slice to the
//! next, and slices are short: a disturbance affects both slices of a pair, or only few pairs.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Stage, plan,
    slices::{LEAD, Pairs, SLICE, Slice, alternate, slice},
};
use crate::{
    lab::{
        error::LabError,
        median::{median, median_bounds},
        network::Network,
        pair::{Pair, RunningAppliance},
        report::Report,
        status::NotifyStatus,
        subscriber::Subscriber,
    },
    notify::message::Message,
};

/// An odd number, so that the median is one of the values.
const PAIRS: usize = 101;
/// A new subscriber first receives the state of every flow, which is not part of its running cost.
const COMPLETE_WITHIN: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_millis(50);
/// A subscriber must leave at least this share of the speed.
const LEAST: f64 = 0.95;

/// All slices of one transfer.
#[derive(Debug)]
pub struct Turns {
    flows: u32,
    /// Without and with, whichever came first.
    pairs: Pairs,
    /// Flows in the table of the near appliance, at the end.
    flows_followed: u64,
    /// Messages that the subscriber dropped because it was too slow.
    dropped: u64,
}

/// A subscriber on the appliance's own host that counts the messages about all flows.
#[derive(Debug)]
pub struct Listener {
    subscriber: Subscriber,
    messages: Arc<AtomicU64>,
}

impl Listener {
    /// Subscribes.
    pub fn start(network: &Network<'_>, appliance: &RunningAppliance) -> Result<Self, LabError> {
        let messages = Arc::new(AtomicU64::new(0));
        let count = messages.clone();
        let look = move |_: &Message, _| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let subscriber = Subscriber::start(network, appliance.node(), appliance.publisher()?, look)?;
        Ok(Self { subscriber, messages })
    }

    /// Waits until the state of every flow has arrived.
    fn wait_complete(&self, stage: &Stage<'_>) -> Result<(), LabError> {
        let deadline = Instant::now() + COMPLETE_WITHIN;
        while !self.subscriber.is_complete() {
            if Instant::now() > deadline {
                return Err(LabError::Sentence(format!(
                    "the subscriber was not told of all flows in {COMPLETE_WITHIN:?}"
                )));
            }
            stage.pause(Duration::from_millis(5))?;
        }
        Ok(())
    }

    /// Messages so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Ends the subscription; returns how many messages it dropped because it was too slow.
    pub fn finish(self) -> Result<u64, LabError> {
        self.subscriber.finish()
    }
}

/// Measures slices alternately on a pair that notifies, while this many flows go through it.
pub fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    address: IpAddr,
    flows: u32,
) -> Result<Turns, LabError> {
    let name = format!("turns-{flows}");
    let lasts = LEAD + (SETTLE + SLICE) * 2 * PAIRS as u32;
    // The transfer is ended after the last slice; a slow machine must not reach its end earlier.
    let mut bulk = plan(&name, address, flows, 3 * lasts.as_secs()).start(network)?;
    stage.pause(LEAD)?;
    let mut dropped = 0;
    let pairs = alternate(stage, (PAIRS, flows), |number, which| {
        let listener = (which == 1).then(|| Listener::start(network, &pair.appliances[0])).transpose()?;
        if let Some(listener) = &listener {
            listener.wait_complete(stage)?;
        }
        stage.pause(SETTLE)?;
        if number == 1 {
            check(&notify_status(network, pair)?, which as u64)?;
        }
        let slice = slice(stage, network, pair, || listener.as_ref().map_or(0, Listener::messages))?;
        dropped += listener.map_or(Ok(0), Listener::finish)?;
        Ok(slice)
    })?;
    if !bulk.is_running() {
        return Err(LabError::Sentence("iperf3 ended before the last slice".to_owned()));
    }
    stage.pause(SETTLE)?;
    check(&notify_status(network, pair)?, 0)?;
    let protection = pair.appliances[0].status(network)?.peer().protection;
    let flows_followed = protection.map_or(0, |protection| protection.flows);
    Ok(Turns { flows, pairs, flows_followed, dropped })
}

fn notify_status(network: &Network<'_>, pair: &Pair<'_>) -> Result<NotifyStatus, LabError> {
    Ok(pair.appliances[0].status(network)?.notify.unwrap_or_default())
}

/// The measurement is wrong if the appliance still notifies a subscriber in the slices without one. A subscriber whose
/// unsubscribe message was lost stays until its lease ends, and that is counted; so one check at the end covers all
/// slices.
fn check(found: &NotifyStatus, expected: u64) -> Result<(), LabError> {
    let NotifyStatus { subscribers, leases_ended } = *found;
    if subscribers == expected && leases_ended == 0 {
        return Ok(());
    }
    Err(LabError::Sentence(format!(
        "the near appliance has {subscribers} subscribers where it ought to have {expected}, and ended {leases_ended} leases \
         by itself where it ought to have ended none: slices without a subscriber were not"
    )))
}

impl Turns {
    /// Adds the claims.
    pub fn report(&self, report: &mut Report, many_flows: u64, but: &str) {
        let (ratio, [low, high]) = (median(self.pairs.ratios()), median_bounds(self.pairs.ratios()));
        let Self { flows, flows_followed, dropped, .. } = self;
        report.claim(
            format!("a subscriber to all flows leaves {LEAST} of the speed, {flows} flow(s)"),
            format!(
                "{ratio:.3} ({low:.3} to {high:.3} with 95 % certainty, {PAIRS} pairs of slices{but}); CPU s per GB, both \
                 appliances: {:.2} without, {:.2} with",
                self.pairs.cpu_per_gb(0),
                self.pairs.cpu_per_gb(1)
            ),
            ratio >= LEAST,
        );
        let told = self.pairs.each(|[_, with]| with.messages as f64 / with.seconds.max(1e-9));
        let least = told.iter().copied().fold(f64::INFINITY, f64::min);
        report.claim(
            format!("it is told all the while, with {many_flows} flows and more in the table, {flows} flow(s)"),
            format!("{:.0} messages a second, {dropped} not taken; {flows_followed} flows", median(told)),
            least > 0.0 && least.is_finite() && *flows_followed >= many_flows,
        );
    }

    /// The numbers, and below them each pair.
    pub fn to_json(&self) -> Value {
        let numbers = |slice: &Slice| json!({ "gbit": slice.gbit(), "messages": slice.messages });
        let pairs =
            self.pairs.0.iter().map(|[without, with]| json!({ "without": numbers(without), "with": numbers(with) }));
        let [low, high] = median_bounds(self.pairs.ratios());
        json!({
            "ratio": median(self.pairs.ratios()),
            "ratio_least": low,
            "ratio_most": high,
            "cpu_seconds_per_gb_without": self.pairs.cpu_per_gb(0),
            "cpu_seconds_per_gb_with": self.pairs.cpu_per_gb(1),
            "flows_followed": self.flows_followed,
            "messages_not_taken": self.dropped,
            "pairs": pairs.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Turns whose slices with the subscriber have this share of the speed, except some that were disturbed.
    pub fn turns(with: f64, disturbed: usize, messages: u64) -> Turns {
        let slice = |gbit: f64| Slice { seconds: 0.5, bytes: gbit / 16.0 * 1e9, cpu_seconds: 0.4375, messages };
        let pair = |at| [slice(7.0), slice(if at < disturbed { 1.0 } else { 7.0 * with })];
        Turns { flows: 4, pairs: Pairs((0..PAIRS).map(pair).collect()), flows_followed: 10_004, dropped: 0 }
    }

    fn passes(turns: &Turns, many_flows: u64) -> bool {
        let mut report = Report::default();
        turns.report(&mut report, many_flows, "");
        report.passes()
    }

    #[test]
    fn a_minority_of_disturbed_slices_is_ignored_and_a_costly_subscriber_fails() {
        assert!(passes(&turns(0.97, 0, 9), 10_000));
        assert!(passes(&turns(0.97, PAIRS / 2, 9), 10_000));
        assert!(!passes(&turns(0.97, PAIRS / 2 + 1, 9), 10_000));
        assert!(!passes(&turns(0.94, 0, 9), 10_000));
    }

    #[test]
    fn a_subscriber_without_messages_or_with_too_few_flows_fails() {
        assert!(!passes(&turns(1.0, 0, 0), 10_000));
        assert!(!passes(&turns(1.0, 0, 9), 10_005));
    }

    #[test]
    fn slices_without_traffic_fail() {
        let mut turns = turns(0.97, 0, 9);
        turns.pairs.0.iter_mut().take(PAIRS / 2 + 1).for_each(|[without, _]| without.bytes = 0.0);
        assert!(!passes(&turns, 10_000));
    }

    #[test]
    fn a_subscriber_that_stayed_is_detected_also_after_its_lease_ended() {
        for (subscribers, leases_ended, expected, is_fine) in
            [(0, 0, 0, true), (1, 0, 1, true), (1, 0, 0, false), (0, 0, 1, false), (0, 1, 0, false)]
        {
            let found = NotifyStatus { subscribers, leases_ended };
            assert_eq!(check(&found, expected).is_ok(), is_fine, "{found:?}, {expected}");
        }
    }

    #[test]
    fn the_json_holds_the_speeds_of_each_pair() {
        let value = turns(0.5, 0, 9).to_json();
        assert_eq!(
            (&value["ratio"], &value["ratio_least"], &value["flows_followed"]),
            (&json!(0.5), &json!(0.5), &json!(10_004))
        );
        assert_eq!(value["cpu_seconds_per_gb_with"], json!(2.0));
        let pair = &value["pairs"][PAIRS - 1];
        assert_eq!(
            (&pair["without"]["gbit"], &pair["with"]["gbit"], &pair["with"]["messages"]),
            (&json!(7.0), &json!(3.5), &json!(9))
        );
    }
}
