//! What a gate process knows about itself, as one document: for `onwire status`, for metrics, for tests.
//!
//! Names and units are stable; sizes are bytes, times seconds. Totals outlive connections. It computes nothing.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One process with its gates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// `gate`, which tells it from an appliance's document.
    pub role: String,
    /// Version of the program.
    pub version: String,
    /// `running` or `stopping`.
    pub state: String,
    /// Since the start.
    pub uptime_s: f64,
    /// Log lines that found nobody to read them, or could not be written.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// The subscription at the appliance.
    pub notify: NotifyStatus,
    /// The gates, in the order of the configuration.
    pub gates: Vec<GateStatus>,
}

/// The word in [`Status::role`].
pub const ROLE: &str = "gate";

/// What the appliance says, and whether it is heard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotifyStatus {
    /// Its notification port.
    pub address: SocketAddr,
    /// It is heard: without it nothing is acknowledged early.
    pub contact: bool,
    /// A change may have been missed and is being asked for.
    pub stale: bool,
    /// Since it was heard last.
    pub heard_s: Option<f64>,
    /// Runs of the appliance that granted the subscription.
    pub runs: u64,
    /// How often it fell silent.
    pub contacts_lost: u64,
    /// Datagrams that came.
    pub datagrams: u64,
    /// Flows watched.
    pub flows: u64,
    /// The links to the appliance's peers.
    pub links: Vec<LinkStatus>,
}

/// A link between appliances.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The peer.
    pub name: String,
    /// `up`, `degraded`, `down`, `draining`.
    pub state: String,
    /// Why, if not up.
    pub reason: String,
}

/// One gate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GateStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The protocol.
    pub kind: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it connects to.
    pub upstream: SocketAddr,
    /// `strict`, `auto`, `available=1s`.
    pub policy: String,
    /// The least level that counts as protected.
    pub level: String,
    /// Sums since the start, of connections that ended too.
    pub totals: Totals,
    /// Connections that exist.
    pub connections: Vec<ConnectionStatus>,
}

/// Counters of a gate; none of them ever falls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Of these, callers that left without a word, as health checks of a port do.
    #[serde(default)]
    pub probes: u64,
    /// Turned away, because there were too many.
    pub refused: u64,
    /// The server could not be connected to.
    pub connect_failures: u64,
    /// Ended by the policy `strict`.
    pub ended_by_strict: u64,
    /// Let go because what had to happen did not, within the gate's `start_timeout`: TLS, start-up, or the caller's end
    /// after the server's.
    #[serde(default)]
    pub overdue: u64,
    /// Connections that replicated.
    pub replicating: u64,
    /// Marks noted: moments the primary waited for.
    pub marks: u64,
    /// Times that marks were released because they were protected.
    pub released: u64,
    /// Times that marks were released by the policy `available`, with nothing behind them.
    pub exposures: u64,
    /// Bytes that were acknowledged so.
    pub exposed_bytes: u64,
    /// Ranges of the streams toward mirrors that were lost after they had been called protected.
    #[serde(default)]
    pub violations: u64,
    /// Bytes of these that were acknowledged early, and that the mirror had not acknowledged itself by then.
    #[serde(default)]
    pub broken_bytes: u64,
    /// Early acknowledgements that stood on such ranges, and that the mirror had not given itself by then.
    #[serde(default)]
    pub broken_acks: u64,
    /// Times that a mirror came back with less than had been acknowledged early for it.
    #[serde(default)]
    pub shortfalls: u64,
    /// Bytes that it lacked, where the two places are in one count.
    #[serde(default)]
    pub shortfall_bytes: u64,
    /// Acknowledgements of the mirror that were forwarded.
    pub real_acks: u64,
    /// Acknowledgements that the gate gave before the mirror did.
    pub injected_acks: u64,
    /// Bytes put on the streams toward mirrors.
    pub sent_bytes: u64,
    /// Bytes that came from mirrors.
    pub received_bytes: u64,
}

/// One connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Its number, also the cookie of its flow at the appliance.
    pub number: u64,
    /// Who connected.
    pub client: SocketAddr,
    /// The flow toward the mirror: our address.
    pub source: Option<SocketAddr>,
    /// The flow toward the mirror: the mirror's address.
    pub destination: Option<SocketAddr>,
    /// What it does, in the words of its protocol.
    pub phase: String,
    /// It has noted marks.
    pub replicates: bool,
    /// TLS ends at the gate on the leg toward the mirror, toward the primary.
    pub tls: (bool, bool),
    /// Since it was accepted.
    pub age_s: f64,
    /// End of what was given to the stream toward the mirror.
    pub sent: u64,
    /// How far the kernel has taken it.
    pub written: u64,
    /// How far the appliance called it protected, at the least level or better.
    pub protected: u64,
    /// How far it was acknowledged to the primary because it was protected: the offset of the last mark.
    pub released: u64,
    /// Sent and not protected.
    pub unprotected: u64,
    /// Acknowledged by the policy `available`, and neither protected nor really acknowledged since.
    pub exposed: u64,
    /// Marks that wait.
    pub waiting: u64,
    /// Age of the oldest.
    pub oldest_waiting_s: Option<f64>,
    /// Acknowledgements of the mirror that were forwarded.
    pub real_acks: u64,
    /// Acknowledgements that the gate gave.
    pub injected_acks: u64,
    /// Bytes that wait in the gate's memory, toward the mirror and toward the primary.
    pub buffered: (u64, u64),
    /// Why nothing more could be called protected when it was looked at last; `None` when nothing is wrong.
    pub reason: Option<String>,
}

impl ConnectionStatus {
    /// Of a caller of whom nothing has come.
    pub fn nothing(client: SocketAddr) -> ConnectionStatus {
        ConnectionStatus {
            number: 0,
            client,
            source: None,
            destination: None,
            phase: String::new(),
            replicates: false,
            tls: (false, false),
            age_s: 0.0,
            sent: 0,
            written: 0,
            protected: 0,
            released: 0,
            unprotected: 0,
            exposed: 0,
            waiting: 0,
            oldest_waiting_s: None,
            real_acks: 0,
            injected_acks: 0,
            buffered: (0, 0),
            reason: None,
        }
    }
}

impl Totals {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Totals) {
        self.connections += other.connections;
        self.probes += other.probes;
        self.refused += other.refused;
        self.connect_failures += other.connect_failures;
        self.ended_by_strict += other.ended_by_strict;
        self.overdue += other.overdue;
        self.replicating += other.replicating;
        self.marks += other.marks;
        self.released += other.released;
        self.exposures += other.exposures;
        self.exposed_bytes += other.exposed_bytes;
        self.violations += other.violations;
        self.broken_bytes += other.broken_bytes;
        self.broken_acks += other.broken_acks;
        self.shortfalls += other.shortfalls;
        self.shortfall_bytes += other.shortfall_bytes;
        self.real_acks += other.real_acks;
        self.injected_acks += other.injected_acks;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }
}
