//! Real servers on the loopback for tests, and a gate between two of them, with an appliance that reports what the test
//! wants. Makes no assertions about the results.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use onwire::config::gate::{Gate, Kind, Policy};
use onwire::gate::status::{ConnectionStatus, Status};
use onwire::io::status_socket;
use onwire::notify::message::FlowKey;

use crate::testbed::{Appliance, Running, gate, until};

pub mod found;

/// The user `nobody`: the servers refuse to run as root, and must own no files.
const NOBODY: u32 = 65_534;

/// A server started by the test; it ends with the test.
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

    /// Stops it as if its site were gone: no connection closes. When this returns, none of its threads runs any more;
    /// the signal alone takes effect only when a thread is next scheduled.
    pub fn freeze(&self) {
        self.signal("STOP");
        let threads = format!("/proc/{}/task", self.0.id());
        until("it stands still", || {
            let threads = std::fs::read_dir(&threads).expect("a process that was started has threads");
            threads.flatten().all(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                // A thread that has ended has no state.
                stat.is_empty() || stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
            })
        });
    }

    /// Lets it continue.
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

/// A command that runs in `directory`, as the user `nobody` if the test runs as root.
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

/// A port that no program uses. It is below the ports that the kernel gives to clients: a server may take seconds until
/// it binds its port, and by then any connection could have taken a port from that range. Each test process begins at
/// another port.
pub fn free_port() -> u16 {
    const PORTS: Range<u32> = 20_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let ports = std::iter::repeat_with(|| {
        let at = std::process::id().wrapping_mul(67).wrapping_add(NEXT.fetch_add(1, SeqCst));
        u16::try_from(PORTS.start + at % PORTS.len() as u32).expect("the range holds ports")
    });
    ports.take(PORTS.len()).find(is_free).expect("some port is free")
}

/// The gate drops a connection that has not begun after this time.
const START: Duration = Duration::from_secs(3);

/// A gate between two servers, and an appliance that reports as protected what the test wants.
pub struct Gateway {
    gate: Running,
    _appliance: Arc<Appliance>,
    /// Locked while something is published.
    protecting: Arc<Mutex<bool>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Listens for mirrors and connects each to the primary at `upstream`.
    pub fn start(kind: Kind, upstream: u16) -> Gateway {
        let appliance = Arc::new(Appliance::start());
        let usual = gate(SocketAddr::from((Ipv4Addr::LOCALHOST, upstream)), Policy::Auto);
        let gate = Gate { kind, start_timeout: START, ..usual };
        let gate = Running::tcp(gate, appliance.address);
        gate.hears();
        let (protecting, ended) = (Arc::new(Mutex::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (appliance, socket) = (Arc::clone(&appliance), gate.socket.clone());
            let (protecting, ended) = (Arc::clone(&protecting), Arc::clone(&ended));
            thread::spawn(move || {
                while !ended.load(SeqCst) {
                    {
                        let protecting = protecting.lock().expect("nobody panics while it is held");
                        if *protecting {
                            protect_all(&appliance, &socket);
                        }
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            })
        };
        Gateway { gate, _appliance: appliance, protecting, ended, thread: Some(thread) }
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.gate.address.port()
    }

    /// `true`: everything sent becomes protected from now on; `false`: nothing that is sent later does.
    pub fn protect(&self, protecting: bool) {
        *self.protecting.lock().expect("the thread that protects has not failed") = protecting;
    }

    /// The gate itself.
    pub fn running(&self) -> &Running {
        &self.gate
    }

    /// Acknowledgements that the gate gave in the mirror's place.
    pub fn injected(&self) -> u64 {
        self.gate.status().gates[0].totals.injected_acks
    }

    /// How often a mirror came back with less than was acknowledged for it, and how many bytes it lacked.
    #[allow(dead_code)]
    pub fn shortfalls(&self) -> (u64, u64) {
        let totals = &self.gate.status().gates[0].totals;
        (totals.shortfalls, totals.shortfall_bytes)
    }

    /// Waits until a replicating connection is older than the start timeout. If the gate did not see that it has begun,
    /// it would drop the connection, and the mirror would reconnect, again and again.
    pub fn outlives_start(&self) {
        let is_older = |it: &ConnectionStatus| it.replicates && it.age_s > START.as_secs_f64() + 0.5;
        until("the mirror's connection is older", || self.gate.status().gates[0].connections.iter().any(is_older));
    }

    /// Whether a connection with this phase exists.
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

/// Reports as protected everything that the gate has written toward the mirror.
fn protect_all(appliance: &Appliance, socket: &Path) {
    let status: Status = serde_json::from_str(&status_socket::ask(socket).unwrap()).unwrap();
    for connection in &status.gates[0].connections {
        if let (Some(source), Some(destination)) = (connection.source, connection.destination) {
            appliance.protect(FlowKey::tcp(source, destination), connection.written);
        }
    }
}
