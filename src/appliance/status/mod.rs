//! Status as a value: the counts of the lanes, combined for people and programs.
//!
//! The JSON form is for programs: fields are only added. The form for people is decided in [`crate::cli`]. Start with
//! [`Status`].

pub mod arrivals;
pub mod bypass;
pub mod candidate;
pub mod drain;
pub mod health;
pub mod hooks;
pub mod lane;
pub mod link;
pub mod plan;
pub mod protection;
pub mod rates;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::appliance::host::route_trouble::RouteTrouble;
use crate::appliance::lane::counts::Contact;
use crate::appliance::lane::snapshot::{PeerSnapshot, TrainStatus};
use crate::appliance::status::arrivals::ArrivedStatus;
use crate::appliance::status::bypass::{BypassStatus, WatchdogStatus};
use crate::appliance::status::candidate::ConfigurationStatus;
use crate::appliance::status::hooks::HookStatus;
use crate::appliance::status::lane::LaneStatus;
use crate::appliance::status::link::LinkStatus;
use crate::appliance::status::plan::PlanStatus;
use crate::appliance::status::protection::{NotifyStatus, ProtectionStatus};
use crate::appliance::status::rates::RatesStatus;
use crate::config::Config;
use crate::config::reload::ReloadStatus;
use crate::io::restriction::Restrictions;
use crate::io::since::Since;
use crate::io::status_socket::{SCHEMA_VERSION, later_form};
use crate::io::tun::Tun;
use crate::tunnel::drop_reason::Drops;
use crate::tunnel::peer::Marks;
use crate::tunnel::sent::Sent;
use crate::wire::report::Reception;

/// The value of [`Status::role`].
pub const ROLE: &str = "appliance";

/// The whole of a running appliance.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ApplianceStatus")]
pub struct Status {
    /// `appliance`, which distinguishes it from the document of gates.
    pub role: String,
    /// The version of this document's form.
    pub schema_version: u32,
    /// `node.name`.
    pub node: String,
    /// Its public key.
    pub public_key: String,
    /// Version of the program.
    pub version: String,
    /// Time since the start.
    pub uptime_s: f64,
    /// Random at each start, in hexadecimal.
    pub epoch: String,
    /// `running` or `stopped`.
    pub state: String,
    /// Log lines that nothing read, or that could not be written.
    pub log_lines_lost: u64,
    /// The TUN device.
    pub tun: TunStatus,
    /// Each lane.
    pub lanes: Vec<LaneStatus>,
    /// Each peer, over all lanes.
    pub peers: Vec<PeerStatus>,
    /// The notification port, if there is one.
    pub notify: Option<NotifyStatus>,
    /// What was dropped, by reason, over all lanes; reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
    /// How reloads ended.
    pub reload: ReloadStatus,
    /// The process that watches this one, where there is one.
    pub watchdog: Option<WatchdogStatus>,
    /// Programs that are run when something happens.
    pub hooks: Vec<HookStatus>,
    /// What the process has given up since it was set up.
    pub restrictions: Restrictions,
    /// What is followed, and the last candidate.
    pub configuration: ConfigurationStatus,
}

impl Status {
    /// Why nothing may be concluded from this document: it is of gates or of a later form, and what it lacks counts
    /// as zero here.
    pub fn unfit(&self) -> Option<String> {
        // An appliance of an earlier release does not say what it is.
        if !self.role.is_empty() && self.role != ROLE {
            return Some("it is of gates, not of an appliance".to_owned());
        }
        if self.schema_version > SCHEMA_VERSION {
            return Some(later_form(self.schema_version));
        }
        (self.tun.queues == 0).then(|| "it does not say how many lanes there are".to_owned())
    }
}

/// The TUN device.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TunStatus {
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: u32,
    /// `fast` or `simple`.
    pub backend: String,
    /// Why the simple back-end is used although the fast one was wanted.
    pub fallback: Option<String>,
    /// TCP super-packets pass uncut.
    pub tcp_offload: bool,
    /// UDP super-packets pass uncut.
    pub udp_offload: bool,
    /// Queues, one a lane.
    pub queues: usize,
    /// Packets the kernel dropped because we read too slowly.
    pub tx_dropped: Option<u64>,
    /// What is wrong with the route of packets into the device, by prefix; empty when all is well.
    pub route_troubles: BTreeMap<String, RouteTrouble>,
}

impl TunStatus {
    /// A device that was just opened.
    pub(super) fn new(config: &Config, queues: &[Tun]) -> Self {
        let first = &queues[0];
        let offloads = first.offloads();
        Self {
            name: first.name().to_owned(),
            mtu: u32::from(config.tun.mtu),
            backend: if offloads.vnet_header { "fast" } else { "simple" }.to_owned(),
            fallback: first.fallback().map(str::to_owned),
            tcp_offload: offloads.tcp,
            udp_offload: offloads.udp,
            queues: queues.len(),
            tx_dropped: None,
            route_troubles: BTreeMap::new(),
        }
    }
}

/// One peer, over all lanes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// `up`; `silent` if it has a session and nothing comes from it; else `connecting`.
    pub state: String,
    /// Since when, to a second; an appliance of an earlier release does not say.
    pub since: Option<Since>,
    /// The address of its lane 0.
    pub endpoint: Option<SocketAddr>,
    /// Time since the last handshake.
    pub session_age_s: Option<f64>,
    /// The key that the peer proved last: `public_key` or `next_public_key`.
    pub key: Option<String>,
    /// That key.
    pub public_key: Option<String>,
    /// Smoothed round trip, of the slowest lane.
    pub rtt_ms: Option<f64>,
    /// The epoch of the peer, which identifies its run, in hexadecimal.
    pub epoch: Option<String>,
    /// Sessions so far.
    pub sessions: u64,
    /// How full-sized datagrams leave for it, on the worst lane: `in trains`, or `alone` and why.
    pub trains: String,
    /// What we sent.
    pub sent: SentStatus,
    /// What we received.
    pub received: ReceivedStatus,
    /// What the peer reports as received from us.
    pub peer_report: Option<PeerReport>,
    /// The last ten seconds; null in the first of them.
    pub rates: Option<RatesStatus>,
    /// What is known of the way to the peer.
    pub link: Option<LinkStatus>,
    /// Profiles with targets, by lane: what is planned for this link.
    pub plans: Vec<PlanStatus>,
    /// Which way packets for it take, where routes are withdrawn.
    pub bypass: Option<BypassStatus>,
    /// The protection of flows, if notifications are configured.
    pub protection: Option<ProtectionStatus>,
    /// What arrived from the peer, for `onwire drain`.
    pub arrived: Option<ArrivedStatus>,
}

/// What was sent to a peer.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SentStatus {
    /// Packets and super-packets.
    pub adus: u64,
    /// Bytes of them.
    pub adu_bytes: u64,
    /// Blocks closed.
    pub blocks: u64,
    /// Source symbols.
    pub source_symbols: u64,
    /// Repair symbols, late ones included.
    pub repair_symbols: u64,
    /// Repair symbols sent late.
    pub late_symbols: u64,
    /// Late repair symbols that were not sent: no room, or their block did not leave in time.
    pub late_dropped: u64,
    /// Datagrams of every kind.
    pub datagrams: u64,
    /// UDP payload bytes.
    pub bytes: u64,
    /// Packets and super-packets dropped because too much waited for `path.rate`.
    pub queue_dropped: u64,
    /// Packets, and first segments of super-packets, dropped because the queue for `path.rate` stands.
    pub standing_dropped: u64,
    /// Packets and super-packets marked for the same reason.
    pub standing_marked: u64,
    /// Repair symbols not sent for the same reason: their blocks are not protected.
    pub repair_shed: u64,
    /// Packets, and first segments of super-packets, dropped because the code had repaired as many losses of a full queue on the
    /// path.
    pub repaired_dropped: u64,
    /// Bytes sent for each byte of packets, less one.
    pub overhead: f64,
}

/// What was received from a peer.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReceivedStatus {
    /// Datagrams, each once.
    pub datagrams: u64,
    /// Datagrams that did not arrive.
    pub lost: u64,
    /// `lost` as a share of all that were sent.
    pub raw_loss: f64,
    /// Source symbols rebuilt.
    pub recovered_symbols: u64,
    /// Blocks in which a symbol was rebuilt.
    pub recovered_blocks: u64,
    /// Blocks that are finished: whole or given up.
    pub blocks: u64,
    /// Blocks given up.
    pub unrecoverable_blocks: u64,
    /// `unrecoverable_blocks` as a share of `blocks`.
    pub residual_loss: f64,
    /// Packets and super-packets handed on.
    pub adus: u64,
    /// Bytes of them.
    pub adu_bytes: u64,
    /// Symbols that came after their block was finished.
    pub late: u64,
    /// How long a hole waits now, on the lane and in the profile where it waits longest: `delivery.hold`, or longer
    /// while symbols come that late. `None` in what a peer reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<f64>,
    /// Packets and super-packets marked because the path marked a datagram. `None` in what a peer reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_marked: Option<u64>,
    /// Packets and super-packets marked because they were rebuilt while the peer met congestion. `None` in what a peer
    /// reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuilt_marked: Option<u64>,
    /// Datagrams seen before.
    pub duplicates: u64,
    /// Runs of lost datagrams of length 1, 2, 3-4, 5-8, 9-16, 17-32, 33-64, more.
    pub burst_lengths: [u64; 8],
}

/// A peer's last report of what it received.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PeerReport {
    /// The counts.
    #[serde(flatten)]
    pub received: ReceivedStatus,
    /// How long ago it was reported.
    pub age_ms: f64,
}

impl PeerStatus {
    /// Combines what the lanes know of one peer.
    /// `started`: when the appliance was; `now`: when the lanes answered.
    pub fn gather<'a>(
        name: &str,
        lanes: impl Iterator<Item = &'a PeerSnapshot> + Clone,
        started: Instant,
        now: Instant,
    ) -> Self {
        let mut sent = Sent::default();
        let mut reception = Reception::default();
        let mut marks = Marks::default();
        let mut reported = Reception::default();
        let mut reported_ago: Option<Duration> = None;
        for lane in lanes.clone() {
            sent.add(&lane.sent);
            reception.add(&lane.reception);
            marks.add(&lane.marks);
            if let Some((peer_reception, ago)) = &lane.peer_reception {
                reported.add(peer_reception);
                reported_ago = reported_ago.max(Some(*ago));
            }
        }
        let first = lanes.clone().next();
        let contact = Contact::of(lanes.clone().map(|lane| (lane.up, lane.silent)));
        Self {
            name: name.to_owned(),
            state: contact.name().to_owned(),
            since: None,
            rates: None,
            endpoint: first.and_then(|lane| lane.address),
            session_age_s: first.and_then(|lane| lane.session_age).map(|age| age.as_secs_f64()),
            key: None,
            public_key: None,
            rtt_ms: lanes.clone().filter_map(|lane| lane.rtt).max().map(|rtt| rtt.as_secs_f64() * 1e3),
            epoch: first.and_then(|lane| lane.epoch).map(|epoch| format!("{epoch:016x}")),
            sessions: first.map_or(0, |lane| lane.sessions),
            trains: lanes.clone().map(|lane| lane.trains).max().map_or("", TrainStatus::words).to_owned(),
            sent: sent.into(),
            received: ReceivedStatus {
                hold_ms: lanes.clone().map(|lane| lane.hold).max().map(|hold| hold.as_secs_f64() * 1e3),
                path_marked: Some(marks.from_path),
                rebuilt_marked: Some(marks.rebuilt),
                ..(&reception).into()
            },
            peer_report: reported_ago
                .map(|ago| PeerReport { received: (&reported).into(), age_ms: ago.as_secs_f64() * 1e3 }),
            link: LinkStatus::gather(lanes.clone().map(|lane| &lane.estimate)),
            plans: Vec::new(),
            bypass: None,
            arrived: ArrivedStatus::gather((0..).zip(lanes.clone().map(|lane| &lane.arrived))),
            protection: ProtectionStatus::gather(lanes.filter_map(|lane| lane.promises.as_ref()), started, now),
        }
    }
}

impl From<Sent> for SentStatus {
    fn from(sent: Sent) -> Self {
        Self {
            adus: sent.adus,
            adu_bytes: sent.adu_bytes,
            blocks: sent.blocks,
            source_symbols: sent.source_symbols,
            repair_symbols: sent.repair_symbols,
            late_symbols: sent.late_symbols,
            late_dropped: sent.late_dropped,
            datagrams: sent.datagrams,
            bytes: sent.bytes,
            queue_dropped: sent.queue_dropped,
            standing_dropped: sent.standing_dropped,
            standing_marked: sent.standing_marked,
            repair_shed: sent.repair_shed,
            repaired_dropped: sent.repaired_dropped,
            overhead: share(sent.bytes.saturating_sub(sent.adu_bytes), sent.adu_bytes),
        }
    }
}

impl From<&Reception> for ReceivedStatus {
    fn from(reception: &Reception) -> Self {
        Self {
            datagrams: reception.received,
            lost: reception.lost,
            raw_loss: share(reception.lost, reception.lost + reception.received),
            recovered_symbols: reception.recovered_symbols,
            recovered_blocks: reception.recovered_blocks,
            blocks: reception.blocks,
            unrecoverable_blocks: reception.unrecoverable_blocks,
            residual_loss: share(reception.unrecoverable_blocks, reception.blocks),
            adus: reception.adus,
            adu_bytes: reception.adu_bytes,
            late: reception.late,
            hold_ms: None,
            path_marked: None,
            rebuilt_marked: None,
            duplicates: reception.duplicates,
            burst_lengths: reception.burst_lengths,
        }
    }
}

/// Counters by name, without those that are zero.
pub fn named(drops: &Drops) -> BTreeMap<String, u64> {
    drops.iter().filter(|&(_, count)| count > 0).map(|(reason, count)| (reason.name().to_owned(), count)).collect()
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
