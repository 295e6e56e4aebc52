//! The command line of `onwire-lab`: runs a scenario, lists the scenarios, or runs as the WAN emulator or a bare
//! tunnel of a scenario.
//!
//! Exit codes: 0 done and all claims hold, 1 failure or a claim does not hold, 2 usage error.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::lab::{
    bare_tunnel::{self, program::BareOptions},
    scenario::{self, LabOptions, SCENARIOS},
    trace::say,
    units,
    wan::{control::Remote, emulator, impairment::Impairment, loss_trace::LossTrace},
};
use crate::manual;

/// Builds a network of two sites and an emulated WAN on this machine and runs real programs through real appliances.
#[derive(Debug, Parser)]
#[command(
    name = "onwire-lab",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  onwire-lab                              the quickstart: rsync over 50 ms and 1 % loss\n  \
                  onwire-lab throughput --json out.json   how fast this machine is\n  \
                  onwire-lab watch                        what the notifications look like\n  \
                  onwire-lab shell --topology pair-veth   a lab to try things in\n  \
                  onwire-lab list                         every scenario"
)]
pub struct Lab {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// The scenario; `onwire-lab list` shows them.
    #[arg(default_value = SCENARIOS[0].name)]
    scenario: String,
    /// A built-in topology (pair, pair-veth, pair-uplink, pair-outer-v6, pair-inner-9000, pair-held, pair-lan, pair-wan, star, scale-out, plain) or a file like those in netns/.
    #[arg(long, value_name = "NAME|FILE")]
    topology: Option<String>,
    /// Write the result as JSON, and beside it a page as .html and a plot, where there is one, as .svg.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seed of the WAN's random numbers and of the generated data.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of each measurement.
    #[arg(long)]
    seconds: Option<u64>,
    /// The same in hours, such as 0.5, for `soak`.
    #[arg(long, conflicts_with = "seconds", value_parser = read_hours)]
    hours: Option<f64>,
    /// Number of trials, in scenarios that repeat trials.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    trials: Option<u32>,
    /// Losses to try, such as 0.1%,5%, in `disaster`.
    #[arg(long, value_name = "LOSS", value_delimiter = ',', value_parser = read_loss)]
    loss: Vec<f64>,
    /// Replay the losses of this file, one line a datagram (1, 0) or a run (120 ok, 3 lost), in `loss`, `goodput` and `changing`.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Run only these parts, in scenarios that have several; an unknown name lists the known ones.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    arm: Vec<String>,
    /// Factor by which the time limits that a scenario claims are longer, for a slow machine.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = read_slack)]
    slack: f64,
    /// Keep logs and generated files also after a success.
    #[arg(long)]
    keep: bool,
    /// Do not show each command on the terminal (they are always in commands.log).
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// List the scenarios.
    List,
    /// Send a command to a running WAN emulator, such as `set loss 1%` or `counters`.
    Tell {
        /// The emulator's control socket.
        socket: PathBuf,
        /// The command.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Run as a WAN emulator between two new TUN devices until standard input ends. The lab starts this itself.
    #[command(hide = true)]
    Wan(WanArgs),
    /// Run as one end of a bare tunnel until standard input ends. The lab starts this itself.
    #[command(hide = true)]
    BareTunnel(BareTunnelArgs),
    /// Write the manual page into a directory; packages have it.
    #[command(hide = true)]
    Man {
        /// The directory.
        directory: PathBuf,
    },
    /// Print the completions for a shell; packages have them.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct WanArgs {
    /// Name of the device where "forth" begins.
    near: String,
    /// Name of the other device.
    far: String,
    #[arg(long)]
    control: PathBuf,
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Settings such as `delay 25ms, loss 1%`.
    #[arg(long, default_value = "")]
    forth: String,
    #[arg(long, default_value = "")]
    back: String,
}

#[derive(Debug, Args)]
struct BareTunnelArgs {
    /// Name of the TUN device.
    device: String,
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// UDP address of this end.
    #[arg(long)]
    local: SocketAddr,
    /// UDP address of the other end.
    #[arg(long)]
    peer: SocketAddr,
}

/// Exit code of a usage error.
const USAGE: u8 = 2;

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let args = match Lab::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // A closed standard output is no error here.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    if args.tool.is_none()
        && let Err(error) = scenario::find(&args.scenario)
    {
        eprintln!("onwire-lab: {error}");
        return ExitCode::from(USAGE);
    }
    let result = match args.tool {
        None => run_scenario(args),
        Some(Tool::List) => {
            SCENARIOS.iter().for_each(|scenario| say(format_args!("{:<14} {}", scenario.name, scenario.summary)));
            return ExitCode::SUCCESS;
        }
        Some(Tool::Tell { socket, command }) => tell(socket, &command),
        Some(Tool::Wan(args)) => run_wan(args),
        Some(Tool::BareTunnel(args)) => run_bare_tunnel(args),
        Some(Tool::Man { directory }) => write_pages(&directory),
        Some(Tool::Completions { shell }) => {
            say(String::from_utf8_lossy(&manual::completions(Lab::command(), shell)).trim_end());
            return ExitCode::SUCCESS;
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("onwire-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_scenario(args: Lab) -> Result<bool, String> {
    let Lab { scenario, topology, json, seed, seconds, hours, trials, loss, trace, arm, slack, keep, quiet, .. } = args;
    let seconds = seconds.or(hours.map(|hours| (hours * 3600.0) as u64));
    let (losses, arms, is_quiet) = (loss, arm, quiet);
    let loss_trace = trace.map(|file| read_trace(&file)).transpose()?;
    let options =
        LabOptions { scenario, topology, json, seed, seconds, trials, losses, loss_trace, arms, slack, keep, is_quiet };
    scenario::run(&options).map_err(|error| error.to_string())
}

fn read_loss(text: &str) -> Result<f64, String> {
    units::parse_probability(text).map_err(|error| error.to_string())
}

/// The full path of a trace that can be read, so that an error is told before anything is built.
fn read_trace(file: &Path) -> Result<PathBuf, String> {
    LossTrace::read(file).map_err(|error| format!("--trace: {error}"))?;
    let full = file.canonicalize().map_err(|error| format!("--trace: {}: {error}", file.display()))?;
    match full.to_str() {
        // The emulator's commands are lists with commas.
        Some(text) if !text.contains([',', '\n']) => Ok(full),
        _ => Err(format!("--trace: {}: allowed: a path of UTF-8 without a comma", full.display())),
    }
}

fn read_hours(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(hours) if (0.001..=1000.0).contains(&hours) => Ok(hours),
        _ => Err("allowed: a number from 0.001 to 1000".to_owned()),
    }
}

fn read_slack(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(slack) if (1.0..=1000.0).contains(&slack) => Ok(slack),
        _ => Err("allowed: a number from 1 to 1000; 1 claims what the documentation does".to_owned()),
    }
}

fn write_pages(directory: &Path) -> Result<bool, String> {
    for page in manual::pages(Lab::command()) {
        let failed = |error| format!("{} cannot be written: {error}", directory.join(&page.file).display());
        page.write(directory).map_err(failed)?;
    }
    Ok(true)
}

fn tell(socket: PathBuf, command: &[String]) -> Result<bool, String> {
    let answer = Remote::new(socket.clone()).tell(&command.join(" "));
    let answer = answer.map_err(|error| format!("{}: {error}", socket.display()))?;
    say(format_args!("{answer:#}"));
    Ok(true)
}

fn run_wan(args: WanArgs) -> Result<bool, String> {
    let read = |text: &str| {
        let mut impairment = Impairment::default();
        for change in text.split(',').map(str::trim).filter(|change| !change.is_empty()) {
            let (key, value) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
            impairment.set(key, value.trim()).map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(impairment)
    };
    let options = emulator::EmulatorOptions {
        devices: [args.near, args.far],
        mtu: args.mtu,
        control: args.control,
        seed: args.seed,
        impairments: [read(&args.forth)?, read(&args.back)?],
    };
    emulator::run(options).map(|()| true).map_err(|error| error.to_string())
}

fn run_bare_tunnel(args: BareTunnelArgs) -> Result<bool, String> {
    let BareTunnelArgs { device, mtu, local, peer } = args;
    let ended = bare_tunnel::program::run(&BareOptions { device, mtu, local, peer });
    ended.map(|()| true).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_command_line() {
        use clap::CommandFactory;
        Lab::command().debug_assert();
    }
}
