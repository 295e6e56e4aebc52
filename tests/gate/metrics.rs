//! The metrics port of gates: opened by a reload or an option, true about what waits, and harmless to acknowledgements.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use onwire::config::Metrics;
use onwire::config::gate::Policy;

use crate::appliance::Order;
use crate::command::{Program, key_file, onwire, stderr};
use crate::servers::free_port;
use crate::testbed::*;

fn ask(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// Waits until the metrics have this line.
fn shows(address: SocketAddr, line: &str) {
    until(line, || ask(address, "/metrics").1.lines().any(|found| found == line));
}

/// Opens the port with a reload.
fn open(gate: &Running) -> SocketAddr {
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    assert_eq!(gate.follow(|gates| gates.metrics = Some(Metrics { listen })).split(';').next(), Some("metrics added"));
    listen
}

#[test]
fn what_waits_and_what_was_acknowledged_is_exported() {
    let mut scene = Scene::open(Policy::Auto);
    let port = open(&scene.gate);
    shows(port, "onwire_gate_appliance_contact 1");
    shows(port, "onwire_gate_open_connections{gate=\"test\"} 1");
    scene.session.replicate("one\n");
    shows(port, "onwire_gate_waiting_marks{gate=\"test\"} 1");
    shows(port, "onwire_gate_unprotected_bytes{gate=\"test\"} 4");
    let text = ask(port, "/metrics").1;
    assert!(
        text.contains("onwire_gate_info{gate=\"test\",kind=\"tcp\",policy=\"auto\",level=\"on_wire\"} 1"),
        "{text}"
    );
    assert!(text.ends_with("# EOF\n"));
    scene.appliance.protect(scene.session.key, 4);
    scene.session.hears("P1\n");
    shows(port, "onwire_gate_waiting_marks{gate=\"test\"} 0");
    shows(port, "onwire_gate_releases_total{gate=\"test\"} 1");
    shows(port, "onwire_gate_acknowledgements_total{gate=\"test\",origin=\"gate\"} 1");
    assert_eq!(ask(port, "/healthz"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    let status: onwire::gate::status::Status = serde_json::from_str(&ask(port, "/status.json").1).unwrap();
    assert_eq!(status.gates[0].totals.released, 1);
    scene.appliance.order(Order::Silence);
    until("degraded", || ask(port, "/healthz").0.starts_with("HTTP/1.1 503 "));
    assert!(ask(port, "/healthz").1.contains("does not answer"));
    shows(port, "onwire_gate_appliance_contact 0");
}

#[test]
fn callers_that_misbehave_delay_no_acknowledgement() {
    let mut scene = Scene::open(Policy::Auto);
    let port = open(&scene.gate);
    let send = |text: &str| {
        let mut stream = TcpStream::connect(port).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let hanging: Vec<_> = (0..150).map(|_| send("GET /metrics HTTP/1.1\r\n")).collect();
    let stopped: Vec<_> = (0..40).map(|_| send("GET /status.json HTTP/1.1\r\n\r\n")).collect();
    let start = Instant::now();
    let mut written = 0;
    for round in 1..=200 {
        let line = format!("{round}\n");
        scene.session.replicate(&line);
        written += line.len() as u64;
        scene.appliance.protect(scene.session.key, written);
        scene.session.hears(&format!("P{round}\n"));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    shows(port, "onwire_gate_releases_total{gate=\"test\"} 200");
    drop((hanging, stopped));
}

#[test]
fn a_reload_moves_and_closes_the_port_or_changes_nothing() {
    let scene = Scene::open(Policy::Auto);
    let (first, second) = (open(&scene.gate), SocketAddr::from(([127, 0, 0, 1], free_port())));
    // As it was when it started, which `follow` changes: without a port.
    let is_open = |address: SocketAddr| TcpStream::connect(address).is_ok();
    let moved = scene.gate.follow(|gates| gates.metrics = Some(Metrics { listen: second }));
    assert!(moved.starts_with("metrics.listen changed"), "{moved}");
    assert_eq!((is_open(first), is_open(second)), (false, true));
    let taken = std::net::TcpListener::bind(first).unwrap();
    let refused = scene.gate.reload(|gates| {
        gates.metrics = Some(Metrics { listen: first });
        gates.gates[0].policy = Policy::Strict;
    });
    assert!(!refused.is_good && refused.text.contains("metrics.listen"), "{}", refused.text);
    assert_eq!((is_open(second), &*scene.gate.status().gates[0].policy), (true, "auto"));
    drop(taken);
    let closed = scene.gate.follow(|_| {});
    assert!(closed.starts_with("metrics removed"), "{closed}");
    assert!(!is_open(first) && !is_open(second));
}

#[test]
fn the_program_has_an_option_and_says_what_is_wrong_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let appliance = Appliance::start();
    let (key, notify) = (key_file(directory.path()), appliance.address.to_string());
    let socket = directory.path().join("gate.sock").display().to_string();
    let listen = format!("127.0.0.1:{}", free_port());
    let gate = ["gate", "tcp", "--listen", &listen, "--upstream", "127.0.0.1:1", "--notify", &notify, "--key", &key];
    let metrics = format!("127.0.0.1:{}", free_port());
    let arguments = [&gate[..], &["--status", &socket, "--metrics", &metrics]].concat();
    let (_program, said) = Program::start(&arguments);
    assert!(said.iter().any(|line| line.contains(&format!("metrics at http://{metrics}/metrics"))), "{said:?}");
    shows(metrics.parse().unwrap(), "onwire_gate_appliance_contact 1");
    let output = onwire(&[&gate[..], &["--metrics", "nowhere"]].concat());
    assert!(output.status.code() == Some(2) && stderr(&output).contains("--metrics"), "{}", stderr(&output));
    // Another process of gates with the same address of metrics.
    let (other, socket) = (format!("127.0.0.1:{}", free_port()), format!("{socket}2"));
    let again: Vec<&str> = gate.iter().map(|word| if *word == listen { &*other } else { *word }).collect();
    let output = onwire(&[&again[..], &["--status", &socket, "--metrics", &metrics]].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains(&format!("cannot listen on {metrics} for metrics")), "{said}");
}
