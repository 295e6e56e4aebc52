//! The metrics that an appliance and a gate process both have: what runs, since when, and how reloads ended.

use super::family::{Described, Family, Table, Unit, counter, gauge};
use crate::config::reload::ReloadStatus;
use crate::io::cpu;

/// What a process says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    /// `appliance` or `gate`.
    pub role: &'a str,
    /// `node.name` of an appliance; empty for gates.
    pub node: &'a str,
    /// Version of the program.
    pub version: &'a str,
    /// Time since the start.
    pub uptime_s: f64,
    /// Log lines that nothing read.
    pub log_lines_lost: u64,
    /// How reloads ended.
    pub reload: &'a ReloadStatus,
}

/// The values of the second table.
struct Values {
    uptime_s: f64,
    cpu_s: f64,
    log_lines_lost: u64,
    reloads: u64,
    is_reload_good: bool,
}

const BUILD: Table<()> = Table {
    labels: &["role", "node", "version"],
    metrics: &[gauge("build_info", Unit::Number, "1; its labels say what runs here.", |()| 1_u64.into())],
};

const PROCESS: Table<Values> = Table {
    labels: &[],
    metrics: &[
        gauge("uptime", Unit::Seconds, "Time since the process started.", |it: &Values| it.uptime_s.into()),
        counter("cpu", Unit::Seconds, "Processor time of all threads of the process.", |it: &Values| it.cpu_s.into()),
        counter("log_lost_lines", Unit::Number, "Log lines that nothing read, or that could not be written.", |it| {
            it.log_lines_lost.into()
        }),
        counter("config_reloads", Unit::Number, "Reloads of the configuration that were asked for.", |it: &Values| {
            it.reloads.into()
        }),
        gauge(
            "config_last_reload_successful",
            Unit::Number,
            "1 if the last reload was followed, or none was asked for; 0 if the process goes on with what it had before.",
            |it: &Values| it.is_reload_good.into(),
        ),
    ],
};

/// The metrics of this process.
pub fn families(process: Process<'_>) -> Vec<Family> {
    let values = Values {
        uptime_s: process.uptime_s,
        cpu_s: cpu::process_time().as_secs_f64(),
        log_lines_lost: process.log_lines_lost,
        reloads: process.reload.attempts,
        is_reload_good: process.reload.last.as_ref().is_none_or(|last| last.is_good),
    };
    let build = BUILD.families([(vec![process.role, process.node, process.version], ())]);
    build.into_iter().chain(PROCESS.families([(vec![], values)])).collect()
}

/// What there is to say about them.
pub fn described() -> impl Iterator<Item = Described> {
    BUILD.described().chain(PROCESS.described())
}
