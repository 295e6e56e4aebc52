//! Runs the lab's commands one at a time and records each: always in `commands.log`, and on the terminal unless
//! `--quiet` is given.
//!
//! A reader of the log can build the lab by hand. Also starts long-running programs; [`super::process`] waits for them
//! and ends them.

use std::{
    cell::RefCell,
    fmt::Display,
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    error::{LabError, tail},
    process::Process,
};

/// The environment variable that marks every process of a run, so that a later run can find the remains of a crashed
/// one.
pub const RUN_MARK: &str = "ONWIRE_LAB_RUN";

/// The commands of one run.
#[derive(Debug)]
pub struct Trace {
    run: String,
    directory: PathBuf,
    log: File,
    is_shown: bool,
    /// The last line on the terminal: a command that is repeated until it succeeds is shown once.
    shown: RefCell<String>,
    stop: Arc<AtomicBool>,
}

impl Trace {
    /// Creates the trace of the run `run`, with its logs in `directory`. A signal sets `stop`, which ends all waiting.
    pub fn new(run: &str, directory: &Path, is_shown: bool, stop: Arc<AtomicBool>) -> Result<Self, LabError> {
        std::fs::create_dir_all(directory).map_err(LabError::doing(format!("create {}", directory.display())))?;
        let path = directory.join("commands.log");
        let log = File::create(&path).map_err(LabError::doing(format!("write {}", path.display())))?;
        Ok(Self {
            run: run.to_owned(),
            directory: directory.to_owned(),
            log,
            is_shown,
            shown: RefCell::default(),
            stop,
        })
    }

    /// The directory with the logs and generated files of this run.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The flag that a signal sets.
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// Returns an error if a signal has asked the lab to stop.
    pub fn check_stop(&self) -> Result<(), LabError> {
        if self.stop.load(Ordering::Relaxed) { Err(LabError::Stopped) } else { Ok(()) }
    }

    /// Runs a command to its end and returns its standard output.
    pub fn run(&self, words: &[&str]) -> Result<String, LabError> {
        self.check_stop()?;
        self.run_always(words)
    }

    /// Like [`run`](Self::run), for a command whose exit code is part of its answer: the exit codes in `codes` are no
    /// failure.
    pub fn run_with_codes(&self, words: &[&str], codes: &[i32]) -> Result<(String, i32), LabError> {
        self.check_stop()?;
        self.run_to_end(words, codes)
    }

    /// Like [`run`](Self::run), also after a signal, for cleaning up.
    pub fn run_always(&self, words: &[&str]) -> Result<String, LabError> {
        self.run_to_end(words, &[0]).map(|(said, _)| said)
    }

    fn run_to_end(&self, words: &[&str], codes: &[i32]) -> Result<(String, i32), LabError> {
        self.show(words, "");
        let mut command = self.command(words);
        let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_start(words, error))?;
        if let Some(code) = output.status.code().filter(|code| codes.contains(code)) {
            return Ok((String::from_utf8_lossy(&output.stdout).into_owned(), code));
        }
        Err(LabError::Command {
            command: words.join(" "),
            status: output.status.to_string(),
            said: tail(&String::from_utf8_lossy(&output.stderr)),
        })
    }

    /// Starts a program that runs beside the lab; its output goes to `NAME.log`.
    pub fn start(&self, name: &str, words: &[&str]) -> Result<Process, LabError> {
        self.check_stop()?;
        self.show(words, " &");
        let path = self.directory.join(format!("{name}.log"));
        let doing = || LabError::doing(format!("write {}", path.display()));
        let log = File::create(&path).map_err(doing())?;
        let errors = log.try_clone().map_err(doing())?;
        // The program gets its own process group: Ctrl-C reaches only the lab, which then stops everything in order.
        let mut command = self.command(words);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.stdin(Stdio::piped()).stdout(log).stderr(errors).spawn();
        let child = child.map_err(|error| cannot_start(words, error))?;
        Ok(Process::new(name, words.join(" "), child, path, self.stop.clone()))
    }

    /// Writes a file of the run; the log shows it as a comment among the commands.
    pub fn write_file(&self, name: &str, content: &str) -> Result<PathBuf, LabError> {
        let path = self.directory.join(name);
        self.note(&format!("# writes {}", path.display()));
        std::fs::write(&path, content).map_err(LabError::doing(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// Writes a file of the run that only its owner may read; its content is not shown.
    pub fn write_secret(&self, name: &str, content: &str) -> Result<PathBuf, LabError> {
        let path = self.directory.join(name);
        self.note(&format!("# writes {} (mode 600)", path.display()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(content.as_bytes())
        };
        write().map_err(LabError::doing(format!("write {}", path.display())))?;
        Ok(path)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words.first().copied().unwrap_or_default());
        command.args(words.iter().skip(1)).env(RUN_MARK, &self.run).env("NO_COLOR", "1");
        command
    }

    fn show(&self, words: &[&str], end: &str) {
        let needs_quotes = |c: char| c.is_whitespace() || "'\"*?[]{}()<>|&;$`\\#~!".contains(c);
        let quoted = words.iter().map(|word| match word.is_empty() || word.contains(needs_quotes) {
            true => format!("'{}'", word.replace('\'', "'\\''")),
            false => (*word).to_owned(),
        });
        self.note(&format!("+ {}{end}", quoted.collect::<Vec<_>>().join(" ")));
    }

    /// Records a line: a comment among the commands, or a command that was sent to a running program.
    pub fn note(&self, line: &str) {
        // A full disk must not stop the lab from cleaning up.
        let _ = writeln!(&self.log, "{line}");
        if self.is_shown && *self.shown.borrow() != line {
            let _ = writeln!(std::io::stderr(), "{line}");
            line.clone_into(&mut self.shown.borrow_mut());
        }
    }
}

fn cannot_start(words: &[&str], error: std::io::Error) -> LabError {
    let program = words.first().copied().unwrap_or_default();
    if error.kind() == ErrorKind::NotFound {
        return LabError::MissingProgram { program: program.to_owned(), package: package_of(program) };
    }
    LabError::System { doing: format!("run `{}`", words.join(" ")), source: error }
}

/// Prints a line to the user. A closed pipe (`| head`) does not stop the lab from cleaning up.
pub fn say(words: impl Display) {
    let _ = writeln!(std::io::stdout(), "{words}");
}

/// Returns an error with the install command if a program is not in the search path.
pub fn need_programs(programs: &[&str]) -> Result<(), LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        if !std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
            return Err(LabError::MissingProgram { program: (*program).to_owned(), package: package_of(program) });
        }
    }
    Ok(())
}

fn package_of(program: &str) -> &'static str {
    match program {
        "ip" | "tc" | "ss" => "iproute2",
        "script" => "bsdutils",
        "sysctl" => "procps",
        "nft" => "nftables",
        "ethtool" => "ethtool",
        "iperf3" => "iperf3",
        "rsync" => "rsync",
        "bird" => "bird2",
        "strace" => "strace",
        "prometheus" | "promtool" => "prometheus",
        "chromium" => "chromium",
        "psql" => "postgresql-client",
        "ping" => "iputils-ping",
        "unshare" | "setpriv" | "taskset" => "util-linux",
        "redis-server" => "redis-server",
        "python3" => "python3",
        "ocf-tester" => "resource-agents",
        "xmllint" => "libxml2-utils",
        "mariadbd" | "mariadb-install-db" => "mariadb-server",
        _ => "apt-file  (then: apt-file search it)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_logged_and_errors_quote_their_output() {
        let directory = tempfile::tempdir().unwrap();
        let trace = Trace::new("ow-test", directory.path(), false, Arc::default()).unwrap();
        assert_eq!(trace.run(&["echo", "a b"]).unwrap(), "a b\n");
        let error = trace.run(&["sh", "-c", "echo broken >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("broken"), "{error}");
        let log = std::fs::read_to_string(directory.path().join("commands.log")).unwrap();
        assert!(log.starts_with("+ echo 'a b'\n+ sh -c 'echo broken >&2; exit 3'\n"), "{log}");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = need_programs(&["sh", "onwire-no-such-program"]).unwrap_err().to_string();
        assert!(error.starts_with("`onwire-no-such-program` is not installed"), "{error}");
        assert_eq!(package_of("iperf3"), "iperf3");
    }

    #[test]
    fn a_signal_stops_new_commands_but_not_cleanup() {
        let directory = tempfile::tempdir().unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        let trace = Trace::new("ow-test", directory.path(), false, stop).unwrap();
        assert!(matches!(trace.run(&["true"]), Err(LabError::Stopped)));
        assert!(trace.run_always(&["true"]).is_ok());
    }
}
