//! An ack gate of a lab: the executable's own `gate` command, in the node of the primary.
//!
//! Starts and ends the gate; its status is JSON, which the scenario interprets.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{
    error::LabError,
    network::Network,
    pair::Publisher,
    process::Process,
    program::{onwire_program, path_text},
};

/// How long it may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// The settings of a gate.
#[derive(Clone, Debug)]
pub struct GatePlan<'p> {
    /// The protocol: `postgres`, `redis`, `mariadb` or `tcp`.
    pub kind: &'p str,
    /// Its node.
    pub node: &'p str,
    /// The name of its log and its socket.
    pub name: &'p str,
    /// Its listen address.
    pub listen: SocketAddr,
    /// The server to which it connects.
    pub upstream: SocketAddr,
    /// `strict`, `auto` or `available=TIME`.
    pub policy: &'p str,
    /// The appliance whose notifications it uses.
    pub publisher: &'p Publisher,
    /// Further arguments of its command line.
    pub more: Vec<String>,
}

/// A running gate. Dropping it ends it.
#[derive(Debug)]
pub struct Gate {
    /// Its process.
    pub process: Process,
    socket: PathBuf,
}

impl Gate {
    /// Starts it and waits until it listens.
    pub fn start(network: &Network<'_>, plan: &GatePlan<'_>) -> Result<Self, LabError> {
        let socket = network.trace().directory().join(format!("{}.sock", plan.name));
        // After a crash the previous socket file still exists.
        let _ = std::fs::remove_file(&socket);
        let [listen, upstream, notify] = [plan.listen, plan.upstream, plan.publisher.address].map(|it| it.to_string());
        let (executable, id) = (onwire_program()?, plan.publisher.key.id().to_string());
        let (key, status) = (path_text(&plan.publisher.key_file)?, path_text(&socket)?);
        let mut words = vec![executable.as_str(), "gate", plan.kind, "--listen", &listen, "--upstream", &upstream];
        words.extend(["--policy", plan.policy, "--notify", &notify, "--key", &key, "--key-id", &id]);
        words.extend(["--status", &status]);
        words.extend(plan.more.iter().map(String::as_str));
        let mut process = network.start(plan.node, plan.name, &words)?;
        process.wait_for_output("listening", LISTENS_WITHIN)?;
        Ok(Self { process, socket })
    }

    /// Starts it from a file, without `more`, and waits until it listens. Such a gate can [move](Self::move_to), and get
    /// [another policy](Self::set_policy).
    pub fn start_from_file(network: &Network<'_>, plan: &GatePlan<'_>) -> Result<Self, LabError> {
        let socket = network.trace().directory().join(format!("{}.sock", plan.name));
        let _ = std::fs::remove_file(&socket);
        let file = write_file(network, plan, &socket)?;
        let mut process = network.start(plan.node, plan.name, &[&onwire_program()?, "gate", "--config", &file])?;
        process.wait_for_output("listening", LISTENS_WITHIN)?;
        Ok(Self { process, socket })
    }

    /// From now on it asks the appliance of this plan, which is otherwise the one that it was started with.
    pub fn move_to(&self, network: &Network<'_>, plan: &GatePlan<'_>) -> Result<(), LabError> {
        write_file(network, plan, &self.socket)?;
        self.reload(network)
    }

    /// Another policy from now on.
    pub fn set_policy(&self, network: &Network<'_>, policy: &str) -> Result<(), LabError> {
        // Its file lies beside its socket, under the same name.
        let file = self.socket.with_extension("yaml");
        let text = std::fs::read_to_string(&file).map_err(LabError::doing("read the gate's file"))?;
        let parts = text.split_once("policy: ").and_then(|(before, rest)| Some((before, rest.split_once(" }")?.1)));
        let (before, after) =
            parts.ok_or_else(|| LabError::Sentence(format!("{}: there is no policy", file.display())))?;
        let text = format!("{before}policy: {policy} }}{after}");
        std::fs::write(&file, text).map_err(LabError::doing("write the gate's file"))?;
        self.reload(network)
    }

    fn reload(&self, network: &Network<'_>) -> Result<(), LabError> {
        let socket = path_text(&self.socket)?;
        network.trace().run(&[&onwire_program()?, "reload", "--socket", &socket]).map(drop)
    }

    /// How many connections its first gate has accepted so far, and how many are open.
    pub fn connections(&self, network: &Network<'_>) -> Result<[u64; 2], LabError> {
        let status = self.status(network)?;
        let gate = &status["gates"][0];
        let open = gate["connections"].as_array().map_or(0, |open| open.len() as u64);
        Ok([gate["totals"]["connections"].as_u64().unwrap_or(0), open])
    }

    /// How often its first gate has acknowledged something because it was protected.
    pub fn released(&self, network: &Network<'_>) -> Result<u64, LabError> {
        Ok(self.status(network)?["gates"][0]["totals"]["released"].as_u64().unwrap_or(0))
    }

    /// Why nothing more could be called protected of the first connection of its first gate; none: nothing is wrong.
    pub fn reason(&self, network: &Network<'_>) -> Result<Option<String>, LabError> {
        Ok(self.status(network)?["gates"][0]["connections"][0]["reason"].as_str().map(str::to_owned))
    }

    /// Its status.
    pub fn status(&self, network: &Network<'_>) -> Result<Value, LabError> {
        let socket = path_text(&self.socket)?;
        let text = network.trace().run(&[&onwire_program()?, "status", "--json", "--socket", &socket])?;
        serde_json::from_str(&text)
            .map_err(|error| LabError::Sentence(format!("the status of the gate cannot be read: {error}")))
    }

    /// Kills it, like a crash.
    pub fn crash(&mut self) {
        self.process.kill();
    }

    /// Sends a signal: to halt it, or to let it go on.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }
}

/// Writes the file of a gate; returns its path. Strings are quoted as JSON, which YAML reads.
fn write_file(network: &Network<'_>, plan: &GatePlan<'_>, socket: &Path) -> Result<String, LabError> {
    let GatePlan { kind, name, listen, upstream, policy, publisher, .. } = plan;
    let (key, id, socket) = (path_text(&publisher.key_file)?, publisher.key.id(), path_text(socket)?);
    let text = format!(
        "notify: {{ address: \"{}\", key_file: {key:?}, key_id: {id} }}
gates:
  - {{ kind: {kind}, listen: \"{listen}\", upstream: \"{upstream}\", policy: {policy} }}
status: {{ socket: {socket:?} }}
",
        publisher.address
    );
    path_text(&network.trace().write_file(&format!("{name}.yaml"), &text)?)
}
