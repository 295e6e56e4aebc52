//! The program `onwire gate`: its options, its file, its status, and the input that it refuses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::servers::free_port;
use crate::testbed::*;

pub fn onwire(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onwire")).args(arguments).output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A key file that only its owner can read.
pub fn key_file(directory: &Path) -> String {
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join("notify.key");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    writeln!(file, "{KEY}").unwrap();
    path.display().to_string()
}

/// The program, and what it logs after its start; it ends with the test.
pub struct Program(Child, Arc<Mutex<String>>);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    pub fn start(arguments: &[&str]) -> (Program, Vec<String>) {
        Program::spawn(Command::new(env!("CARGO_BIN_EXE_onwire")).args(arguments))
    }

    fn spawn(command: &mut Command) -> (Program, Vec<String>) {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains("listening")) {
            said.push(lines.next().unwrap_or_else(|| panic!("it ended: {said:?}")).unwrap());
        }
        let log = Arc::<Mutex<String>>::default();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| *kept.lock().unwrap() += &(line + "\n"))
        });
        (Program(child, log), said)
    }

    /// What it has logged since its start.
    pub fn log(&self) -> String {
        self.1.lock().unwrap().clone()
    }

    /// A gate of kind tcp with a cap and the policy strict, and its files in `directory`. Also returns its log lines,
    /// its listen address, and its status socket.
    pub fn tcp(
        directory: &Path,
        upstream: SocketAddr,
        cap: &str,
        notify: SocketAddr,
    ) -> (Program, Vec<String>, String, String) {
        let listen = format!("127.0.0.1:{}", free_port());
        let socket = directory.join("gate.sock").display().to_string();
        let (upstream, notify, key) = (upstream.to_string(), notify.to_string(), key_file(directory));
        let required =
            ["gate", "tcp", "--listen", &listen, "--upstream", &upstream, "--notify", &notify, "--key", &key];
        let more = ["--max-unprotected", cap, "--policy", "strict", "--status", &socket];
        let (program, said) = Program::start(&[&required[..], &more].concat());
        (program, said, listen, socket)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

#[test]
fn a_gate_logs_its_address_reports_its_status_and_stops_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let (server, upstream) = server();
    let appliance = Appliance::start();
    let (mut program, said, listen, socket) = Program::tcp(directory.path(), upstream, "64KiB", appliance.address);
    assert!(said.last().unwrap().contains(&listen), "{said:?}");
    let mut application = TcpStream::connect(&listen).unwrap();
    let (mut mirror, _) = server.accept().unwrap();
    application.write_all(b"hello").unwrap();
    mirror.read_exact(&mut [0; 5]).unwrap();

    let json = onwire(&["status", "--socket", &socket, "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["gates"][0]["connections"][0]["sent"], 5);
    assert_eq!(value["gates"][0]["policy"], "strict");
    let text = onwire(&["status", "--socket", &socket]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("tcp: tcp on {listen}")) && text.contains("sent 5, protected 0"), "{text}");

    program.signal(rustix::process::Signal::USR1);
    program.signal(rustix::process::Signal::TERM);
    let start = Instant::now();
    let code = loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            break status.code();
        }
        assert!(start.elapsed() < SOON, "it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(code, Some(0));
    assert!(!Path::new(&socket).exists(), "the status socket is left");
}

#[test]
fn several_gates_of_one_file_run_in_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let servers = [server(), server()];
    let appliance = Appliance::start();
    let ports = [free_port(), free_port()];
    key_file(directory.path());
    let mut text = format!(
        "notify: {{ address: {}, key_file: notify.key }}\nstatus: {{ socket: gate.sock }}\ngates:\n",
        appliance.address
    );
    for (at, (_, upstream)) in servers.iter().enumerate() {
        text +=
            &format!("  - {{ name: g{at}, kind: tcp, listen: 127.0.0.1:{}, upstream: \"{upstream}\" }}\n", ports[at]);
    }
    let file = directory.path().join("gate.yaml");
    std::fs::write(&file, text).unwrap();
    let (_program, _) = Program::start(&["gate", "--config", file.to_str().unwrap()]);
    for (at, (server, _)) in servers.iter().enumerate() {
        let mut application = until("it listens", || TcpStream::connect(("127.0.0.1", ports[at])).ok());
        let (mut mirror, _) = server.accept().unwrap();
        application.write_all(&[at as u8]).unwrap();
        let mut got = [9];
        mirror.read_exact(&mut got).unwrap();
        assert_eq!(got, [at as u8]);
    }
    let checked = onwire(&["check", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", stderr(&checked));
}

#[test]
fn protocols_of_votes_are_refused_with_a_reason() {
    for kind in ["etcd", "galera", "kafka", "raft", "group-replication", "Galera"] {
        let output = onwire(&["gate", kind, "--listen", "127.0.0.1:1", "--upstream", "127.0.0.1:2"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{kind}: {said}");
        assert!(said.contains("votes") && said.contains(kind), "{kind}: {said}");
    }
    let output = onwire(&["gate", "gopher", "--listen", "127.0.0.1:1", "--upstream", "127.0.0.1:2"]);
    assert!(stderr(&output).contains("allowed: tcp") || stderr(&output).contains("tcp"), "{}", stderr(&output));
}

#[test]
fn options_that_do_not_fit_together_are_refused_before_anything_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let key = key_file(directory.path());
    let base = ["gate", "tcp", "--listen", "127.0.0.1:1", "--key", &key];
    for (more, words) in [
        (&["--upstream", "127.0.0.1:1"][..], "connect to itself"),
        (&["--upstream", "127.0.0.1:2", "--policy", "available"], "available=1s"),
        (&["--upstream", "127.0.0.1:2", "--policy", "fast"], "strict, auto"),
        (&["--upstream", "127.0.0.1:2", "--level", "decoded"], "on_wire"),
        (&["--upstream", "127.0.0.1:2", "--max-unprotected", "0"], "1 byte"),
        (&["--upstream", "127.0.0.1:2", "--start-timeout", "500ms"], "lets strangers stay"),
        (&["--upstream", "127.0.0.1:2", "--tls-cert", "a"], "--tls-key"),
        (&["--upstream", "127.0.0.1:2", "--tls-cert", "a", "--tls-key", "b"], "passes through"),
        (&["--config", "x.yaml"], "--config"),
        (&[], "--upstream"),
    ] {
        let output = onwire(&[&base[..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{more:?}: {}", stderr(&output));
    }
    let output = onwire(&["gate", "tcp", "--listen", "127.0.0.1:1", "--upstream", "127.0.0.1:2", "--key", "/none"]);
    assert!(stderr(&output).contains("/none") && output.status.code() == Some(2), "{}", stderr(&output));
}

#[test]
fn unusable_certificates_are_reported_by_the_check_and_by_the_start() {
    let directory = tempfile::tempdir().unwrap();
    key_file(directory.path());
    for name in ["one", "other"] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(directory.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(directory.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    let file = directory.path().join("gate.yaml");
    let path = file.to_str().unwrap();
    let gate = |port: u16, more: &str| {
        format!("  - {{ name: g{port}, kind: redis, listen: 127.0.0.1:{port}, upstream: 127.0.0.1:9, {more} }}\n")
    };
    let write = |gates: &[String]| {
        let head = "notify: { address: 127.0.0.1:9, key_file: notify.key }\nstatus: { socket: gate.sock }\ngates:\n";
        std::fs::write(&file, head.to_owned() + &gates.concat()).unwrap();
    };
    let good = "tls: { certificate: one.pem, key: one.key }";
    write(&[gate(1, good)]);
    assert!(onwire(&["check", path]).status.success(), "{}", stderr(&onwire(&["check", path])));

    // The start reports each error by itself; the check reports all at once.
    let bad = [
        ("tls: { certificate: one.pem, key: other.key }", "other.key does not belong to the first certificate in"),
        ("tls: { certificate: none.pem, key: one.key }", "none.pem: No such file"),
        ("tls: { certificate: one.pem, key: one.pem }", "the wrong way round"),
        ("upstream_tls: { authority: one.key, name: localhost }", "one.key holds a private key and no certificate"),
        ("upstream_tls: { authority: one.pem, name: 'a b' }", "neither a host name nor an address"),
    ];
    for (more, words) in bad {
        write(&[gate(1, more)]);
        let started = onwire(&["gate", "--config", path]);
        assert_eq!(started.status.code(), Some(1), "{more}: {}", stderr(&started));
        assert!(stderr(&started).contains("gate g1: ") && stderr(&started).contains(words), "{}", stderr(&started));
    }
    let all: Vec<String> = bad.iter().zip(1..).map(|((more, _), port)| gate(port, more)).collect();
    write(&all);
    let checked = onwire(&["check", path]);
    let said = stderr(&checked);
    assert_eq!(checked.status.code(), Some(2), "{said}");
    for ((_, words), port) in bad.iter().zip(1..) {
        assert!(said.contains(words) && said.contains(&format!("gate g{port}: ")), "{words}: {said}");
    }
    assert!(said.contains("5 errors") && checked.stdout.is_empty(), "{said}");
    assert!(!said.contains("   "), "a line break in the source shows: {said}");
}

#[test]
fn an_address_in_use_is_reported_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let (_taken, address) = server();
    let socket = directory.path().join("gate.sock").display().to_string();
    let key = key_file(directory.path());
    let output = onwire(&[
        "gate",
        "tcp",
        "--listen",
        &address.to_string(),
        "--upstream",
        "127.0.0.1:2",
        "--key",
        &key,
        "--status",
        &socket,
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the port is in use"), "{}", stderr(&output));
}

#[test]
fn there_is_one_way_to_say_that_late_repair_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let key = key_file(directory.path());
    let gate = ["gate", "postgres", "--listen", "127.0.0.1:1", "--upstream", "127.0.0.1:2", "--key", &key];
    for (more, wanted) in [
        (&["--level", "early"][..], "write survive_burst 0ms"),
        (&["--level", "queued", "--survive-burst", "0ms"], "found survive_burst and level queued"),
        (&["--survive-burst", "401ms"], "no profile promises to survive a longer interruption"),
    ] {
        let output = onwire(&[&gate[..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(stderr(&output).contains(wanted), "{}", stderr(&output));
    }
}

#[test]
fn the_reference_of_gates_is_valid_and_shows_every_key() {
    let directory = tempfile::tempdir().unwrap();
    key_file(directory.path());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gate.yaml");
    let text = std::fs::read_to_string(source).unwrap();
    let parse = |text: &str| {
        let gates = onwire::config::gate_file::parse(text, &directory.path().join("gate.yaml"));
        gates.unwrap_or_else(|errors| panic!("{errors}"))
    };
    let gates = parse(&text);
    assert!(gates.warnings.is_empty());
    let [gate] = &gates.gates[..] else { panic!("{gates:?}") };
    assert_eq!((gate.max_unprotected, gate.connections, gates.notify.key_id), (Some(1 << 20), 64, 1));
    for (written, read) in [("null", None), ("0ms", Some(Duration::ZERO)), ("2ms", Some(Duration::from_millis(2)))] {
        let text = text.replace("survive_burst: null", &format!("survive_burst: {written}"));
        assert_eq!(parse(&text).gates[0].survive_burst, read);
    }
    // The example shows the default.
    assert_eq!(gate.start_timeout, onwire::config::gate::DEFAULT_START_TIMEOUT);
    let keys = onwire::config::schema::GATE_TABLES;
    for (table, key) in keys.iter().flat_map(|keys| keys.in_force.iter().map(|key| (keys.table, *key))) {
        let shown = text.lines().any(|line| {
            let bare = line.trim_start().trim_start_matches(['#', '-', ' ']);
            bare.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))
        });
        assert!(shown, "{table}.{key} is not in config/gate.yaml");
    }
}

/// Seconds of processor time that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    // The kernel counts hundredths of a second here, on every common architecture.
    ticks / 100.0
}

#[test]
fn a_gate_without_an_appliance_uses_very_little_processor_time() {
    let directory = tempfile::tempdir().unwrap();
    let (server, upstream) = server();
    // No program listens there: every datagram is answered with an ICMP error.
    let unused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (program, _, listen, _) = Program::tcp(directory.path(), upstream, "1KiB", unused);
    let mut application = TcpStream::connect(&listen).unwrap();
    let (mut mirror, _) = server.accept().unwrap();
    application.write_all(&[1; 4096]).unwrap();
    mirror.read_exact(&mut [0; 1024]).unwrap();
    let before = cpu_seconds(program.0.id());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_seconds(program.0.id()) - before;
    assert!(used < 0.2, "{used} s of 2 s");
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, upstream) = server();
    let (key, socket) = (key_file(directory.path()), directory.path().join("gate.sock").display().to_string());
    let upstream = upstream.to_string();
    let start = |connections: &str| {
        let arguments = ["gate", "tcp", "--listen", "127.0.0.1:0", "--upstream", &upstream, "--notify", "127.0.0.1:9"];
        let more = ["--key", &key, "--max-unprotected", "1MiB", "--status", &socket, "--connections", connections];
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -S -n 100 && ulimit -H -n 500 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_onwire")]);
        let (program, said) = Program::spawn(command.args(arguments).args(more));
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.0.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        (line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(" "), said.join("\n"))
    };
    let (limits, said) = start("200");
    assert_eq!(limits, "500 500");
    assert!(!said.contains("descriptors"), "{said}");
    let (limits, said) = start("1024");
    assert_eq!(limits, "500 500");
    assert!(said.contains("may have 500 descriptors open, and 1024 connections of all gates need 2112"), "{said}");
}

/// The lines of `/proc/PID/task/*/status`, by thread.
fn threads(process: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}

#[test]
fn a_gate_gives_up_all_privileges_but_its_port_and_tells_the_service_manager_how_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, upstream) = server();
    let appliance = Appliance::start();
    let path = directory.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let told = |words: &str| {
        let mut bytes = [0; 4096];
        until(words, || {
            let count = manager.recv(&mut bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            text.contains(words).then_some(text)
        })
    };
    let (socket, key) = (directory.path().join("gate.sock").display().to_string(), key_file(directory.path()));
    let (listen, upstream, notify) =
        (format!("127.0.0.1:{}", free_port()), upstream.to_string(), appliance.address.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_onwire"));
    command
        .args(["gate", "tcp", "--listen", &listen, "--upstream", &upstream, "--notify", &notify, "--key", &key])
        .args(["--max-unprotected", "64KiB", "--status", &socket])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000");
    let (mut program, _) = Program::spawn(&mut command);
    assert!(told("READY=1").contains(&format!("the appliance at {}", appliance.address)));
    told(&format!("STATUS=hears the appliance at {}, 0 connections\n", appliance.address));
    for _ in 0..3 {
        told("WATCHDOG=1");
    }
    let _caller = TcpStream::connect(&listen).unwrap();
    told(", 1 connections");

    let is_root = rustix::process::geteuid().is_root();
    let threads = threads(program.0.id());
    assert!(threads.len() > 2, "{threads:?}");
    for status in &threads {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap();
        assert_eq!((line("NoNewPrivs"), line("Seccomp")), ("1", "2"), "{status}");
        // CAP_NET_BIND_SERVICE is number 10. The log, which is older than the gate, has not even that.
        let kept = if is_root && line("Name") != "log" { 1_u64 << 10 } else { 0 };
        let sets = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(|set| u64::from_str_radix(line(set), 16).unwrap());
        assert_eq!(sets, [kept, kept, 0, 0], "{status}");
    }
    let json = onwire(&["status", "--socket", &socket, "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let home = directory.path().canonicalize().unwrap();
    assert_eq!(value["restrictions"]["missing"], serde_json::json!([]));
    assert_eq!(value["restrictions"]["files"]["sockets"], serde_json::json!([home]));
    let readable = value["restrictions"]["files"]["readable"].as_array().unwrap().clone();
    assert!(
        readable.contains(&serde_json::json!(home)) && !readable.contains(&serde_json::json!("/etc")),
        "{readable:?}"
    );

    program.signal(rustix::process::Signal::TERM);
    told("STOPPING=1\nEXTEND_TIMEOUT_USEC=");
    assert!(program.0.wait().unwrap().success());
    assert!(!Path::new(&socket).exists());
}
