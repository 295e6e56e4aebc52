//! `onwire gate`: ack gates, in the foreground. Turns options into values; the gates are in [`crate::gate`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::subscription::{Publisher, Subscription};
use super::{FAILURE, USAGE, limits, log, print_error, render_gate};
use crate::config::gate::{
    self, Certificate, DEFAULT_CONNECTIONS, DEFAULT_STATUS, GateNotify, Gates, Kind, Policy, UpstreamTls,
};
use crate::config::{Log, LogFormat, LogLevel, Metrics, gate_file};
use crate::gate::service;
use crate::notify::message::Level;

/// Proxy a replication protocol and acknowledge what is protected
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire gate postgres --listen 10.1.0.254:5433 --upstream 10.1.0.1:5432    the standby's primary_conninfo names 10.1.0.254:5433
  onwire gate redis --listen 10.1.0.254:6380 --upstream 10.1.0.1:6379       replicaof 10.1.0.254 6380
  onwire gate mariadb --listen 10.1.0.254:3307 --upstream 10.1.0.1:3306     CHANGE MASTER TO MASTER_HOST='10.1.0.254', MASTER_PORT=3307
  onwire gate tcp --listen 127.0.0.1:9000 --upstream 10.2.0.1:9000 --max-unprotected 1MiB
  onwire gate --config /etc/onwire/gate.yaml              several gates in one process
  onwire status --socket /run/onwire/gate.sock            what they do, --json for programs

A gate runs at the primary site, where its packets to the mirror pass the appliance. Of a database the mirror connects to
the gate, and the gate to the primary; of kind tcp the application connects to the gate, and the gate to the mirror.

Policies: auto acknowledges at the first of protected and really acknowledged by the mirror; strict ends a connection
that the appliance does not see, too; available=TIME acknowledges after TIME with neither, with an alarm in the log.

Protocols of votes (Raft, etcd, Galera, Group Replication, Kafka) have no gate: their acknowledgements are promises that
nobody else can make.

Signals: INT and TERM stop cleanly; HUP reads the file again, and follows it if it is good: connections go on, later ones get
the new settings; USR1 writes the status to the log.
Exit codes: 0 asked to stop, 1 failure, 2 usage or configuration.")]
pub struct Gate {
    /// The protocol: postgres, redis, mariadb, tcp
    #[arg(value_parser = Kind::parse, required_unless_present = "config", conflicts_with = "config")]
    kind: Option<Kind>,
    /// A file of gates, in place of all other options
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the mirror connects to; of kind tcp, the application
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "config")]
    listen: Option<SocketAddr>,
    /// The primary; of kind tcp, the mirror
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "config")]
    upstream: Option<SocketAddr>,
    /// strict, auto, or available=TIME
    #[arg(long, default_value = "auto", value_parser = Policy::parse)]
    policy: Policy,
    /// The least that counts as protected: on_wire, or queued where devices give no timestamps
    #[arg(long, default_value = "on_wire", value_parser = gate::parse_level)]
    level: Level,
    /// The interruption that bytes must survive: 0ms for none, or a time that the profile must promise; default: what
    /// the profile promises
    #[arg(long, value_name = "TIME", value_parser = gate::parse_burst)]
    survive_burst: Option<Duration>,
    /// Kind tcp: read no more from the application while so much is unprotected
    #[arg(long, value_name = "BYTES", value_parser = gate::parse_size)]
    max_unprotected: Option<u64>,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONNECTIONS as u32,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(gate::MOST_CONNECTIONS)))]
    connections: u32,
    /// How long a connection may take to begin: TLS, authentication
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = gate::parse_start_timeout)]
    start_timeout: Duration,
    #[command(flatten)]
    subscription: Subscription,
    /// The status socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_STATUS)]
    status: PathBuf,
    /// Answer http://ADDR:PORT/metrics for Prometheus; not authenticated
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Certificate chain for TLS toward who connects to the gate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Speak TLS to the upstream server, whose certificate has this name
    #[arg(long, value_name = "NAME", requires = "upstream_ca")]
    upstream_tls: Option<String>,
    /// Certificates of who may have signed the upstream server's, PEM
    #[arg(long, value_name = "FILE", requires = "upstream_tls")]
    upstream_ca: Option<PathBuf>,
    /// Certificate chain to show to the upstream server, PEM
    #[arg(long, value_name = "FILE", requires = "upstream_tls", requires = "upstream_key")]
    upstream_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "upstream_cert")]
    upstream_key: Option<PathBuf>,
}

impl Gate {
    /// Runs until it is asked to stop.
    pub fn run(self) -> ExitCode {
        let gates = match &self.config {
            Some(file) => gate_file::load(file).map_err(|errors| errors.to_string()),
            None => self.gates(),
        };
        let gates = match gates {
            Ok(gates) => gates,
            Err(words) => {
                print_error(words);
                return ExitCode::from(USAGE);
            }
        };
        let log = log::start(gates.log);
        for warning in &gates.warnings {
            tracing::warn!("{warning}");
        }
        if let Some(address) = self.metrics.filter(|address| !address.ip().is_loopback()) {
            tracing::warn!(
                "--metrics {address}: whoever reaches it reads metrics and status, without a key and unencrypted"
            );
        }
        raise_limit(&gates);
        let on_reloaded = |gates: &Gates| {
            log::set_level(gates.log.level);
            raise_limit(gates);
        };
        match service::run(&gates, on_reloaded) {
            Ok(status) => {
                log.say_status(&render_gate::status(&status), || serde_json::to_string(&status));
                ExitCode::SUCCESS
            }
            Err(error) => {
                error.to_string().lines().for_each(|line| tracing::error!("{line}"));
                ExitCode::from(FAILURE)
            }
        }
    }

    /// The gates that the options describe.
    fn gates(&self) -> Result<Gates, String> {
        let words = |error: String| format!("onwire gate: {error}\n");
        let (Some(kind), Some(listen), Some(upstream)) = (self.kind, self.listen, self.upstream) else {
            return Err(words("a protocol, --listen and --upstream, or --config; see `onwire gate --help`".to_owned()));
        };
        let pair = |chain: &Option<PathBuf>, key: &Option<PathBuf>| {
            chain.clone().zip(key.clone()).map(|(chain, key)| Certificate { chain, key })
        };
        let upstream_tls = self.upstream_tls.clone().zip(self.upstream_ca.clone()).map(|(name, authority)| {
            UpstreamTls { authority, name, certificate: pair(&self.upstream_cert, &self.upstream_key) }
        });
        let one = gate::Gate {
            name: kind.name().to_owned(),
            kind,
            listen,
            upstream,
            policy: self.policy,
            level: self.level,
            survive_burst: self.survive_burst,
            max_unprotected: self.max_unprotected,
            connections: self.connections as usize,
            start_timeout: self.start_timeout,
            tls: pair(&self.tls_cert, &self.tls_key),
            upstream_tls,
        };
        one.check().map_err(|fault| words(fault.to_string()))?;
        let Publisher { address, key_file, key_id, secret } = self.subscription.find().map_err(words)?;
        let files = [key_file.as_path()].into_iter().chain(one.files()).map(Path::to_owned).collect();
        Ok(Gates {
            notify: GateNotify { address, secret, key_id },
            files,
            gates: vec![one],
            status: Some(self.status.clone()),
            metrics: self.metrics.map(|listen| Metrics { listen }),
            log: Log { level: LogLevel::Info, format: LogFormat::Text },
            file: None,
            warnings: Vec::new(),
        })
    }
}

/// As many descriptors as the connections of all gates need.
fn raise_limit(gates: &Gates) {
    let connections = gates.gates.iter().map(|gate| gate.connections).sum();
    let needed = limits::for_connections(connections) + limits::for_metrics(gates.metrics);
    limits::raise(needed, &format!("{connections} connections of all gates"));
}
