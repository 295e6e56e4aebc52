//! The scenarios, which `onwire-lab NAME` runs, and the steps around each of them.
//!
//! [`run`] checks for the needed programs, cleans up after earlier crashes, marks the run, handles signals, and
//! afterwards prints and writes the report. A scenario builds its network, measures and checks claims.
//!
//! Start with [`SCENARIOS`] and [`run`]; `loss` is a short scenario to read first, and `stage` holds what every
//! scenario receives.

mod blackhole;
mod burst;
mod bypass;
mod cap;
mod changing;
mod commit_latency;
mod congestion;
mod crash_matrix;
mod disaster;
mod forged;
mod goodput;
mod held_link;
mod honest;
mod inject;
mod last_hop;
mod latency;
mod loss;
mod malicious;
mod notify_faults;
mod peers;
mod quickstart;
mod recovery;
mod redis_mariadb;
mod reload;
mod residual;
mod scale_out;
mod shell;
mod slot;
mod slow_peer;
mod soak;
mod stage;
mod standstill;
mod throughput;
mod uplink;
mod watch;

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::{consts, flag};

pub use stage::Stage;

use super::{
    cleanup::{self, Marker},
    error::LabError,
    private,
    report::Report,
    trace::{Trace, need_programs, say},
};
use crate::io::namespace;

/// The device file through which TUN devices are created.
const TUN: &str = "/dev/net/tun";

/// A named scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The name on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The default topology.
    pub topology: &'static str,
    /// The programs it needs.
    programs: &'static [&'static str],
    run: fn(&Stage<'_>) -> Result<Report, LabError>,
}

/// Every scenario; the first is the default.
pub const SCENARIOS: [Scenario; 35] = [
    Scenario {
        name: "quickstart",
        summary: "rsync of 256 MB over 50 ms and 1 % loss, with the appliances and without, in about a minute",
        topology: "pair",
        programs: &["ip", "sysctl", "ss", "rsync"],
        run: quickstart::run,
    },
    Scenario {
        name: "loss",
        summary: "raw loss, rebuilt, left over and goodput at 0 to 5 % loss, single and in bursts",
        topology: "pair",
        programs: &["ip", "sysctl", "iperf3"],
        run: loss::run,
    },
    Scenario {
        name: "residual",
        summary: "a million blocks through the code for each of eight links: is the formula for what cannot be rebuilt true?",
        topology: "pair",
        programs: &[],
        run: residual::run,
    },
    Scenario {
        name: "goodput",
        summary: "one TCP flow over 0 to 5 % loss at 50 and 100 ms, cubic and bbr, through the appliances and without them",
        topology: "pair",
        programs: &["ip", "sysctl", "iperf3"],
        run: goodput::run,
    },
    Scenario {
        name: "congestion",
        summary: "repaired flows and a plain one share a full bottleneck: what is left to the plain one, and how long are queues?",
        topology: "pair",
        programs: &["ip", "sysctl", "iperf3", "ping"],
        run: congestion::run,
    },
    Scenario {
        name: "changing",
        summary: "a link that is clean, loses single datagrams, then bursts, then is clean: does the repair follow, at what cost?",
        topology: "pair",
        programs: &["ip", "sysctl", "iperf3"],
        run: changing::run,
    },
    Scenario {
        name: "throughput",
        summary: "how fast: plain route, no repair, 4 repair symbols for 32, with a subscriber, simple back-end; eight minutes",
        topology: "pair-veth",
        programs: &["ip", "sysctl", "iperf3"],
        run: throughput::run,
    },
    Scenario {
        name: "watch",
        summary: "what the notifications look like: traffic, a link that fails, and `onwire watch` beside it",
        topology: "pair",
        programs: &["ip", "sysctl"],
        run: watch::run,
    },
    Scenario {
        name: "honest",
        summary: "a slow queue on the uplink, the link cut the moment \"protected\" arrives: was it? And at level queued?",
        topology: "pair",
        programs: &["ip", "sysctl", "tc"],
        run: honest::run,
    },
    Scenario {
        name: "latency",
        summary: "from a write to the notification that it is protected: lone writes, idle and beside bulk traffic",
        topology: "pair-veth",
        programs: &["taskset", "ip", "sysctl", "iperf3"],
        run: latency::run,
    },
    Scenario {
        name: "recovery",
        summary: "how much later a packet arrives that had to be rebuilt: lone datagrams, without loss and with 10 %",
        topology: "pair",
        programs: &["taskset", "ip", "sysctl"],
        run: recovery::run,
    },
    Scenario {
        name: "blackhole",
        summary: "the WAN swallows both directions or one: how soon \"protected\" stops, and how soon it comes back",
        topology: "pair",
        programs: &["ip", "sysctl"],
        run: blackhole::run,
    },
    Scenario {
        name: "held-link",
        summary: "a man on the path delays, holds, reorders, then swallows: for how long does \"protected\" go on?",
        topology: "pair-held",
        programs: &["ip", "sysctl"],
        run: held_link::run,
    },
    Scenario {
        name: "forged",
        summary: "ten million forged datagrams and a hundred thousand initiations beside a transfer: what do they change? ten minutes",
        topology: "pair-wan",
        programs: &["ip", "sysctl", "nft"],
        run: forged::run,
    },
    Scenario {
        name: "malicious",
        summary: "a peer with its key seals the worst symbols and lies in its reports: what does it cost, is any promise false?",
        topology: "star",
        programs: &["ip", "sysctl", "nft"],
        run: malicious::run,
    },
    Scenario {
        name: "notify-faults",
        summary: "notifications lost, doubled, overtaken, replayed and forged: is any \"protected\" false, how late are they?",
        topology: "pair",
        programs: &["ip", "sysctl"],
        run: notify_faults::run,
    },
    Scenario {
        name: "slow-peer",
        summary: "one peer of three has 1 Mbit/s and is offered ten times as much: what does it cost the other two?",
        topology: "star",
        programs: &["ip", "sysctl", "iperf3", "ping"],
        run: slow_peer::run,
    },
    Scenario {
        name: "peers",
        summary: "one appliance with 64 peers: how soon are all up, and what does a peer take of memory, processor and speed?",
        topology: "star",
        programs: &["ip", "sysctl", "iperf3", "ping"],
        run: peers::run,
    },
    Scenario {
        name: "uplink",
        summary: "carrier, device, neighbour, address, queue and route of the uplink come and go: is any \"protected\" false?",
        topology: "pair-uplink",
        programs: &["ip", "sysctl", "tc"],
        run: uplink::run,
    },
    Scenario {
        name: "inject",
        summary: "each system call fails with each error it can have: is any \"protected\" false, does it live, is it said?",
        topology: "pair",
        programs: &["ip", "sysctl", "strace"],
        run: inject::run,
    },
    Scenario {
        name: "burst",
        summary: "bursts of as many datagrams as repair symbols and one more; interruptions of 1, 2 and 4 ms: what do they take?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: burst::run,
    },
    Scenario {
        name: "disaster",
        summary: "loss, half a second later the cut, then the death of the primary site: what was acknowledged and is lost?",
        topology: "pair",
        programs: &["ip", "sysctl", "tc", "unshare", "setpriv"],
        run: disaster::run,
    },
    Scenario {
        name: "last-hop",
        summary: "3 % loss between the mirror's appliance and the mirror when the primary site is lost: is what is kept enough?",
        topology: "pair-lan",
        programs: &["ip", "sysctl", "nft", "ethtool"],
        run: last_hop::run,
    },
    Scenario {
        name: "commit-latency",
        summary: "how long a PostgreSQL commit takes: local, network-sync and the remote ways, over the round trip",
        topology: "pair",
        programs: &["taskset", "ip", "sysctl", "unshare", "setpriv"],
        run: commit_latency::run,
    },
    Scenario {
        name: "redis",
        summary: "SET and WAIT through the gate and without it, and what a disaster takes of what was acknowledged",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv", "redis-server"],
        run: redis_mariadb::run_redis,
    },
    Scenario {
        name: "mariadb",
        summary: "semi-synchronous commits through the gate and without it, and what a disaster takes of them",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv", "mariadbd", "mariadb-install-db"],
        run: redis_mariadb::run_mariadb,
    },
    Scenario {
        name: "crash-matrix",
        summary: "gate, appliances and mirror killed and halted under load: do commits go on, and is anything lost?",
        topology: "pair",
        programs: &["ip", "sysctl", "nft", "unshare", "setpriv"],
        run: crash_matrix::run,
    },
    Scenario {
        name: "standstill",
        summary: "appliances, gate and mirror stand still around a disaster and while drain is asked: what is missing?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: standstill::run,
    },
    Scenario {
        name: "slot",
        summary: "the standby is halted while commits go on: does its replication slot stay where its disk is?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: slot::run,
    },
    Scenario {
        name: "reload",
        summary: "a thousand changes of the configuration under load: is a packet lost, does a connection of a gate end?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: reload::run,
    },
    Scenario {
        name: "bypass",
        summary: "a hundred times an appliance dies, is stopped or hangs under load: how soon is the plain route taken, what is lost?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: bypass::run,
    },
    Scenario {
        name: "scale-out",
        summary: "two pairs side by side, routed by BIRD: appliances die and stand still: how soon do flows move, what is lost?",
        topology: "scale-out",
        programs: &["ip", "sysctl", "bird", "unshare", "setpriv"],
        run: scale_out::run,
    },
    Scenario {
        name: "soak",
        summary: "pgbench through the gate for minutes or hours under changing loss, reloads, restarts: errors, missing rows, growth?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: soak::run,
    },
    Scenario {
        name: "cap",
        summary: "a program writes all it can through `gate tcp --max-unprotected`: how much can a disaster take of it?",
        topology: "pair",
        programs: &["ip", "sysctl", "tc"],
        run: cap::run,
    },
    Scenario {
        name: "shell",
        summary: "builds the lab and stays up; prints how to enter each node",
        topology: "pair",
        programs: &["ip", "sysctl"],
        run: shell::run,
    },
];

/// The user's options.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// The name of the scenario.
    pub scenario: String,
    /// A topology that replaces the scenario's own: a built-in name or a file.
    pub topology: Option<String>,
    /// The file for the result.
    pub json: Option<PathBuf>,
    /// Seed of the emulator and of the generated data.
    pub seed: u64,
    /// Length of each measurement, in scenarios that measure over time.
    pub seconds: Option<u64>,
    /// Number of trials, in scenarios that repeat trials.
    pub trials: Option<u32>,
    /// Losses to try, in scenarios that try several; empty: the scenario's own.
    pub losses: Vec<f64>,
    /// A file with recorded losses, its full path.
    pub loss_trace: Option<PathBuf>,
    /// Names of the parts of the scenario to run; empty: all.
    pub arms: Vec<String>,
    /// Factor for all time limits: for slow machines and debug builds.
    pub slack: f64,
    /// Keep the run's directory also after a success.
    pub keep: bool,
    /// Do not show each command on the terminal.
    pub is_quiet: bool,
}

/// Finds a scenario by its name; the error lists all.
pub fn find(name: &str) -> Result<Scenario, LabError> {
    SCENARIOS.into_iter().find(|scenario| scenario.name == name).ok_or_else(|| {
        let names = SCENARIOS.map(|scenario| scenario.name).join(", ");
        LabError::Sentence(format!("there is no scenario \"{name}\"; allowed: {names}"))
    })
}

/// Runs a scenario with all steps around it; `true` if it passed. Must be called while the process has one thread.
pub fn run(options: &LabOptions) -> Result<bool, LabError> {
    let scenario = find(&options.scenario)?;
    need_programs(scenario.programs)?;
    need_tun()?;
    let markers = Marker::directory()?;
    if !rustix::process::geteuid().is_root() {
        namespace::enter_private()
            .map_err(|error| LabError::Sentence(format!("the lab needs network namespaces: {error}")))?;
    }
    let stop = listen_to_signals().map_err(LabError::doing("listen to signals"))?;
    let run = format!("ow-{}", std::process::id());
    let place = std::env::temp_dir();
    let directory = private::make(&place, &(cleanup::run_files(&run) + scenario.name))
        .map_err(LabError::doing(format!("make a directory in {}", place.display())))?;
    let trace = Trace::new(&run, &directory, !options.is_quiet, stop)?;
    for dead in cleanup::clean_up(&markers, &trace) {
        say(format_args!("(removed what the run {dead} had left behind)"));
    }
    let result = {
        let _marker = Marker::set(&markers, &run, &directory)?;
        (scenario.run)(&Stage { scenario, options, trace: &trace, run: &run })
    };
    let is_good = result.as_ref().is_ok_and(Report::passes);
    finish(&trace, is_good, options.keep);
    let report = result?;
    say(format_args!("\n{}", report.to_text(scenario.name)));
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", report.to_json(scenario.name, options.seed));
        std::fs::write(path, text).map_err(LabError::doing(format!("write {}", path.display())))?;
        if let Some(svg) = report.to_svg() {
            let path = path.with_extension("svg");
            std::fs::write(&path, svg).map_err(LabError::doing(format!("write {}", path.display())))?;
            say(format_args!("plot: {}", path.display()));
        }
    }
    Ok(report.passes())
}

/// Fails with advice if TUN devices cannot be created. This check runs before anything is built, so that the user does
/// not have to search the log of the emulator or of an appliance.
fn need_tun() -> Result<(), LabError> {
    OpenOptions::new().read(true).write(true).open(TUN).map(drop).map_err(cannot_open_tun)
}

fn cannot_open_tun(error: io::Error) -> LabError {
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => {
            "run as root, or open it to this user: as root `chmod 666 /dev/net/tun` (until the next boot) or a udev \
                 rule `KERNEL==\"tun\", MODE=\"0666\"`"
        }
        ErrorKind::NotFound => "as root `modprobe tun`; a container needs `--device /dev/net/tun`",
        _ => "as root `modprobe tun`; a container must be allowed character device 10:200",
    };
    LabError::Sentence(format!("the lab makes TUN devices and cannot open {TUN} ({error}): {advice}"))
}

/// Removes the run's directory, or prints its path. After a failed run the logs stay and the generated data is deleted.
fn finish(trace: &Trace, is_good: bool, keep: bool) {
    let directory = trace.directory();
    let result = match (is_good, keep) {
        (true, false) => std::fs::remove_dir_all(directory),
        (false, false) => remove_data(directory),
        (_, true) => Ok(()),
    };
    if !is_good || keep {
        say(format_args!("logs, configurations and every command: {}", directory.display()));
    }
    if let Err(error) = result {
        say(format_args!("cannot clean {}: {error}", directory.display()));
    }
}

fn remove_data(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The first signal asks the lab to stop and clean up; a second one ends the program at once, and the next run cleans
/// up.
fn listen_to_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        flag::register_conditional_shutdown(signal, 1, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::topology::Topology;

    #[test]
    fn an_unusable_tun_device_gives_advice() {
        for (kind, advice) in [
            (ErrorKind::PermissionDenied, "`chmod 666 /dev/net/tun`"),
            (ErrorKind::NotFound, "`modprobe tun`"),
            (ErrorKind::Other, "10:200"),
        ] {
            let error = cannot_open_tun(kind.into()).to_string();
            assert!(error.contains(TUN) && error.contains(advice), "{error}");
        }
    }

    #[test]
    fn every_scenario_is_found_and_its_topology_loads() {
        for scenario in SCENARIOS {
            assert!(Topology::load(scenario.topology).is_ok(), "{}", scenario.name);
            assert_eq!(find(scenario.name).unwrap().name, scenario.name);
        }
        let error = find("quick").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no scenario \"quick\"; allowed: quickstart, loss, residual, goodput, congestion, changing, throughput, watch, honest, latency, recovery, blackhole, held-link, forged, malicious, notify-faults, slow-peer, peers, uplink, inject, burst, disaster, last-hop, commit-latency, redis, mariadb, crash-matrix, standstill, slot, reload, bypass, scale-out, soak, cap, shell"
        );
    }
}
