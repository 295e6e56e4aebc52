//! The part of status about the last ten seconds: packets, bytes, loss and repair, as means.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::share;
use crate::appliance::lane::counts::{PeerCounts, Received};

/// What was sent to a peer and received from it in the last ten seconds, over all lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RatesStatus {
    /// The time that these are means of: about ten seconds, less after a start.
    pub over_s: f64,
    /// What we sent.
    pub sent: SentRates,
    /// What we received.
    pub received: ReceivedRates,
    /// What the peer reports as received from us; null while it has not reported for so long.
    pub peer_report: Option<ReceivedRates>,
}

/// Rates of what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SentRates {
    /// Packets and super-packets.
    pub adus_per_second: f64,
    /// Bytes of them.
    pub adu_bytes_per_second: f64,
    /// Datagrams of every kind.
    pub datagrams_per_second: f64,
    /// UDP payload bytes.
    pub bytes_per_second: f64,
    /// Repair symbols.
    pub repair_symbols_per_second: f64,
    /// Bytes sent for each byte of packets, less one; null where no packet was sent.
    pub overhead: Option<f64>,
}

/// Rates of what was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReceivedRates {
    /// Packets and super-packets handed on.
    pub adus_per_second: f64,
    /// Bytes of them.
    pub adu_bytes_per_second: f64,
    /// Datagrams that arrived.
    pub datagrams_per_second: f64,
    /// Datagrams that did not.
    pub lost_per_second: f64,
    /// The share of datagrams that did not arrive; null where none were sent.
    pub raw_loss: Option<f64>,
    /// Source symbols rebuilt.
    pub recovered_symbols_per_second: f64,
    /// The share of blocks given up; null where no block ended.
    pub residual_loss: Option<f64>,
    /// For `residual_loss`.
    #[serde(skip)]
    blocks: (u64, u64),
    /// For `raw_loss`.
    #[serde(skip)]
    datagrams: (u64, u64),
}

impl RatesStatus {
    /// Adds a lane whose counts became `present` within `time`.
    pub(crate) fn add(&mut self, before: &PeerCounts, present: &PeerCounts, time: Duration) {
        let seconds = time.as_secs_f64();
        let rate = |of: fn(&PeerCounts) -> u64| of(present).saturating_sub(of(before)) as f64 / seconds;
        self.over_s = self.over_s.max(seconds);
        let sent = &mut self.sent;
        sent.adus_per_second += rate(|counts| counts.adus);
        sent.adu_bytes_per_second += rate(|counts| counts.adu_bytes);
        sent.datagrams_per_second += rate(|counts| counts.datagrams);
        sent.bytes_per_second += rate(|counts| counts.bytes);
        sent.repair_symbols_per_second += rate(|counts| counts.repair_symbols);
        self.received.add(&before.received, &present.received, seconds);
    }

    /// Adds what the peer has reported of a lane, which became `present` within `time`.
    pub(crate) fn add_report(&mut self, before: &Received, present: &Received, time: Duration) {
        self.peer_report.get_or_insert_default().add(before, present, time.as_secs_f64());
    }

    /// Fills in the shares; `None` if no lane was added.
    pub(crate) fn finish(mut self) -> Option<Self> {
        if self.over_s == 0.0 {
            return None;
        }
        let sent = &mut self.sent;
        let more = sent.bytes_per_second - sent.adu_bytes_per_second;
        sent.overhead = (sent.adu_bytes_per_second > 0.0).then(|| more.max(0.0) / sent.adu_bytes_per_second);
        for received in std::iter::once(&mut self.received).chain(&mut self.peer_report) {
            let some = |(part, whole): (u64, u64)| (whole > 0).then(|| share(part, whole));
            (received.raw_loss, received.residual_loss) = (some(received.datagrams), some(received.blocks));
        }
        Some(self)
    }
}

impl ReceivedRates {
    fn add(&mut self, before: &Received, present: &Received, seconds: f64) {
        let more = |of: fn(&Received) -> u64| of(present).saturating_sub(of(before));
        let (came, lost) = (more(|counts| counts.datagrams), more(|counts| counts.lost));
        self.adus_per_second += more(|counts| counts.adus) as f64 / seconds;
        self.adu_bytes_per_second += more(|counts| counts.adu_bytes) as f64 / seconds;
        self.datagrams_per_second += came as f64 / seconds;
        self.lost_per_second += lost as f64 / seconds;
        self.recovered_symbols_per_second += more(|counts| counts.recovered_symbols) as f64 / seconds;
        self.datagrams = (self.datagrams.0 + lost, self.datagrams.1 + came + lost);
        let given_up = more(|counts| counts.unrecoverable_blocks);
        self.blocks = (self.blocks.0 + given_up, self.blocks.1 + more(|counts| counts.blocks));
    }
}
