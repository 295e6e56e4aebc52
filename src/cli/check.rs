//! `onwire check`: prints what is wrong with a configuration, or what would run. Starts nothing.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{FAILURE, USAGE, print, print_error};
use crate::config::changes::{Change, Takes, changes};
use crate::config::gate::Gates;
use crate::config::gate_changes::gate_changes;
use crate::config::units::show_duration;
use crate::config::{
    self, Config, ConfigErrors, Ordering, Peer, PolicyRule, Problem, Profile, Repair, Source, gate_file,
};
use crate::gate::prepared::Prepared;
use crate::plan::{self, prediction::Prediction, prediction::Traffic};

/// Check a configuration file and say what it would run
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire check /etc/onwire/ithaca.yaml                what would run, or every error at once
  onwire check new.yaml && mv new.yaml /etc/onwire/ithaca.yaml   only when it is good
  onwire check /etc/onwire/ithaca.yaml new.yaml       what differs, and whether a reload is enough
  render ithaca | onwire check - --as /etc/onwire/ithaca.yaml   standard input, as if it lay there

Key files and certificates are read too; run it as the user the appliance or gate runs as. Host names are not resolved.
Exit codes: 0 good (warnings may be printed), 1 two good files, and a difference needs a restart, 2 errors.")]
pub struct Check {
    /// The configuration file; - reads standard input
    #[arg(required_unless_present = "config")]
    file: Option<PathBuf>,
    /// A second file: check both, and say what it changes
    other: Option<PathBuf>,
    /// Resolve relative key files, and name the file in messages, as if it lay here; of two files, the second
    #[arg(long = "as", value_name = "PATH")]
    place: Option<PathBuf>,
    /// The same as FILE, as other commands have it
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["file", "other"])]
    config: Option<PathBuf>,
}

/// A good file of either kind.
enum Good {
    Appliance(Box<Config>),
    Gates(Box<Gates>),
}

impl Good {
    fn warnings(&self) -> &[Problem] {
        match self {
            Self::Appliance(config) => &config.warnings,
            Self::Gates(gates) => &gates.warnings,
        }
    }
}

impl Display for Good {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Appliance(config) => Summary(config).fmt(f),
            Self::Gates(gates) => GatesSummary(gates).fmt(f),
        }
    }
}

impl Check {
    /// Checks the file or both; exit code 2 when one cannot be used.
    pub fn run(self) -> ExitCode {
        // One of the two is there.
        let file = self.file.or(self.config).unwrap_or_default();
        let Some(other) = &self.other else {
            return match check(&file, self.place.as_deref()) {
                Some((shown, good)) => print(format_args!("{}: good\n\n{good}", shown.display())),
                None => ExitCode::from(USAGE),
            };
        };
        if file == Path::new("-") && *other == file {
            print_error("standard input can be only one of the two files\n");
            return ExitCode::from(USAGE);
        }
        // Both are checked, so that all errors are told at once.
        let (old, new) = (check(&file, None), check(other, self.place.as_deref()));
        match (old, new) {
            (Some((old, Good::Appliance(before))), Some((new, Good::Appliance(after)))) => {
                print_changes(&old, &new, &changes(&before, &after))
            }
            (Some((old, Good::Gates(before))), Some((new, Good::Gates(after)))) => {
                print_changes(&old, &new, &gate_changes(&before, &after))
            }
            (Some((old, _)), Some((new, _))) => {
                let (old, new) = (old.display(), new.display());
                print_error(format_args!(
                    "{old} and {new} are good, but one is of an appliance and the other of gates: nothing to compare\n"
                ));
                ExitCode::from(USAGE)
            }
            _ => ExitCode::from(USAGE),
        }
    }
}

/// Checks one file and prints what is wrong with it. Returns how it is called, if it is good.
fn check(file: &Path, place: Option<&Path>) -> Option<(PathBuf, Good)> {
    let shown = place.unwrap_or(file).to_owned();
    let parsed = Source::read(file, place).and_then(|source| match source.is_of_gates() {
        true => gate_file::parse(&source.text, &source.path).map(|gates| Good::Gates(Box::new(gates))),
        false => config::parse(&source.text, &source.path).map(|config| Good::Appliance(Box::new(config))),
    });
    match parsed {
        Ok(good) => {
            good.warnings().iter().for_each(print_error);
            let faults = match &good {
                Good::Gates(gates) => Prepared::new(Gates::clone(gates)).err().unwrap_or_default(),
                Good::Appliance(_) => Vec::new(),
            };
            if faults.is_empty() {
                return Some((shown, good));
            }
            let (file, count) = (shown.display(), faults.len());
            faults.iter().for_each(|fault| print_error(format_args!("{file}: {fault}\n")));
            print_error(format_args!("{file}: {count} error{}\n", if count == 1 { "" } else { "s" }));
        }
        Err(errors) => print_error(format_args!("{errors}{}: {}\n", shown.display(), Count(&errors))),
    }
    None
}

/// Prints what the new file changes. Exit code 1 when a reload is not enough.
fn print_changes(old: &Path, new: &Path, changes: &[Change]) -> ExitCode {
    let takes = |change: &Change| match change.takes {
        Takes::Reload => "with a reload",
        Takes::Restart => "NEEDS A RESTART",
    };
    let width = changes.iter().map(|change| change.key.len()).max().unwrap_or(0);
    let lines =
        changes.iter().map(|change| format!("  {:width$}  {:7}  {}\n", change.key, change.what.word(), takes(change)));
    let count = match changes.len() {
        0 => "no difference".to_owned(),
        1 => "1 difference".to_owned(),
        count => format!("{count} differences"),
    };
    let shown = print(format_args!(
        "{} -> {}: both good, {count}\n{}",
        old.display(),
        new.display(),
        lines.collect::<String>()
    ));
    match changes.iter().any(|change| change.takes == Takes::Restart) {
        true => ExitCode::from(FAILURE),
        false => shown,
    }
}

/// `3 errors, 1 warning`.
struct Count<'a>(&'a ConfigErrors);

impl Display for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let errors = self.0.errors();
        write!(f, "{errors} error{}", plural(errors))?;
        match self.0.problems.len() - errors {
            0 => Ok(()),
            warnings => write!(f, ", {warnings} warning{}", plural(warnings)),
        }
    }
}

/// What would run from a file of gates, for people.
struct GatesSummary<'a>(&'a Gates);

impl Display for GatesSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gates { notify, gates, status, metrics, .. } = self.0;
        writeln!(f, "gates")?;
        line(f, "appliance", format_args!("{} (UDP), key {}", notify.address, notify.key_id))?;
        if let Some(status) = status {
            line(f, "status", status.display())?;
        }
        if let Some(metrics) = metrics {
            line(f, "metrics", format_args!("http://{}/metrics", metrics.listen))?;
        }
        for gate in gates {
            writeln!(f, "\ngate {}", gate.name)?;
            line(f, "kind", gate.kind.name())?;
            line(f, "listens", gate.listen)?;
            line(f, "upstream", gate.upstream)?;
            line(f, "policy", format_args!("{}, level {}", gate.policy, gate.level.name()))?;
            if let Some(burst) = gate.survive_burst {
                line(f, "protect", format_args!("survives an interruption of {}", show_duration(burst)))?;
            }
            if let Some(cap) = gate.max_unprotected {
                line(f, "cap", format_args!("{cap} bytes unprotected"))?;
            }
            let on = |leg: bool| if leg { "ends here" } else { "as it is" };
            let (caller, server) = (on(gate.tls.is_some()), on(gate.upstream_tls.is_some()));
            line(f, "tls", format_args!("of callers {caller}, of the server {server}"))?;
        }
        Ok(())
    }
}

/// What would run from a configuration, for people.
pub struct Summary<'a>(pub &'a Config);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        let (node, tun) = (&config.node, &config.tun);
        let last = node.listen.port() + (tun.queues - 1);
        writeln!(f, "node {}", node.name)?;
        line(f, "public key", node.private_key().public_key())?;
        match tun.queues {
            1 => line(f, "listens", format_args!("{} (UDP), 1 lane", node.listen))?,
            lanes => line(f, "listens", format_args!("{} to port {last} (UDP), {lanes} lanes", node.listen))?,
        }
        let back_end = match tun.offload {
            config::Offload::Auto => "super-packets where the kernel has them",
            config::Offload::Off => "one packet a read",
        };
        line(f, "tun", format_args!("{}, mtu {}, {back_end}", tun.name, tun.mtu))?;
        line(f, "our side", join(&node.local_prefixes))?;
        let hold = show_duration(config.delivery.hold);
        match config.delivery.ordering {
            Ordering::Strict => line(f, "delivery", format_args!("in order, a hole holds up to {hold}"))?,
            Ordering::None => line(f, "delivery", "as packets become whole")?,
        }
        if !config.delivery.last_hop {
            line(f, "last hop", "off: what the LAN here loses after the peer is gone is lost")?;
        }
        match &config.notify {
            Some(notify) => {
                let keys: Vec<String> = notify.keys.iter().map(|key| key.id.to_string()).collect();
                let plural = if keys.len() == 1 { "" } else { "s" };
                let (keys, level) = (keys.join(", "), notify.level.name());
                line(f, "notify", format_args!("{} (UDP), key{plural} {keys}, level {level}", notify.listen))?;
                let max = show_duration(notify.trust_max);
                line(
                    f,
                    "trust",
                    format_args!("a link is trusted for up to {max} after what is known to have arrived"),
                )?;
            }
            None => line(f, "notify", "none: nobody is told what is protected")?,
        }
        line(f, "status", config.status.socket.display())?;
        if let Some(metrics) = config.metrics {
            line(f, "metrics", format_args!("http://{}/metrics", metrics.listen))?;
        }
        for peer in &config.peers {
            writeln!(f)?;
            show_peer(f, config, peer)?;
        }
        writeln!(f, "\nredundancy")?;
        config.profiles.iter().try_for_each(|profile| show_profile(f, profile))?;
        if !config.policy.is_empty() {
            writeln!(f, "\npolicy, the first match wins")?;
            config.policy.iter().try_for_each(|rule| show_rule(f, config, rule))?;
        }
        Ok(())
    }
}

fn show_peer(f: &mut fmt::Formatter<'_>, config: &Config, peer: &Peer) -> fmt::Result {
    writeln!(f, "peer {}", peer.name)?;
    match &peer.endpoint {
        Some(endpoint) => line(f, "endpoint", endpoint)?,
        None => line(f, "endpoint", "none: waits to be called, so the peer's file must have ours")?,
    }
    line(f, "routes", format_args!("{} into {}", join(&peer.prefixes), config.tun.name))?;
    let path = &peer.path;
    line(f, "path", format_args!("mtu {}, symbols of up to {} bytes", path.mtu, path.symbol_size()))?;
    match path.rate {
        Some(rate) => line(f, "pacing", format_args!("{rate}, data and repair together"))?,
        None => line(f, "pacing", "none")?,
    }
    if peer.next_public_key.is_some() {
        line(f, "keys", "two: it is accepted under public_key and next_public_key")?;
    }
    let preshared = if peer.preshared_key.is_some() { "yes" } else { "no" };
    line(f, "preshared", preshared)?;
    line(f, "redundancy", profile_name(config, peer.redundancy))
}

fn show_profile(f: &mut fmt::Formatter<'_>, profile: &Profile) -> fmt::Result {
    let k = profile.block_symbols;
    let (idle, after) = (show_duration(profile.close_when_idle), show_duration(profile.close_after));
    let closes = format!("closes at {k} symbols, {idle} idle or {after}");
    match profile.repair {
        Repair::None => line(f, &profile.name, format_args!("unprotected, {closes}")),
        Repair::Fixed { symbols, .. } => {
            let overhead = f64::from(symbols) / f64::from(k.max(1)) * 100.0;
            line(f, &profile.name, format_args!("k {k}, m {symbols}, overhead {overhead:.1} %, {closes}"))
        }
        Repair::Targets(planned) => {
            let targets = planned;
            let residual = targets.residual.map_or("none".to_owned(), |residual| format!("{residual:e}"));
            let burst = show_duration(targets.survive_burst);
            let (min, most) = (targets.min, targets.max_overhead * 100.0);
            let targets = format!("residual {residual}, survives {burst}, m at least {min}, overhead at most {most} %");
            line(f, &profile.name, format_args!("planned: {targets}; {closes} at the latest"))?;
            show_plan(f, profile, planned)
        }
    }
}

/// What would be planned for a lone commit at the assumed loss.
fn show_plan(f: &mut fmt::Formatter<'_>, profile: &Profile, targets: config::Targets) -> fmt::Result {
    const COMMIT: usize = 4;
    // On an idle link the size of symbols has no effect.
    let plan = plan::choose(&targets.into(), &profile.limits(1408), &targets.assumed_link(0.0));
    let lone = Prediction::new(&plan, Traffic::Lone(COMMIT));
    let (early, late) = (lone.early, lone.late);
    let loss = targets.assume_loss * 100.0;
    line(
        f,
        "",
        format_args!("at {loss} % loss: {early} early and {late} late repair symbols for a commit of {COMMIT}"),
    )?;
    plan.unreached.iter().try_for_each(|unreached| line(f, "", unreached))
}

fn show_rule(f: &mut fmt::Formatter<'_>, config: &Config, rule: &PolicyRule) -> fmt::Result {
    write!(f, "  {:<11} ", profile_name(config, rule.redundancy))?;
    let mut all = true;
    let mut part = |name: &str, value: Option<String>| match value {
        Some(value) => {
            let comma = if std::mem::take(&mut all) { "" } else { ", " };
            write!(f, "{comma}{name} {value}")
        }
        None => Ok(()),
    };
    part("to", rule.to.map(|to| to.to_string()))?;
    part("from", rule.from.map(|from| from.to_string()))?;
    part("protocol", rule.protocol.map(show_protocol))?;
    part("port", rule.port.map(|port| port.to_string()))?;
    part("dscp", rule.dscp.map(|dscp| dscp.to_string()))?;
    writeln!(f, "{}", if all { "everything" } else { "" })
}

fn show_protocol(number: u8) -> String {
    match number {
        PolicyRule::TCP => "tcp".to_owned(),
        PolicyRule::UDP => "udp".to_owned(),
        number => number.to_string(),
    }
}

fn profile_name(config: &Config, number: u8) -> &str {
    config.profile(number).map_or("", |profile| &profile.name)
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "  {name:<11} {value}")
}

fn join(prefixes: &[ipnetwork::IpNetwork]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
