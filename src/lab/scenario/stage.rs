//! What every scenario receives: its options, its output to the user, and steps that several scenarios share.

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
    /// The scenario that runs.
    pub scenario: Scenario,
    /// The user's options.
    pub options: &'a LabOptions,
    /// The trace that shows the commands.
    pub trace: &'a Trace,
    /// The run's name.
    pub run: &'a str,
}

/// TCP settings over the WAN: buffers for 8 MB in flight, which is 1.3 Gbit/s at 50 ms and less than the queues on the
/// path, so that only the WAN loses packets.
pub const WAN_TCP: [(&str, &str); 3] = [
    ("net.ipv4.tcp_rmem", "4096 131072 8388608"),
    ("net.ipv4.tcp_wmem", "4096 131072 8388608"),
    ("net.ipv4.tcp_slow_start_after_idle", "0"),
];

/// How long a link may take to be up again after it was repaired.
const RECOVERY: Duration = Duration::from_secs(30);

impl<'a> Stage<'a> {
    /// Prints something to the user.
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

    /// Gives each site its own half of the processors, like two hosts; this thread stays with the first. Otherwise a
    /// program of one site could take the processor from the other during a measurement.
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

    /// Sets TCP at the two end hosts and prints the settings, with the congestion control of their routes.
    ///
    /// The congestion control is set per route because a namespace may use as its default only algorithms that the host
    /// allows to unprivileged users, and cubic often is not among them.
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

    /// Waits; returns early with an error if a signal asks the lab to stop.
    pub fn pause(&self, duration: Duration) -> Result<(), LabError> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.trace.check_stop()?;
            thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
        }
        self.trace.check_stop()
    }

    /// Waits for a transfer to end and shows how many bytes of `total` are `done`; returns how long it took.
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
        // A process that ends is an error for `wait_until`; here only its exit status counts.
        match result {
            Err(LabError::Stopped) => Err(LabError::Stopped),
            _ => process.wait(Duration::ZERO).map(|()| elapsed),
        }
    }
}

/// Waits until the appliance notifies the client that all links are up.
pub fn wait_up(stage: &Stage<'_>, client: &mut Client) -> Result<(), LabError> {
    let deadline = Instant::now() + RECOVERY;
    // This flow does not exist; the call is made because it processes the received messages.
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

/// Adds or deletes (`add`, `del`) the direct routes between the sites, for measurements without appliances.
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

/// Calls `look` ten times a second; always returns `false`.
fn false_after(looked: &mut Instant, look: impl FnOnce()) -> bool {
    if looked.elapsed() > Duration::from_millis(100) {
        *looked = Instant::now();
        look();
    }
    false
}
