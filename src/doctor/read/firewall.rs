//! Reads the rules of the firewall, as `nft` shows them.

use std::time::Duration;

use super::text;
use crate::doctor::facts::{FirewallFacts, ForwardingFacts, Subject};
use crate::doctor::read::forwarding;
use crate::io::command;

const PATIENCE: Duration = Duration::from_secs(3);
/// Rules of a host with very many of them; elements of sets are left out.
const MOST_BYTES: usize = 16 * 1024 * 1024;
const DEFAULT_DEVICE: &str = "ow0";

/// Reads them; without the right to ask, says so.
pub fn read(subject: &Subject) -> FirewallFacts {
    let config = subject.config();
    let ForwardingFacts { families, .. } = forwarding::read(subject);
    let legacy = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
    let mut legacy: Vec<String> =
        legacy.iter().filter_map(text).flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    legacy.dedup();
    FirewallFacts {
        device: config.map_or(DEFAULT_DEVICE.to_owned(), |config| config.tun.name.clone()),
        matters: config.is_none() || families.iter().any(|family| family.is_used && family.has_others),
        prefixes: config
            .map(|config| {
                let theirs = config.peers.iter().flat_map(|peer| peer.prefixes.clone()).collect();
                (theirs, config.node.local_prefixes.clone())
            })
            .unwrap_or_default(),
        rules: rules(),
        legacy_tables: legacy,
    }
}

fn rules() -> Result<serde_json::Value, String> {
    let run = |words: &[&str]| command::run(words, PATIENCE, MOST_BYTES).map_err(|error| error.to_string());
    let mut output = run(&["nft", "-j", "-t", "list", "ruleset"])?;
    if !output.is_success && output.errors.contains("option") {
        // Versions before 0.9.1 show the elements of sets too.
        output = run(&["nft", "-j", "list", "ruleset"])?;
    }
    if !output.is_success {
        let cause = output.errors.lines().next().unwrap_or("no reason given").trim().to_owned();
        return Err(format!("nft cannot list the rules: {cause}"));
    }
    if output.text.trim().is_empty() {
        return Ok(serde_json::json!({ "nftables": [] }));
    }
    serde_json::from_str(&output.text).map_err(|error| format!("what nft prints is not understood: {error}"))
}
