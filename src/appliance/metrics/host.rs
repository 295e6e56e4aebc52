//! The tables of the appliance as a process on its host: device, lanes, drops, notification port, watchdog.

use crate::appliance::status::Status;
use crate::appliance::status::bypass::WatchdogStatus;
use crate::appliance::status::lane::LaneStatus;
use crate::appliance::status::protection::NotifyStatus;
use crate::metrics::family::{Table, Unit, Value, counter, gauge};

/// The device, and what is there once.
pub(super) const HOST: Table<Status> = Table {
    labels: &[],
    metrics: &[
        gauge("lanes", Unit::Number, "Lanes that are configured.", |it: &Status| it.tun.queues.into()),
        gauge(
            "lanes_answering",
            Unit::Number,
            "Lanes that answered for this status. If it is less than onwire_lanes, everything that is a sum over lanes is left out.",
            |it: &Status| it.lanes.len().into(),
        ),
        counter("tun_dropped_packets", Unit::Number, "Packets the kernel dropped because the TUN was full.", |it| {
            it.tun.tx_dropped.into()
        }),
        gauge("tun_fast", Unit::Number, "1 with the fast back-end, 0 with the simple one.", |it: &Status| {
            (it.tun.backend == "fast").into()
        }),
        gauge("tun_mtu", Unit::Bytes, "MTU of the TUN device.", |it: &Status| u64::from(it.tun.mtu).into()),
        gauge("route_troubles", Unit::Number, "Prefixes whose route into the TUN is not in order.", |it: &Status| {
            it.tun.route_troubles.len().into()
        }),
    ],
};

/// Each lane.
pub(super) const LANES: Table<LaneStatus> = Table {
    labels: &["lane"],
    metrics: &[
        counter(
            "lane_receive_overflow_datagrams",
            Unit::Number,
            "Datagrams dropped because the receive buffer of the socket was full; an uncut train of them counts once.",
            |it: &LaneStatus| it.receive_overflows.into(),
        ),
        gauge(
            "lane_receive_wait",
            Unit::Seconds,
            "How long datagrams have waited in the receive buffer in the last 20 ms, at least.",
            |it: &LaneStatus| (it.receive_wait_ms / 1e3).into(),
        ),
        counter(
            "lane_paused",
            Unit::Seconds,
            "How long a lane under load has paused, so that more had come when it looked again.",
            |it: &LaneStatus| (it.paused_ms / 1e3).into(),
        ),
        counter("lane_send_errors", Unit::Number, "Errors of sending, of all kinds.", |it: &LaneStatus| {
            it.send_errors.into()
        }),
        counter(
            "lane_queue_full_datagrams",
            Unit::Number,
            "Datagrams that a full queue of this host dropped.",
            |it: &LaneStatus| it.queue_full.into(),
        ),
        counter(
            "lane_too_big_datagrams",
            Unit::Number,
            "Datagrams that were too big for a device or the path.",
            |it: &LaneStatus| it.too_big.into(),
        ),
        counter(
            "lane_doubtful_errors",
            Unit::Number,
            "Errors from the path that quote no datagram of ours.",
            |it: &LaneStatus| it.doubtful_errors.into(),
        ),
        gauge(
            "lane_path_mtu",
            Unit::Bytes,
            "The smallest path MTU that an error named in the last minute; no series without one.",
            |it: &LaneStatus| it.path_mtu.map(u64::from).into(),
        ),
        gauge(
            "lane_timestamps_active",
            Unit::Number,
            "1 if transmit timestamps show what has left this host, else 0.",
            |it: &LaneStatus| it.timestamps.starts_with("by ").into(),
        ),
        counter(
            "lane_cut_packets",
            Unit::Number,
            "Super-packets cut in software because the TUN does not take them.",
            |it: &LaneStatus| it.cut_in_software.into(),
        ),
        counter(
            "lane_lost_events",
            Unit::Number,
            "Events of a lane that were lost because the control thread was busy.",
            |it: &LaneStatus| it.notices_lost.into(),
        ),
        gauge("lane_memory", Unit::Bytes, "Memory held for incomplete blocks.", |it: &LaneStatus| it.memory.into()),
        gauge(
            "lane_kept_packets",
            Unit::Number,
            "Packets kept until the mirror acknowledges them (delivery.last_hop).",
            |it: &LaneStatus| it.last_hop.map(|last_hop| last_hop.packets).into(),
        ),
        gauge("lane_kept", Unit::Bytes, "Memory for these packets.", |it: &LaneStatus| {
            it.last_hop.map(|last_hop| last_hop.memory).into()
        }),
        counter(
            "lane_kept_dropped_packets",
            Unit::Number,
            "Of these packets, those dropped before they were acknowledged.",
            |it: &LaneStatus| it.last_hop.map(|last_hop| last_hop.dropped).into(),
        ),
        counter(
            "lane_kept_repeated_packets",
            Unit::Number,
            "How often one of these packets was handed on again.",
            |it: &LaneStatus| it.last_hop.map(|last_hop| last_hop.repeated).into(),
        ),
    ],
};

/// Why something was dropped.
pub(super) const DROPS: Table<u64> = Table {
    labels: &["reason"],
    metrics: &[counter(
        "drops",
        Unit::Number,
        "Packets and datagrams that were dropped, by reason; 0 for reasons that never occurred.",
        |count: &u64| Value::Whole(*count),
    )],
};

/// The notification port.
pub(super) const NOTIFY: Table<NotifyStatus> = Table {
    labels: &[],
    metrics: &[
        gauge("notify_subscribers", Unit::Number, "Subscribers with a lease.", |it: &NotifyStatus| {
            it.subscribers.into()
        }),
        counter("notify_sent_datagrams", Unit::Number, "Notifications sent.", |it: &NotifyStatus| it.sent.into()),
        counter("notify_send_errors", Unit::Number, "Notifications the socket refused.", |it: &NotifyStatus| {
            it.send_errors.into()
        }),
        counter("notify_requests", Unit::Number, "Requests carried out.", |it: &NotifyStatus| it.requests.into()),
        counter("notify_refused_requests", Unit::Number, "Requests refused with an error.", |it: &NotifyStatus| {
            it.refused.into()
        }),
        counter("notify_leases_ended", Unit::Number, "Leases that ended without renewal.", |it: &NotifyStatus| {
            it.leases_ended.into()
        }),
        counter(
            "notify_forged_datagrams",
            Unit::Number,
            "Requests with an unknown key or a wrong authentication.",
            |it: &NotifyStatus| it.forged.into(),
        ),
        counter(
            "notify_replayed_datagrams",
            Unit::Number,
            "Requests seen before, of an earlier run, or sent back to us.",
            |it: &NotifyStatus| it.replayed.into(),
        ),
        counter(
            "notify_foreign_datagrams",
            Unit::Number,
            "Datagrams of another protocol, or cut short.",
            |it: &NotifyStatus| it.not_ours.into(),
        ),
        counter(
            "notify_unsubscribed_requests",
            Unit::Number,
            "Requests without a subscription.",
            |it: &NotifyStatus| it.not_subscribed.into(),
        ),
        counter(
            "notify_skipped_messages",
            Unit::Number,
            "Answers and block messages that a slow subscriber did not get.",
            |it: &NotifyStatus| it.skipped.into(),
        ),
        counter(
            "notify_excess_requests",
            Unit::Number,
            "Requests dropped because a program asked for more than its share.",
            |it: &NotifyStatus| it.excess.into(),
        ),
        counter(
            "notify_refused_flows",
            Unit::Number,
            "Flows that are not published because there are too many.",
            |it: &NotifyStatus| it.flows_refused.into(),
        ),
    ],
};

/// The process that watches the appliance, where there is one.
pub(super) const WATCHDOG: Table<WatchdogStatus> = Table {
    labels: &[],
    metrics: &[
        gauge("watchdog_running", Unit::Number, "1 if the watchdog process runs, else 0.", |it: &WatchdogStatus| {
            it.pid.is_some().into()
        }),
        counter(
            "watchdog_stalls",
            Unit::Number,
            "How often the appliance or a lane stood still.",
            |it: &WatchdogStatus| it.stalls.into(),
        ),
    ],
};
