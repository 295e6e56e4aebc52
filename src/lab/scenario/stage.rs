//! What a scenario stands on: its options, its words to the user, and the steps that several scenarios take.

use std::{
    io::IsTerminal,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{LabOptions, Scenario};
use crate::{
    io::cpu,
    lab::{
        error::LabError,
        network::Network,
        process::Process,
        topology::Topology,
        trace::{Trace, say},
    },
    notify::{
        client::Client,
        message::{FlowKey, LinkState},
    },
};

/// Everything a scenario is given.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Which scenario runs.
    pub scenario: Scenario,
    /// What the user chose.
    pub options: &'a LabOptions,
    /// Where commands are shown.
    pub trace: &'a Trace,
    /// The run's name.
    pub run: &'a str,
}

/// TCP over the WAN: buffers that hold 8 MB in flight, which is 1.3 Gbit/s at 50 ms and less than the queues on the
/// way, so that only the WAN loses anything.
pub const WAN_TCP: [(&str, &str); 3] = [
    ("net.ipv4.tcp_rmem", "4096 131072 8388608"),
    ("net.ipv4.tcp_wmem", "4096 131072 8388608"),
    ("net.ipv4.tcp_slow_start_after_idle", "0"),
];

/// How long a link may take to be up again after it was mended.
const RECOVERY: Duration = Duration::from_secs(30);

impl<'a> Stage<'a> {
    /// Says something to the user.
    pub fn say(&self, words: &str) {
        say(words);
    }

    /// Builds the scenario's topology, or the one the user named.
    pub fn build(&self) -> Result<Network<'a>, LabError> {
        let name = self.options.topology.as_deref().unwrap_or(self.scenario.topology);
        let topology = Topology::load(name)?;
        self.say(&format!("building {name} in network namespaces {}-* ...", self.run));
        Network::build(topology, self.run, self.options.seed, self.trace)
    }

    /// Gives each site its own half of the processors, as two hosts have their own; this thread stays with the first.
    /// Otherwise what runs at one site takes the processor from the other in the moment that is measured.
    pub fn part_sites(&self, network: &mut Network<'_>) -> Result<(), LabError> {
        let usable = cpu::usable().map_err(LabError::doing("ask for the usable processors"))?;
        let (first, second) = usable.split_at(usable.len() / 2);
        if first.is_empty() {
            self.say("one processor for both sites: each waits for the other");
            return Ok(());
        }
        let appliances: Vec<_> = network.topology().appliances().map(|(node, _)| node.to_owned()).collect();
        for ((end, appliance), processors) in ["primary", "mirror"].into_iter().zip(&appliances).zip([first, second]) {
            network.confine(&[end, appliance], processors);
            self.say(&format!("{end} and {appliance} run on processors {processors:?}"));
        }
        cpu::stay_on(first).map_err(LabError::doing("stay on the processors of the first site"))
    }

    /// Sets TCP of the two end hosts and says so, with the congestion control that their routes ask for.
    ///
    /// It is a property of the routes because a namespace may not choose as its default what the host has not allowed to
    /// everybody, which cubic often is not.
    pub fn set_tcp(&self, network: &Network<'_>, settings: &[(&str, &str)]) -> Result<(), LabError> {
        for node in ["primary", "mirror"] {
            network.sysctl(node, settings)?;
        }
        let words: Vec<_> =
            settings.iter().map(|(key, value)| format!("{}={value}", key.trim_start_matches("net.ipv4."))).collect();
        let routes = network.run("primary", &["ip", "route", "show", "default"])?;
        let congestion = routes.split_whitespace().skip_while(|word| *word != "congctl").nth(1);
        let congestion = congestion.unwrap_or("the host's default").to_owned();
        self.say(&format!("TCP at primary and mirror: congestion control {congestion}, {}", words.join(", ")));
        Ok(())
    }

    /// Waits, and returns early with an error when the user wants to stop.
    pub fn pause(&self, duration: Duration) -> Result<(), LabError> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.trace.check_stop()?;
            thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
        }
        self.trace.check_stop()
    }

    /// Waits for a transfer to end and shows how far `done` bytes of `total` it is; gives back how long it took.
    pub fn watch(
        &self,
        process: &mut Process,
        total: u64,
        limit: Duration,
        mut done: impl FnMut() -> u64,
    ) -> Result<Duration, LabError> {
        let start = Instant::now();
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {bytes} of {total_bytes} ({bytes_per_sec})") {
            bar.set_style(style);
        }
        let is_terminal = std::io::stderr().is_terminal();
        let mut said = start;
        let mut looked = start;
        let result = process.wait_until(limit, "transfer", |_| {
            false_after(&mut looked, || {
                let bytes = done().min(total);
                bar.set_position(bytes);
                if !is_terminal && said.elapsed() > Duration::from_secs(3) {
                    say(format_args!(
                        "  {} of {} MB after {} s",
                        bytes / 1_000_000,
                        total / 1_000_000,
                        start.elapsed().as_secs()
                    ));
                    said = Instant::now();
                }
            })
        });
        bar.finish_and_clear();
        let elapsed = start.elapsed();
        // It ended by itself, which `wait_until` takes for an error: how it ended is what counts.
        match result {
            Err(LabError::Stopped) => Err(LabError::Stopped),
            _ => process.wait(Duration::ZERO).map(|()| elapsed),
        }
    }
}

/// Waits until the client hears from its appliance that all links are up.
pub fn wait_up(stage: &Stage<'_>, client: &mut Client) -> Result<(), LabError> {
    let deadline = Instant::now() + RECOVERY;
    // About no flow nothing can be said, but asking takes in what has arrived.
    let nothing = FlowKey::tcp(([0; 4], 0).into(), ([0; 4], 0).into());
    loop {
        let _ = client.status(&nothing, 0).map_err(LabError::doing("listen to the appliance"))?;
        let core = client.core();
        let is_up = core.peers().count() > 0 && core.peers().all(|peer| peer.state == LinkState::Up);
        if is_up && core.has_contact(Instant::now()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let states: Vec<_> =
                core.peers().map(|peer| format!("{}: {}", peer.state.name(), peer.reason.name())).collect();
            let found = if states.is_empty() { "nothing is heard".to_owned() } else { states.join(", ") };
            return Err(LabError::Sentence(format!("the link is not up within {RECOVERY:?}; {found}")));
        }
        stage.trace.check_stop()?;
        thread::sleep(Duration::from_millis(1));
    }
}

/// Adds or deletes (`add`, `del`) the routes between the sites where no appliances are.
pub fn plain_route(network: &Network<'_>, verb: &str) -> Result<(), LabError> {
    for (node, prefix) in [("ithaca", "10.2.0.0/24"), ("syracuse", "10.1.0.0/24")] {
        network.run(node, &["ip", "route", verb, prefix, "dev", "wan0"])?;
    }
    Ok(())
}

/// The IPv4 addresses of primary and mirror.
pub fn ends(network: &Network<'_>) -> Result<[IpAddr; 2], LabError> {
    let address = |node: &str| {
        let missing = || LabError::Sentence(format!("the topology gives {node} no IPv4 address"));
        network.topology().address(node, false).ok_or_else(missing)
    };
    Ok([address("primary")?, address("mirror")?])
}

/// Looks ten times a second, and is never done.
fn false_after(looked: &mut Instant, look: impl FnOnce()) -> bool {
    if looked.elapsed() > Duration::from_millis(100) {
        *looked = Instant::now();
        look();
    }
    false
}
