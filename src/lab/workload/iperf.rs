//! Bulk TCP with iperf3.

use std::{net::IpAddr, time::Duration};

use serde_json::Value;

use crate::lab::{error::LabError, network::Network, process::Process};

/// The result of one iperf3 run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bulk {
    /// Received, in bits per second.
    pub bits_per_second: f64,
    /// Received, in bytes.
    pub bytes: f64,
    /// Segments that the sender's TCP retransmitted.
    pub retransmits: u64,
}

/// The settings of a bulk transfer.
#[derive(Clone, Debug)]
pub struct BulkPlan<'a> {
    /// Prefix of the logs.
    pub name: &'a str,
    /// The sending node.
    pub from: &'a str,
    /// The receiving node.
    pub to: &'a str,
    /// The address to connect to.
    pub address: IpAddr,
    /// Parallel flows.
    pub flows: u32,
    /// Its length.
    pub seconds: u64,
    /// The congestion control.
    pub congestion: &'a str,
    /// The rate limit of each flow, in the syntax of iperf3 (`500M`); none: no limit.
    pub rate: Option<&'a str>,
    /// Bytes of each write, for an even stream at a rate; none: those of iperf3, 128 KiB.
    pub write: Option<&'a str>,
}

/// A running bulk transfer. Dropping it ends it.
#[derive(Debug)]
pub struct RunningBulk {
    client: Process,
    _server: Process,
    limit: Duration,
}

impl<'a> BulkPlan<'a> {
    /// One flow of cubic from primary to mirror, as fast as it goes.
    pub fn to_mirror(name: &'a str, address: IpAddr, seconds: u64) -> Self {
        Self {
            name,
            from: "primary",
            to: "mirror",
            address,
            flows: 1,
            seconds,
            congestion: "cubic",
            rate: None,
            write: None,
        }
    }

    /// Runs it to its end.
    pub fn run(&self, network: &Network<'_>) -> Result<Bulk, LabError> {
        self.start(network)?.finish()
    }

    /// Starts it.
    pub fn start(&self, network: &Network<'_>) -> Result<RunningBulk, LabError> {
        let server_name = format!("{}-iperf-server", self.name);
        let [address, flows, seconds] = [self.address.to_string(), self.flows.to_string(), self.seconds.to_string()];
        let server = ["iperf3", "-s", "-1", "-B", &address, "--forceflush"];
        let mut server = network.start(self.to, &server_name, &server)?;
        server.wait_for_output("Server listening", Duration::from_secs(5))?;
        let words = [
            "iperf3",
            "-c",
            &address,
            "-t",
            &seconds,
            "-P",
            &flows,
            "-C",
            self.congestion,
            "-J",
            "--connect-timeout",
            "5000",
        ];
        let rate = self.rate.map(|rate| ["-b", rate]);
        let write = self.write.map(|write| ["-l", write]);
        let more = [rate, write].into_iter().flatten().flatten();
        let words: Vec<&str> = words.into_iter().chain(more).collect();
        let client = network.start(self.from, &format!("{}-iperf", self.name), &words)?;
        Ok(RunningBulk { client, _server: server, limit: Duration::from_secs(self.seconds + 30) })
    }
}

impl RunningBulk {
    /// Whether it still sends.
    pub fn is_running(&mut self) -> bool {
        self.client.is_running()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Bulk, LabError> {
        self.client.wait(self.limit)?;
        parse(&self.client.output())
    }
}

fn parse(text: &str) -> Result<Bulk, LabError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| LabError::Sentence(format!("iperf3 wrote no JSON that can be read: {error}")))?;
    let end = &value["end"];
    match (end["sum_received"]["bits_per_second"].as_f64(), end["sum_received"]["bytes"].as_f64()) {
        (Some(bits_per_second), Some(bytes)) => {
            let retransmits = end["sum_sent"]["retransmits"].as_u64().unwrap_or_default();
            Ok(Bulk { bits_per_second, bytes, retransmits })
        }
        _ => Err(LabError::Sentence(format!("iperf3: {}", value["error"].as_str().unwrap_or("no result")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_errors_are_parsed() {
        let text = r#"{"end":{"sum_sent":{"retransmits":3},"sum_received":{"bits_per_second":8e9,"bytes":1e9}}}"#;
        assert_eq!(parse(text).unwrap(), Bulk { bits_per_second: 8e9, bytes: 1e9, retransmits: 3 });
        assert_eq!(parse(r#"{"end":{},"error":"busy"}"#).unwrap_err().to_string(), "iperf3: busy");
        assert!(parse("").is_err());
    }
}
