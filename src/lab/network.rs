//! Builds a topology in network namespaces with `ip` and `sysctl`, and takes it down again.
//!
//! Names are unique to the run. Dropping the value removes everything, also after an error, a panic or a signal. Starts
//! the WAN emulator if the topology has one; starts no appliance.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::{
    cleanup,
    error::LabError,
    process::Process,
    program::lab_program,
    topology::{End, LinkKind, LinkPlan, Topology},
    trace::Trace,
    wan::control::Remote,
};

/// A topology that has been built.
#[derive(Debug)]
pub struct Network<'a> {
    trace: &'a Trace,
    run: String,
    topology: Topology,
    emulator: Option<(Process, Remote)>,
    /// The processors of nodes that do not use all, in the syntax of `taskset`.
    processors: BTreeMap<String, String>,
}

impl<'a> Network<'a> {
    /// Builds the topology; if a step fails, removes what was built.
    pub fn build(topology: Topology, run: &str, seed: u64, trace: &'a Trace) -> Result<Self, LabError> {
        let mut network = Self { trace, run: run.to_owned(), topology, emulator: None, processors: BTreeMap::new() };
        network.raise(seed)?;
        Ok(network)
    }

    /// The topology it was built from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.run)
    }

    /// The trace that shows the commands and keeps the logs.
    pub fn trace(&self) -> &'a Trace {
        self.trace
    }

    /// The emulator's control connection, if the topology has an emulator.
    pub fn wan(&self) -> Option<&Remote> {
        self.emulator.as_ref().map(|(_, remote)| remote)
    }

    /// The emulator's process, when there is one.
    pub fn emulator(&self) -> Option<&Process> {
        self.emulator.as_ref().map(|(process, _)| process)
    }

    /// Sends one command to the emulator's control socket.
    pub fn tell_wan(&self, command: &str) -> Result<(), LabError> {
        let remote = self.wan().ok_or_else(|| LabError::Sentence("this topology has no emulator".to_owned()))?;
        self.trace.check_stop()?;
        remote.tell(command).map(drop).map_err(LabError::doing(format!("tell the emulator \"{command}\"")))
    }

    /// Restricts every program that is started in these nodes from now on to these processors.
    pub fn confine(&mut self, nodes: &[&str], processors: &[usize]) {
        let list = processors.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        self.processors.extend(nodes.iter().map(|node| ((*node).to_owned(), list.clone())));
    }

    /// Runs a command in a node to its end.
    pub fn run(&self, node: &str, words: &[&str]) -> Result<String, LabError> {
        let namespace = self.namespace(node);
        self.trace.run(&[&self.inside(node, &namespace), words].concat())
    }

    /// Starts a program in a node; its output goes to `NAME.log`.
    pub fn start(&self, node: &str, name: &str, words: &[&str]) -> Result<Process, LabError> {
        let namespace = self.namespace(node);
        self.trace.start(name, &[&self.inside(node, &namespace), words].concat())
    }

    /// The words that prefix a command so that it runs in a node.
    fn inside<'w>(&'w self, node: &str, namespace: &'w str) -> Vec<&'w str> {
        let mut words = vec!["ip", "netns", "exec", namespace];
        if let Some(processors) = self.processors.get(node) {
            words.extend(["taskset", "-c", processors]);
        }
        words
    }

    /// Sets kernel parameters of a node.
    pub fn sysctl(&self, node: &str, settings: &[(&str, &str)]) -> Result<(), LabError> {
        let settings: Vec<_> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut words = vec!["sysctl", "-qw"];
        words.extend(settings.iter().map(String::as_str));
        if settings.is_empty() { Ok(()) } else { self.run(node, &words).map(drop) }
    }

    fn raise(&mut self, seed: u64) -> Result<(), LabError> {
        for (name, node) in &self.topology.nodes {
            let namespace = self.namespace(name);
            self.trace.run(&["ip", "netns", "add", &namespace])?;
            self.trace.run(&["ip", "-n", &namespace, "link", "set", "lo", "up"])?;
            let mut settings = vec![
                // Addresses must work at once, not after a second of duplicate address detection.
                ("net.ipv6.conf.all.accept_dad", "0"),
                ("net.ipv6.conf.default.accept_dad", "0"),
                ("net.ipv4.conf.all.rp_filter", "0"),
                ("net.ipv4.conf.default.rp_filter", "0"),
            ];
            if node.forwarding {
                settings.extend([("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]);
            }
            settings.extend(node.sysctl.iter().map(|(key, value)| (key.as_str(), value.as_str())));
            self.sysctl(name, &settings)?;
        }
        for link in self.topology.links.clone() {
            match link.kind {
                LinkKind::Veth => self.join_veth(&link)?,
                LinkKind::Emulator => self.join_emulator(&link, seed)?,
            }
            for end in &link.ends {
                self.address(end, link.mtu)?;
            }
        }
        for (name, node) in &self.topology.nodes {
            for route in &node.routes {
                let family = if route.contains("::") { "-6" } else { "-4" };
                let namespace = self.namespace(name);
                let words = ["ip", "-n", &namespace, family, "route", "add"].into_iter();
                self.trace.run(&words.chain(route.split_whitespace()).collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    fn join_veth(&self, link: &LinkPlan) -> Result<(), LabError> {
        let [a, b] = &link.ends;
        let (near, far) = (self.namespace(&a.node), self.namespace(&b.node));
        let first = ["ip", "link", "add", &a.device, "netns", &near, "type", "veth"];
        self.trace.run(&[&first[..], &["peer", "name", &b.device, "netns", &far]].concat()).map(drop)
    }

    /// Starts the emulator in a namespace of its own, where its device names cannot clash, and moves the devices to the
    /// ends.
    fn join_emulator(&mut self, link: &LinkPlan, seed: u64) -> Result<(), LabError> {
        let home = self.namespace("emulator");
        self.trace.run(&["ip", "netns", "add", &home])?;
        let control = self.trace.directory().join("wan.sock");
        let program = lab_program()?;
        let [control_text, seed_text, mtu] = [control.display().to_string(), seed.to_string(), link.mtu.to_string()];
        let settings = |settings: &std::collections::BTreeMap<String, String>| {
            settings.iter().fold(String::new(), |mut text, (key, value)| {
                let comma = if text.is_empty() { "" } else { ", " };
                // Writing to a String cannot fail.
                let _ = write!(text, "{comma}{key} {value}");
                text
            })
        };
        let [forth, back] = [settings(&link.forth), settings(&link.back)];
        let words = [
            "ip",
            "netns",
            "exec",
            &home,
            &program,
            "wan",
            "near",
            "far",
            "--control",
            &control_text,
            "--mtu",
            &mtu,
            "--seed",
            &seed_text,
            "--forth",
            &forth,
            "--back",
            &back,
        ];
        let mut process = self.trace.start("emulator", &words)?;
        process.wait_for_output("ready", Duration::from_secs(5))?;
        for (device, end) in ["near", "far"].into_iter().zip(&link.ends) {
            let namespace = self.namespace(&end.node);
            self.trace.run(&["ip", "-n", &home, "link", "set", device, "netns", &namespace, "name", &end.device])?;
        }
        self.emulator = Some((process, Remote::new(control)));
        Ok(())
    }

    fn address(&self, end: &End, mtu: u32) -> Result<(), LabError> {
        let namespace = self.namespace(&end.node);
        let mtu = mtu.to_string();
        for address in &end.addresses {
            let address = address.to_string();
            let words = ["ip", "-n", &namespace, "addr", "add", &address, "dev", &end.device];
            let tail: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            self.trace.run(&[&words[..], tail].concat())?;
        }
        // A TUN's default queue of 500 trains is too short for several Gbit/s; its losses would look like the WAN's.
        let queue = ["txqueuelen", "2000"];
        let words = ["ip", "-n", &namespace, "link", "set", &end.device, "mtu", &mtu];
        self.trace.run(&[&words[..], &queue, &["up"]].concat()).map(drop)
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        self.emulator = None;
        cleanup::end_processes(&self.run);
        cleanup::delete_namespaces(&self.run, self.trace);
    }
}
