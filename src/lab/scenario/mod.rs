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
mod list;
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

pub use list::{SCENARIOS, Scenario, find};
pub use stage::Stage;

use super::{
    cleanup::{self, Marker},
    error::LabError,
    page, private,
    report::Report,
    trace::{Trace, need_programs, say},
};
use crate::io::namespace;

/// The device file through which TUN devices are created.
const TUN: &str = "/dev/net/tun";

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
        let path = path.with_extension("html");
        std::fs::write(&path, page::html(&report, scenario.name, options.seed))
            .map_err(LabError::doing(format!("write {}", path.display())))?;
        say(format_args!("page: {}", path.display()));
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
}
