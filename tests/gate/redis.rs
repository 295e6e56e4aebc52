//! A gate between two real Redis servers, and between two Valkey servers: `WAIT` returns when a write is protected, and
//! not otherwise.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::servers::found::Version;
use crate::servers::{Gateway, Server, directory, free_port};
use crate::testbed::until;
use onwire::config::gate::{Gate, Kind, Policy};

/// A server, its port and its files.
struct Site {
    server: Server,
    port: u16,
    directory: tempfile::TempDir,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Site {
    /// Starts a server with a file of `config/redis`, and with further options, which override those of the file.
    fn start(version: Version, file: &str, options: &[&str]) -> Site {
        let (directory, port) = (directory(), free_port());
        let program = crate::servers::found::redis(version);
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/redis").join(file);
        std::fs::copy(&config, directory.path().join(file)).unwrap();
        let port_text = port.to_string();
        let own = [file, "--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let arguments: Vec<String> = own.iter().chain(options).map(|&word| word.to_owned()).collect();
        Site::begin(directory, port, program, arguments)
    }

    fn begin(directory: tempfile::TempDir, port: u16, program: PathBuf, arguments: Vec<String>) -> Site {
        let server = Server::start(program.to_str().unwrap(), "redis-server", &arguments, directory.path());
        let site = Site { server, port, directory, program, arguments };
        until("the server answers", || site.try_ask("PING").is_some());
        site
    }

    /// Kills it, and starts it again with what is on its disk.
    fn crash(self) -> Site {
        let Site { server, port, directory, program, arguments } = self;
        drop(server);
        Site::begin(directory, port, program, arguments)
    }

    fn try_ask(&self, command: &str) -> Option<String> {
        ask(self.port, command)
    }

    fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|| panic!("no answer to {command}"))
    }

    /// Writes and waits for one replica, on one connection. Returns how many replicas have the write, and after what
    /// time.
    fn set_and_wait(&self, value: &str, limit: Duration) -> (String, Duration) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let begun = Instant::now();
        write!(stream, "SET key {value}\r\nWAIT 1 {}\r\n", limit.as_millis()).unwrap();
        let mut reader = BufReader::new(stream);
        assert_eq!(answer(&mut reader).unwrap(), "+OK");
        (answer(&mut reader).unwrap(), begun.elapsed())
    }
}

/// Asks whoever answers at this port of ours.
fn ask(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    answer(&mut BufReader::new(stream))
}

/// A reply of one line, or a bulk string.
fn answer(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let line = line.strip_suffix("\r\n")?;
    let Some(len) = line.strip_prefix('$') else { return Some(line.to_owned()) };
    let mut bytes = vec![0; len.parse().ok()?];
    reader.read_exact(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

const SOON: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_secs(15);

/// With a frozen mirror and no protection, no replica has the write; with protection the gate acknowledges it.
fn only_what_is_protected_is_acknowledged(primary: &Site, mirror: &Site, gate: &Gateway) {
    gate.protect(false);
    assert_eq!(primary.set_and_wait("real", LATE).0, ":1", "the mirror's own acknowledgement");
    mirror.server.freeze();
    let (count, _) = primary.set_and_wait("unprotected", SOON);
    assert_eq!(count, ":0", "the mirror is frozen and nothing is protected");
    let before = gate.injected();
    gate.protect(true);
    let (count, waited) = primary.set_and_wait("protected", LATE);
    assert_eq!(count, ":1");
    assert!(waited < LATE, "{waited:?}");
    assert!(gate.injected() > before);
    gate.protect(false);
    let (count, _) = primary.set_and_wait("again", SOON);
    assert_eq!(count, ":0", "one release is not a release of what follows");
    mirror.server.thaw();
    assert_eq!(primary.set_and_wait("last", LATE).0, ":1");
    until("the mirror has the last write", || mirror.ask("GET key") == "last");
}

#[test]
fn a_write_to_redis_is_acknowledged_when_it_is_protected_and_not_before() {
    a_write_is_acknowledged_when_it_is_protected_and_not_before(Version::Distribution);
}

#[test]
fn a_write_to_valkey_is_acknowledged_when_it_is_protected_and_not_before() {
    a_write_is_acknowledged_when_it_is_protected_and_not_before(Version::Other);
}

fn a_write_is_acknowledged_when_it_is_protected_and_not_before(version: Version) {
    for diskless in ["no", "yes"] {
        let primary = Site::start(
            version,
            "primary.conf",
            &["--repl-diskless-sync", diskless, "--repl-diskless-sync-delay", "0", "--enable-debug-command", "local"],
        );
        assert_eq!(primary.ask("DEBUG POPULATE 20000 key 100"), "+OK");
        let gate = Gateway::start(Kind::Redis, primary.port);
        let port = gate.port().to_string();
        let mirror = Site::start(version, "mirror.conf", &["--replicaof", "127.0.0.1", &port]);
        until("the mirror is in step", || {
            mirror.ask("INFO replication").contains("master_link_status:up") && gate.has_phase("replication")
        });
        only_what_is_protected_is_acknowledged(&primary, &mirror, &gate);
        gate.outlives_start();

        // Again after a partial synchronisation.
        assert_eq!(primary.ask("CLIENT KILL TYPE replica"), ":1");
        until("the mirror is in step again", || {
            primary.ask("INFO stats").contains("sync_partial_ok:1")
                && mirror.ask("INFO replication").contains("master_link_status:up")
        });
        only_what_is_protected_is_acknowledged(&primary, &mirror, &gate);
        assert_eq!(offset(&primary), offset(&mirror));
    }
}

/// The server's offset in the replication stream.
fn offset(site: &Site) -> u64 {
    let info = site.ask("INFO replication");
    let line = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
    line.expect("every server has an offset").parse().unwrap()
}

#[test]
fn a_redis_mirror_that_comes_back_without_acknowledged_writes_is_reported() {
    a_mirror_that_comes_back_without_acknowledged_writes_is_reported(Version::Distribution);
}

#[test]
fn a_valkey_mirror_that_comes_back_without_acknowledged_writes_is_reported() {
    a_mirror_that_comes_back_without_acknowledged_writes_is_reported(Version::Other);
}

fn a_mirror_that_comes_back_without_acknowledged_writes_is_reported(version: Version) {
    let primary = Site::start(version, "primary.conf", &["--repl-diskless-sync-delay", "0"]);
    let gate = Gateway::start(Kind::Redis, primary.port);
    let mirror = Site::start(version, "mirror.conf", &["--replicaof", "127.0.0.1", &gate.port().to_string()]);
    until("the mirror is in step", || gate.has_phase("replication"));
    let acknowledge_early = |value: &str| {
        gate.protect(false);
        assert_eq!(primary.set_and_wait("real", LATE).0, ":1", "the mirror's own acknowledgement");
        mirror.server.freeze();
        gate.protect(true);
        assert_eq!(primary.set_and_wait(value, LATE).0, ":1", "it stands still");
        gate.protect(false);
    };
    acknowledge_early("kept");
    mirror.server.thaw();
    until("the mirror has it", || mirror.ask("GET key") == "kept");
    assert_eq!(primary.ask("CLIENT KILL TYPE replica"), ":1");
    until("the mirror goes on", || primary.ask("INFO stats").contains("sync_partial_ok:1"));
    assert_eq!(primary.set_and_wait("again", LATE).0, ":1");
    assert_eq!(gate.shortfalls(), (0, 0), "it had everything");

    // The mirror's file contains its offset; later writes are only in its memory, or not even there.
    assert_eq!(mirror.ask("SAVE"), "+OK");
    acknowledge_early("lost");
    let mirror = mirror.crash();
    until("the mirror has it again", || mirror.ask("GET key") == "lost");
    until("the gate has noticed", || gate.shortfalls().0 > 0);
    let (times, bytes) = gate.shortfalls();
    assert!(times == 1 && bytes > 50, "{times} times, {bytes} bytes");
}

#[test]
fn no_write_fails_and_no_mirror_reconnects_while_the_gate_reloads_a_hundred_times() {
    let primary = Site::start(Version::Distribution, "primary.conf", &["--repl-diskless-sync-delay", "0"]);
    let gate = Gateway::start(Kind::Redis, primary.port);
    let port = gate.port();
    let mirror = Site::start(Version::Distribution, "mirror.conf", &["--replicaof", "127.0.0.1", &port.to_string()]);
    until("the mirror is in step", || gate.has_phase("replication"));
    gate.protect(true);
    let (done, written, asked) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let spare = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut rounds = 0_u64;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !done.load(Relaxed) {
                assert_eq!(primary.set_and_wait(&written.load(Relaxed).to_string(), LATE).0, ":1");
                written.fetch_add(1, Relaxed);
            }
        });
        // Another client of the gate comes again and again.
        let newcomer = scope.spawn(|| {
            while !done.load(Relaxed) {
                assert_eq!(ask(port, "PING").as_deref(), Some("+PONG"));
                asked.fetch_add(1, Relaxed);
            }
        });
        let is_enough = |rounds| rounds >= 100 && written.load(Relaxed) >= 200 && asked.load(Relaxed) >= 200;
        while !is_enough(rounds) && !writer.is_finished() && !newcomer.is_finished() {
            gate.running().follow(|gates| {
                let own = &mut gates.gates[0];
                own.policy =
                    [Policy::Auto, Policy::Strict, Policy::Available(Duration::from_secs(9))][rounds as usize % 3];
                own.connections = 100 + rounds as usize;
                own.survive_burst = rounds.is_multiple_of(2).then_some(Duration::ZERO);
                if rounds.is_multiple_of(5) {
                    let new = Gate { name: "spare".to_owned(), listen: spare, ..gates.gates[0].clone() };
                    gates.gates.push(new);
                }
            });
            rounds += 1;
        }
        done.store(true, Relaxed);
    });
    let stats = primary.ask("INFO stats");
    assert!(stats.contains("sync_full:1\r") && stats.contains("sync_partial_ok:0\r"), "{stats}");
    let status = gate.running().status();
    let replicating: Vec<_> = status.gates[0].connections.iter().filter(|it| it.replicates).collect();
    assert_eq!((replicating.len(), status.gates[0].totals.replicating, status.reload.attempts), (1, 1, rounds));
    assert!(gate.injected() > 0, "writes are acknowledged early");
    let last = (written.load(Relaxed) - 1).to_string();
    until("the mirror has the last write", || mirror.ask("GET key") == last);
}
