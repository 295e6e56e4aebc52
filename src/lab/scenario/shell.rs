//! A lab that stays up, for experiments by hand: two sites, notifications, and PostgreSQL behind a gate.

use std::time::Duration;

use super::{Stage, stage::ends};
use crate::lab::{
    error::LabError,
    network::Network,
    pair::{Pair, PairOptions},
    program::{lab_program, onwire_program},
    report::Report,
    servers::postgres_pair::PostgresPair,
};

/// Runs the scenario until a signal, or for `--seconds`.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let network = stage.build()?;
    let has_pair = network.topology().appliances().count() == 2;
    let options = PairOptions { notify: Some("on_wire"), ..PairOptions::default() };
    let pair = if has_pair { Some(Pair::start(&network, &options)?) } else { None };
    // Kept until the end: their values are the running programs.
    let servers = pair.as_ref().and_then(|_| prepare(stage, &network));
    let behind_gate = match (&servers, &pair) {
        (Some(servers), Some(pair)) => Some(servers.start_behind_gate(pair.appliances[0].publisher()?)?),
        _ => None,
    };
    let guide = Guide { stage, network: &network };
    guide.nodes();
    if let Some(pair) = &pair {
        guide.appliances(pair)?;
    }
    if let Some((_, primary, mirror)) = &behind_gate {
        guide.databases([primary.psql(), mirror.psql()])?;
    }
    guide.wan()?;
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
    drop(behind_gate);
    drop(pair);
    Ok(Report::default())
}

/// The databases; without them the lab is up all the same, and says what it lacks.
fn prepare<'n>(stage: &Stage<'_>, network: &'n Network<'n>) -> Option<PostgresPair<'n>> {
    match ends(network).and_then(|addresses| PostgresPair::prepare(network, addresses)) {
        Ok(servers) => Some(servers),
        Err(error) => {
            stage.say(&format!("Without PostgreSQL and its gate: {error}"));
            None
        }
    }
}

/// What can be done in the lab, as commands to copy.
struct Guide<'s> {
    stage: &'s Stage<'s>,
    network: &'s Network<'s>,
}

impl Guide<'_> {
    fn nodes(&self) {
        self.stage.say("\nThe lab is up. A shell in a node:");
        for node in self.network.topology().nodes.keys() {
            self.stage.say(&format!("  {} bash    # {node}", self.enter(node)));
        }
    }

    fn appliances(&self, pair: &Pair<'_>) -> Result<(), LabError> {
        let onwire = onwire_program()?;
        self.stage.say("What an appliance says of itself (`top` in place of `status`: live):");
        for appliance in &pair.appliances {
            let socket = self.file(&format!("onwire-{}.sock", appliance.node()));
            self.stage.say(&format!("  {onwire} status --socket {socket}"));
        }
        let [near, far] = &pair.appliances;
        let publisher = near.publisher()?;
        let asked = format!("--notify {} --key {}", publisher.address, publisher.key_file.display());
        self.stage.say("What is protected:");
        self.stage.say(&format!("  {} {onwire} watch {asked}", self.enter(near.node())));
        let drain = format!("{onwire} drain --socket {}", self.file(&format!("onwire-{}.sock", far.node())));
        self.stage.say("Before a promotion of the mirror (while the other side lives it waits, and says so):");
        self.stage.say(&format!("  {drain}"));
        Ok(())
    }

    fn databases(&self, [primary, mirror]: [Result<String, LabError>; 2]) -> Result<(), LabError> {
        self.stage.say("PostgreSQL at both sites, the mirror behind a gate; commits wait with remote_write:");
        self.stage.say(&format!("  {} {}    # primary", self.enter("primary"), primary?));
        self.stage.say(&format!("  {} {}    # mirror", self.enter("mirror"), mirror?));
        self.stage.say(&format!("  {} status --socket {}", onwire_program()?, self.file("gate.sock")));
        Ok(())
    }

    fn wan(&self) -> Result<(), LabError> {
        if self.network.wan().is_some() {
            self.stage.say("What the WAN does (set loss 1%, set forth delay 100ms, cut, blackhole, open, counters):");
            self.stage.say(&format!("  {} tell {} set loss 1%", lab_program()?, self.file("wan.sock")));
        }
        Ok(())
    }

    fn enter(&self, node: &str) -> String {
        // In the namespaces of an ordinary user, `nsenter` must enter through this process.
        let enter = if own_run_is_visible() {
            String::new()
        } else {
            format!("nsenter -t {} -U -m --preserve-credentials ", std::process::id())
        };
        format!("{enter}ip netns exec {}", self.network.namespace(node))
    }

    fn file(&self, name: &str) -> String {
        self.stage.trace.directory().join(name).display().to_string()
    }
}

fn own_run_is_visible() -> bool {
    // Without a user namespace the map covers the whole range of user ids.
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}
