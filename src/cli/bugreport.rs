//! `onwire bugreport`: one text file about this host, without secrets. Changes nothing else.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::doctor::with_progress;
use super::processes::{Host, PATIENCE};
use super::{FAILURE, USAGE, print, print_error};
use crate::bugreport;
use crate::doctor::read;

/// Arguments of `onwire bugreport`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo onwire bugreport                             writes onwire-bugreport-NAME-TIME.txt here
  sudo onwire bugreport -o /tmp/report.txt --config /etc/onwire/ithaca.yaml
  sudo onwire bugreport -o - | less                 read it before you send it

The file is plain text, mode 0600, and says at its head what is in it and what was left out: keys, whatever of a
configuration is not known to be harmless, comments. It names hosts, addresses and networks. A file that exists is never
overwritten. Without root some of it is missing, and the file says so.
Exit codes: 0 written, 1 it cannot be written, 2 usage.")]
pub struct Bugreport {
    /// The configuration file; by default that of the only running appliance, or the only one in /etc/onwire
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the report goes; - is standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Bugreport {
    /// Gathers and writes; exit code 1 when the file cannot be made.
    pub fn run(self) -> ExitCode {
        let host = Host::ask(PATIENCE);
        let mut sockets = host.all_sockets();
        let subject = match read::subject::find(self.config.as_deref(), &host.appliance_sockets()) {
            Ok(subject) => subject,
            Err(error) => {
                print_error(format_args!("onwire bugreport: {}\n", error.trim_end()));
                return ExitCode::from(USAGE);
            }
        };
        sockets.extend(subject.socket.clone());
        sockets.sort();
        sockets.dedup();
        let gather = || with_progress(|on_step| bugreport::gather(&subject, &sockets, on_step));
        if self.output.as_deref() == Some(Path::new("-")) {
            return print(gather());
        }
        let name = subject.config().map_or("host", |config| config.node.name.as_str());
        let path = self.output.unwrap_or_else(|| default_name(name));
        // Before the work: a name that is taken is said at once.
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) => return failed(&path, &error),
        };
        match file.write_all(gather().as_bytes()).and_then(|()| file.sync_all()) {
            Ok(()) => print(format_args!("{}: read it before you send it\n", path.display())),
            Err(error) => {
                // Half a report helps nobody.
                let _ = std::fs::remove_file(&path);
                failed(&path, &error)
            }
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> ExitCode {
    let hint = match error.kind() {
        io::ErrorKind::AlreadyExists => ": it is not overwritten; name another with -o",
        _ => "; name another place with -o",
    };
    print_error(format_args!("onwire bugreport: {} cannot be written: {error}{hint}\n", path.display()));
    ExitCode::from(FAILURE)
}

/// A name with the seconds since 1970: two reports do not meet.
fn default_name(node: &str) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PathBuf::from(format!("onwire-bugreport-{node}-{}.txt", now.as_secs()))
}
