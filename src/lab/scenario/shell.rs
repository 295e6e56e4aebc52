//! A lab that stays up, for experiments by hand.

use std::time::Duration;

use super::Stage;
use crate::lab::{
    error::LabError,
    pair::{Pair, PairOptions},
    program::{lab_program, onwire_program},
    report::Report,
};

/// Runs the scenario until a signal, or for `--seconds`.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let network = stage.build()?;
    let has_pair = network.topology().appliances().count() == 2;
    let pair = if has_pair { Some(Pair::start(&network, &PairOptions::default())?) } else { None };
    stage.say("\nThe lab is up. A shell in a node:");
    // In the namespaces of an ordinary user, `nsenter` must enter through this process.
    let enter = if own_run_is_visible() {
        String::new()
    } else {
        format!("nsenter -t {} -U -m --preserve-credentials ", std::process::id())
    };
    for node in network.topology().nodes.keys() {
        stage.say(&format!("  {enter}ip netns exec {} bash    # {node}", network.namespace(node)));
    }
    if let Some(pair) = &pair {
        stage.say("What an appliance says of itself:");
        for appliance in &pair.appliances {
            let socket = stage.trace.directory().join(format!("onwire-{}.sock", appliance.node()));
            stage.say(&format!("  {} status --socket {}", onwire_program()?, socket.display()));
        }
    }
    if network.wan().is_some() {
        let socket = stage.trace.directory().join("wan.sock");
        stage.say("What the WAN does (set loss 1%, set forth delay 100ms, cut, blackhole, open, counters):");
        stage.say(&format!("  {} tell {} set loss 1%", lab_program()?, socket.display()));
    }
    stage.say("Ctrl-C takes it down.");
    let stay = stage.options.seconds.map_or(Duration::MAX, Duration::from_secs);
    let step = Duration::from_millis(200);
    let mut stayed = Duration::ZERO;
    while stayed < stay {
        match stage.pause(step) {
            Err(LabError::Stopped) => break,
            other => other?,
        }
        stayed += step;
    }
    drop(pair);
    Ok(Report::default())
}

fn own_run_is_visible() -> bool {
    // Without a user namespace the map covers the whole range of user ids.
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}
