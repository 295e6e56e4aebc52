//! BIRD, the routing daemon, in nodes of a lab: with the files of `config/bird`, as a user would run them.
//!
//! Knows nothing of appliances; its sockets are in the run's directory.

use std::time::Duration;

use super::{error::LabError, network::Network, process::Process, program::path_text};

/// The files for each node, and those that they include.
pub const FILES: [(&str, &str); 8] = [
    ("appliance.conf", include_str!("../../config/bird/appliance.conf")),
    ("router.conf", include_str!("../../config/bird/router.conf")),
    ("ithaca-router.conf", include_str!("../../config/bird/ithaca-router.conf")),
    ("ithaca-a.conf", include_str!("../../config/bird/ithaca-a.conf")),
    ("ithaca-b.conf", include_str!("../../config/bird/ithaca-b.conf")),
    ("syracuse-router.conf", include_str!("../../config/bird/syracuse-router.conf")),
    ("syracuse-a.conf", include_str!("../../config/bird/syracuse-a.conf")),
    ("syracuse-b.conf", include_str!("../../config/bird/syracuse-b.conf")),
];

const READY_WITHIN: Duration = Duration::from_secs(10);

/// Writes the files and starts BIRD in each node that has one of its name. Dropping a process ends it.
pub fn start_all(network: &Network<'_>) -> Result<Vec<Process>, LabError> {
    for (name, text) in FILES {
        network.trace().write_file(name, text)?;
    }
    let has_file = |node: &String| FILES.iter().any(|(name, _)| name.strip_suffix(".conf") == Some(node));
    let nodes: Vec<_> = network.topology().nodes.keys().filter(|node| has_file(node)).collect();
    nodes.into_iter().map(|node| start(network, node)).collect()
}

fn start(network: &Network<'_>, node: &str) -> Result<Process, LabError> {
    let directory = network.trace().directory();
    let [socket, pid, config] =
        ["ctl", "pid", "conf"].map(|ending| directory.join(format!("{node}.{ending}"))).map(|it| path_text(&it));
    let (socket, pid, config) = (socket?, pid?, config?);
    let name = format!("bird-{node}");
    // `-d`: in the foreground, with its log on standard error.
    let mut process = network.start(node, &name, &["bird", "-d", "-c", &config, "-s", &socket, "-P", &pid])?;
    process.wait_until(READY_WITHIN, &format!("the control socket of BIRD in {node}"), |_| {
        std::path::Path::new(&socket).exists()
    })?;
    Ok(process)
}
