//! The parts of a report: what is read or asked for each, bounded in time and in size.

use std::fmt::Write;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::redact;
use crate::config::Source;
use crate::doctor::facts::Subject;
use crate::io::command::{self, CommandError};
use crate::io::{socket_owner, status_socket};

/// How long a program or a process may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most of one program's output.
const MOST_BYTES: usize = 512 * 1024;
/// Where configurations lie.
const DIRECTORY: &str = "/etc/onwire";

/// The programs whose output is in a report.
const COMMANDS: [&str; 13] = [
    "ip -d address",
    "ip -s link",
    "ip route show table all",
    "ip -6 route show table all",
    "ip rule",
    "ip -6 rule",
    "ip neighbor",
    "tc -s qdisc",
    "nft list ruleset",
    "ss -unlp",
    "timedatectl",
    "systemctl --no-pager --full status onwire*",
    "journalctl --no-pager --output=short-iso --lines=1000 --unit=onwire*",
];

/// Files of the kernel that are in a report.
const KERNEL_FILES: [&str; 22] = [
    "/proc/sys/net/core/rmem_max",
    "/proc/sys/net/core/wmem_max",
    "/proc/sys/net/core/rmem_default",
    "/proc/sys/net/core/netdev_max_backlog",
    "/proc/sys/net/core/netdev_budget",
    "/proc/sys/net/core/default_qdisc",
    "/proc/sys/net/core/tstamp_allow_data",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf/all/rp_filter",
    "/proc/sys/net/ipv4/conf/default/rp_filter",
    "/proc/sys/net/ipv4/ping_group_range",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv4/udp_mem",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/net/dev",
    "/proc/net/snmp",
    "/proc/net/snmp6",
    "/proc/net/netstat",
    "/proc/net/softnet_stat",
];

/// A part of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is.
    pub title: String,
    /// Its text.
    pub body: String,
}

impl Section {
    /// A part.
    pub fn new(title: impl Into<String>, body: String) -> Self {
        Self { title: title.into(), body }
    }
}

/// The machine and its system.
pub fn host() -> Section {
    let kernel = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let processors = std::thread::available_parallelism().map_or("unknown".to_owned(), |count| count.to_string());
    let mut body = format!(
        "onwire {}\nkernel {} {} {}\nprocessors {processors}\n",
        env!("CARGO_PKG_VERSION"),
        text(kernel.release()),
        text(kernel.version()),
        text(kernel.machine())
    );
    for line in fs::read_to_string("/etc/os-release").unwrap_or_default().lines() {
        if ["NAME=", "VERSION=", "ID="].iter().any(|start| line.starts_with(start)) {
            let _ = writeln!(body, "{line}");
        }
    }
    let machine = command::run(&["systemd-detect-virt"], PATIENCE, MOST_BYTES).map(|output| output.text);
    let _ = writeln!(body, "virtual machine or container: {}", machine.as_deref().unwrap_or("unknown").trim());
    Section::new("the machine", body)
}

/// The file that is examined, and all others in the usual place.
pub fn configuration_files(subject: &Subject) -> Vec<PathBuf> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let mut files: Vec<PathBuf> = entries.filter(is_yaml).chain(subject.file.clone()).collect();
    files.sort();
    files.dedup();
    files
}

/// A configuration without secrets, and what is wrong with it.
pub fn configuration(file: &Path) -> Section {
    let body = match Source::open(file) {
        Ok(source) => redact::configuration(&source.text),
        // The text names the file and the cause, and quotes nothing of it.
        Err(errors) => errors.to_string(),
    };
    Section::new(format!("{} (without secrets)", file.display()), body)
}

/// The status of the process behind a socket, and its document.
pub fn status(socket: &Path) -> (Section, Value) {
    let title = format!("status of {}", socket.display());
    match status_socket::ask_within(socket, PATIENCE) {
        Ok(text) => match serde_json::from_str::<Value>(&text) {
            Ok(value) => (Section::new(title, format!("{value:#}\n")), value),
            Err(error) => (Section::new(title, format!("no JSON: {error}\n")), Value::Null),
        },
        Err(error) => (Section::new(title, format!("{error}\n")), Value::Null),
    }
}

/// What programs of this host show.
pub fn commands(on_step: &dyn Fn(&str)) -> Vec<Section> {
    let run = |line: &&str| {
        on_step(line);
        let words: Vec<&str> = line.split(' ').collect();
        let body = match command::run(&words, PATIENCE, MOST_BYTES) {
            Ok(output) => {
                let is_log = line.starts_with("journalctl") || line.starts_with("systemctl");
                let mut body = if is_log { redact::log(&output.text) } else { output.text };
                body.push_str(&output.errors);
                if output.is_cut {
                    body.push_str("\n(more was left out)\n");
                }
                body
            }
            Err(CommandError::Missing(name)) => format!("{name} is not installed\n"),
            Err(error) => format!("{error}\n"),
        };
        Section::new(*line, body)
    };
    COMMANDS.iter().map(run).collect()
}

/// Settings and counters of the kernel, and the limits of the processes behind `sockets`.
pub fn kernel(sockets: &[PathBuf]) -> Vec<Section> {
    let mut body = String::new();
    for file in KERNEL_FILES {
        let text = fs::read_to_string(file).unwrap_or_else(|error| format!("{error}\n"));
        match text.trim_end().contains('\n') {
            true => _ = write!(body, "{file}:\n{text}"),
            false => _ = writeln!(body, "{file}: {}", text.trim_end()),
        }
    }
    let mut sections = vec![Section::new("settings and counters of the kernel", body)];
    for socket in sockets {
        let owner = UnixStream::connect(socket).and_then(|stream| socket_owner::owner(&stream)).ok().flatten();
        let Some(id) = owner.map(|owner| owner.as_raw_nonzero()) else { continue };
        let read =
            |name: &str| fs::read_to_string(format!("/proc/{id}/{name}")).unwrap_or_else(|error| format!("{error}\n"));
        let body = format!("{}\n{}", read("limits"), read("status"));
        sections.push(Section::new(format!("limits of process {id}, behind {}", socket.display()), body));
    }
    sections
}
