//! The part of status about the link to a peer: loss, interruptions, congestion.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tunnel::estimate::fit::LinkFit;
use crate::tunnel::estimate::interruptions::Interruptions;
use crate::tunnel::estimate::link_estimate::LinkEstimate;

/// What is known of the way to a peer, over all lanes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LinkStatus {
    /// The share of datagrams that is lost.
    pub loss: f64,
    /// The loss is below this with a confidence of 95 %; 1 while nothing is known.
    pub loss_upper: f64,
    /// How many datagrams these are known from; older ones count in part.
    pub datagrams: f64,
    /// How long ago a report last told of datagrams.
    pub age_ms: Option<f64>,
    /// How many losses come with one loss, itself included, in the mean.
    pub clumping: f64,
    /// Interruptions of the last minute.
    pub last_minute: InterruptionStatus,
    /// Interruptions of the last hour.
    pub last_hour: InterruptionStatus,
    /// All interruptions.
    pub ever: InterruptionStatus,
    /// A link with two states that loses so.
    pub fit: Option<FitStatus>,
    /// In the last minute, a run of losses was so long that the runs before it made it less likely than one in a million.
    pub model_violated: bool,
    /// Losses are those of a full queue.
    pub congested: bool,
    /// Datagrams that are sent, a second.
    pub datagrams_per_second: f64,
    /// UDP payload bytes that are sent, a second.
    pub bytes_per_second: f64,
}

/// Runs of at least two lost datagrams.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct InterruptionStatus {
    /// How many.
    pub count: u64,
    /// Their mean length.
    pub mean_ms: f64,
    /// The longest was at least so long: from the first to the last datagram that was lost.
    pub longest_ms: f64,
    /// It was at most so long: between the datagrams around those.
    pub longest_at_most_ms: f64,
}

/// A link that is good and bad by turns.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FitStatus {
    /// The loss while it is good.
    pub good_loss: f64,
    /// How long it is good; null if there are no bursts.
    pub good_ms: Option<f64>,
    /// How long it is bad, and loses everything; null if there are no bursts.
    pub bad_ms: Option<f64>,
    /// The share of runs that the fit does not explain.
    pub error: f64,
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl LinkStatus {
    /// Combines the lanes; `None` without a lane.
    pub fn gather<'a>(mut lanes: impl Iterator<Item = &'a LinkEstimate>) -> Option<Self> {
        let mut estimate = lanes.next()?.clone();
        lanes.for_each(|lane| estimate.merge(lane));
        Some(Self {
            loss: estimate.loss,
            loss_upper: estimate.loss_upper,
            datagrams: estimate.datagrams,
            age_ms: estimate.age.map(millis),
            clumping: estimate.clumping,
            last_minute: (&estimate.last_minute).into(),
            last_hour: (&estimate.last_hour).into(),
            ever: (&estimate.ever).into(),
            fit: estimate.fit.as_ref().map(Into::into),
            model_violated: estimate.violated_by.is_some(),
            congested: estimate.congested,
            datagrams_per_second: estimate.datagrams_per_second,
            bytes_per_second: estimate.bytes_per_second,
        })
    }
}

impl From<&Interruptions> for InterruptionStatus {
    fn from(of: &Interruptions) -> Self {
        Self {
            count: of.count,
            mean_ms: millis(of.mean),
            longest_ms: millis(of.longest.at_least),
            longest_at_most_ms: millis(of.longest.at_most),
        }
    }
}

impl From<&LinkFit> for FitStatus {
    fn from(fit: &LinkFit) -> Self {
        Self { good_loss: fit.good_loss, good_ms: fit.good.map(millis), bad_ms: fit.bad.map(millis), error: fit.error }
    }
}
