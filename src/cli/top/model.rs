//! What the screen shows: rows of peers, gates and problems, made of the answers of all processes. Draws nothing, asks
//! nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ratatui::crossterm::event::KeyCode;

use super::flows::{FlowList, Flows};
use super::history::{Column, History};
use crate::appliance::status::{PeerStatus, Status as ApplianceStatus};
use crate::cli::health;
use crate::cli::output_line::OutputLine;
use crate::cli::processes::Host;
use crate::cli::render::way_there;
use crate::cli::status::Document;
use crate::gate::status::{ConnectionStatus, GateStatus, Status as GatesStatus};
use crate::io::problem::Problem;

/// A process that was seen.
#[derive(Debug, Default)]
struct Seen {
    document: Option<Document>,
    /// Why there is no newer document.
    error: Option<String>,
}

/// A row of the table of peers.
#[derive(Debug)]
pub(super) struct PeerRow<'a> {
    /// The appliance.
    pub node: &'a ApplianceStatus,
    /// Its peer.
    pub peer: &'a PeerStatus,
    /// The appliance does not answer any more.
    pub is_old: bool,
    key: (PathBuf, String),
}

/// A row of the table of gates.
#[derive(Debug)]
pub(super) struct GateRow<'a> {
    /// Its process.
    pub process: &'a GatesStatus,
    /// The gate.
    pub gate: &'a GateStatus,
    /// Marks that wait, over all connections.
    pub waiting: u64,
    /// The age of the oldest.
    pub oldest_s: Option<f64>,
    /// Bytes sent and not protected.
    pub unprotected: u64,
    /// Bytes acknowledged and nowhere but here.
    pub exposed: u64,
}

impl<'a> GateRow<'a> {
    fn new(process: &'a GatesStatus, gate: &'a GateStatus) -> Self {
        let sum = |of: fn(&ConnectionStatus) -> u64| gate.connections.iter().map(of).sum();
        let ages = gate.connections.iter().filter_map(|connection| connection.oldest_waiting_s);
        Self {
            process,
            gate,
            waiting: sum(|connection| connection.waiting),
            oldest_s: ages.max_by(f64::total_cmp),
            unprotected: sum(|connection| connection.unprotected),
            exposed: sum(|connection| connection.exposed),
        }
    }
}

/// Everything on the screen.
pub(super) struct Model {
    processes: BTreeMap<PathBuf, Seen>,
    histories: BTreeMap<(PathBuf, String), History>,
    follows_flows: Option<FlowList>,
    /// What is known of flows; `None` where they are not followed.
    pub flows: Option<Flows>,
    /// Flows are shown where gates would be.
    pub shows_flows: bool,
    /// Answers are not shown.
    pub is_paused: bool,
    /// Why there is nothing to show.
    pub nothing: Option<String>,
    chosen: usize,
}

impl Model {
    /// Before the first answer.
    pub fn new(follows_flows: Option<FlowList>) -> Self {
        Self {
            processes: BTreeMap::new(),
            histories: BTreeMap::new(),
            flows: follows_flows.as_ref().map(|_| Flows::default()),
            shows_flows: follows_flows.is_some(),
            follows_flows,
            is_paused: false,
            nothing: None,
            chosen: 0,
        }
    }

    /// All processes were asked. True if the screen changes.
    pub fn on_answer(&mut self, host: &Host) -> bool {
        if self.is_paused {
            return false;
        }
        self.nothing = host.processes.is_empty().then(|| host.nothing());
        // A process that has ended is one that is not there; one that does not answer keeps its rows.
        self.processes.retain(|socket, _| host.processes.iter().any(|process| process.socket == *socket));
        for process in &host.processes {
            let seen = self.processes.entry(process.socket.clone()).or_default();
            match Document::read(process) {
                Ok(document) => *seen = Seen { document: Some(document), error: None },
                Err(error) => seen.error = Some(error),
            }
        }
        let mut histories = std::mem::take(&mut self.histories);
        for row in self.peers() {
            let history = histories.entry(row.key.clone()).or_default();
            match row.is_old {
                true => history.on_silence(),
                false => history.on_status(row.peer, &row.node.epoch, row.node.uptime_s),
            }
        }
        let known: BTreeSet<_> = self.peers().into_iter().map(|row| row.key).collect();
        histories.retain(|key, _| known.contains(key));
        self.histories = histories;
        self.chosen = self.chosen.min(self.peers().len().saturating_sub(1));
        true
    }

    /// Takes what is new of the flows. True if the screen changes.
    pub fn take_flows(&mut self) -> bool {
        let news = self.follows_flows.as_ref().and_then(FlowList::poll);
        match news {
            Some(news) if !self.is_paused => {
                self.flows = Some(news);
                self.shows_flows
            }
            _ => false,
        }
    }

    /// A key was pressed. True if the screen changes.
    pub fn on_key(&mut self, key: KeyCode) -> bool {
        let last = self.peers().len().saturating_sub(1);
        match key {
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.chosen = (self.chosen + 1).min(last),
            KeyCode::Char('f') => self.shows_flows = !self.shows_flows,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            _ => return false,
        }
        true
    }

    /// The number of the chosen peer.
    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// The peers of all appliances.
    pub fn peers(&self) -> Vec<PeerRow<'_>> {
        let rows = self.processes.iter().filter_map(|(socket, seen)| match &seen.document {
            Some(Document::Appliance(node)) => {
                let is_old = seen.error.is_some();
                Some(node.peers.iter().map(move |peer| {
                    let key = (socket.clone(), peer.name.clone());
                    PeerRow { node, peer, is_old, key }
                }))
            }
            _ => None,
        });
        rows.flatten().collect()
    }

    /// The newest columns of the curves of a peer.
    pub fn columns(&self, row: &PeerRow<'_>, width: usize) -> Vec<Column> {
        self.histories.get(&row.key).map(|history| history.newest(width).copied().collect()).unwrap_or_default()
    }

    /// The gates of all processes.
    pub fn gates(&self) -> Vec<GateRow<'_>> {
        let mut rows = Vec::new();
        for seen in self.processes.values() {
            if let Some(Document::Gates(process)) = &seen.document {
                rows.extend(process.gates.iter().map(|gate| GateRow::new(process, gate)));
            }
        }
        rows
    }

    /// What is not well, and what does not answer.
    pub fn problems(&self) -> Vec<String> {
        let mut found: Vec<String> = self.nothing.iter().map(|text| OutputLine(text).to_string()).collect();
        for seen in self.processes.values() {
            let problems: Vec<Problem> = match &seen.document {
                _ if seen.error.is_some() => Vec::new(),
                Some(Document::Appliance(status)) => crate::appliance::status::health::problems(status),
                Some(Document::Gates(status)) => crate::gate::health::problems(status),
                None => Vec::new(),
            };
            found.extend(seen.error.iter().map(|error| OutputLine(error).to_string()));
            found.extend(problems.iter().map(health::line));
        }
        found
    }

    /// The appliances and gate processes, in a few words.
    pub fn summary(&self) -> String {
        let mut nodes = Vec::new();
        let mut gates = 0;
        for seen in self.processes.values() {
            match &seen.document {
                Some(Document::Appliance(status)) => nodes.push(OutputLine(&status.node).to_string()),
                Some(Document::Gates(status)) => gates += status.gates.len(),
                None => {}
            }
        }
        match gates {
            0 => {}
            1 => nodes.push("1 gate".to_owned()),
            gates => nodes.push(format!("{gates} gates")),
        }
        nodes.join(", ")
    }

    /// What is known of the path to a peer, in lines.
    pub fn path(&self, row: &PeerRow<'_>) -> Vec<String> {
        let peer = row.peer;
        let endpoint = peer.endpoint.map_or("nowhere yet".to_owned(), |endpoint| endpoint.to_string());
        let mut first = format!("{} at {endpoint}, {}", OutputLine(&peer.name), OutputLine(&peer.trains));
        for plan in peer.plans.iter().take(1) {
            first += &format!("; plan: {} + {} symbols", plan.block_symbols, plan.repair_symbols);
        }
        let mut lines = vec![first];
        lines.extend(peer.link.as_ref().map(|link| format!("way there: {}", way_there(link))));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::processes::{Kind, Process};

    fn process(socket: &str, kind: Kind, answer: Result<serde_json::Value, String>) -> Process {
        Process { socket: socket.into(), kind, answer }
    }

    fn host(processes: Vec<Process>) -> Host {
        Host { processes, ..Host::default() }
    }

    fn appliance(peers: &[&str]) -> serde_json::Value {
        let peers: Vec<_> = peers.iter().map(|name| serde_json::json!({ "name": name, "state": "up" })).collect();
        serde_json::json!({ "node": "ithaca", "state": "running", "peers": peers })
    }

    #[test]
    fn a_process_that_stands_still_keeps_its_rows_and_one_that_ended_does_not() {
        let mut model = Model::new(None);
        let gates =
            || process("g", Kind::Gates, Ok(serde_json::json!({ "role": "gate", "gates": [{ "name": "pg" }] })));
        model.on_answer(&host(vec![process("a", Kind::Appliance, Ok(appliance(&["x", "y"]))), gates()]));
        assert_eq!((model.peers().len(), model.gates().len(), model.summary()), (2, 1, "ithaca, 1 gate".to_owned()));
        assert!(model.on_key(KeyCode::Down) && model.on_key(KeyCode::Char('j')) && model.chosen() == 1);
        model.on_answer(&host(vec![process("a", Kind::Appliance, Err("it is\nsilent".to_owned()))]));
        assert!(model.peers().iter().all(|row| row.is_old) && model.gates().is_empty());
        assert_eq!(model.problems(), ["it is\\nsilent"]);
        assert_eq!(model.columns(&model.peers()[0], 9).len(), 2);
        model.on_answer(&host(vec![process("a", Kind::Appliance, Ok(appliance(&["y"])))]));
        assert_eq!((model.peers().len(), model.chosen(), model.problems().len()), (1, 0, 0));
        assert!(model.on_key(KeyCode::Char('p')) && !model.on_answer(&host(vec![])), "it is paused");
        assert!(model.on_key(KeyCode::Char('p')) && model.on_answer(&host(vec![])));
        assert!(model.peers().is_empty() && model.problems()[0].contains("no appliance and no gate runs"));
    }
}
