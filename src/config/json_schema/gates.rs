//! A file of gates. What each key does stands here as in `config/gate.yaml`, shorter.

use schemars::JsonSchema;

use super::appliance::{Level, Log, Metrics, Status};
use super::scalar::{File as PathText, Listen, Policy, Size, Span};
use crate::config::gate::Kind;

/// The configuration of onwire's ack gates. `config/gate.yaml` explains every key.
#[derive(JsonSchema)]
#[schemars(title = "onwire: gates", deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
pub(super) struct File {
    /// The appliance of this site, which reports what is protected.
    notify: Notify,
    /// The gates; all run in one process.
    #[schemars(length(min = 1))]
    gates: Vec<Gate>,
    /// The socket that `onwire status` asks.
    status: Option<Status>,
    /// The metrics port, as in an appliance's file. Default: none.
    metrics: Option<Metrics>,
    /// As in an appliance's file.
    log: Option<Log>,
}

/// The appliance of this site.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Notify {
    /// `notify.listen` of its configuration.
    address: Listen,
    /// A key that the appliance knows, made by `onwire keygen --notify`. Mode 0600.
    key_file: PathText,
    /// The number of that key in its configuration, default 1.
    #[schemars(range(min = 1, max = 65535))]
    key_id: Option<u32>,
}

/// A gate.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Gate {
    /// For logs and status; unique. Default: the kind.
    #[schemars(length(min = 1, max = 64))]
    name: Option<String>,
    /// The protocol. tcp is any: that gate acknowledges nothing, and limits the application to a cap.
    kind: Kind,
    /// Where callers connect: the mirror, for kind tcp the application.
    listen: Listen,
    /// Where the gate connects: the primary, for kind tcp the mirror.
    upstream: Listen,
    /// What is acknowledged beside what is protected: auto (default) nothing; strict also ends a connection that the
    /// appliance does not see; available=TIME also acknowledges after that time, with an alarm.
    policy: Option<Policy>,
    /// The least level that counts as protected.
    level: Option<Level>,
    /// What must hold besides.
    protect: Option<Protect>,
    /// Kind tcp only: stop reading from the application while this many bytes are unprotected. Default: no cap.
    max_unprotected: Option<Size>,
    /// Connections at the same time, default 1024.
    #[schemars(range(min = 1, max = 16384))]
    connections: Option<u32>,
    /// How long a connection may take to begin, 1s to 3600s, default 30s.
    start_timeout: Option<Span>,
    /// TLS on the side of the callers ends here.
    tls: Option<Tls>,
    /// TLS toward the primary.
    upstream_tls: Option<UpstreamTls>,
}

/// What must hold besides the level.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Protect {
    /// The interruption that bytes must survive before they are acknowledged, 0us to 400ms. Default null: whatever the
    /// profile of their flow promises.
    survive_burst: Option<Span>,
}

/// The certificate that callers see.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct Tls {
    /// PEM: the chain, leaf first.
    certificate: PathText,
    /// PEM: its key.
    key: PathText,
}

/// TLS toward the primary.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only the form counts")]
struct UpstreamTls {
    /// PEM: the authorities that may have signed the primary's certificate. No other counts.
    authority: PathText,
    /// The name or address that the certificate must have.
    #[schemars(length(min = 1))]
    name: String,
    /// The certificate that the gate shows if the primary asks for one; with its key, or neither.
    certificate: Option<PathText>,
    /// Its key.
    key: Option<PathText>,
}
