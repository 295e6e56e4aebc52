//! Callers that send nothing: the gate does not connect to the server for them, and their slots become free.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use onwire::config::gate::{Gate, Kind, Policy};
use onwire::gate::arrival::SILENT_WAIT;

use crate::testbed::*;

/// A gate of this kind, and a server that counts its callers.
fn open(kind: Kind, start_timeout: Duration) -> (Running, TcpListener, Appliance) {
    let appliance = Appliance::start();
    let (server, upstream) = server();
    server.set_nonblocking(true).unwrap();
    let gate = Running::tcp(Gate { kind, start_timeout, ..gate(upstream, Policy::Auto) }, appliance.address);
    (gate, server, appliance)
}

fn nobody_has_come(server: &TcpListener) -> bool {
    server.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn probes_of_a_port_are_counted_and_not_passed_on_to_the_server() {
    let log = keep_log();
    for kind in [Kind::MariaDb, Kind::Postgres, Kind::Redis] {
        let (gate, server, _appliance) = open(kind, Duration::from_secs(30));
        // More than `max_connect_errors`.
        for _ in 0..130 {
            drop(TcpStream::connect(gate.address).unwrap());
        }
        until("all are counted", || (gate.status().gates[0].totals.probes == 130).then_some(()));
        assert!(nobody_has_come(&server), "{kind:?}");
        let seen = gate.status().gates[0].clone();
        assert_eq!((seen.connections.len(), seen.totals.connections, seen.totals.overdue), (0, 130, 0), "{kind:?}");
        let words = format!("without a word, as health checks do: {}", server.local_addr().unwrap());
        until_logged(&log, &words);
        let said = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
        assert_eq!(said.matches(&words).count(), 1, "{said}");
    }
}

#[test]
fn a_caller_is_connected_with_its_first_byte_and_a_silent_one_is_dropped() {
    for kind in [Kind::Postgres, Kind::Redis] {
        let (gate, server, _appliance) = open(kind, Duration::from_secs(1));
        let mut silent = TcpStream::connect(gate.address).unwrap();
        silent.set_read_timeout(Some(SOON)).unwrap();
        let mut speaks = TcpStream::connect(gate.address).unwrap();
        gate.connection("it is seen", |it| it.phase == "silent");
        speaks.write_all(b"\0\0\0\x09\0\x03\0\0\0PING\r\n").unwrap();
        let (mut stream, _) = until("the server is connected to", || server.accept().ok());
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.read_exact(&mut [0; 9]).unwrap();
        let begun = Instant::now();
        assert_eq!(silent.read(&mut [0]).unwrap(), 0, "dropped");
        assert!(begun.elapsed() < Duration::from_secs(25));
        assert!(nobody_has_come(&server));
        until("counted", || (gate.status().gates[0].totals.overdue >= 1).then_some(()));
    }
}

#[test]
fn a_silent_caller_that_stays_is_connected_if_the_server_sends_first() {
    let log = keep_log();
    let (gate, server, _appliance) = open(Kind::MariaDb, Duration::from_secs(30));
    let begun = Instant::now();
    let mut caller = TcpStream::connect(gate.address).unwrap();
    caller.set_read_timeout(Some(SOON)).unwrap();
    let (mut stream, _) = until("the server is connected to", || server.accept().ok());
    assert!(begun.elapsed() >= SILENT_WAIT && begun.elapsed() < SILENT_WAIT * 8, "{:?}", begun.elapsed());
    let greeting = b"\x20\0\0\0\x0a5\0\x07\0\0\0abcdefgh\0\x05\xa2\x21\x02\0\0\0\x15\0\0\0\0\0\0\0\0";
    stream.write_all(greeting).unwrap();
    let mut got = vec![0; greeting.len()];
    caller.read_exact(&mut got).unwrap();
    // It leaves without an answer; the server counts that as an error.
    drop(caller);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(stream);
    until("counted", || (gate.status().gates[0].totals.probes == 1).then_some(()));
    let line = until_logged(&log, "left without a word: a mirror that insists on TLS");
    assert!(line.contains("MASTER_SSL=0"), "{line}");
}
