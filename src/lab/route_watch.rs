//! The next hops of one prefix in a node's main table, as the kernel reports each change (`ip monitor route`).

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek, SeekFrom},
    thread,
    time::{Duration, Instant},
};

use super::{error::LabError, network::Network, process::Process};

const STEP: Duration = Duration::from_millis(1);

/// A watch. Start it before anything sets the route.
#[derive(Debug)]
pub struct RouteWatch {
    process: Process,
    prefix: String,
    /// What was read of the output.
    read: u64,
    /// The beginning of a line whose end has not come.
    rest: String,
    gateways: BTreeSet<String>,
}

impl RouteWatch {
    /// Watches the route to `prefix` in a node.
    pub fn start(network: &Network<'_>, node: &str, prefix: &str) -> Result<Self, LabError> {
        let process = network.start(node, &format!("routes-{node}"), &["ip", "-o", "monitor", "route"])?;
        Ok(Self { process, prefix: prefix.to_owned(), read: 0, rest: String::new(), gateways: BTreeSet::new() })
    }

    /// The gateways now.
    pub fn gateways(&mut self) -> Result<&BTreeSet<String>, LabError> {
        let more = || -> std::io::Result<String> {
            let (mut file, mut text) = (File::open(self.process.log())?, String::new());
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_string(&mut text)?;
            Ok(text)
        };
        let more = more().map_err(LabError::doing(format!("read {}", self.process.log().display())))?;
        self.read += more.len() as u64;
        self.rest += &more;
        while let Some(end) = self.rest.find('\n') {
            let line: String = self.rest.drain(..=end).collect();
            if let Some(gateways) = gateways_in(&line, &self.prefix) {
                self.gateways = gateways;
            }
        }
        Ok(&self.gateways)
    }

    /// Waits until `is_so` of the gateways, and returns how long that took since `since`; `None` if it is not so within
    /// `limit`.
    pub fn wait(
        &mut self,
        since: Instant,
        limit: Duration,
        is_so: impl Fn(&BTreeSet<String>) -> bool,
    ) -> Result<Option<Duration>, LabError> {
        loop {
            let is_so = is_so(self.gateways()?);
            match since.elapsed() {
                elapsed if is_so => return Ok(Some(elapsed)),
                elapsed if elapsed > limit => return Ok(None),
                _ if !self.process.is_running() => {
                    return Err(LabError::Sentence(format!("`ip monitor` has ended: {}", self.process.output())));
                }
                _ => thread::sleep(STEP),
            }
        }
    }
}

/// The gateways of `prefix` in the main table, if this line is about that route. The last line counts.
fn gateways_in(line: &str, prefix: &str) -> Option<BTreeSet<String>> {
    let deleted = line.strip_prefix("Deleted ");
    let words: Vec<_> = deleted.unwrap_or(line).split_whitespace().collect();
    if words.first() != Some(&prefix) || words.contains(&"table") {
        return None;
    }
    let gateways = words.windows(2).filter(|two| two[0] == "via").map(|two| two[1].to_owned());
    Some(if deleted.is_some() { BTreeSet::new() } else { gateways.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_read_from_the_lines_of_ip_monitor() {
        let two = "10.2.0.0/24 proto bird metric 32 \\\tnexthop via 10.1.1.2 dev a0 weight 1 \\\tnexthop via 10.1.1.6 dev b0 weight 1 \n";
        let found =
            |line| gateways_in(line, "10.2.0.0/24").map(|found| found.into_iter().collect::<Vec<_>>().join(" "));
        let expected = [
            (two, Some("10.1.1.2 10.1.1.6")),
            ("10.2.0.0/24 via 10.1.1.6 dev b0 proto bird metric 32 \n", Some("10.1.1.6")),
            ("Deleted 10.2.0.0/24 via 10.1.1.6 dev b0 proto bird metric 32 \n", Some("")),
            ("10.2.0.0/24 via 10.1.1.2 dev a0 table 101 proto bird metric 32 \n", None),
            ("10.2.0.0/16 via 10.1.1.2 dev a0 proto bird metric 32 \n", None),
            ("\n", None),
        ];
        for (line, gateways) in expected {
            assert_eq!(found(line).as_deref(), gateways, "{line}");
        }
    }
}
