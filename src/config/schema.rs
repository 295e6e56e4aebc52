//! The names of all keys, table by table. Their values are defined in the file of each table.
//!
//! The lists have two uses: to report unknown keys, and for a test that compares the commented reference with them.

/// The keys of one table of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// The path of the table: `peers[]` for an element of a list, `redundancy.*` for a name that the user chooses.
    pub table: &'static str,
    /// Keys in force.
    pub in_force: &'static [&'static str],
}

/// The top of the file.
pub const ROOT: Keys = keys(
    "",
    &[
        "node",
        "tun",
        "peers",
        "redundancy",
        "policy",
        "delivery",
        "bypass",
        "notify",
        "hooks",
        "status",
        "metrics",
        "log",
    ],
);
/// `node`.
pub const NODE: Keys = keys("node", &["name", "key_file", "listen", "local_prefixes"]);
/// `tun`.
pub const TUN: Keys = keys("tun", &["name", "mtu", "offload", "queues", "txqueuelen"]);
/// One of `peers`.
pub const PEER: Keys = keys(
    "peers[]",
    &["name", "public_key", "next_public_key", "preshared_key_file", "endpoint", "prefixes", "path", "redundancy"],
);
/// `path` of a peer.
pub const PATH: Keys = keys("peers[].path", &["mtu", "rate", "queue", "udp_gso", "ecn", "dscp", "congestion"]);
/// One profile under `redundancy`.
pub const PROFILE: Keys = keys("redundancy.*", &["block_symbols", "close_when_idle", "close_after", "repair"]);
/// `repair` of a profile.
pub const REPAIR: Keys =
    keys("redundancy.*.repair", &["fixed", "residual", "survive_burst", "max_overhead", "min", "assume_loss"]);
/// One rule of `policy`.
pub const RULE: Keys = keys("policy[]", &["to", "from", "protocol", "port", "dscp", "redundancy"]);
/// `delivery`.
pub const DELIVERY: Keys = keys("delivery", &["ordering", "hold", "hold_max", "last_hop"]);
/// `bypass`.
pub const BYPASS: Keys = keys("bypass", &["when_down", "return_after", "stuck_after"]);
/// `notify`.
pub const NOTIFY: Keys = keys("notify", &["listen", "keys", "level", "trust_max"]);
/// One of `keys` of `notify`.
pub const NOTIFY_KEY: Keys = keys("notify.keys[]", &["id", "file"]);
/// One of `hooks`.
pub const HOOK: Keys = keys("hooks[]", &["on", "run", "time_limit"]);
/// `status`.
pub const STATUS: Keys = keys("status", &["socket"]);
/// `metrics`.
pub const METRICS: Keys = keys("metrics", &["listen"]);
/// `log`.
pub const LOG: Keys = keys("log", &["level", "format"]);

/// The top of a file of gates.
pub const GATE_ROOT: Keys = keys("", &["notify", "gates", "status", "metrics", "log"]);
/// `notify` of a file of gates.
pub const GATE_NOTIFY: Keys = keys("notify", &["address", "key_file", "key_id"]);
/// One of `gates`.
pub const GATE: Keys = keys(
    "gates[]",
    &[
        "name",
        "kind",
        "listen",
        "upstream",
        "policy",
        "level",
        "protect",
        "max_unprotected",
        "connections",
        "start_timeout",
        "tls",
        "upstream_tls",
    ],
);
/// `protect` of a gate.
pub const GATE_PROTECT: Keys = keys("gates[].protect", &["survive_burst"]);
/// `tls` of a gate.
pub const GATE_TLS: Keys = keys("gates[].tls", &["certificate", "key"]);
/// `upstream_tls` of a gate.
pub const GATE_UPSTREAM_TLS: Keys = keys("gates[].upstream_tls", &["authority", "name", "certificate", "key"]);
/// `status` of a file of gates.
pub const GATE_STATUS: Keys = keys("status", &["socket"]);

/// Every table of a file of gates.
pub const GATE_TABLES: [Keys; 9] =
    [GATE_ROOT, GATE_NOTIFY, GATE, GATE_PROTECT, GATE_TLS, GATE_UPSTREAM_TLS, GATE_STATUS, METRICS, LOG];

/// Every table of an appliance's file.
pub const TABLES: [Keys; 16] = [
    ROOT, NODE, TUN, PEER, PATH, PROFILE, REPAIR, RULE, DELIVERY, BYPASS, NOTIFY, NOTIFY_KEY, HOOK, STATUS, METRICS,
    LOG,
];

const fn keys(table: &'static str, in_force: &'static [&'static str]) -> Keys {
    Keys { table, in_force }
}
