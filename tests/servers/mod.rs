//! Real servers on loopback for tests, and a gate between two of them, with an appliance that says what the test wants. It
//! judges nothing.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use onwire::config::gate::{Gate, Kind, Policy};
use onwire::gate::desk;
use onwire::gate::status::Status;
use onwire::notify::message::FlowKey;

use self::ground::{Appliance, Running, gate};

#[allow(dead_code)]
#[path = "../gate_core/ground.rs"]
mod ground;

/// Nobody: the servers refuse to run as root, and must own nothing.
const NOBODY: u32 = 65_534;

/// A server of ours, ended with the test.
pub struct Server(Child);

impl Server {
    /// Starts `program` in `directory` as an unprivileged user; its output goes to `log` there.
    pub fn start(program: &str, package: &str, arguments: &[String], directory: &Path) -> Server {
        let log = std::fs::File::create(directory.join("log")).expect("the directory is ours");
        let errors = log.try_clone().expect("a file can be shared");
        let mut command = unprivileged(program, directory);
        command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; install it: apt-get install {package}"));
        Server(child)
    }

    /// Stops it as if its site were gone: no connection closes.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(status.expect("kill is a program of the base system").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that runs in `directory`, as nobody if we are root.
pub fn unprivileged(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory);
    let ours = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if ours {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A temporary directory that the servers may write to.
pub fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("the directory is ours");
    directory
}

/// A port that nobody uses at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Waits until `condition` holds; `what` is for the message if it never does.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "a minute has passed: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A gate between two servers, and an appliance that calls protected what the test says.
pub struct Gateway {
    gate: Running,
    _appliance: Arc<Appliance>,
    protecting: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Listens for mirrors and connects each to the primary at `upstream`.
    pub fn start(kind: Kind, upstream: u16) -> Gateway {
        let appliance = Arc::new(Appliance::start());
        let gate = Gate { kind, ..gate(SocketAddr::from((Ipv4Addr::LOCALHOST, upstream)), Policy::Auto) };
        let gate = Running::tcp(gate, appliance.address);
        gate.hears();
        let (protecting, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (appliance, socket) = (Arc::clone(&appliance), gate.socket.clone());
            let (protecting, ended) = (Arc::clone(&protecting), Arc::clone(&ended));
            thread::spawn(move || {
                while !ended.load(SeqCst) {
                    if protecting.load(SeqCst) {
                        protect_all(&appliance, &socket);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            })
        };
        Gateway { gate, _appliance: appliance, protecting, ended, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.gate.address.port()
    }

    /// From now on all that is sent becomes protected, or nothing does.
    pub fn protect(&self, protecting: bool) {
        self.protecting.store(protecting, SeqCst);
        // What the thread was about to say is said.
        thread::sleep(Duration::from_millis(100));
    }

    /// Acknowledgements that the gate gave in the mirror's stead.
    pub fn injected(&self) -> u64 {
        self.gate.status().gates[0].totals.injected_acks
    }

    /// Whether a connection of this phase exists.
    pub fn has_phase(&self, phase: &str) -> bool {
        self.gate.status().gates[0].connections.iter().any(|connection| connection.phase == phase)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Calls everything protected that the gate has put on a socket toward the mirror.
fn protect_all(appliance: &Appliance, socket: &Path) {
    let status: Status = serde_json::from_str(&desk::ask(socket).unwrap()).unwrap();
    for connection in &status.gates[0].connections {
        if let (Some(source), Some(destination)) = (connection.source, connection.destination) {
            appliance.protect(FlowKey::tcp(source, destination), connection.written);
        }
    }
}
