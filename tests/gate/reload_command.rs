//! The program `onwire gate` reads its file again: for SIGHUP and `onwire reload`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use crate::command::{Program, key_file, onwire, stderr};
use crate::servers::free_port;
use crate::testbed::*;

/// The program with a file of gates of kind tcp, all to one server.
struct Site {
    directory: tempfile::TempDir,
    server: TcpListener,
    upstream: SocketAddr,
    appliance: Appliance,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        key_file(directory.path());
        let (server, upstream) = server();
        Site { directory, server, upstream, appliance: Appliance::start() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self) -> String {
        self.path("gate.yaml").display().to_string()
    }

    /// Writes a file of gates; each is a port and what else its entry says.
    fn write(&self, name: &str, gates: &[(u16, &str)], rest: &str) {
        let address = self.appliance.address;
        let mut text = format!("notify: {{ address: {address}, key_file: notify.key }}\n");
        text += "status: { socket: gate.sock }\ngates:\n";
        for (port, more) in gates {
            text += &format!(
                "  - {{ name: g{port}, listen: 127.0.0.1:{port}, upstream: \"{}\", kind: {}{more} }}\n",
                self.upstream,
                if more.contains("tls") { "redis" } else { "tcp" }
            );
        }
        std::fs::write(self.path(name), text + rest).unwrap();
    }

    /// `onwire reload`: its exit code, and everything that it says.
    fn reload(&self) -> (Option<i32>, String) {
        let output = onwire(&["reload", "--socket", self.path("gate.sock").to_str().unwrap()]);
        (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap() + &stderr(&output))
    }

    fn status(&self) -> serde_json::Value {
        let socket = self.path("gate.sock");
        let output = onwire(&["status", "--json", "--socket", socket.to_str().unwrap()]);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A connection through a gate.
struct Through(TcpStream, TcpStream);

impl Through {
    fn open(port: u16, server: &TcpListener) -> Through {
        let application = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mirror, _) = server.accept().unwrap();
        mirror.set_read_timeout(Some(SOON)).unwrap();
        Through(application, mirror)
    }

    fn passes(&mut self) {
        self.0.write_all(b"hello").unwrap();
        self.1.read_exact(&mut [0; 5]).unwrap();
    }
}

#[test]
fn a_gate_follows_its_file_or_says_everything_that_is_wrong_with_it() {
    let (site, [one, other]) = (Site::new(), [free_port(), free_port()]);
    site.write("gate.yaml", &[(one, "")], "");
    let (program, _) = Program::start(&["gate", "--config", &site.file()]);
    let mut first = Through::open(one, &site.server);
    first.passes();

    site.write("gate.yaml", &[(one, ", policy: strict"), (other, "")], "");
    let (code, said) = site.reload();
    let words = format!(
        "reloaded: gates[g{one}].policy changed, gates[g{other}] added; 1 connection keeps the settings it began with\n"
    );
    assert_eq!((code, said), (Some(0), words));
    Through::open(other, &site.server).passes();
    first.passes();
    let shown = |from: &[&str]| String::from_utf8(onwire(&[&["status"], from].concat()).stdout).unwrap();
    let text = shown(&["--config", &site.file()]);
    assert!(text.contains("1 of them keep earlier settings") && !text.contains("NOT RELOADED"), "{text}");

    // Everything that is wrong is said, and nothing changes.
    let certificate = |port: u16| format!(", tls: {{ certificate: {port}.pem, key: {port}.key }}");
    let (missing, too) = (certificate(one), certificate(other));
    let refused = |gates: &[(u16, &str)], rest: &str, expected: &[&str]| {
        site.write("gate.yaml", gates, rest);
        let (code, said) = site.reload();
        assert_eq!(code, Some(1), "{said}");
        for words in expected.iter().chain(&["nothing has changed; `onwire check "]) {
            assert!(said.contains(words), "{words}: {said}");
        }
    };
    refused(&[(one, ", polcy: auto"), (other, ", start_timeout: 1ms")], "", &["polcy", "start_timeout", "gate.yaml:"]);
    refused(&[(one, "")], "log: { format: json }\n", &["cannot change while onwire runs: log.format"]);
    let [of_one, of_other] = [one, other].map(|port| format!("gate g{port}: cannot read "));
    refused(&[(one, &missing), (other, &too)], "", &[&of_one, &of_other, &format!("{other}.pem")]);
    let status = site.status();
    assert_eq!((&status["gates"][0]["policy"], status["gates"].as_array().unwrap().len()), (&"strict".into(), 2));
    assert_eq!(status["reload"]["attempts"], 4);
    assert_eq!(status["reload"]["last"]["is_good"], false);
    assert!(program.log().contains("was not reloaded"), "{}", program.log());

    let text = shown(&["--socket", site.path("gate.sock").to_str().unwrap()]);
    assert!(text.contains("NOT RELOADED") && text.contains("cannot read "), "{text}");

    // SIGHUP does the same; the level of the log follows.
    site.write("gate.yaml", &[(one, "")], "log: { level: debug }\n");
    program.signal(rustix::process::Signal::HUP);
    until("it has reloaded", || site.status()["reload"]["last"]["is_good"] == true);
    Through::open(one, &site.server).passes();
    until("debugging is logged", || program.log().contains("DEBUG"));
    assert!(TcpStream::connect(("127.0.0.1", other)).is_err());
    assert!(program.log().contains(&format!("no longer listening on 127.0.0.1:{other}")), "{}", program.log());
    first.passes();
    assert_eq!(site.status()["gates"][0]["totals"]["connections"], 2);
}

#[test]
fn a_gate_of_options_says_that_there_is_no_file_to_read() {
    let directory = tempfile::tempdir().unwrap();
    let (server, upstream) = server();
    let appliance = Appliance::start();
    let (_program, _, listen, socket) = Program::tcp(directory.path(), upstream, "64KiB", appliance.address);
    let output = onwire(&["reload", "--socket", &socket]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("was started with options"), "{}", stderr(&output));
    Through::open(listen.rsplit_once(':').unwrap().1.parse().unwrap(), &server).passes();
}

#[test]
fn two_files_of_gates_are_compared() {
    let (site, [one, other]) = (Site::new(), [free_port(), free_port()]);
    site.write("gate.yaml", &[(one, ""), (other, "")], "");
    site.write("new.yaml", &[(one, ", policy: strict")], "log: { level: warn }\n");
    let compare = |new: &str| {
        let output = onwire(&["check", &site.file(), site.path(new).to_str().unwrap()]);
        (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap() + &stderr(&output))
    };
    let (code, said) = compare("new.yaml");
    assert_eq!(code, Some(0), "{said}");
    let lines = ["both good, 3 differences", "policy  changed  with a reload", "removed  with a reload", "log.level"];
    assert!(lines.iter().all(|line| said.contains(line)), "{said}");
    site.write("new.yaml", &[(one, "")], "log: { format: json }\n");
    let (code, said) = compare("new.yaml");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("NEEDS A RESTART"), "{said}");
    let appliance = concat!(env!("CARGO_MANIFEST_DIR"), "/config/reference.yaml");
    let output = onwire(&["check", &site.file(), appliance]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_file_that_the_process_may_not_read_any_more_is_named_with_what_to_do() {
    let (site, port, elsewhere) = (Site::new(), free_port(), tempfile::tempdir().unwrap());
    key_file(elsewhere.path());
    site.write("gate.yaml", &[(port, "")], "");
    let (_program, _) = Program::start(&["gate", "--config", &site.file()]);
    let text = std::fs::read_to_string(site.file()).unwrap();
    let key = elsewhere.path().join("notify.key").display().to_string();
    let certificate = format!("kind: redis, tls: {{ certificate: {key}, key: {key} }}");
    for (there, changed) in
        [("its key", text.replace("notify.key", &key)), ("a certificate", text.replace("kind: tcp", &certificate))]
    {
        std::fs::write(site.file(), changed).unwrap();
        let (code, said) = site.reload();
        assert_eq!(code, Some(1), "{there}: {said}");
        assert!(said.contains(&format!("{key} is outside of what this process may read")), "{there}: {said}");
    }
    std::fs::write(site.file(), text).unwrap();
    assert_eq!(site.reload().0, Some(0));
}
