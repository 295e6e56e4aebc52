//! Short slices of one transfer, in pairs: one without and one with what is measured.
//!
//! Two transfers differ by more than most things cost: the scheduler places each differently, and a shared machine is faster
//! in some seconds than in others. In slices of one transfer a disturbance affects both of a pair, or only few pairs.

use std::time::{Duration, Instant};

use super::Stage;
use crate::lab::{error::LabError, median::median, network::Network, pair::Pair, workload::kernel::received_by_device};

/// The length of a slice.
pub const SLICE: Duration = Duration::from_millis(150);

/// What was counted in a slice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slice {
    pub seconds: f64,
    /// Received by the mirror.
    pub bytes: f64,
    /// Processor time of both appliances.
    pub cpu_seconds: f64,
    /// Messages that a subscriber received.
    pub messages: u64,
}

/// Counts for the length of a slice.
pub fn slice(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    messages: impl Fn() -> u64,
) -> Result<Slice, LabError> {
    let look = || -> Result<_, LabError> {
        let bytes = received_by_device(network, "mirror", "site0")?;
        let cpu: Duration = pair.cpu_times().iter().sum();
        Ok((Instant::now(), bytes, cpu, messages()))
    };
    let (began, bytes, cpu, messages) = look()?;
    stage.pause(SLICE)?;
    let end = look()?;
    Ok(Slice {
        seconds: (end.0 - began).as_secs_f64(),
        bytes: end.1.saturating_sub(bytes) as f64,
        cpu_seconds: end.2.saturating_sub(cpu).as_secs_f64(),
        messages: end.3 - messages,
    })
}

impl Slice {
    pub fn gbit(&self) -> f64 {
        self.bytes * 8.0 / 1e9 / self.seconds.max(1e-9)
    }
}

/// Time until the flows have reached their speed.
pub const LEAD: Duration = Duration::from_secs(1);
/// Pairs between two progress lines.
const PROGRESS_EVERY: usize = 5;

/// Takes `count` pairs: `take` gets the number of the pair, from 1, and which slice of it, and prepares it. The order
/// alternates, so that a drift affects both equally.
pub fn alternate(
    stage: &Stage<'_>,
    (count, flows): (usize, u32),
    mut take: impl FnMut(usize, usize) -> Result<Slice, LabError>,
) -> Result<Pairs, LabError> {
    let mut pairs = Pairs::default();
    for number in 1..=count {
        let mut slices = [Slice::default(); 2];
        for which in [1 - number % 2, number % 2] {
            slices[which] = take(number, which)?;
        }
        pairs.0.push(slices);
        if number % PROGRESS_EVERY == 0 {
            let ratio = median(pairs.ratios());
            stage.say(&format!("  {number} of {count} pairs of slices, {flows} flow(s): {ratio:.3} of the speed"));
        }
    }
    Ok(pairs)
}

/// Pairs of slices: without and with, whichever came first.
#[derive(Debug, Default)]
pub struct Pairs(pub Vec<[Slice; 2]>);

impl Pairs {
    pub fn each(&self, of: impl Fn(&[Slice; 2]) -> f64) -> Vec<f64> {
        self.0.iter().map(of).collect()
    }

    /// The speed with, relative to without, pair by pair; zero if nothing arrived without.
    pub fn ratios(&self) -> Vec<f64> {
        self.each(|[without, with]| if without.bytes > 0.0 { with.gbit() / without.gbit() } else { 0.0 })
    }

    /// Processor time per GB over all slices without (0) or with (1) together, because the kernel counts it in hundredths of
    /// a second.
    pub fn cpu_per_gb(&self, which: usize) -> f64 {
        let slices = self.0.iter().map(|pair| pair[which]);
        let (cpu, bytes) =
            slices.fold((0.0, 0.0), |(cpu, bytes), slice| (cpu + slice.cpu_seconds, bytes + slice.bytes));
        cpu / (bytes / 1e9).max(1e-9)
    }
}
