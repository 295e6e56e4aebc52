//! An ack gate of a lab: the executable's own `gate` command, in the node of the primary.
//!
//! Starts and ends the gate; its status is JSON, which the scenario interprets.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

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
    /// Of a gate that has a file: its place, and its text with `POLICY` for the policy.
    file: Option<(PathBuf, String)>,
}

/// Stands for the policy in the text of a gate's file.
const POLICY: &str = "POLICY";

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
        Ok(Self { process, socket, file: None })
    }

    /// Starts one that has its settings from a file, and waits until it listens.
    pub fn start_with_file(network: &Network<'_>, plan: &GatePlan<'_>) -> Result<Self, LabError> {
        let socket = network.trace().directory().join(format!("{}.sock", plan.name));
        let GatePlan { kind, listen, upstream, publisher, .. } = plan;
        let (key, id) = (path_text(&publisher.key_file)?, publisher.key.id());
        let text = format!(
            "notify: {{ address: \"{}\", key_file: {key:?}, key_id: {id} }}\ngates:\n  - {{ kind: {kind}, listen: \"{listen}\", \
             upstream: \"{upstream}\", policy: {POLICY} }}\nstatus: {{ socket: {:?} }}\n",
            publisher.address,
            path_text(&socket)?
        );
        let name = format!("{}.yaml", plan.name);
        let file = network.trace().write_file(&name, &text.replace(POLICY, plan.policy))?;
        let words = [&onwire_program()?, "gate", "--config", &path_text(&file)?];
        let mut process = network.start(plan.node, plan.name, &words)?;
        process.wait_for_output("listening", LISTENS_WITHIN)?;
        Ok(Self { process, socket, file: Some((file, text)) })
    }

    /// Writes another policy into its file and lets it read that.
    pub fn reload_with(&self, network: &Network<'_>, policy: &str) -> Result<(), LabError> {
        let Some((file, text)) = &self.file else {
            return Err(LabError::Sentence("this gate was started without a file".to_owned()));
        };
        std::fs::write(file, text.replace(POLICY, policy)).map_err(LabError::doing("write the gate's file"))?;
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
