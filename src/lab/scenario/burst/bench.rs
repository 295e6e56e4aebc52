//! What all parts of the scenario use: a pair of appliances, the numbered flows through it, a program that waits for
//! "protected", and the violations that the primary's appliance reports.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        scenario::{
            Stage,
            stage::{ends, wait_up},
        },
        subscriber::{self, Subscriber},
        wan::control::Remote,
        workload::numbered::{NumberedFlow, NumberedSink},
    },
    notify::{
        client::{Client, Waited, Wish},
        message::Message,
    },
};

/// How long a program waits for the notification, and how long after it a packet or a violation may still come: the round trip,
/// the peer's hold time and its report.
const PATIENCE: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_millis(250);
const REPORTED_WITHIN: Duration = Duration::from_secs(1);

/// A pair and what is needed to judge it.
pub struct Bench<'s> {
    pub stage: &'s Stage<'s>,
    pub network: &'s Network<'s>,
    pub pair: Pair<'s>,
    pub sink: NumberedSink,
    client: Client,
    violations: Arc<AtomicU64>,
    listener: Subscriber,
}

/// What became of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// From the last packet to "protected"; none: it was not called protected.
    pub protected_after: Option<Duration>,
    /// Packets that did not arrive.
    pub missing: u64,
    /// Violations reported since the flow began.
    pub violations: u64,
}

impl<'s> Bench<'s> {
    /// Starts a pair whose only profile has this `repair`, and further keys.
    pub fn start(
        stage: &'s Stage<'s>,
        network: &'s Network<'s>,
        label: &str,
        (repair, profile, block_symbols): (&str, &str, u32),
    ) -> Result<Self, LabError> {
        let options = PairOptions {
            label: label.to_owned(),
            repair: repair.to_owned(),
            profile: profile.to_owned(),
            block_symbols,
            notify: Some("on_wire"),
            ..PairOptions::default()
        };
        let pair = Pair::start(network, &options)?;
        let publisher = pair.appliances[0].publisher()?.clone();
        let client = subscriber::connect(network, "primary", publisher.address, &publisher, Wish::default())?;
        let violations = Arc::<AtomicU64>::default();
        let count = violations.clone();
        let listener = Subscriber::start(network, "ithaca", &publisher, move |message, _| {
            // A message is repeated; its number is not.
            if let Message::Violation(violation) = message {
                count.fetch_max(violation.number, Ordering::Relaxed);
            }
        })?;
        let [from, to] = ends(network)?;
        let sink = NumberedSink::listen(network, ("primary", from), ("mirror", to))?;
        Ok(Self { stage, network, pair, sink, client, violations, listener })
    }

    /// The emulator's control.
    pub fn wan(&self) -> Result<&'s Remote, LabError> {
        self.network.wan().ok_or_else(|| LabError::Sentence("this scenario needs an emulator".to_owned()))
    }

    /// Waits until the link is trusted, and begins a flow; returns it with the number of violations so far.
    pub fn begin(&mut self) -> Result<(NumberedFlow, u64), LabError> {
        wait_up(self.stage, &mut self.client)?;
        let flow = self.sink.open()?;
        self.client.watch(flow.key);
        Ok((flow, self.violations.load(Ordering::Relaxed)))
    }

    /// Waits for "protected" and for what is still on its way, and ends the flow.
    pub fn judge(&mut self, flow: NumberedFlow, violations_before: u64) -> Result<Judged, LabError> {
        let slack = self.stage.options.slack;
        let sent = Instant::now();
        let waited = self.client.wait(&flow.key, flow.bytes, sent + PATIENCE.mul_f64(slack));
        let protected_after = match waited.map_err(LabError::doing("wait for the notification"))? {
            Waited::Protected { .. } => Some(sent.elapsed()),
            Waited::NotProtected { .. } => None,
        };
        self.client.unwatch(&flow.key);
        let missing = self.sink.drain(&flow, QUIET.mul_f64(slack.min(4.0)));
        let violations = || self.violations.load(Ordering::Relaxed) - violations_before;
        let deadline = Instant::now() + REPORTED_WITHIN.mul_f64(slack);
        while missing > 0 && protected_after.is_some() && violations() == 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        let judged = Judged { protected_after, missing, violations: violations() };
        self.sink.forget(flow);
        Ok(judged)
    }

    /// Ends everything.
    pub fn end(self) -> Result<(), LabError> {
        self.listener.finish()?;
        self.sink.end();
        self.pair.stop().map(drop)
    }
}
