//! What a running appliance has measured toward a peer, from its status. A status without estimates has only counts.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::io::status_socket;
use crate::plan::GilbertElliott;

/// The part of the status that is needed.
#[derive(Debug, Deserialize)]
struct Status {
    peers: Vec<Measured>,
}

/// What is known of the path to a peer.
#[derive(Clone, Debug, Deserialize)]
pub struct Measured {
    name: String,
    #[serde(default)]
    rtt_ms: Option<f64>,
    #[serde(default)]
    sent: Sent,
    #[serde(default)]
    peer_report: Option<Report>,
    /// Estimates, where the appliance makes them.
    #[serde(default)]
    pub estimate: Option<Estimate>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Sent {
    #[serde(default)]
    blocks: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Report {
    received: Received,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Received {
    raw_loss: f64,
    datagrams: u64,
    unrecoverable_blocks: u64,
}

/// An estimate of the loss toward a peer.
#[derive(Clone, Debug, Deserialize)]
pub struct Estimate {
    /// The share of datagrams that is lost at most, at 95 %.
    pub loss_bound: f64,
    /// Seconds since the newest datagram that it rests on.
    pub age_s: f64,
    /// How the link loses in bursts.
    #[serde(default)]
    pub bursts: Option<Bursts>,
}

/// A fit with two states.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Bursts {
    good_loss: f64,
    good_s: f64,
    bad_loss: f64,
    bad_s: f64,
}

impl Bursts {
    /// The link, if the numbers describe one.
    pub fn link(&self) -> Option<GilbertElliott> {
        let time = |seconds| Duration::try_from_secs_f64(seconds).ok();
        GilbertElliott::new(self.good_loss, time(self.good_s)?, self.bad_loss, time(self.bad_s)?)
    }
}

impl Measured {
    /// The round trip.
    pub fn round_trip(&self) -> Option<Duration> {
        self.rtt_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok())
    }

    /// The upper bound of the loss at 95 %: of the estimate, else of all that the peer has counted since its start.
    pub fn loss_bound(&self) -> Option<f64> {
        if let Some(estimate) = &self.estimate {
            return Some(estimate.loss_bound);
        }
        let received = &self.peer_report.as_ref()?.received;
        let came = received.datagrams as f64;
        let all = came / (1.0 - received.raw_loss).max(1e-9);
        // Three more than were lost bound what no loss was seen of; beyond that, two standard deviations do.
        let lost = received.raw_loss * all;
        (all > 0.0).then(|| ((lost + 3.0 + 2.0 * lost.sqrt()) / all).min(1.0))
    }

    /// Blocks that we sent, and those that the peer could not rebuild.
    pub fn blocks(&self) -> (u64, u64) {
        (self.sent.blocks, self.peer_report.as_ref().map_or(0, |report| report.received.unrecoverable_blocks))
    }
}

/// Asks the appliance at `socket` for what it knows of `peer`.
pub fn ask(socket: &Path, peer: &str) -> Result<Measured, String> {
    let text = status_socket::ask(socket).map_err(|error| error.to_string())?;
    find(&text, peer)
}

fn find(text: &str, peer: &str) -> Result<Measured, String> {
    let status: Status = serde_json::from_str(text)
        .map_err(|error| format!("the answer is no status of an appliance that this version knows ({error})"))?;
    let found = status.peers.into_iter().find(|measured| measured.name == peer);
    found.ok_or_else(|| format!("the appliance has no peer {peer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_bound_the_loss_and_an_estimate_outranks_them() {
        let status = |more: &str| {
            format!(
                r#"{{"node":"ithaca","peers":[{{"name":"syracuse","rtt_ms":7.5,"sent":{{"blocks":1000}},
                "peer_report":{{"received":{{"raw_loss":0.0,"datagrams":3000,"unrecoverable_blocks":1}}}}{more}}}]}}"#
            )
        };
        let counted = find(&status(""), "syracuse").unwrap();
        assert_eq!((counted.round_trip(), counted.blocks()), (Some(Duration::from_micros(7500)), (1000, 1)));
        assert!((counted.loss_bound().unwrap() - 0.001).abs() < 1e-12);
        let bursts = r#"{"good_loss":0.0001,"good_s":1.0,"bad_loss":0.9,"bad_s":0.002}"#;
        let estimate = format!(r#","estimate":{{"loss_bound":0.02,"age_s":3.0,"bursts":{bursts}}}"#);
        let estimated = find(&status(&estimate), "syracuse").unwrap();
        assert_eq!(estimated.loss_bound(), Some(0.02));
        assert!(estimated.estimate.unwrap().bursts.unwrap().link().is_some());
        assert!(find(&status(""), "troy").unwrap_err().contains("no peer troy"));
        assert!(find("{}", "troy").unwrap_err().contains("no status"));
    }
}
