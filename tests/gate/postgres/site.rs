//! Servers, a gate and clients in a network namespace; all of them end when the value is dropped.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::servers::found::{Version, postgres};
use crate::testbed::{Appliance, KEY, until};

/// The appliance's notification address, in each namespace.
const NOTIFY: &str = "127.0.0.1:7118";
pub const PRIMARY: &str = "127.0.0.1";
pub const MIRROR: &str = "127.0.0.2";
pub const GATE: &str = "127.0.0.3";

/// A namespace with the programs that run in it.
pub struct Site {
    pub appliance: Appliance,
    gate: Option<Child>,
    servers: Vec<(String, Child)>,
    receivers: Vec<Child>,
    name: String,
    directory: TempDir,
    user: u32,
    programs: PathBuf,
}

/// Files for TLS.
pub struct Certificates {
    pub chain: PathBuf,
    pub server_key: PathBuf,
    pub gate_key: PathBuf,
}

impl Site {
    /// A site with servers of this version.
    pub fn new(version: Version) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "network namespaces need root: sudo -E cargo test");
        let programs = postgres(version);
        for program in ["postgres", "initdb", "pgbench", "psql", "pg_basebackup", "pg_receivewal"] {
            let path = programs.join(program);
            assert!(path.is_file(), "{} is missing: apt-get install postgresql postgresql-client", path.display());
        }
        assert!(Path::new("/usr/bin/setpriv").exists(), "setpriv is missing: apt-get install util-linux");
        let id = Command::new("id").args(["-u", "postgres"]).output().unwrap();
        let user =
            String::from_utf8_lossy(&id.stdout).trim().parse().expect("no user postgres: apt-get install postgresql");
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let name = format!("owpg-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]));
        run(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]));
        let appliance = Appliance::in_namespace(&name, NOTIFY.parse().unwrap());
        Self { appliance, gate: None, servers: vec![], receivers: vec![], name, directory, user, programs }
    }

    fn program(&self, name: &str) -> String {
        self.programs.join(name).to_str().unwrap().to_owned()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program in the namespace that dies with this test, run as root or as the servers' user.
    fn command(&self, program: &str, privileged: bool) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL"]);
        if !privileged {
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        }
        command.arg(program).stdin(Stdio::null()).current_dir(self.directory.path()).env("HOME", self.directory.path());
        command
    }

    fn server_directory(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(self.user), None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn make_server(&self, name: &str, address: &str, settings: &str) {
        let path = self.server_directory(name);
        let initdb = self.program("initdb");
        run(self.command(&initdb, false).args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"]).arg(&path));
        self.configure(name, address, settings);
    }

    fn configure(&self, name: &str, address: &str, settings: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.at(name).join("postgresql.conf")).unwrap();
        let quick = "fsync = off\nautovacuum = off\nshared_buffers = 16MB\nwal_level = logical\nmax_wal_size = 256MB\n";
        let receiver = "wal_retrieve_retry_interval = 200ms\nwal_receiver_status_interval = 1s\n";
        write!(file, "listen_addresses = '{address}'\nunix_socket_directories = ''\n{quick}{receiver}{settings}")
            .unwrap();
    }

    fn start_server(&mut self, name: &str, address: &str) {
        let log = fs::File::create(self.at(&format!("{name}.log"))).unwrap();
        let mut command = self.command(&self.program("postgres"), false);
        command.arg("-D").arg(self.at(name)).stdout(log.try_clone().unwrap()).stderr(log);
        self.servers.push((name.to_owned(), command.spawn().unwrap()));
        until(&format!("{name} answers"), || self.ask(&direct(address), "SELECT 1").ok());
    }

    pub fn start_primary(&mut self, settings: &str) {
        self.make_server("primary", PRIMARY, settings);
        self.start_server("primary", PRIMARY);
    }

    /// Starts a second, independent server, for a subscription.
    pub fn start_empty_mirror(&mut self) {
        self.make_server("mirror", MIRROR, "");
        self.start_server("mirror", MIRROR);
    }

    /// Makes the mirror with a base backup from this address.
    pub fn backup(&self, from: &str) {
        let path = self.server_directory("mirror");
        let program = self.program("pg_basebackup");
        let options = ["-d", from, "-R", "-C", "-S", "mirror", "-X", "stream", "-c", "fast", "--no-sync", "-D"];
        run(self.command(&program, false).args(options).arg(path));
    }

    /// Starts a program that keeps the WAL of this slot and applies none, as backup programs do. Returns its process.
    pub fn receive_wal(&mut self, from: &str, slot: &str) -> Pid {
        let path = self.server_directory(slot);
        self.sql(PRIMARY, &format!("SELECT pg_create_physical_replication_slot('{slot}')"));
        let mut command = self.command(&self.program("pg_receivewal"), false);
        let child = command.args(["-d", from, "-S", slot, "-s", "1", "-D"]).arg(path).spawn().unwrap();
        let pid = Pid::from_child(&child);
        self.receivers.push(child);
        pid
    }

    /// Starts the mirror that `backup` has made, with `more` added to its connection string.
    pub fn start_mirror(&mut self, more: &str) {
        let written = fs::read_to_string(self.at("mirror/postgresql.auto.conf")).unwrap();
        let line = written.lines().rfind(|line| line.starts_with("primary_conninfo")).unwrap();
        let line = line.trim_end().strip_suffix('\'').unwrap();
        self.configure("mirror", MIRROR, "");
        fs::write(self.at("mirror/postgresql.auto.conf"), format!("{line} {more}'\nprimary_slot_name = 'mirror'\n"))
            .unwrap();
        self.start_server("mirror", MIRROR);
    }

    /// Stops the mirror as an administrator does.
    pub fn stop_mirror(&mut self) {
        let at = self.servers.iter().position(|(name, _)| name == "mirror").unwrap();
        let (_, mut server) = self.servers.remove(at);
        kill_process(Pid::from_child(&server), Signal::INT).unwrap();
        server.wait().unwrap();
    }

    /// Starts the mirror again.
    pub fn start_mirror_again(&mut self) {
        self.start_server("mirror", MIRROR);
    }

    /// Keeps a copy of the stopped mirror, or replaces the mirror by the copy.
    pub fn copy_mirror(&self, from: &str, to: &str) {
        let (from, to) = (self.at(from), self.at(to));
        let _ = fs::remove_dir_all(&to);
        run(Command::new("cp").arg("-a").args([from, to]));
    }

    /// Ends the mirror's process that receives WAL, and waits for a new one.
    pub fn end_receiver(&self) {
        let query = "SELECT pid FROM pg_stat_wal_receiver";
        let pid = self.sql(MIRROR, query);
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
        until("another receiver", || Some(self.sql(MIRROR, query)).filter(|other| !other.is_empty() && *other != pid));
    }

    /// Kills a process of the mirror: the whole server restarts from what is on its disk.
    pub fn kill(&self, pid: Pid) {
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// Writes `line` into the primary's pg_hba.conf, followed by a line that admits this test.
    pub fn allow(&self, line: &str) {
        let rest = "host all postgres 127.0.0.0/8 trust\n";
        fs::write(self.at("primary/pg_hba.conf"), format!("{line}\n{rest}")).unwrap();
        self.sql(PRIMARY, "SELECT pg_reload_conf()");
    }

    /// From now on commits wait for this standby, with `remote_write`.
    pub fn make_synchronous(&self, standby: &str) {
        self.sql(PRIMARY, &format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'"));
        self.sql(PRIMARY, "ALTER SYSTEM SET synchronous_commit = remote_write");
        self.sql(PRIMARY, "SELECT pg_reload_conf()");
        let state =
            format!("SELECT 1 FROM pg_stat_replication WHERE application_name = '{standby}' AND sync_state = 'sync'");
        until("the mirror is synchronous", || (self.sql(PRIMARY, &state) == "1").then_some(()));
    }

    pub fn start_gate(&mut self, options: &[&str]) {
        let key = self.at("notify.key");
        fs::write(&key, format!("{KEY}\n")).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let log = self.at("gate.log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let before = fs::read_to_string(&log).unwrap().len();
        let (listen, upstream) = (format!("{GATE}:6432"), format!("{PRIMARY}:5432"));
        let mut command = self.command(env!("CARGO_BIN_EXE_onwire"), true);
        command.args(["gate", "postgres", "--listen", &listen, "--upstream", &upstream, "--notify", NOTIFY, "--key"]);
        command.arg(key).arg("--status").arg(self.at("gate.sock")).args(options);
        self.gate = Some(command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap());
        until("the gate listens", || fs::read_to_string(&log).unwrap()[before..].contains("listening").then_some(()));
    }

    pub fn kill_gate(&mut self) {
        let mut gate = self.gate.take().unwrap();
        gate.kill().unwrap();
        gate.wait().unwrap();
    }

    /// The gate's status.
    fn status(&self) -> Option<Value> {
        let mut command = self.command(env!("CARGO_BIN_EXE_onwire"), true);
        let output = command.args(["status", "--json", "--socket"]).arg(self.at("gate.sock")).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(status["gates"][0].clone())
    }

    /// How often a mirror came back with too little, and how many bytes it lacked.
    pub fn shortfalls(&self) -> (u64, u64) {
        let totals = until("the gate answers", || self.status())["totals"].clone();
        (totals["shortfalls"].as_u64().unwrap(), totals["shortfall_bytes"].as_u64().unwrap())
    }

    /// Waits until a mirror has come back with too little at least `times` times.
    pub fn awaits_shortfall(&self, times: u64) -> (u64, u64) {
        until("the gate has noticed", || Some(self.shortfalls()).filter(|found| found.0 >= times))
    }

    /// The gate's status of the replicating connection.
    pub fn connection(&self) -> Value {
        until("a connection that replicates", || {
            let connections = self.status()?["connections"].as_array()?.clone();
            connections
                .into_iter()
                .find(|it| it["phase"].as_str().is_some_and(|phase| phase.contains("replication of")))
        })
    }

    /// Waits until the replicating connection is older than `seconds`.
    pub fn outlives(&self, seconds: f64) {
        until("it is older", || self.connection()["age_s"].as_f64().filter(|age| *age > seconds + 0.5));
    }

    pub fn phase(&self) -> String {
        self.connection()["phase"].as_str().unwrap().to_owned()
    }

    fn psql(&self, connection: &str, text: &str) -> Command {
        let mut command = self.command(&self.program("psql"), true);
        command.env("PGCONNECT_TIMEOUT", "10").args(["-X", "-A", "-t", "-q", "-d", connection]);
        command.args(text.split(";\n").flat_map(|one| ["-c", one])).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A server's answer, or its error.
    pub fn ask(&self, connection: &str, text: &str) -> Result<String, String> {
        let output = self.psql(connection, text).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A server's answer.
    pub fn sql(&self, address: &str, text: &str) -> String {
        self.ask(&direct(address), text).unwrap_or_else(|error| panic!("{text}: {error}{}", self.logs()))
    }

    /// A transaction at the primary that waits as `level` defines.
    pub fn commit(&self, level: &str, text: &str) -> Commit {
        let text = format!("SET synchronous_commit = {level};\n{text}");
        Commit { child: self.psql(&direct(PRIMARY), &text).spawn().unwrap() }
    }

    /// Clients that insert rows into `kept` as fast as they can.
    pub fn load(&self, clients: u32, seconds: u32) -> Load {
        let script = self.at("load.sql");
        fs::write(&script, "INSERT INTO kept (words) VALUES (repeat('x', 200));\n").unwrap();
        let mut command = self.command(&self.program("pgbench"), true);
        command.args([
            "-n",
            "-h",
            PRIMARY,
            "-U",
            "postgres",
            "-c",
            &clients.to_string(),
            "-T",
            &seconds.to_string(),
            "-f",
        ]);
        Load {
            child: command.arg(script).arg("postgres").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(),
        }
    }

    /// Stops the mirror's process that receives WAL.
    pub fn freeze_receiver(&self) -> Pid {
        self.freeze("SELECT pid FROM pg_stat_wal_receiver")
    }

    /// Stops the process of the mirror that a query names.
    pub fn freeze(&self, query: &str) -> Pid {
        let pid = Pid::from_raw(self.sql(MIRROR, query).parse().unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        pid
    }

    /// Stops a process.
    pub fn halt(&self, pid: Pid) {
        kill_process(pid, Signal::STOP).unwrap();
    }

    pub fn thaw(&self, pid: Pid) {
        kill_process(pid, Signal::CONT).unwrap();
    }

    /// Waits until both servers answer `wanted`.
    pub fn compare(&self, query: &str, wanted: &str) {
        assert_eq!(self.sql(PRIMARY, query), wanted);
        // The mirror may have crashed, and may be restarting.
        until("the mirror has all", || (self.ask(&direct(MIRROR), query).ok()? == wanted).then_some(()));
    }

    /// A self-signed certificate of this name, and its key for the servers' user and for root.
    pub fn certificates(&self, name: &str) -> Certificates {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let paths = Certificates {
            chain: self.at("chain.pem"),
            server_key: self.at("server.pem"),
            gate_key: self.at("gate.pem"),
        };
        fs::write(&paths.chain, made.cert.pem()).unwrap();
        for path in [&paths.server_key, &paths.gate_key] {
            fs::write(path, made.signing_key.serialize_pem()).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        chown(&paths.server_key, Some(self.user), None).unwrap();
        paths
    }

    /// The gate's log.
    pub fn gate_log(&self) -> String {
        fs::read_to_string(self.at("gate.log")).unwrap_or_default()
    }

    fn logs(&self) -> String {
        let names = ["primary.log", "mirror.log", "gate.log"];
        let log = |name| format!("\n{name}:\n{}", fs::read_to_string(self.at(name)).unwrap_or_default());
        names.map(log).concat()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for child in self.gate.iter_mut().chain(&mut self.receivers) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for (_, server) in self.servers.iter_mut().rev() {
            // Immediate shutdown; the server kills a stopped child process after five seconds.
            let pid = Pid::from_child(server);
            let _ = kill_process(pid, Signal::QUIT);
            let _ = server.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A transaction that may be waiting.
pub struct Commit {
    child: Child,
}

impl Commit {
    /// Whether it has returned, or returns within this time.
    pub fn returns_within(&self, time: Duration) -> bool {
        std::thread::sleep(time);
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(path).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
    }

    /// Waits until it has returned successfully.
    pub fn returns(mut self) {
        until("the commit returns", || self.child.try_wait().unwrap());
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Clients that insert.
pub struct Load {
    child: Child,
}

impl Load {
    /// Waits for its end. Returns the number of commits.
    pub fn finish(self) -> u64 {
        let output = self.child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let line = said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no count in {said}"))
    }
}

/// The connection string of a server, without the gate.
fn direct(address: &str) -> String {
    format!("host={address} user=postgres dbname=postgres")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: apt-get install iproute2"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
