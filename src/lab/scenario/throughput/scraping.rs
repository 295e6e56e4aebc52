//! The cost of metrics: the same flows through the same pair, in short slices alternately without and with a scrape.
//!
//! One scrape falls into each slice with, which is as often as seven a second: more than any Prometheus asks. Slices are far enough
//! apart that each scrape brings a status of its own.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Stage, plan,
    slices::{LEAD, Pairs, SLICE, alternate, slice},
};
use crate::{
    io::namespace::NetworkNamespace,
    lab::{
        error::LabError,
        median::{median, median_bounds},
        network::Network,
        pair::Pair,
        report::Report,
    },
};

/// Further lines of the file of both appliances.
pub const METRICS: &str = "metrics: { listen: \"127.0.0.1:9718\" }\n";
const ADDRESS: &str = "127.0.0.1:9718";
/// An odd number, so that the median is one of the values.
const PAIRS: usize = 61;
/// With a slice, more than half of the time for which the appliance answers with the same status.
const SETTLE: Duration = Duration::from_millis(120);
const PATIENCE: Duration = Duration::from_secs(5);
/// Scrapes must leave at least this share of the speed.
const LEAST: f64 = 0.98;

/// All slices of one transfer.
#[derive(Debug)]
pub struct ScrapeTurns {
    flows: u32,
    /// Without a scrape, and with one.
    pairs: Pairs,
    /// Bytes of the last answer.
    bytes: usize,
}

/// Measures slices alternately, while this many flows go through the pair.
pub fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    address: IpAddr,
    flows: u32,
) -> Result<ScrapeTurns, LabError> {
    let near = NetworkNamespace::named(&network.namespace(pair.appliances[0].node()));
    let near = near.map_err(LabError::doing("open the namespace of the near appliance"))?;
    let lasts = LEAD + (SETTLE + SLICE) * 2 * PAIRS as u32;
    // The transfer is ended after the last slice; a slow machine must not reach its end earlier.
    let mut bulk = plan(&format!("scrape-turns-{flows}"), address, flows, 3 * lasts.as_secs()).start(network)?;
    stage.pause(LEAD)?;
    let mut bytes = 0;
    let pairs = alternate(stage, (PAIRS, flows), |_, which| {
        stage.pause(SETTLE)?;
        std::thread::scope(|scope| {
            let scrapes = (which == 1).then(|| scope.spawn(|| near.run(scrape)));
            let slice = slice(stage, network, pair, || 0)?;
            if let Some(scrape) = scrapes {
                let answer = scrape.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                bytes = answer.and_then(|answer| answer).map_err(LabError::doing("scrape the near appliance"))?;
            }
            Ok(slice)
        })
    })?;
    if !bulk.is_running() {
        return Err(LabError::Sentence("iperf3 ended before the last slice".to_owned()));
    }
    Ok(ScrapeTurns { flows, pairs, bytes })
}

/// Asks for the metrics as Prometheus does; returns how long the answer is.
fn scrape() -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("# EOF\n") {
        true => Ok(answer.len()),
        false => Err(std::io::Error::other(answer.lines().next().unwrap_or_default().to_owned())),
    }
}

impl ScrapeTurns {
    /// Adds the claim.
    pub fn report(&self, report: &mut Report, but: &str) {
        let (ratio, [low, high]) = (median(self.pairs.ratios()), median_bounds(self.pairs.ratios()));
        report.claim(
            format!("a scrape in each {} ms leaves {LEAST} of the speed, {} flow(s)", SLICE.as_millis(), self.flows),
            format!(
                "{ratio:.3} ({low:.3} to {high:.3} with 95 % certainty, {} pairs of slices{but}); CPU s per GB, both appliances: {:.2} \
                 without, {:.2} with; {} bytes",
                self.pairs.0.len(),
                self.pairs.cpu_per_gb(0),
                self.pairs.cpu_per_gb(1),
                self.bytes
            ),
            ratio >= LEAST && self.bytes > 0,
        );
    }

    /// The numbers.
    pub fn to_json(&self) -> Value {
        let [low, high] = median_bounds(self.pairs.ratios());
        json!({
            "ratio": median(self.pairs.ratios()),
            "ratio_least": low,
            "ratio_most": high,
            "cpu_seconds_per_gb_without": self.pairs.cpu_per_gb(0),
            "cpu_seconds_per_gb_with": self.pairs.cpu_per_gb(1),
            "bytes": self.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::slices::Slice;
    use super::*;

    /// Turns whose slices with a scrape have this share of the speed, except some that were disturbed.
    fn turns(with: f64, disturbed: usize, bytes: usize) -> ScrapeTurns {
        let slice = |gbit: f64| Slice { seconds: 0.5, bytes: gbit / 16.0 * 1e9, cpu_seconds: 0.4375, messages: 0 };
        let pair = |at| [slice(7.0), slice(if at < disturbed { 1.0 } else { 7.0 * with })];
        ScrapeTurns { flows: 4, pairs: Pairs((0..PAIRS).map(pair).collect()), bytes }
    }

    #[test]
    fn a_minority_of_disturbed_slices_is_ignored_and_costly_or_empty_scrapes_fail() {
        let passes = |turns: ScrapeTurns| {
            let mut report = Report::default();
            turns.report(&mut report, "");
            report.passes()
        };
        assert!(passes(turns(0.985, 0, 9)) && passes(turns(0.985, PAIRS / 2, 9)));
        assert!(!passes(turns(0.985, PAIRS / 2 + 1, 9)) && !passes(turns(0.975, 0, 9)) && !passes(turns(1.0, 0, 0)));
        assert_eq!(turns(0.5, 0, 9).to_json()["ratio"], json!(0.5));
    }
}
