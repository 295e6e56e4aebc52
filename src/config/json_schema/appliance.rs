//! An appliance's file. What each key does stands here as in `config/reference.yaml`, shorter.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::scalar::{
    Chance, Dscp, Endpoint, File as PathText, Listen, Loss, Name, OuterDscp, Ports, Prefix, Protocol, PublicKey,
    RateText, Share, Span, Word,
};
use crate::config::hooks::HookEvent;
use crate::config::{Congestion, LogFormat, LogLevel, Offload, Ordering, OuterEcn, UdpGso, WhenDown};

/// The configuration of an onwire appliance. `config/reference.yaml` explains every key.
#[derive(JsonSchema)]
#[schemars(title = "onwire: an appliance", deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
pub(super) struct File {
    /// This appliance.
    node: Node,
    /// The TUN device: packets that are routed into it go to a peer.
    tun: Option<Tun>,
    /// The appliances at the other sites.
    #[schemars(length(min = 1))]
    peers: Vec<Peer>,
    /// Profiles: how packets are gathered into blocks and how many repair symbols a block gets. Default: one, steady.
    redundancy: Option<BTreeMap<String, Profile>>,
    /// Which packets get which profile: that of the first rule that matches, else the peer's own.
    policy: Option<Vec<Rule>>,
    /// How the receiver hands packets on.
    delivery: Option<Delivery>,
    /// What happens to packets for a peer that is down.
    bypass: Option<Bypass>,
    /// Notifications of what is protected, for programs that wait for it. Default: none.
    notify: Option<Notify>,
    /// Programs that are run when something happens; default none. A change needs a restart.
    #[schemars(length(max = 16))]
    hooks: Option<Vec<Hook>>,
    /// The socket that `onwire status` asks.
    status: Option<Status>,
    /// The metrics port, for Prometheus and health checks. Default: none.
    metrics: Option<Metrics>,
    /// The log, on standard error.
    log: Option<Log>,
}

/// This appliance.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Node {
    /// Shown in status and log.
    name: Name,
    /// The private key that `onwire keygen FILE` makes. Mode 0600.
    key_file: PathText,
    /// The tunnel's UDP address, default 0.0.0.0:7117. Lane i uses the port plus i.
    listen: Option<Listen>,
    /// The inner addresses that this site sends from. Packets from the peer are delivered only to these.
    #[schemars(length(min = 1))]
    local_prefixes: Vec<Prefix>,
}

/// The TUN device.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Tun {
    /// Interface name, default ow0.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,15}$"))]
    name: Option<String>,
    /// Inner MTU in bytes, default 1500; with IPv6 prefixes at least 1280.
    #[schemars(range(min = 576, max = 9216))]
    mtu: Option<u32>,
    /// auto (default): super-packets where the kernel has them. off: one packet a read.
    offload: Option<Offload>,
    /// Lanes, default 1: TUN queues, UDP ports and threads. The same number on both sides.
    #[schemars(range(min = 1, max = 16))]
    queues: Option<u32>,
    /// Transmit queue of the device in packets; default null, the kernel's own.
    #[schemars(range(min = 1, max = 1_000_000))]
    txqueuelen: Option<u32>,
}

/// An appliance at another site.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Peer {
    /// Shown in status and log; unique.
    name: Name,
    /// What `onwire pubkey` prints on the peer.
    public_key: PublicKey,
    /// A second public key of the same peer, while it changes its key; default null.
    next_public_key: Option<PublicKey>,
    /// A second secret that both sides share, made by `onwire keygen` and copied; default null.
    preshared_key_file: Option<PathText>,
    /// host:port, required on at least one of the two sides; default null: wait for the peer's call.
    endpoint: Option<Endpoint>,
    /// The mirror's subnets: routed into the TUN, and the only inner addresses accepted from this peer.
    #[schemars(length(min = 1))]
    prefixes: Vec<Prefix>,
    /// The outer path.
    path: Option<Path>,
    /// The profile for packets that no rule of `policy` matches, default steady.
    redundancy: Option<Name>,
}

/// The outer path to a peer.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Path {
    /// Largest outer IP packet in bytes, default 1500.
    #[schemars(range(min = 576, max = 9216))]
    mtu: Option<u32>,
    /// Pace data and repair together to this rate; default null, no pacing. Set it a little below the slowest hop.
    rate: Option<RateText>,
    /// How long a packet may wait for that rate, 1ms to 1s, default 50ms.
    queue: Option<Span>,
    /// UDP segmentation offload: auto (default: probe, stop where it fails), on (warn where it fails), off.
    udp_gso: Option<UdpGso>,
    /// ECN: copy (default) lets the path mark a datagram instead of dropping it; off: a full queue drops.
    ecn: Option<OuterEcn>,
    /// The DSCP of datagrams: 0 to 63, a name, or copy; default 0.
    dscp: Option<OuterDscp>,
    /// signal (default): senders hear of a full queue although the code repairs its losses; hide: they do not.
    congestion: Option<Congestion>,
}

/// A redundancy profile.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Profile {
    /// A block closes when it holds this many source symbols, default 32; with targets the longest block, default 512.
    #[schemars(range(min = 1, max = 4096))]
    block_symbols: Option<u32>,
    /// It closes when nothing more has come for this long: 0us to close_after, default 50us.
    close_when_idle: Option<Span>,
    /// It closes at the latest this long after its first byte: 10us to 1s, default 500us; with targets 20ms.
    close_after: Option<Span>,
    /// none: a tunnel without protection. Or a table; default { fixed: 4 }.
    repair: Option<Repair>,
}

/// none, or a table with `fixed` or with targets.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only the form counts")]
enum Repair {
    /// A tunnel without protection.
    Word(NoRepair),
    /// How much repair, or what must hold.
    Table(RepairTable),
}

/// The word for no repair.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[allow(dead_code, reason = "only the form counts")]
enum NoRepair {
    /// A tunnel without protection.
    None,
}

/// Repair symbols by number, or what must hold.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct RepairTable {
    /// Repair symbols of a full block. Not with any of the targets.
    #[schemars(range(min = 1, max = 4096))]
    fixed: Option<u32>,
    /// Target: the chance that a block is lost, at most, on the link as measured; default null, no such promise.
    residual: Option<Chance>,
    /// Target: an interruption of this length loses nothing that is called protected: 0us (default) to 250ms.
    survive_burst: Option<Span>,
    /// Target: repair bytes are at most this share of the source bytes; default 100%.
    max_overhead: Option<Share>,
    /// Target: each block gets at least this many repair symbols, default 2.
    #[schemars(range(max = 4096))]
    min: Option<u32>,
    /// The loss that is assumed until enough has been measured: default 0.1%, with targets 1%.
    assume_loss: Option<Loss>,
}

/// A rule; each condition that is left out is met by any packet.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Rule {
    /// Destination prefix.
    to: Option<Prefix>,
    /// Source prefix.
    from: Option<Prefix>,
    /// tcp, udp, icmp, icmpv6, or a number.
    protocol: Option<Protocol>,
    /// The source or the destination port: a port or a range.
    port: Option<Ports>,
    /// Differentiated services.
    dscp: Option<Dscp>,
    /// The profile.
    redundancy: Name,
}

/// How the receiver hands packets on.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Delivery {
    /// strict (default): in order within a lane. none: each packet as soon as it is whole.
    ordering: Option<Ordering>,
    /// The least time that a hole waits after the end of its block, 1ms to 10s.
    hold: Option<Span>,
    /// The longest time that a hole waits on a path that reorders, hold to 10s; default 250ms.
    hold_max: Option<Span>,
    /// on (default): TCP packets of a protected peer are kept until their destination has acknowledged them.
    last_hop: Option<Switch>,
}

/// on or off.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[allow(dead_code, reason = "only the form counts")]
enum Switch {
    On,
    Off,
}

/// What happens to packets for a peer that is down.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Bypass {
    /// drop (default): they are dropped and counted. withdraw_routes: they take the plain route, unprotected.
    when_down: Option<WhenDown>,
    /// The routes come back when the peer has answered for this long, 100ms to 600s, default 1s.
    return_after: Option<Span>,
    /// A lane that stands still for this long gives its packets away, 200ms to 60s, default 400ms.
    stuck_after: Option<Span>,
}

/// Notifications of what is protected.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Notify {
    /// The UDP address where programs ask, default 127.0.0.1:7118: this host only.
    listen: Option<Listen>,
    /// The keys that programs may use.
    #[schemars(length(min = 1, max = 16))]
    keys: Vec<NotifyKey>,
    /// What is reported as protected: on_wire (default), or queued for devices without timestamps.
    level: Option<Level>,
    /// The longest time that a link is trusted after a proof, 100ms to 10s, default 600ms.
    trust_max: Option<Span>,
}

/// A key of programs that subscribe.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct NotifyKey {
    /// Its number; unique.
    #[schemars(range(min = 1, max = 65535))]
    id: u32,
    /// A file that `onwire keygen --notify FILE` makes. Mode 0600.
    file: PathText,
}

/// What counts as protected.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[allow(dead_code, reason = "only the form counts")]
pub(super) enum Level {
    /// Data and repair have left the host, by the kernel's timestamps.
    OnWire,
    /// The kernel took them: for devices that give no timestamps.
    Queued,
}

/// A program, and what it is run for.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Hook {
    /// What it is run for; default all three.
    #[schemars(length(min = 1, max = 3))]
    on: Option<Vec<HookEvent>>,
    /// The full path of a program, then its arguments, always the same. No shell runs it.
    #[schemars(length(min = 1, max = 64))]
    run: Vec<Word>,
    /// How long one run may take, 100ms to 600s, default 10s; then it is ended.
    time_limit: Option<Span>,
}

/// The metrics port.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
pub(super) struct Metrics {
    /// Its TCP address; default 127.0.0.1:9718, of gates 127.0.0.1:9719: this host only.
    listen: Option<Listen>,
}

/// The status socket.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
pub(super) struct Status {
    /// Its path, at most 107 bytes; default /run/onwire/NAME.sock, of gates /run/onwire/gate.sock.
    socket: Option<PathText>,
}

/// The log, on standard error.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
pub(super) struct Log {
    /// The least severe messages to write; default info.
    level: Option<LogLevel>,
    /// text (default) for people, json for programs: one object a line.
    format: Option<LogFormat>,
}
