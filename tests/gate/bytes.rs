//! A gate carries bytes unchanged, holds few of them, and keeps its cap: back-pressure, half-close, many connections at
//! once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use onwire::config::gate::{Gate, Policy};
use onwire::gate::leg::HIGH;
use onwire::notify::message::FlowKey;

use crate::testbed::*;

/// Pseudo-random bytes: every shift and every loss changes them.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..len).map(step).collect()
}

#[test]
fn one_half_of_a_connection_may_end_before_the_other() {
    let appliance = Appliance::start();
    let (server, upstream) = server();
    let gate = Running::tcp(gate(upstream, Policy::Auto), appliance.address);
    let mut application = TcpStream::connect(gate.address).unwrap();
    let (mut mirror, _) = server.accept().unwrap();
    for stream in [&application, &mirror] {
        stream.set_read_timeout(Some(SOON)).unwrap();
    }
    let request = noise(3_000_000, 1);
    let sent = request.clone();
    let writer = std::thread::spawn(move || {
        application.write_all(&sent).unwrap();
        application.shutdown(Shutdown::Write).unwrap();
        application
    });
    let mut got = Vec::new();
    mirror.read_to_end(&mut got).unwrap();
    assert!(got == request);
    let mut application = writer.join().unwrap();
    let answer = noise(2_000_000, 2);
    let expected = answer.clone();
    let writer = std::thread::spawn(move || mirror.write_all(&answer).unwrap());
    let mut got = Vec::new();
    application.read_to_end(&mut got).unwrap();
    assert!(got == expected);
    writer.join().unwrap();
    until("the connection is over", || gate.status().gates[0].connections.is_empty().then_some(()));
}

#[test]
fn no_more_than_the_cap_passes_unprotected() {
    const CAP: usize = 10_000;
    let appliance = Appliance::start();
    let (server, upstream) = server();
    let settings = Gate { max_unprotected: Some(CAP as u64), ..gate(upstream, Policy::Auto) };
    let gate = Running::tcp(settings, appliance.address);
    gate.hears();
    let mut application = TcpStream::connect(gate.address).unwrap();
    let (mut mirror, _) = server.accept().unwrap();
    mirror.set_read_timeout(Some(SOON)).unwrap();
    let key = FlowKey::tcp(mirror.peer_addr().unwrap(), mirror.local_addr().unwrap());
    let data = noise(300_000, 3);
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        application.write_all(&sent).unwrap();
        application
    });
    let (mut got, mut protected) = (Vec::new(), 0usize);
    // There is a mark at each sixteenth of the cap.
    for step in [0, CAP / 16, CAP / 2, CAP, 2 * CAP] {
        // Never more than the cap at once: bytes that have not arrived yet cannot be protected.
        protected = (protected + step).min(got.len());
        appliance.protect(key, protected as u64);
        let end = protected + CAP;
        let mut more = vec![0; end - got.len()];
        mirror.read_exact(&mut more).unwrap();
        got.extend(more);
        mirror.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(mirror.read(&mut [0]).is_err(), "more than {CAP} bytes are unprotected");
        mirror.set_read_timeout(Some(SOON)).unwrap();
        let seen = gate.connection("at the cap", |it| it.phase == "at the cap");
        assert_eq!((seen.sent, seen.unprotected), (end as u64, CAP as u64));
    }
    while got.len() < data.len() {
        appliance.protect(key, got.len() as u64);
        let mut more = vec![0; CAP.min(data.len() - got.len())];
        mirror.read_exact(&mut more).unwrap();
        got.extend(more);
    }
    assert!(got == data);
    drop(writer.join().unwrap());
}

#[test]
fn a_mirror_that_never_reads_costs_bounded_memory() {
    let Scene { appliance: _appliance, gate, mut session, .. } = Scene::open(Policy::Auto);
    // Lines, so that each of them is a mark.
    let data: Vec<u8> = (0..40_000_000u32).map(|at| if at % 16 == 15 { b'\n' } else { b'x' }).collect();
    session.primary.set_nonblocking(true).unwrap();
    let (mut sent, mut still) = (0, Instant::now());
    while sent < data.len() && still.elapsed() < Duration::from_millis(700) {
        match session.primary.write(&data[sent..]) {
            Ok(count) => (sent, still) = (sent + count, Instant::now()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    assert!(sent < data.len(), "everything was taken, so nothing was held back");
    let seen = gate.connection("a full buffer", |it| it.buffered.0 > 0);
    assert!(seen.buffered.0 <= HIGH as u64 + 64 * 1024, "{seen:?}");
    assert!(seen.waiting <= 16_384, "{seen:?}");
    // Nothing was lost by waiting.
    session.primary.set_nonblocking(false).unwrap();
    let mut primary = session.primary.try_clone().unwrap();
    let rest = data[sent..].to_vec();
    let writer = std::thread::spawn(move || {
        primary.write_all(&rest).unwrap();
        primary.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    session.mirror.read_to_end(&mut got).unwrap();
    assert!(got == data);
    writer.join().unwrap();
}

#[test]
fn a_primary_that_never_reads_its_acknowledgements_costs_bounded_memory() {
    let Scene { appliance: _appliance, gate, mut session, .. } = Scene::open(Policy::Available(Duration::ZERO));
    let mut mirror = session.mirror.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut total = 0;
        let mut bytes = vec![0; 1 << 20];
        while let Ok(count @ 1..) = mirror.read(&mut bytes) {
            total += count;
        }
        total
    });
    // The mirror's acknowledgements also pile up for a primary that does not read. The time limit applies only to
    // writes on this socket; non-blocking mode would also apply to the reader.
    let mut talker = session.mirror.try_clone().unwrap();
    talker.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
    let words = "B00000\n".repeat(100_000);
    // The sockets on the way hold an unknown amount: go on until the gate holds so much that it reads no more, and well
    // beyond.
    let mut beyond = 0;
    let seen = until("a full buffer", || {
        let _ = talker.write(words.as_bytes());
        session.primary.write_all(&b"y\n".repeat(100)).unwrap();
        let seen = gate.connection("the connection", |_| true);
        beyond += u32::from(seen.buffered.1 >= HIGH as u64);
        (beyond == 100).then_some(seen)
    });
    assert!(seen.buffered.1 <= HIGH as u64 + 128 * 1024, "{seen:?}");
    assert!(seen.waiting > 0 && seen.waiting <= 16_384, "{seen:?}");
    session.primary.shutdown(Shutdown::Both).unwrap();
    drop(talker);
    session.mirror.shutdown(Shutdown::Both).unwrap();
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn many_connections_at_once_each_get_their_own_bytes() {
    const MANY: usize = 200;
    let appliance = Appliance::start();
    let (server, upstream) = server();
    let settings = Gate { connections: MANY, ..gate(upstream, Policy::Auto) };
    let gate = Running::tcp(settings, appliance.address);
    let echo = std::thread::spawn(move || {
        for stream in server.incoming().take(MANY) {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..count]).unwrap();
                }
            });
        }
    });
    let clients: Vec<_> = (0..MANY)
        .map(|number| {
            let address = gate.address;
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                let data = noise(20_000 + number, number as u64);
                stream.write_all(&data).unwrap();
                let mut got = vec![0; data.len()];
                stream.read_exact(&mut got).unwrap();
                assert!(got == data, "connection {number}");
                stream
            })
        })
        .collect();
    let streams: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    echo.join().unwrap();
    // One more connection is refused, and the others continue.
    let mut extra = TcpStream::connect(gate.address).unwrap();
    extra.set_read_timeout(Some(SOON)).unwrap();
    assert!(!matches!(extra.read(&mut [0]), Ok(1..)));
    let seen = gate.status().gates[0].clone();
    assert_eq!((seen.connections.len(), seen.totals.connections, seen.totals.refused), (MANY, MANY as u64, 1));
    drop(streams);
    until("all are over", || gate.status().gates[0].connections.is_empty().then_some(()));
    assert_eq!(gate.status().notify.flows, 0);
}

#[test]
fn an_absent_server_ends_the_connection_and_is_counted() {
    let appliance = Appliance::start();
    let (server, upstream) = server();
    drop(server);
    let gate = Running::tcp(gate(upstream, Policy::Auto), appliance.address);
    let mut application = TcpStream::connect(gate.address).unwrap();
    application.set_read_timeout(Some(SOON)).unwrap();
    assert!(!matches!(application.read(&mut [0]), Ok(1..)));
    until("counted", || (gate.status().gates[0].totals.connect_failures == 1).then_some(()));
}

#[test]
fn a_side_that_vanishes_ends_the_other_after_its_bytes_have_arrived() {
    let Scene { appliance: _appliance, gate, mut session, .. } = Scene::open(Policy::Auto);
    session.replicate("one\n");
    session.primary.write_all(b"last words\n").unwrap();
    drop(session.primary);
    let mut got = Vec::new();
    session.mirror.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last words\n");
    drop(session.mirror);
    until("over", || gate.status().gates[0].connections.is_empty().then_some(()));
}

#[test]
fn a_stop_ends_everything_soon_even_with_a_mirror_that_does_not_read() {
    let Scene { appliance: _appliance, gate, mut session, .. } = Scene::open(Policy::Auto);
    session.primary.set_nonblocking(true).unwrap();
    while session.primary.write(&[b'z'; 100_000]).is_ok() {}
    let start = Instant::now();
    let last = gate.stop();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(last.state, "stopping");
    assert_eq!(last.gates[0].totals.connections, 1);
}
