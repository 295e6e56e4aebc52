//! The status of a gate process, as one document: for `onwire status`, for metrics, for tests.
//!
//! Names and units are stable; sizes are in bytes, times in seconds. Totals outlive connections. This module computes
//! nothing.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::reload::ReloadStatus;
use crate::io::restriction::Restrictions;
use crate::io::since::Since;
use crate::io::status_socket::unspecified;

/// One process with its gates.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "GatesStatus")]
pub struct Status {
    /// `gate`, which distinguishes it from an appliance's document.
    pub role: String,
    /// The version of this document's form.
    pub schema_version: u32,
    /// Version of the program.
    pub version: String,
    /// `running` or `stopping`.
    pub state: String,
    /// Time since the start.
    pub uptime_s: f64,
    /// Log lines that no program read, or that could not be written.
    pub log_lines_lost: u64,
    /// The subscription at the appliance.
    pub notify: NotifyStatus,
    /// The gates, in the order of the configuration; then those that a reload has removed and that still have connections.
    pub gates: Vec<GateStatus>,
    /// What the process has given up since it was set up.
    pub restrictions: Restrictions,
    /// How often the file was read again, and how that ended.
    pub reload: ReloadStatus,
}

/// The value of [`Status::role`].
pub const ROLE: &str = "gate";

/// The subscription's state at the appliance.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GateNotifyStatus")]
pub struct NotifyStatus {
    /// Its notification port.
    #[serde(default = "unspecified")]
    pub address: SocketAddr,
    /// Whether the appliance answers: without contact nothing is acknowledged early.
    #[serde(default)]
    pub contact: bool,
    /// Since when it does, or does not; a gate of an earlier release does not say.
    #[serde(default)]
    pub since: Option<Since>,
    /// A change may have been missed, and was requested again.
    #[serde(default)]
    pub stale: bool,
    /// Time since its last datagram.
    #[serde(default)]
    pub heard_s: Option<f64>,
    /// Runs of the appliance that granted the subscription.
    #[serde(default)]
    pub runs: u64,
    /// How often it stopped answering.
    #[serde(default)]
    pub contacts_lost: u64,
    /// Datagrams received.
    #[serde(default)]
    pub datagrams: u64,
    /// Flows watched.
    #[serde(default)]
    pub flows: u64,
    /// The links to the appliance's peers.
    #[serde(default)]
    pub links: Vec<LinkStatus>,
}

impl Default for NotifyStatus {
    fn default() -> Self {
        Self {
            address: unspecified(),
            contact: false,
            since: None,
            stale: false,
            heard_s: None,
            runs: 0,
            contacts_lost: 0,
            datagrams: 0,
            flows: 0,
            links: Vec::new(),
        }
    }
}

/// A link between appliances.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "GateLinkStatus")]
pub struct LinkStatus {
    /// The peer.
    pub name: String,
    /// `up`, `degraded`, `down`, `draining`.
    pub state: String,
    /// Since when the gate has heard so, with this reason; a gate of an earlier release does not say.
    pub since: Option<Since>,
    /// Why, if not up.
    pub reason: String,
}

/// One gate.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GateStatus {
    /// Its name in the configuration.
    #[serde(default)]
    pub name: String,
    /// The protocol.
    #[serde(default)]
    pub kind: String,
    /// `listening`, or `draining`: it accepts nobody any more, and ends with its last connection.
    #[serde(default)]
    pub state: String,
    /// The address on which it listens.
    #[serde(default = "unspecified")]
    pub listen: SocketAddr,
    /// The address it connects to.
    #[serde(default = "unspecified")]
    pub upstream: SocketAddr,
    /// `strict`, `auto`, `available=1s`.
    #[serde(default)]
    pub policy: String,
    /// The lowest level that counts as protected.
    #[serde(default)]
    pub level: String,
    /// The interruption that bytes must survive before they are acknowledged; `None`: whatever the profile promises.
    #[serde(default)]
    pub survive_burst_s: Option<f64>,
    /// Sums since the start, including ended connections.
    #[serde(default)]
    pub totals: Totals,
    /// Open connections that began before a reload and keep other settings than later ones get.
    #[serde(default)]
    pub earlier_settings: u64,
    /// Open connections.
    #[serde(default)]
    pub connections: Vec<ConnectionStatus>,
}

/// Counters of a gate; none of them ever falls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Of these, callers that left without sending anything, as health checks of a port do.
    pub probes: u64,
    /// Callers refused because there were too many connections.
    pub refused: u64,
    /// Failed connections to the server.
    pub connect_failures: u64,
    /// Ended by the policy `strict`.
    pub ended_by_strict: u64,
    /// Callers dropped because something did not happen within the gate's `start_timeout`: TLS, start-up, or the
    /// caller's end after the server's.
    pub overdue: u64,
    /// Connections that replicated.
    pub replicating: u64,
    /// Marks noted: each is a point at which the primary waited.
    pub marks: u64,
    /// How often marks were released because they were protected.
    pub released: u64,
    /// How often marks were released by the policy `available`, without protection.
    pub exposures: u64,
    /// Bytes that were acknowledged in that way.
    pub exposed_bytes: u64,
    /// Ranges of the streams toward mirrors that were lost after they had been called protected.
    pub violations: u64,
    /// Bytes of these that were acknowledged early, and that the mirror had not acknowledged itself by then.
    pub broken_bytes: u64,
    /// Early acknowledgements that depended on such ranges, and that the mirror had not given itself by then.
    pub broken_acks: u64,
    /// How often a mirror came back with less than had been acknowledged early for it.
    pub shortfalls: u64,
    /// Bytes that the mirrors lacked, where the two positions can be subtracted.
    pub shortfall_bytes: u64,
    /// Acknowledgements of the mirror that were forwarded.
    pub real_acks: u64,
    /// Acknowledgements that the gate gave before the mirror did.
    pub injected_acks: u64,
    /// Bytes sent on the streams toward mirrors.
    pub sent_bytes: u64,
    /// Bytes received from mirrors.
    pub received_bytes: u64,
}

/// One connection.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionStatus {
    /// Its number, also the cookie of its flow at the appliance.
    #[serde(default)]
    pub number: u64,
    /// The caller's address.
    #[serde(default = "unspecified")]
    pub client: SocketAddr,
    /// The flow toward the mirror: our address.
    #[serde(default)]
    pub source: Option<SocketAddr>,
    /// The flow toward the mirror: the mirror's address.
    #[serde(default)]
    pub destination: Option<SocketAddr>,
    /// What it does, in its protocol's terms.
    #[serde(default)]
    pub phase: String,
    /// It has noted marks.
    #[serde(default)]
    pub replicates: bool,
    /// Whether TLS ends at the gate on the leg toward the mirror, and on the leg toward the primary.
    #[serde(default)]
    pub tls: (bool, bool),
    /// Time since it was accepted.
    #[serde(default)]
    pub age_s: f64,
    /// It began before a reload, and keeps other settings than later ones get.
    #[serde(default)]
    pub earlier_settings: bool,
    /// The interruption that bytes of the flow survive once they are on the wire; `None` while nothing was reported.
    #[serde(default)]
    pub survives_burst_s: Option<f64>,
    /// End of the bytes given to the stream toward the mirror.
    #[serde(default)]
    pub sent: u64,
    /// End of the bytes that the kernel has taken.
    #[serde(default)]
    pub written: u64,
    /// End of the bytes that the appliance reports as protected, and that meet what the gate demands.
    #[serde(default)]
    pub protected: u64,
    /// End of the bytes acknowledged to the primary because they were protected: the offset of the last mark.
    #[serde(default)]
    pub released: u64,
    /// Bytes sent and not protected.
    #[serde(default)]
    pub unprotected: u64,
    /// Bytes acknowledged by the policy `available`, and since then neither protected nor acknowledged by the mirror.
    #[serde(default)]
    pub exposed: u64,
    /// Marks that wait.
    #[serde(default)]
    pub waiting: u64,
    /// Age of the oldest.
    #[serde(default)]
    pub oldest_waiting_s: Option<f64>,
    /// Acknowledgements of the mirror that were forwarded.
    #[serde(default)]
    pub real_acks: u64,
    /// Acknowledgements that the gate gave before the mirror did.
    #[serde(default)]
    pub injected_acks: u64,
    /// Bytes that wait in the gate's memory, toward the mirror and toward the primary.
    #[serde(default)]
    pub buffered: (u64, u64),
    /// Why nothing more could be called protected, as seen last; `None` when nothing is wrong.
    #[serde(default)]
    pub reason: Option<String>,
}

impl ConnectionStatus {
    /// For a caller that has sent nothing.
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
            earlier_settings: false,
            survives_burst_s: None,
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
    /// Adds the counts of `other`.
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
