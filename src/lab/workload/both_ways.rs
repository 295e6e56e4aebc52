//! Flows of numbered UDP packets in both directions while something happens: the longest time without a packet, what
//! arrived twice, and what did not arrive.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::numbered::{NumberedFlow, NumberedSink};
use crate::{lab::error::LabError, notify::message::FlowKey};

const BYTES: usize = 300;
/// After the last packet, another one may come within this time.
const QUIET: Duration = Duration::from_secs(1);

/// The flows.
#[derive(Debug)]
pub struct BothWays {
    /// The receiver of each direction.
    pub sinks: [NumberedSink; 2],
    /// Flows in each direction.
    pub each: usize,
    /// The time between two packets of a flow.
    pub interval: Duration,
}

/// What became of the packets of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Packets that arrived twice.
    pub twice: u64,
    /// Packets that did not arrive.
    pub missing: u64,
}

/// The flows of a run, for its times without a packet.
#[derive(Debug)]
pub struct Gaps<'s> {
    sinks: &'s [NumberedSink; 2],
    /// The flows of each direction.
    pub flows: [Vec<FlowKey>; 2],
}

impl Gaps<'_> {
    /// Forgets the gaps so far.
    pub fn begin(&self) {
        let _ = self.longest();
    }

    /// The longest time without a packet of a flow since the last call, of all flows.
    pub fn longest(&self) -> Duration {
        let of = |(sink, flows): (&NumberedSink, &Vec<FlowKey>)| flows.iter().map(|it| sink.take_longest_gap(it)).max();
        self.sinks.iter().zip(&self.flows).filter_map(of).max().unwrap_or_default()
    }
}

impl BothWays {
    /// Runs `act` while new flows go both ways.
    pub fn run<T>(&self, act: impl FnOnce(&Gaps<'_>) -> Result<T, LabError>) -> Result<(T, Outcome), LabError> {
        let open = |sink: &NumberedSink| (0..self.each).map(|_| sink.open()).collect::<Result<Vec<_>, _>>();
        let mut flows = [open(&self.sinks[0])?, open(&self.sinks[1])?];
        let keys = flows.each_ref().map(|flows| flows.iter().map(|flow| flow.key).collect());
        let gaps = Gaps { sinks: &self.sinks, flows: keys };
        let is_over = AtomicBool::new(false);
        let found = thread::scope(|scope| {
            let send = |flows: &mut Vec<NumberedFlow>| send(flows, self.interval, &is_over);
            let sending: Vec<_> = flows.iter_mut().map(|flows| scope.spawn(move || send(flows))).collect();
            let found = act(&gaps);
            is_over.store(true, Ordering::Relaxed);
            sending.into_iter().for_each(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            found
        })?;
        let mut outcome = Outcome { twice: 0, missing: self.drain(&flows) };
        for (flows, sink) in flows.into_iter().zip(&self.sinks) {
            for flow in flows {
                outcome.twice += sink.twice(&flow);
                sink.forget(flow);
            }
        }
        Ok((found, outcome))
    }

    /// Waits until all packets have arrived, or none has come for a while; returns how many are missing.
    fn drain(&self, flows: &[Vec<NumberedFlow>; 2]) -> u64 {
        let missing = || -> u64 {
            let of = |(sink, flows): (&NumberedSink, &Vec<NumberedFlow>)| {
                flows.iter().map(|it| sink.missing(it)).sum::<u64>()
            };
            self.sinks.iter().zip(flows).map(of).sum()
        };
        let (mut last, mut since) = (missing(), Instant::now());
        while last > 0 && since.elapsed() < QUIET {
            thread::sleep(Duration::from_millis(1));
            let now = missing();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }

    /// Stops listening.
    pub fn end(self) {
        self.sinks.into_iter().for_each(NumberedSink::end);
    }
}

/// Sends a packet of each flow in turn, evenly over the interval.
fn send(flows: &mut [NumberedFlow], interval: Duration, is_over: &AtomicBool) {
    let step = interval / flows.len().max(1) as u32;
    let mut next = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        for flow in flows.iter_mut() {
            // Where a device has just gone, the kernel may refuse a packet; that is a gap as any other.
            let _ = flow.send(BYTES);
            next += step;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}
