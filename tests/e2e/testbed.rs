//! The testbed of a test: the lab's topology in namespaces of its own, removed when the value is dropped.
//!
//! Starts the WAN emulator for tests that need it; knows nothing of appliances.

use std::{
    net::IpAddr,
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use onwire::{
    io::namespace::NetworkNamespace,
    lab::{
        cleanup::Marker,
        network::Network,
        process::Process,
        topology::{LinkKind, LinkPlan, Topology},
        trace::{Trace, need_programs},
        wan::control::Remote,
        workload::kernel::TcpCounters,
    },
};
use tempfile::TempDir;

/// The executable under test.
pub const ONWIRE: &str = env!("CARGO_BIN_EXE_onwire");
/// The lab's executable, whose emulator is the WAN here.
const ONWIRE_LAB: &str = env!("CARGO_BIN_EXE_onwire-lab");
/// Addresses of the end hosts, IPv4 then IPv6.
pub const PRIMARY: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
/// Addresses of the far end host.
pub const MIRROR: [&str; 2] = ["10.2.0.1", "fd00:2::1"];

/// Namespaces, links, and optionally an emulator.
pub struct Testbed {
    // Fields are dropped in this order: the emulator before the namespaces that hold its devices.
    emulator: Option<(Process, Remote)>,
    network: Network<'static>,
    trace: &'static Trace,
    _marker: Marker,
    _directory: TempDir,
}

impl Testbed {
    /// Two sites joined by a perfect link.
    pub fn perfect() -> Self {
        Self::build(load("pair-veth"))
    }

    /// Like [`perfect`](Self::perfect), with an MTU of 9000 at the sites and 1500 between them.
    pub fn jumbo() -> Self {
        let mut topology = load("pair-veth");
        let is_site = |link: &&mut LinkPlan| link.ends.iter().any(|end| end.device == "site0");
        topology.links.iter_mut().filter(is_site).for_each(|link| link.mtu = 9000);
        Self::build(topology)
    }

    /// Two sites joined by the emulator with this setting, such as `delay 5ms, loss 1%`.
    pub fn emulated(setting: &str) -> Self {
        let mut topology = load("pair");
        let at = topology.links.iter().position(|link| link.kind == LinkKind::Emulator).unwrap();
        let wan = topology.links.remove(at);
        let mut testbed = Self::build(topology);
        testbed.join(&wan);
        testbed.wan().tell(&format!("set {setting}")).unwrap();
        testbed
    }

    fn build(topology: Topology) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "network namespaces need root: sudo -E cargo test --test e2e");
        need_programs(&["ip", "sysctl", "ping"]).unwrap_or_else(|error| panic!("{error}"));
        let run = format!("owe2e-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().unwrap();
        // One small leaked value per test, so that a testbed that borrows it can be moved.
        let trace = Box::leak(Box::new(Trace::new(&run, directory.path(), false, Default::default()).unwrap()));
        // If this program is killed, the lab's next run cleans up.
        let marker = Marker::set(&Marker::directory().unwrap(), &run, directory.path()).unwrap();
        let network = Network::build(topology, &run, 1, trace).unwrap_or_else(|error| panic!("{error}"));
        Self { emulator: None, network, trace, _marker: marker, _directory: directory }
    }

    /// Starts the emulator of the executable under test as the link between the appliances.
    fn join(&mut self, link: &LinkPlan) {
        let home = self.network.namespace("emulator");
        // Not a name that `onwire status` takes for an appliance's.
        let control = self.directory().join("wan.control");
        self.command(&["ip", "netns", "add", &home]);
        let words = ["ip", "netns", "exec", &home, ONWIRE_LAB, "wan", "near", "far", "--control"];
        let options = [control.to_str().unwrap(), "--mtu", "1500", "--seed", "1"];
        let mut process = self.trace.start("emulator", &[&words[..], &options].concat()).unwrap();
        process.wait_for_output("ready", Duration::from_secs(60)).unwrap_or_else(|error| panic!("{error}"));
        for (device, end) in ["near", "far"].into_iter().zip(&link.ends) {
            let (node, name) = (self.network.namespace(&end.node), end.device.as_str());
            self.command(&["ip", "-n", &home, "link", "set", device, "netns", &node, "name", name]);
            for address in &end.addresses {
                let address = address.to_string();
                let words = ["ip", "-n", &node, "addr", "add", &address, "dev", name];
                let no_detection: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                self.command(&[&words, no_detection].concat());
            }
            self.command(&["ip", "-n", &node, "link", "set", name, "txqueuelen", "2000", "up"]);
        }
        self.emulator = Some((process, Remote::new(control)));
    }

    /// Runs a command outside of the nodes; panics if it fails.
    pub fn command(&self, words: &[&str]) -> String {
        self.trace.run(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a command in a node; returns its output, or the end of its error output.
    pub fn run(&self, node: &str, words: &[&str]) -> Result<String, String> {
        self.network.run(node, words).map_err(|error| error.to_string())
    }

    /// The output of `ping` in a node, whether it was answered or not.
    pub fn ping(&self, node: &str, words: &str) -> String {
        let line = format!("ping -c 1 -W 3 {words} 2>&1 || true");
        self.run(node, &["sh", "-c", &line]).unwrap()
    }

    /// Starts a program in a node.
    pub fn start(&self, node: &str, name: &str, words: &[&str]) -> Process {
        self.network.start(node, name, words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The namespace of a node.
    pub fn node(&self, name: &str) -> NetworkNamespace {
        NetworkNamespace::named(&self.network.namespace(name)).unwrap()
    }

    /// The network of the nodes, for the lab's own programs.
    pub fn network(&self) -> &Network<'static> {
        &self.network
    }

    /// The emulator's control connection.
    pub fn wan(&self) -> &Remote {
        &self.emulator.as_ref().expect("this testbed has an emulator").1
    }

    /// The directory for the files of this test.
    pub fn directory(&self) -> &Path {
        self.trace.directory()
    }

    /// The kernel's TCP counters in a node.
    pub fn tcp(&self, node: &str) -> TcpCounters {
        TcpCounters::of(&self.network, node).unwrap_or_else(|error| panic!("{error}"))
    }
}

fn load(name: &str) -> Topology {
    Topology::load(name).unwrap_or_else(|error| panic!("{error}"))
}

/// Parses an address.
pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
