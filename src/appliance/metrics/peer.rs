//! The tables of peers: sessions, what was sent and received, the link, protection, plans.

use crate::appliance::status::arrivals::ArrivedStatus;
use crate::appliance::status::bypass::BypassStatus;
use crate::appliance::status::link::{InterruptionStatus, LinkStatus};
use crate::appliance::status::plan::PlanStatus;
use crate::appliance::status::protection::ProtectionStatus;
use crate::appliance::status::{PeerReport, PeerStatus};
use crate::metrics::family::{Described, Family, Metric, Table, Unit, Value, counter, gauge};
use crate::notify::message::{LinkState, StateReason};

const STATES: [&str; 3] = ["up", "silent", "connecting"];
const LINK_STATES: [LinkState; 4] = [LinkState::Up, LinkState::Degraded, LinkState::Down, LinkState::Draining];

/// Every metric of the peers.
pub(super) fn families(peers: &[PeerStatus]) -> Vec<Family> {
    fn part<'a, T: 'a>(
        peers: &'a [PeerStatus],
        part: impl Fn(&'a PeerStatus) -> Option<&'a T>,
    ) -> Vec<(Vec<&'a str>, &'a T)> {
        peers.iter().filter_map(|peer| Some((vec![&*peer.name], part(peer)?))).collect()
    }
    let mut families = STATE
        .families(peers.iter().flat_map(|peer| STATES.map(|state| (vec![&*peer.name, state], peer.state == state))));
    families.extend(table(PEER).families(part(peers, Some)));
    families.extend(table(SENT).families(part(peers, Some)));
    families.extend(table(RECEIVED).families(part(peers, Some)));
    families.extend(table(REPORT).families(part(peers, |peer| peer.peer_report.as_ref())));
    families.extend(table(ARRIVED).families(part(peers, |peer| peer.arrived.as_ref())));
    families.extend(table(LINK).families(part(peers, |peer| peer.link.as_ref())));
    families.extend(INTERRUPTION.families(peers.iter().flat_map(|peer| {
        let windows = peer.link.iter().flat_map(|link| [("1m", link.last_minute), ("1h", link.last_hour)]);
        windows.map(move |(window, interruptions)| (vec![&*peer.name, window], interruptions))
    })));
    families.extend(table(BYPASS).families(part(peers, |peer| peer.bypass.as_ref())));
    families.extend(PROTECTION_STATE.families(peers.iter().flat_map(|peer| {
        let state = peer.protection.as_ref().map(|protection| &*protection.state);
        let names = LINK_STATES.map(LinkState::name);
        state.map(|state| names.map(|name| (vec![&*peer.name, name], state == name))).into_iter().flatten()
    })));
    families.extend(PROTECTION_REASON.families(peers.iter().filter_map(|peer| {
        let protection = peer.protection.as_ref()?;
        (protection.reason != StateReason::None.name()).then_some((vec![&*peer.name, &*protection.reason], ()))
    })));
    families.extend(table(PROTECTION).families(part(peers, |peer| peer.protection.as_ref())));
    let lanes: Vec<Vec<String>> =
        peers.iter().map(|peer| peer.plans.iter().map(|plan| plan.lane.to_string()).collect()).collect();
    families.extend(PLANS.families(peers.iter().zip(&lanes).flat_map(|(peer, lanes)| {
        let plans = peer.plans.iter().zip(lanes);
        plans.map(move |(plan, lane)| (vec![&*peer.name, &*plan.profile, &**lane], plan))
    })));
    families
}

/// What there is to say about them.
pub(super) fn described() -> impl Iterator<Item = Described> {
    let peer = STATE.described().chain(table(PEER).described()).chain(table(SENT).described());
    let received = table(RECEIVED).described().chain(table(REPORT).described()).chain(table(ARRIVED).described());
    let link = table(LINK).described().chain(INTERRUPTION.described()).chain(table(BYPASS).described());
    let protection = PROTECTION_STATE.described().chain(PROTECTION_REASON.described());
    let protection = protection.chain(table(PROTECTION).described()).chain(PLANS.described());
    peer.chain(received).chain(link).chain(protection)
}

/// A table with one row a peer.
const fn table<S: 'static>(metrics: &'static [Metric<S>]) -> Table<S> {
    Table { labels: &["peer"], metrics }
}

const STATE: Table<bool> = Table {
    labels: &["peer", "state"],
    metrics: &[gauge(
        "peer_state",
        Unit::Number,
        "1 for the state of the peer, 0 for the others: up, silent (a session, but nothing comes), connecting.",
        |is_so: &bool| Value::from(*is_so),
    )],
};

const PEER: &[Metric<PeerStatus>] = &[
    gauge("peer_session_age", Unit::Seconds, "Time since the last handshake.", |it: &PeerStatus| {
        it.session_age_s.into()
    }),
    counter("peer_sessions", Unit::Number, "Sessions so far; one each two minutes is the rule.", |it: &PeerStatus| {
        it.sessions.into()
    }),
    gauge("peer_round_trip", Unit::Seconds, "Smoothed round trip, of the slowest lane.", |it: &PeerStatus| {
        seconds(it.rtt_ms)
    }),
];

const SENT: &[Metric<PeerStatus>] = &[
    counter("sent_packets", Unit::Number, "Packets and super-packets sent.", |it: &PeerStatus| it.sent.adus.into()),
    counter("sent_packet", Unit::Bytes, "Bytes of these packets.", |it: &PeerStatus| it.sent.adu_bytes.into()),
    counter("sent_datagrams", Unit::Number, "Datagrams sent, of every kind.", |it: &PeerStatus| {
        it.sent.datagrams.into()
    }),
    counter("sent_datagram", Unit::Bytes, "UDP payload of these datagrams.", |it: &PeerStatus| it.sent.bytes.into()),
    counter("sent_blocks", Unit::Number, "Blocks closed.", |it: &PeerStatus| it.sent.blocks.into()),
    counter("sent_source_symbols", Unit::Number, "Source symbols sent.", |it: &PeerStatus| {
        it.sent.source_symbols.into()
    }),
    counter("sent_repair_symbols", Unit::Number, "Repair symbols sent, late ones included.", |it: &PeerStatus| {
        it.sent.repair_symbols.into()
    }),
    counter("sent_late_repair_symbols", Unit::Number, "Repair symbols sent late.", |it: &PeerStatus| {
        it.sent.late_symbols.into()
    }),
    counter(
        "unsent_late_repair_symbols",
        Unit::Number,
        "Late repair symbols that were not sent: no room, or their block did not leave in time.",
        |it: &PeerStatus| it.sent.late_dropped.into(),
    ),
    counter(
        "unsent_repair_symbols",
        Unit::Number,
        "Repair symbols not sent because the queue for path.rate stands: their blocks are not protected.",
        |it: &PeerStatus| it.sent.repair_shed.into(),
    ),
    counter(
        "path_queue_full_packets",
        Unit::Number,
        "Packets dropped because too much waited for path.rate.",
        |it: &PeerStatus| it.sent.queue_dropped.into(),
    ),
    counter(
        "path_queue_dropped_packets",
        Unit::Number,
        "Packets dropped because the queue for path.rate stands.",
        |it: &PeerStatus| it.sent.standing_dropped.into(),
    ),
    counter("path_queue_marked_packets", Unit::Number, "Packets marked for the same reason.", |it: &PeerStatus| {
        it.sent.standing_marked.into()
    }),
    counter(
        "congestion_dropped_packets",
        Unit::Number,
        "Packets dropped because the code had repaired as many losses of a full queue on the path.",
        |it: &PeerStatus| it.sent.repaired_dropped.into(),
    ),
];

const RECEIVED: &[Metric<PeerStatus>] = &[
    counter("received_packets", Unit::Number, "Packets and super-packets handed on.", |it: &PeerStatus| {
        it.received.adus.into()
    }),
    counter("received_packet", Unit::Bytes, "Bytes of these packets.", |it: &PeerStatus| it.received.adu_bytes.into()),
    counter("received_datagrams", Unit::Number, "Datagrams received, each once.", |it: &PeerStatus| {
        it.received.datagrams.into()
    }),
    counter(
        "received_lost_datagrams",
        Unit::Number,
        "Datagrams of the peer that did not arrive.",
        |it: &PeerStatus| it.received.lost.into(),
    ),
    counter("received_duplicate_datagrams", Unit::Number, "Datagrams that came again.", |it: &PeerStatus| {
        it.received.duplicates.into()
    }),
    counter("received_blocks", Unit::Number, "Blocks finished: whole or given up.", |it: &PeerStatus| {
        it.received.blocks.into()
    }),
    counter("received_repaired_blocks", Unit::Number, "Blocks in which a symbol was rebuilt.", |it: &PeerStatus| {
        it.received.recovered_blocks.into()
    }),
    counter("received_repaired_symbols", Unit::Number, "Source symbols rebuilt.", |it: &PeerStatus| {
        it.received.recovered_symbols.into()
    }),
    counter("received_lost_blocks", Unit::Number, "Blocks given up with something missing.", |it: &PeerStatus| {
        it.received.unrecoverable_blocks.into()
    }),
    counter("received_late_symbols", Unit::Number, "Symbols that came after their block was finished.", |it| {
        it.received.late.into()
    }),
    gauge("received_hold", Unit::Seconds, "How long a hole waits now, where it waits longest.", |it: &PeerStatus| {
        seconds(it.received.hold_ms)
    }),
    counter(
        "received_path_marked_packets",
        Unit::Number,
        "Packets marked because the path marked a datagram.",
        |it: &PeerStatus| it.received.path_marked.into(),
    ),
    counter(
        "received_rebuilt_marked_packets",
        Unit::Number,
        "Packets marked because they were rebuilt while the peer met congestion.",
        |it: &PeerStatus| it.received.rebuilt_marked.into(),
    ),
];

const REPORT: &[Metric<PeerReport>] = &[
    gauge("peer_report_age", Unit::Seconds, "Time since the last report of the peer.", |it: &PeerReport| {
        seconds(Some(it.age_ms))
    }),
    counter(
        "peer_report_datagrams",
        Unit::Number,
        "Our datagrams that the peer has received, as it reports.",
        |it: &PeerReport| it.received.datagrams.into(),
    ),
    counter(
        "peer_report_lost_datagrams",
        Unit::Number,
        "Our datagrams that did not arrive, as the peer reports.",
        |it: &PeerReport| it.received.lost.into(),
    ),
    counter(
        "peer_report_repaired_blocks",
        Unit::Number,
        "Our blocks in which the peer rebuilt a symbol.",
        |it: &PeerReport| it.received.recovered_blocks.into(),
    ),
    counter("peer_report_lost_blocks", Unit::Number, "Our blocks that the peer gave up.", |it: &PeerReport| {
        it.received.unrecoverable_blocks.into()
    }),
];

const ARRIVED: &[Metric<ArrivedStatus>] = &[
    gauge("peer_heard", Unit::Seconds, "Time since anything came from the peer.", |it: &ArrivedStatus| {
        seconds(it.heard_ms_ago)
    }),
    gauge(
        "received_waiting_blocks",
        Unit::Number,
        "Blocks that wait for symbols, or hold back what came.",
        |it: &ArrivedStatus| it.waiting_blocks.into(),
    ),
    gauge("received_flows", Unit::Number, "TCP flows from the peer that are known and not over.", |it| {
        it.flows_known.into()
    }),
];

const LINK: &[Metric<LinkStatus>] = &[
    gauge("link_loss", Unit::Ratio, "Share of our datagrams that is lost, as estimated.", |it: &LinkStatus| {
        it.loss.into()
    }),
    gauge("link_loss_upper", Unit::Ratio, "The loss is below this with a confidence of 95 %.", |it: &LinkStatus| {
        it.loss_upper.into()
    }),
    gauge("link_clumping", Unit::Number, "How many losses come with one loss, in the mean.", |it: &LinkStatus| {
        it.clumping.into()
    }),
    gauge("link_congested", Unit::Number, "1 if losses are those of a full queue on the path.", |it: &LinkStatus| {
        it.congested.into()
    }),
    gauge(
        "link_model_violated",
        Unit::Number,
        "1 if the link lost in the last minute in a way that the plan does not assume.",
        |it: &LinkStatus| it.model_violated.into(),
    ),
    counter("link_interruptions", Unit::Number, "Runs of at least two lost datagrams.", |it: &LinkStatus| {
        it.ever.count.into()
    }),
];

const INTERRUPTION: Table<InterruptionStatus> = Table {
    labels: &["peer", "window"],
    metrics: &[gauge(
        "link_longest_interruption",
        Unit::Seconds,
        "The longest interruption of the last minute (1m) or hour (1h): at least this long.",
        |it: &InterruptionStatus| seconds(Some(it.longest_ms)),
    )],
};

const BYPASS: &[Metric<BypassStatus>] = &[
    gauge("bypass_active", Unit::Number, "1 while packets take the plain route, unprotected.", |it: &BypassStatus| {
        it.withdrawn.into()
    }),
    counter("bypass_withdrawals", Unit::Number, "How often the routes were withdrawn, but for the start.", |it| {
        it.withdrawals.into()
    }),
];

const PROTECTION_STATE: Table<bool> = Table {
    labels: &["peer", "state"],
    metrics: &[gauge(
        "protection_state",
        Unit::Number,
        "1 for the state of the link, 0 for the others: up, degraded, down, draining. Nothing is called protected unless it is up or \
         draining.",
        |is_so: &bool| Value::from(*is_so),
    )],
};

const PROTECTION_REASON: Table<()> = Table {
    labels: &["peer", "reason"],
    metrics: &[gauge(
        "protection_reason",
        Unit::Number,
        "1 for the reason why the link is not up; no series while it is.",
        |()| Value::Whole(1),
    )],
};

const PROTECTION: &[Metric<ProtectionStatus>] = &[
    gauge("protection_flows", Unit::Number, "Flows that are followed.", |it: &ProtectionStatus| it.flows.into()),
    counter("protection_evicted_flows", Unit::Number, "Flows dropped from a full table.", |it: &ProtectionStatus| {
        it.flows_evicted.into()
    }),
    counter("protection_protected_blocks", Unit::Number, "Blocks called protected.", |it: &ProtectionStatus| {
        it.protected_blocks.into()
    }),
    counter(
        "protection_untrusted_blocks",
        Unit::Number,
        "Blocks that left this host while the link could not be trusted.",
        |it: &ProtectionStatus| it.untrusted_blocks.into(),
    ),
    counter(
        "protection_broken_promises",
        Unit::Number,
        "Blocks whose late repair did not leave as promised: they are protected early at most.",
        |it: &ProtectionStatus| it.promises_broken.into(),
    ),
    counter(
        "protection_unsendable_blocks",
        Unit::Number,
        "Blocks with a datagram that could not be sent.",
        |it: &ProtectionStatus| it.unsendable_blocks.into(),
    ),
    counter(
        "protection_missing_timestamps",
        Unit::Number,
        "Timestamps that did not come in time: their blocks are not protected.",
        |it: &ProtectionStatus| it.stamps_missing.into(),
    ),
    counter("protection_lost_blocks", Unit::Number, "Blocks the peer could not rebuild.", |it: &ProtectionStatus| {
        it.lost_blocks.into()
    }),
    counter(
        "protection_violations",
        Unit::Number,
        "Of the lost blocks, those that had been called protected. Each is a promise that was not kept.",
        |it: &ProtectionStatus| it.violations.into(),
    ),
    counter(
        "protection_forgotten_blocks",
        Unit::Number,
        "Blocks forgotten before the peer reported their fate.",
        |it: &ProtectionStatus| it.forgotten_blocks.into(),
    ),
    counter(
        "protection_bad_checksums",
        Unit::Number,
        "TCP segments with a wrong checksum: sent on, but counted for nothing else.",
        |it: &ProtectionStatus| it.bad_checksums.into(),
    ),
    counter(
        "protection_implausible_segments",
        Unit::Number,
        "TCP segments that their receiver would not accept: sent on, but counted for nothing else.",
        |it: &ProtectionStatus| it.implausible_segments.into(),
    ),
];

const PLANS: Table<PlanStatus> = Table {
    labels: &["peer", "profile", "lane"],
    metrics: &[
        gauge("plan_block_symbols", Unit::Number, "The most source symbols of a block.", |it: &PlanStatus| {
            it.block_symbols.into()
        }),
        gauge("plan_repair_symbols", Unit::Number, "Repair symbols of the longest block.", |it: &PlanStatus| {
            it.repair_symbols.into()
        }),
        gauge(
            "plan_overhead",
            Unit::Ratio,
            "Repair symbols for each source symbol at the present rate.",
            |it: &PlanStatus| it.overhead.into(),
        ),
        gauge("plan_unreached_targets", Unit::Number, "Targets of the profile that are not reached.", |it| {
            it.unreached.len().into()
        }),
        counter("plan_changes", Unit::Number, "How often the plan has changed.", |it: &PlanStatus| it.changes.into()),
    ],
};

fn seconds(milliseconds: Option<f64>) -> Value {
    milliseconds.map(|milliseconds| milliseconds / 1e3).into()
}
