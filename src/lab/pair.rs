//! The two appliances of a lab: generates configurations and keys, starts the appliances, waits for their session,
//! queries and stops them.
//!
//! Uses the executable as a user would: `keygen`, `run`, `status`. Contains nothing of how an appliance works.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom, SystemRandom};

use super::{
    error::LabError,
    network::Network,
    process::Process,
    program::{onwire_program, path_text},
    status::Status,
    topology::AppliancePlan,
};
use crate::notify::envelope::Key;
use crate::notify::secret::Secret;

/// How long two appliances may take to set up their session.
const UP_WITHIN: Duration = Duration::from_secs(10);
const NOTIFY_PORT: u16 = 7118;

/// The settings in which the pairs of a scenario differ.
#[derive(Clone, Debug)]
pub struct PairOptions {
    /// Prefix of the log files and configurations of this pair.
    pub label: String,
    /// `repair:` of the only profile, in the syntax of the configuration.
    pub repair: String,
    /// `block_symbols:` of that profile.
    pub block_symbols: u32,
    /// Further keys of that profile, one a line; the lines after the first are indented by four spaces.
    pub profile: String,
    /// Further keys of `path`, each with a comma before it: `, rate: 1mbit`.
    pub path: String,
    /// `offload:` of the TUN: `auto` or `off`.
    pub offload: &'static str,
    /// `queues:` of the TUN: the number of lanes.
    pub queues: u16,
    /// `level:` of the notifications, `on_wire` or `queued`; none: the appliances send no notifications.
    pub notify: Option<&'static str>,
    /// Whether `delivery.last_hop:` is on.
    pub last_hop: bool,
    /// Further keys of the file, a line each.
    pub further: &'static str,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            label: "onwire".to_owned(),
            repair: "{ fixed: 4 }".to_owned(),
            block_symbols: 32,
            profile: String::new(),
            path: String::new(),
            offload: "auto",
            queues: 1,
            notify: None,
            last_hop: true,
            further: "",
        }
    }
}

/// A running appliance.
#[derive(Debug)]
pub struct RunningAppliance {
    node: String,
    socket: PathBuf,
    publisher: Option<Publisher>,
    /// The command that started it.
    command: [String; 4],
    /// Its process.
    pub process: Process,
}

/// Where an appliance publishes its notifications, and the key to them.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// Its address, on the side of its own site.
    pub address: SocketAddr,
    /// The file with the key.
    pub key_file: PathBuf,
    /// The key.
    pub key: Key,
}

/// How an appliance ended.
#[derive(Debug)]
pub struct Ended {
    /// The node it ran in.
    pub node: String,
    /// Its exit status.
    pub exit: ExitStatus,
    /// Its status just before it was stopped.
    pub status: Status,
    /// Processor time it used.
    pub cpu: Duration,
}

impl RunningAppliance {
    /// Its status now.
    pub fn status(&self, network: &Network<'_>) -> Result<Status, LabError> {
        let text = self.status_text(network)?;
        Status::parse(&text)
            .map_err(|error| LabError::Sentence(format!("the status of {} cannot be read: {error}", self.node)))
    }

    /// The text of its status, as JSON.
    pub fn status_text(&self, network: &Network<'_>) -> Result<String, LabError> {
        let socket = path_text(&self.socket)?;
        network.trace().run(&[&onwire_program()?, "status", "--json", "--socket", &socket])
    }

    /// Its status socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its configuration file.
    pub fn config(&self) -> &str {
        &self.command[3]
    }

    /// Lets it read its file again; an error if it does not follow it.
    pub fn reload(&self, network: &Network<'_>) -> Result<String, LabError> {
        network.trace().run(&[&onwire_program()?, "reload", "--socket", &path_text(&self.socket)?])
    }

    /// Its notification address and key, if the pair was started with notifications.
    pub fn publisher(&self) -> Result<&Publisher, LabError> {
        let silent = || LabError::Sentence(format!("the appliance of {} was started without notifications", self.node));
        self.publisher.as_ref().ok_or_else(silent)
    }

    /// The name of its node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Kills it if it still runs, and starts it again with the same configuration. Does not wait for its session.
    pub fn restart(&mut self, network: &Network<'_>) -> Result<(), LabError> {
        self.restart_under(network, &[])
    }

    /// As [`restart`](Self::restart), with words before its command.
    pub fn restart_under(&mut self, network: &Network<'_>, before: &[&str]) -> Result<(), LabError> {
        self.process.kill();
        // A killed process leaves the socket file; the new process would seem ready at once.
        let _ = std::fs::remove_file(&self.socket);
        let name = self.process.name().to_owned();
        let words = before.iter().copied().chain(self.command.iter().map(String::as_str));
        self.process = network.start(&self.node, &name, &words.collect::<Vec<_>>())?;
        Ok(())
    }

    fn stop(mut self, network: &Network<'_>) -> Result<Ended, LabError> {
        let status = self.status(network)?;
        let cpu = self.process.cpu_time().unwrap_or_default();
        let exit = self.process.terminate()?;
        Ok(Ended { node: self.node, exit, status, cpu })
    }
}

/// Two appliances with a session between them.
#[derive(Debug)]
pub struct Pair<'n> {
    network: &'n Network<'n>,
    /// The appliance at the data's source, then the other one.
    pub appliances: [RunningAppliance; 2],
}

impl<'n> Pair<'n> {
    /// Starts the two appliances of a topology: makes keys and configurations, and waits until both have a session.
    pub fn start(network: &'n Network<'n>, options: &PairOptions) -> Result<Self, LabError> {
        let plans: Vec<_> = network.topology().appliances().collect();
        let [near, far] = plans[..] else {
            let found = plans.len();
            return Err(LabError::Sentence(format!("this scenario needs two appliances; the topology has {found}")));
        };
        Self::start_between(network, options, [near, far])
    }

    /// Starts each appliance of a topology with the one that it names as its peer. The pairs are in the order of the names of
    /// their first appliances.
    pub fn start_all(network: &'n Network<'n>, options: &PairOptions) -> Result<Vec<Self>, LabError> {
        let plans: BTreeMap<_, _> = network.topology().appliances().collect();
        let firsts = plans.iter().filter(|(name, plan)| **name < plan.peer.as_str());
        firsts
            .map(|(near, plan)| {
                let far = plan.peer.as_str();
                match plans.get(far) {
                    Some(of_far) if of_far.peer == *near => {
                        Self::start_between(network, options, [(near, plan), (far, of_far)])
                    }
                    _ => Err(LabError::Sentence(format!(
                        "{far} does not name {near} as its peer; this scenario needs pairs"
                    ))),
                }
            })
            .collect()
    }

    /// Generates keys and configurations, starts both appliances and waits until both report an established session.
    fn start_between(
        network: &'n Network<'n>,
        options: &PairOptions,
        [(near, near_plan), (far, far_plan)]: [(&str, &AppliancePlan); 2],
    ) -> Result<Self, LabError> {
        let [near_key, far_key] = [make_key(network, near, options)?, make_key(network, far, options)?];
        let to = |name, plan, key| RemotePeer { name, plan, key, path: &options.path };
        let near_peers = [to(far, far_plan, far_key.1.as_str())];
        let far_peers = [to(near, near_plan, near_key.1.as_str())];
        let near = start(network, options, (near, near_plan, &near_key.0), &near_peers)?;
        let far = start(network, options, (far, far_plan, &far_key.0), &far_peers)?;
        let mut pair = Self { network, appliances: [near, far] };
        pair.wait_up()?;
        Ok(pair)
    }

    /// Kills both, starts them again with the same configurations, and waits until both report an established session.
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.appliances.iter_mut().for_each(|appliance| appliance.process.kill());
        self.appliances.iter_mut().try_for_each(|appliance| appliance.restart(self.network))?;
        self.wait_up()
    }

    /// The statuses of both, in the order of [`appliances`](Self::appliances).
    pub fn status(&self) -> Result<[Status; 2], LabError> {
        let [near, far] = &self.appliances;
        Ok([near.status(self.network)?, far.status(self.network)?])
    }

    /// Processor time of both so far.
    pub fn cpu_times(&self) -> [Duration; 2] {
        self.appliances.each_ref().map(|appliance| appliance.process.cpu_time().unwrap_or_default())
    }

    /// Stops both with SIGTERM.
    pub fn stop(self) -> Result<[Ended; 2], LabError> {
        let [near, far] = self.appliances;
        Ok([near.stop(self.network)?, far.stop(self.network)?])
    }

    /// Whether both carry packets, where they withdraw their routes while they do not.
    pub fn is_carried(&self) -> bool {
        self.appliances.iter().all(|appliance| {
            let status = appliance.status(self.network);
            status.is_ok_and(|status| status.is_up() && status.peer().bypass.is_some_and(|bypass| !bypass.withdrawn))
        })
    }

    /// Waits until both report an established session.
    pub fn wait_up(&mut self) -> Result<(), LabError> {
        wait_up(self.network, &mut self.appliances)
    }
}

/// Waits until all report established sessions.
pub(super) fn wait_up(network: &Network<'_>, appliances: &mut [RunningAppliance]) -> Result<(), LabError> {
    // Many on one machine start one after the other.
    let deadline = Instant::now() + UP_WITHIN.max(appliances.len() as u32 * Duration::from_secs(1));
    for appliance in appliances {
        let RunningAppliance { socket, process, node, .. } = appliance;
        let left = deadline.saturating_duration_since(Instant::now());
        process.wait_until(left, &format!("the status socket of {node}"), |_| socket.exists())?;
        let (executable, socket) = (onwire_program()?, path_text(socket)?);
        let words = [executable.as_str(), "status", "--json", "--socket", &socket];
        let left = deadline.saturating_duration_since(Instant::now());
        process.wait_until(left, &format!("sessions of {node} up"), |_| {
            let status = network.trace().run(&words).ok().and_then(|text| Status::parse(&text).ok());
            status.is_some_and(|status| status.is_up())
        })?;
    }
    Ok(())
}

/// Generates a private key; returns its file and the public key's text.
pub(super) fn make_key(
    network: &Network<'_>,
    node: &str,
    options: &PairOptions,
) -> Result<(PathBuf, String), LabError> {
    let file = network.trace().directory().join(format!("{}-{node}.key", options.label));
    let executable = onwire_program()?;
    network.trace().run(&[&executable, "keygen", &path_text(&file)?])?;
    let public = network.trace().run(&[&executable, "pubkey", &path_text(&file)?])?;
    Ok((file, public.trim().to_owned()))
}

/// A peer as it appears in an appliance's configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemotePeer<'a> {
    /// The node of the peer.
    pub name: &'a str,
    /// Its listen address and its networks.
    pub plan: &'a AppliancePlan,
    /// The text of its public key.
    pub key: &'a str,
    /// Further keys of `path`, each with a comma before it: `, rate: 1mbit`.
    pub path: &'a str,
}

pub(super) fn start(
    network: &Network<'_>,
    options: &PairOptions,
    (node, plan, key): (&str, &AppliancePlan, &Path),
    peers: &[RemotePeer<'_>],
) -> Result<RunningAppliance, LabError> {
    let name = format!("{}-{node}", options.label);
    let socket = network.trace().directory().join(format!("{name}.sock"));
    let mut text = configuration(options, (node, plan), [&path_text(key)?, &path_text(&socket)?], peers);
    let publisher = options.notify.map(|_| publisher(network, node)).transpose()?;
    if let (Some(level), Some(Publisher { address, key_file, key })) = (options.notify, &publisher) {
        let (id, file) = (key.id(), path_text(key_file)?);
        text +=
            &format!("notify:\n  listen: \"{address}\"\n  keys: [{{ id: {id}, file: {file:?} }}]\n  level: {level}\n");
    }
    if !options.last_hop {
        text += "delivery: { last_hop: off }\n";
    }
    text += options.further;
    let file = network.trace().write_file(&format!("{name}.yaml"), &text)?;
    let command = [onwire_program()?, "run".to_owned(), "--config".to_owned(), path_text(&file)?];
    let process = network.start(node, &name, &command.each_ref().map(String::as_str))?;
    Ok(RunningAppliance { node: node.to_owned(), socket, publisher, command, process })
}

/// The address and key of a node's notifications. All pairs of a run have the same key, so recorded notifications of an
/// earlier pair are valid for subscribers of a later one, which is the attack to test.
fn publisher(network: &Network<'_>, node: &str) -> Result<Publisher, LabError> {
    let key_file = network.trace().directory().join("notify.key");
    let unusable = |error: &dyn std::fmt::Display| LabError::Sentence(format!("{}: {error}", key_file.display()));
    let secret = match std::fs::read_to_string(&key_file) {
        Ok(text) => Secret::parse(&text).map_err(|error| unusable(&error))?,
        Err(_) => {
            let mut bytes = [0; 32];
            let random = SystemRandom::new().fill(&mut bytes);
            random.map_err(|_| LabError::Sentence("the system has no random numbers".to_owned()))?;
            let secret = Secret::from_random(&bytes);
            network.trace().write_secret("notify.key", &format!("{}\n", *secret.to_text()))?;
            secret
        }
    };
    let key = secret.to_key(1);
    let no_address = || LabError::Sentence(format!("the topology gives {node} no IPv4 address"));
    let address = network.topology().address(node, false).ok_or_else(no_address)?;
    Ok(Publisher { address: SocketAddr::new(address, NOTIFY_PORT), key_file, key })
}

/// The text of one appliance's configuration. Strings are quoted as JSON, which YAML reads.
fn configuration(
    options: &PairOptions,
    (name, own): (&str, &AppliancePlan),
    [key_file, socket]: [&str; 2],
    peers: &[RemotePeer<'_>],
) -> String {
    let list = |plan: &AppliancePlan| {
        plan.local_prefixes.iter().map(|prefix| format!("{:?}", prefix.to_string())).collect::<Vec<_>>().join(", ")
    };
    let (own_prefixes, listen) = (list(own), own.listen);
    let PairOptions { repair, block_symbols, profile, offload, queues, .. } = options;
    let (tun_mtu, path_mtu) = (own.tun_mtu, own.path_mtu);
    let peers: String = peers
        .iter()
        .map(|RemotePeer { name, plan, key, path }| {
            let (endpoint, prefixes) = (plan.listen, list(plan));
            format!(
                "  - name: {name}
    public_key: {key:?}
    endpoint: \"{endpoint}\"
    prefixes: [{prefixes}]
    path: {{ mtu: {path_mtu}{path} }}
    redundancy: lab
"
            )
        })
        .collect();
    format!(
        "node:
  name: {name}
  key_file: {key_file:?}
  listen: \"{listen}\"
  local_prefixes: [{own_prefixes}]
tun:
  name: ow0
  mtu: {tun_mtu}
  offload: {offload}
  queues: {queues}
peers:
{peers}redundancy:
  lab:
    block_symbols: {block_symbols}
    repair: {repair}
    {profile}
status:
  socket: {socket:?}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::topology::Topology;

    #[test]
    fn a_configuration_holds_the_addresses_prefixes_and_keys_of_both_sites() {
        let topology = Topology::load("pair-outer-v6").unwrap();
        let plans: Vec<_> = topology.appliances().map(|(_, plan)| plan).collect();
        let far = RemotePeer { name: "syracuse", plan: plans[1], key: "abc=", path: ", rate: 1mbit" };
        let files = ["/tmp/a key", "/tmp/s.sock"];
        let text = configuration(&PairOptions::default(), ("ithaca", plans[0]), files, &[far]);
        for line in [
            "  name: ithaca",
            "  key_file: \"/tmp/a key\"",
            "  listen: \"[2001:db8::1]:7117\"",
            "  local_prefixes: [\"10.1.0.0/24\", \"fd00:1::/64\"]",
            "    endpoint: \"[2001:db8::2]:7117\"",
            "    prefixes: [\"10.2.0.0/24\", \"fd00:2::/64\"]",
            "    path: { mtu: 1500, rate: 1mbit }",
            "    repair: { fixed: 4 }",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
