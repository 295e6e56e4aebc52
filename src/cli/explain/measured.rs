//! What a running appliance has measured toward a peer, from its status.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::appliance::status::PeerReport;
use crate::appliance::status::link::LinkStatus;
use crate::cli::{FAILURE, NO_CONTACT};
use crate::io::status_socket;
use crate::plan::GilbertElliott;

/// Fewer datagrams than this say nothing about a link.
const EVIDENCE_MIN: f64 = 1000.0;

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
    peer_report: Option<PeerReport>,
    /// What is known of the way to it.
    #[serde(default)]
    link: Option<LinkStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Sent {
    #[serde(default)]
    blocks: u64,
}

impl Measured {
    /// The round trip.
    pub fn round_trip(&self) -> Option<Duration> {
        self.rtt_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok())
    }

    /// The way to the peer, if enough datagrams went it.
    fn link(&self) -> Option<&LinkStatus> {
        self.link.as_ref().filter(|link| link.datagrams >= EVIDENCE_MIN)
    }

    /// The upper bound of the loss at 95 %.
    pub fn loss_bound(&self) -> Option<f64> {
        self.link().map(|link| link.loss_upper)
    }

    /// How long ago a report last told of datagrams, in seconds.
    pub fn age_s(&self) -> Option<f64> {
        Some(self.link()?.age_ms? / 1e3)
    }

    /// How the link loses in bursts, if it does.
    pub fn bursts(&self) -> Option<GilbertElliott> {
        let fit = self.link()?.fit.as_ref()?;
        let time = |millis: f64| Duration::try_from_secs_f64(millis / 1e3).ok();
        GilbertElliott::new(fit.good_loss, time(fit.good_ms?)?, 1.0, time(fit.bad_ms?)?)
    }

    /// Blocks that we sent, and those that the peer could not rebuild.
    pub fn blocks(&self) -> (u64, u64) {
        (self.sent.blocks, self.peer_report.as_ref().map_or(0, |report| report.received.unrecoverable_blocks))
    }
}

/// Asks the appliance at `socket` for what it knows of `peer`. The error has its exit code.
pub fn ask(socket: &Path, peer: &str) -> Result<Measured, (u8, String)> {
    let text = status_socket::ask(socket).map_err(|error| (NO_CONTACT, error.to_string()))?;
    find(&text, peer).map_err(|words| (FAILURE, words))
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
    fn a_link_that_is_known_well_enough_gives_loss_bursts_and_age() {
        let status = |more: &str| {
            format!(
                r#"{{"node":"ithaca","peers":[{{"name":"syracuse","rtt_ms":7.5,"sent":{{"blocks":1000}},
                "peer_report":{{"unrecoverable_blocks":1,"age_ms":3.0}}{more}}}]}}"#
            )
        };
        let fit = r#"{"good_loss":0.0001,"good_ms":1000.0,"bad_ms":2.0,"error":0.1}"#;
        let link = |datagrams| {
            status(&format!(r#","link":{{"loss_upper":0.02,"datagrams":{datagrams},"age_ms":3000.0,"fit":{fit}}}"#))
        };
        for unknown in [status(""), link(10)] {
            let measured = find(&unknown, "syracuse").unwrap();
            assert_eq!((measured.round_trip(), measured.blocks()), (Some(Duration::from_micros(7500)), (1000, 1)));
            assert_eq!((measured.loss_bound(), measured.bursts(), measured.age_s()), (None, None, None));
        }
        let measured = find(&link(5000), "syracuse").unwrap();
        assert_eq!((measured.loss_bound(), measured.age_s()), (Some(0.02), Some(3.0)));
        assert!(measured.bursts().is_some());
        assert!(find(&status(""), "troy").unwrap_err().contains("no peer troy"));
        assert!(find("{}", "troy").unwrap_err().contains("no status"));
    }
}
