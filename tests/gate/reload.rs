//! Settings that change while a gate runs: all of them or none, for later connections, and no connection ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use onwire::config::gate::{Gate, Policy};
use onwire::config::reload::Outcome;
use onwire::gate::status::GateStatus;
use rustls::StreamOwned;

use crate::secure::{certificate, client};
use crate::servers::free_port;
use crate::testbed::*;

/// Far longer than a notification needs.
const LONG_ENOUGH: Duration = Duration::from_millis(300);

/// An address on which nobody listens.
fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// A gate of this name on an address of its own.
fn named(name: &str, upstream: SocketAddr) -> Gate {
    Gate { name: name.to_owned(), listen: free_address(), ..gate(upstream, Policy::Auto) }
}

/// Two gates of lines with contact to their appliance, each with its primary.
struct Two {
    appliance: Appliance,
    gate: Running,
    primaries: [TcpListener; 2],
    listen: [SocketAddr; 2],
}

impl Two {
    fn start() -> Two {
        let [(one, at_one), (other, at_other)] = [server(), server()];
        let appliance = Appliance::start();
        let gates = vec![named("one", at_one), named("other", at_other)];
        let listen = [gates[0].listen, gates[1].listen];
        let gate = Running::all_lines(gates, appliance.address);
        gate.hears();
        Two { appliance, gate, primaries: [one, other], listen }
    }

    fn session(&self, which: usize) -> Session {
        Session::at(self.listen[which], &self.primaries[which])
    }
}

fn is_closed(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

#[test]
fn connections_keep_the_settings_they_began_with_and_later_ones_get_the_new() {
    let Scene { appliance, gate, mut session, primary } = Scene::open(Policy::Auto);
    let (other, elsewhere) = server();
    let text = gate.follow(|gates| {
        gates.gates[0].policy = Policy::Available(Duration::from_millis(50));
        gates.gates[0].upstream = elsewhere;
    });
    assert_eq!(
        text,
        "gates[test].upstream changed, gates[test].policy changed; 1 connection keeps the settings it began with"
    );
    let mut later = Session::open(&gate, &other);
    later.replicate("one\n");
    later.hears("X1\n");
    session.replicate("one\n");
    session.hears_nothing(LONG_ENOUGH);
    appliance.protect(session.key, 4);
    session.hears("P1\n");
    let seen = gate.gate("test").unwrap();
    assert_eq!((seen.policy.as_str(), seen.upstream, seen.earlier_settings), ("available=50ms", elsewhere, 1));
    let earlier = |seen: &GateStatus| seen.connections.iter().map(|it| it.earlier_settings).collect::<Vec<_>>();
    assert_eq!(earlier(&seen), [true, false]);
    // Back again: now the later one is the one with other settings.
    gate.follow(|_| {});
    assert_eq!(earlier(&gate.gate("test").unwrap()), [false, true]);
    later.replicate("two\n");
    later.hears("X2\n");
    let mut last = Session::open(&gate, &primary);
    last.replicate("one\n");
    last.hears_nothing(LONG_ENOUGH);
}

#[test]
fn what_does_not_matter_to_a_connection_leaves_it_as_it_is() {
    let Scene { gate, session: _session, primary, appliance: _appliance } = Scene::open(Policy::Auto);
    assert_eq!(gate.follow(|_| {}), "nothing has changed");
    let text = gate.follow(|gates| gates.gates[0].connections = 2);
    assert_eq!(text, "gates[test].connections changed", "no connection has other settings");
    let _second = Session::open(&gate, &primary);
    let mut third = TcpStream::connect(gate.address).unwrap();
    third.set_read_timeout(Some(SOON)).unwrap();
    assert!(!matches!(third.read(&mut [0]), Ok(1..)), "there are two already");
    assert_eq!(gate.gate("test").unwrap().totals.refused, 1);
    // Fewer places than connections end none.
    gate.follow(|gates| gates.gates[0].connections = 1);
    assert_eq!(gate.gate("test").unwrap().connections.len(), 2);
}

#[test]
fn a_gate_that_was_removed_accepts_nobody_and_its_connections_go_on() {
    let two = Two::start();
    let mut session = two.session(0);
    // These wait to be accepted, or are accepted: for them their connections have begun.
    let waiting: Vec<_> = (0..200).map(|_| TcpStream::connect(two.listen[0]).unwrap()).collect();
    let text = two.gate.follow(|gates| drop(gates.gates.remove(0)));
    assert!(text.starts_with("gates[one] removed; ") && text.contains("connections keep"), "{text}");
    assert!(is_closed(two.listen[0]));
    waiting.iter().for_each(|mut caller| caller.write_all(b"A1\n").unwrap());
    for _ in &waiting {
        let (mut primary, _) = two.primaries[0].accept().unwrap();
        primary.set_read_timeout(Some(SOON)).unwrap();
        primary.read_exact(&mut [0; 3]).unwrap();
    }
    drop(waiting);
    until("they are over", || two.gate.gate("one").is_some_and(|it| it.connections.len() == 1));
    session.replicate("one\n");
    two.appliance.protect(session.key, 4);
    session.hears("P1\n");
    let names: Vec<_> = two.gate.status().gates.into_iter().map(|it| (it.name, it.state)).collect();
    let expected = [("other", "listening"), ("one", "draining")];
    assert_eq!(names, expected.map(|(name, state)| (name.to_owned(), state.to_owned())));
    two.session(1).replicate("one\n");

    // It comes back while a connection is left, and counts on.
    two.gate.follow(|_| {});
    assert_eq!(two.gate.gate("one").unwrap().totals.connections, 201);
    two.session(0).replicate("one\n");
    two.gate.follow(|gates| drop(gates.gates.remove(0)));
    session.replicate("two\n");
    drop(session);
    until("it is gone with its last connection", || two.gate.gate("one").is_none());
    assert!(is_closed(two.listen[0]) && !is_closed(two.listen[1]));
}

#[test]
fn a_taken_port_takes_everything_back() {
    let two = Two::start();
    let mut session = two.session(0);
    let [(_taken, at_taken), (_too, at_too)] = [server(), server()];
    let free = free_address();
    let Outcome { is_good, text, .. } = two.gate.reload(|gates| {
        gates.gates[0].policy = Policy::Strict;
        gates.gates[1].listen = at_taken;
        gates.gates.push(Gate { listen: free, ..named("third", at_taken) });
        gates.gates.push(Gate { listen: at_too, ..named("fourth", at_taken) });
    });
    assert!(!is_good);
    for (name, address) in [("other", at_taken), ("fourth", at_too)] {
        let words = format!("gate {name} cannot listen on {address}: the port is in use");
        assert!(text.contains(&words), "all that is wrong is said: {text}");
    }
    assert!(text.ends_with("nothing has changed"), "{text}");
    let policies: Vec<_> = two.gate.status().gates.into_iter().map(|it| (it.name, it.policy)).collect();
    assert_eq!(policies, ["one", "other"].map(|name| (name.to_owned(), "auto".to_owned())));
    assert!(is_closed(free), "what was opened is closed again");
    for which in [0, 1] {
        two.session(which).replicate("one\n");
    }
    session.replicate("one\n");
    two.appliance.protect(session.key, 4);
    session.hears("P1\n");
}

#[test]
fn gates_change_their_addresses_and_names_while_callers_wait() {
    let two = Two::start();
    let mut sessions = [two.session(0), two.session(1)];
    // One takes the address of the other, and the other moves to a new one.
    let free = free_address();
    let text = two.gate.follow(|gates| {
        gates.gates[0].listen = two.listen[1];
        gates.gates[1].listen = free;
    });
    assert_eq!(text, "gates[one].listen changed, gates[other].listen changed", "connections have no other settings");
    Session::at(two.listen[1], &two.primaries[0]).replicate("one\n");
    Session::at(free, &two.primaries[1]).replicate("one\n");
    assert!(is_closed(two.listen[0]));
    // Another name is another gate: it takes over the socket, and the old one has its connections.
    two.gate.follow(|gates| gates.gates[0].name = "new".to_owned());
    two.session(0).replicate("one\n");
    two.session(1).replicate("one\n");
    let seen = |name| two.gate.gate(name).map(|it: GateStatus| (it.state, it.listen));
    assert_eq!(seen("new"), Some(("listening".to_owned(), two.listen[0])));
    assert_eq!(seen("one").unwrap().0, "draining");
    for session in &mut sessions {
        session.replicate("one\n");
        two.appliance.protect(session.key, 4);
        session.hears("P1\n");
    }
}

#[test]
fn a_renewed_certificate_is_for_later_connections() {
    let directory = tempfile::tempdir().unwrap();
    let own = certificate(directory.path(), "gate");
    let Scene { gate, session, primary, appliance: _appliance } =
        Scene::with(|upstream| Gate { tls: Some(own.clone()), ..gate(upstream, Policy::Auto) });
    let Session { primary: mut at_primary, mirror, .. } = session;
    let mut first = StreamOwned::new(client(&own), mirror);
    let pass = |mirror: &mut StreamOwned<_, TcpStream>, primary: &mut TcpStream| {
        mirror.write_all(b"A1\n").unwrap();
        primary.read_exact(&mut [0; 3]).unwrap();
    };
    pass(&mut first, &mut at_primary);
    let trusts_old = client(&own);
    assert_eq!(gate.follow(|_| {}), "nothing has changed", "the files are the same");

    // The files change, and their names do not.
    let renewed = certificate(directory.path(), "gate");
    let text = gate.follow(|_| {});
    assert_eq!(text, "gates[test]: certificate files changed; 1 connection keeps the settings it began with");
    pass(&mut first, &mut at_primary);
    let Session { primary: mut second_primary, mirror, .. } = Session::open(&gate, &primary);
    let mut second = StreamOwned::new(client(&renewed), mirror);
    pass(&mut second, &mut second_primary);
    // The primary's end stays open: a gate that sees it close ends the other leg too, in the middle of the handshake.
    let Session { primary: _at_primary, mirror, .. } = Session::open(&gate, &primary);
    let error = StreamOwned::new(trusts_old, mirror).write_all(b"A1\n").unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    // A key that does not belong to the certificate changes nothing, and neither does the rest of the file.
    let key = std::fs::read(&own.key).unwrap();
    std::fs::write(&own.key, "-----BEGIN PRIVATE KEY-----\nMA==\n").unwrap();
    let Outcome { is_good, text, .. } = gate.reload(|gates| gates.gates[0].policy = Policy::Strict);
    assert!(!is_good && text.contains("gate test: ") && text.contains("gate.key"), "{text}");
    assert_eq!(gate.gate("test").unwrap().policy, "auto");
    let Session { primary: mut third_primary, mirror, .. } = Session::open(&gate, &primary);
    pass(&mut StreamOwned::new(client(&renewed), mirror), &mut third_primary);
    std::fs::write(&own.key, key).unwrap();
    assert!(gate.follow(|_| {}).starts_with("nothing has changed"));
}

#[test]
fn another_appliance_is_asked_for_all_connections() {
    let Scene { appliance, gate, mut session, .. } = Scene::open(Policy::Auto);
    session.replicate("one\ntwo\n");
    appliance.protect(session.key, 4);
    session.hears("P1\n");
    let other = Appliance::at("127.0.0.1:0".parse().unwrap(), 43);
    assert_eq!(gate.follow(|gates| gates.notify.address = other.address), "notify.address changed");
    gate.hears();
    assert_eq!(gate.status().notify.address, other.address);
    // Only what the present one says counts.
    appliance.protect(session.key, 8);
    session.hears_nothing(LONG_ENOUGH);
    other.protect(session.key, 8);
    session.hears("P2\n");
}

#[test]
fn another_key_that_the_appliance_does_not_know_is_noticed_and_can_be_taken_back() {
    let log = keep_log();
    let Scene { appliance, gate, mut session, .. } = Scene::open(Policy::Auto);
    session.replicate("one\n");
    gate.follow(|gates| gates.notify.key_id = 7);
    let words = format!("the appliance at {} does not answer", appliance.address);
    until_logged(&log, &words);
    appliance.protect(session.key, 4);
    session.hears_nothing(LONG_ENOUGH);
    gate.follow(|_| {});
    session.hears("P1\n");
    assert_eq!(gate.gate("test").unwrap().connections.len(), 1);
}

#[test]
fn what_needs_a_restart_is_named_and_nothing_changes() {
    let Scene { gate, mut session, .. } = Scene::open(Policy::Auto);
    let Outcome { is_good, text, .. } = gate.reload(|gates| {
        gates.status = Some("/elsewhere.sock".into());
        gates.log.format = onwire::config::LogFormat::Json;
        gates.gates[0].policy = Policy::Strict;
    });
    assert!(!is_good && text.contains("status.socket, log.format; restart onwire"), "{text}");
    assert_eq!(gate.gate("test").unwrap().policy, "auto");
    session.replicate("one\n");
}

#[test]
fn a_cap_that_comes_with_a_reload_holds_for_later_connections() {
    const CAP: u64 = 4096;
    let appliance = Appliance::start();
    let (mirror, upstream) = server();
    let gate = Running::tcp(gate(upstream, Policy::Auto), appliance.address);
    gate.hears();
    gate.follow(|gates| gates.gates[0].max_unprotected = Some(CAP));
    let mut application = TcpStream::connect(gate.address).unwrap();
    let (mut received, _) = mirror.accept().unwrap();
    received.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    application.set_nonblocking(true).unwrap();
    let mut accepted = 0;
    while let Ok(count) = application.write(&[7; 65536]) {
        accepted += count;
    }
    assert!(accepted > 0);
    // The cap passes, however slow the machine is, and nothing more.
    received.set_read_timeout(Some(SOON)).unwrap();
    received.read_exact(&mut [0; CAP as usize]).unwrap();
    received.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    assert!(received.read(&mut [0; 1]).is_err());
}

#[test]
fn no_caller_is_lost_while_the_gate_reloads_a_hundred_times() {
    let (server, upstream) = server();
    let appliance = Appliance::start();
    let gate = Running::tcp(named("one", upstream), appliance.address);
    let echo = std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
            if byte == *b"e" {
                return;
            }
        }
    });
    let ask = |byte: u8| {
        let mut caller = TcpStream::connect(gate.address).unwrap();
        caller.set_read_timeout(Some(SOON)).unwrap();
        caller.write_all(&[byte]).unwrap();
        let mut answer = [0];
        caller.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], byte);
    };
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut rounds = 0;
    std::thread::scope(|scope| {
        let callers = scope.spawn(|| {
            while !done.load(Relaxed) {
                ask(b'a');
                asked.fetch_add(1, Relaxed);
            }
        });
        let spare = free_address();
        while !callers.is_finished() && (rounds < 100 || asked.load(Relaxed) < 500) {
            gate.follow(|gates| {
                let one = &mut gates.gates[0];
                // Every second round the socket goes to a gate of another name.
                one.name = if rounds % 4 < 2 { "one" } else { "two" }.to_owned();
                one.start_timeout = Duration::from_millis(10_000 + rounds);
                if rounds % 3 == 0 {
                    gates.gates.push(Gate { listen: spare, ..named("spare", upstream) });
                }
            });
            rounds += 1;
        }
        done.store(true, Relaxed);
    });
    ask(b'e');
    echo.join().unwrap();
    assert_eq!(gate.status().reload.attempts, rounds);
}
