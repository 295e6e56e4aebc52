//! The primary's site is lost: `onwire drain` at the mirror waits for the data in flight and reports what is missing.
//!
//! The order of a disaster: loss, then a cut at the entrance of the link, then the end of the processes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use onwire::notify::{
    client::{Client, Waited},
    message::{Level, LinkState},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    appliance::Pair,
    protected_site::{client, connect, notifying_pair, protected, soon, wait_link},
    testbed::{MIRROR, ONWIRE, Testbed},
};

/// Drains at the mirror's appliance; returns the exit code, the JSON object, and the error output.
fn drain(pair: &Pair<'_>, arguments: &[&str]) -> (i32, Value, String) {
    let socket = pair.syracuse.socket.to_str().unwrap();
    let output = Command::new(ONWIRE).args(["drain", "--json", "--socket", socket]).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let object = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), object, errors)
}

fn reasons(object: &Value) -> String {
    let reasons = object["peers"][0]["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// A program at the mirror that counts the bytes it reads from one connection.
fn counter(testbed: &Testbed) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = testbed.node("mirror").run(|| TcpListener::bind((MIRROR[0], 0)).unwrap()).unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut sink = [0; 65_536];
        while let Ok(len @ 1..) = stream.read(&mut sink) {
            counted.fetch_add(len as u64, Ordering::Relaxed);
        }
    });
    (address, count)
}

/// The flow of this stream in the drain's report.
fn flow_of<'v>(object: &'v Value, stream: &TcpStream) -> &'v Value {
    let source = stream.local_addr().unwrap().to_string();
    let flows = object["peers"][0]["arrived"]["flows"].as_array().unwrap();
    flows.iter().find(|flow| flow["source"] == source.as_str()).unwrap_or_else(|| panic!("no {source}: {object:#}"))
}

#[test]
fn a_lost_site_drains_to_complete_with_all_protected_data() {
    let testbed = Testbed::emulated("delay 50ms");
    let steady = json!({ "block_symbols": 16, "repair": { "fixed": 16 } });
    let (mut pair, secret) = notifying_pair(&testbed, &[("/redundancy/steady", steady)]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let (address, count) = counter(&testbed);
    let mut stream = connect(&testbed, address);
    let commit = |client: &mut Client, stream: &mut TcpStream| {
        stream.write_all(&[7; 4096]).unwrap();
        protected(client, stream)
    };
    commit(&mut client, &mut stream);
    // While the primary lives, drain returns `incomplete` with the reason.
    let (code, object, errors) = drain(&pair, &["--timeout", "2500ms"]);
    assert_eq!((code, &object["verdict"], &object["peers"][0]["alive"]), (1, &json!("incomplete"), &json!(true)));
    assert!(errors.contains("lives") && reasons(&object).contains("silence"), "{errors} {object:#}");

    testbed.wan().tell("set forth loss 5%").unwrap();
    let (mut written, mut on_wire) = (4096, 0);
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        on_wire += u32::from(commit(&mut client, &mut stream) == Level::OnWire);
        written += 4096;
    }
    testbed.wan().tell("cut").unwrap();
    pair.ithaca.kill();
    let began = Instant::now();
    let (code, object, _) = drain(&pair, &[]);
    println!(
        "{on_wire} of {written} bytes' commits were told before the mirror had them; drained in {:?}",
        began.elapsed()
    );
    assert!(on_wire > 5, "nothing was in flight: {on_wire}");
    assert_eq!((code, &object["verdict"]), (0, &json!("complete")), "{object:#}");
    let flow = flow_of(&object, &stream);
    assert_eq!((&flow["bytes"], &flow["missing"]), (&json!(written), &json!([])), "{object:#}");
    assert_eq!(flow["acknowledged"], json!(written), "{object:#}");
    assert_eq!(flow["from_syn"], json!(true));
    assert_eq!(count.load(Ordering::Relaxed), written, "what was protected is at the mirror");
    let recovered = pair.syracuse.status().peers[0].received.recovered_blocks;
    assert!(recovered > 0, "the control: nothing was lost on the way");
}

/// Loses a site while the link loses or passes each write in turn; five bytes arrive before. Lost data is not
/// retransmitted. Returns the pair, the stream, and the count of bytes that the program at the mirror received.
fn lose<'g>(testbed: &'g Testbed, spared: &[bool]) -> (Pair<'g>, TcpStream, Arc<AtomicU64>) {
    let steady = json!({ "block_symbols": 8, "repair": { "fixed": 1 } });
    let (mut pair, secret) = notifying_pair(testbed, &[("/redundancy/steady", steady)]);
    let mut client = client(testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let (address, count) = counter(testbed);
    // Even on a busy machine, lost data must not be retransmitted before the site dies: neither by a timer nor after
    // one acknowledgement of other data.
    let settings = ["net.ipv4.tcp_rto_min_us=20000000", "net.ipv4.tcp_early_retrans=0", "net.ipv4.tcp_sack=0"];
    testbed.run("primary", &[&["sysctl", "-q", "-w"], &settings[..]].concat()).unwrap();
    let mut stream = connect(testbed, address);
    stream.write_all(b"first").unwrap();
    protected(&mut client, &stream);
    let deadline = soon();
    while count.load(Ordering::Relaxed) < 5 {
        assert!(Instant::now() < deadline, "the first bytes never came");
        thread::sleep(Duration::from_millis(5));
    }
    for is_spared in spared {
        testbed.wan().tell(if *is_spared { "set forth loss 0%" } else { "set forth loss 100%" }).unwrap();
        stream.write_all(&[7; 1200]).unwrap();
        protected(&mut client, &stream);
    }
    testbed.wan().tell("cut").unwrap();
    pair.ithaca.kill();
    (pair, stream, count)
}

#[test]
fn a_write_lost_with_everything_after_it_is_unknown_to_drain() {
    let testbed = Testbed::emulated("delay 100ms");
    let (pair, stream, count) = lose(&testbed, &[true, false]);
    let (code, object, _) = drain(&pair, &[]);
    // The documented limit: too little repair for the loss, and no datagram arrived that could reveal it.
    assert_eq!((code, &object["verdict"]), (0, &json!("complete")), "{object:#}");
    assert_eq!(
        (&flow_of(&object, &stream)["bytes"], count.load(Ordering::Relaxed)),
        (&json!(1205), 1205),
        "{object:#}"
    );
    let truth = testbed.wan().truth().unwrap().forth;
    assert!(truth.lost_last >= 2, "one source and one repair symbol at the least: {truth:?}");
}

#[test]
fn a_site_lost_under_too_much_loss_drains_to_incomplete_and_names_the_flow() {
    let testbed = Testbed::emulated("delay 100ms");
    let (mut pair, stream, count) = lose(&testbed, &[false, true]);
    let (code, object, _) = drain(&pair, &[]);
    assert_eq!((code, &object["verdict"]), (1, &json!("incomplete")), "{object:#}");
    let flow = flow_of(&object, &stream);
    let source = stream.local_addr().unwrap().to_string();
    let said = reasons(&object);
    assert!(said.contains("were given up") && said.contains(&source) && said.contains("missing bytes"), "{said}");
    let missing = flow["missing"].as_array().unwrap();
    assert!(missing.len() == 1 && missing[0]["from"] == 5 && missing[0]["to"] == 1205, "{object:#}");
    assert_eq!((&flow["bytes"], &flow["highest"]), (&json!(5), &json!(2405)), "{object:#}");
    assert_eq!(count.load(Ordering::Relaxed), 5, "the program was given what has no gap before it");

    let words = drain(&pair, &["--peer", "nobody"]);
    assert!(words.0 == 2 && words.2.contains("found nobody") && words.2.contains("ithaca"), "{words:?}");
    // An appliance started after the disaster has no information about it and must not report `complete`.
    pair.syracuse.kill();
    pair.syracuse.start();
    let deadline = soon();
    while pair.syracuse.try_status().is_err() {
        assert!(Instant::now() < deadline, "{}", pair.syracuse.output());
        thread::sleep(Duration::from_millis(20));
    }
    let (code, object, _) = drain(&pair, &[]);
    assert!(code == 1 && reasons(&object).contains("nothing has come from this peer"), "{object:#}");
}

#[test]
fn a_drain_during_a_standstill_answers_only_after_the_appliance_has_read() {
    let testbed = Testbed::emulated("delay 50ms");
    let steady = json!({ "block_symbols": 16, "repair": { "fixed": 16 } });
    let (mut pair, secret) = notifying_pair(&testbed, &[("/redundancy/steady", steady)]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let (address, count) = counter(&testbed);
    let mut stream = connect(&testbed, address);
    stream.write_all(&[7; 1024]).unwrap();
    protected(&mut client, &stream);
    let (mut written, mut protected_bytes) = (1024, 1024);
    testbed.wan().tell("set forth loss 5%").unwrap();
    pair.syracuse.set_halted(true);
    // As long as the last proof is valid.
    let end = Instant::now() + Duration::from_millis(150);
    while Instant::now() < end {
        stream.write_all(&[7; 1024]).unwrap();
        written += 1024;
        if !matches!(client.wait_all(&stream, end).unwrap(), Waited::Protected { .. }) {
            break;
        }
        protected_bytes = written;
    }
    assert!(protected_bytes > 1024, "nothing was protected during the standstill");
    testbed.wan().tell("cut").unwrap();
    pair.ithaca.kill();
    let (asked, id) = (Instant::now(), Pid::from_raw(pair.syracuse.id() as i32).unwrap());
    let going_on = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1200));
        kill_process(id, Signal::CONT).unwrap();
    });
    let (code, object, _) = drain(&pair, &[]);
    let waited = asked.elapsed();
    going_on.join().unwrap();
    assert_eq!((code, &object["verdict"]), (0, &json!("complete")), "{object:#}");
    let flow = flow_of(&object, &stream);
    assert!(
        flow["bytes"].as_u64() >= Some(protected_bytes) && flow["missing"] == json!([]),
        "{protected_bytes}: {object:#}"
    );
    let (silent, quiet) = (object["peers"][0]["arrived"]["silent_ms"].as_f64(), Some(500.0));
    assert!(silent >= quiet && waited > Duration::from_millis(1650), "it did not listen: {waited:?} {object:#}");
    let deadline = soon();
    while count.load(Ordering::Relaxed) < protected_bytes {
        assert!(Instant::now() < deadline, "what was protected is at the mirror");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn repeated_standstills_lose_no_datagrams_from_the_socket() {
    let testbed = Testbed::emulated("delay 5ms, loss 10%");
    // More than 16 of 32 datagrams are lost once in about 800 million blocks.
    let steady = json!({ "block_symbols": 16, "repair": { "fixed": 16, "assume_loss": "10%" } });
    let (mut pair, secret) = notifying_pair(&testbed, &[("/redundancy/steady", steady)]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let is_over = Arc::new(AtomicBool::new(false));
    let socket = testbed.node("primary").run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let over = is_over.clone();
    let sending = thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            for _ in 0..20 {
                // A send may fail because no program listens there; that does not matter to the appliances.
                let _ = socket.send_to(&[7; 1000], (MIRROR[0], 9));
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    let rounds = [[130, 1, 130], [130, 3, 130], [60, 1, 300], [300, 1, 60], [130, 1, 130], [15, 1, 500]];
    for round in rounds {
        thread::sleep(Duration::from_millis(60));
        for (step, millis) in round.into_iter().enumerate() {
            pair.syracuse.set_halted(step % 2 == 0);
            thread::sleep(Duration::from_millis(millis));
        }
        pair.syracuse.set_halted(false);
    }
    thread::sleep(Duration::from_millis(200));
    is_over.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    let status = pair.syracuse.status();
    let received = &status.peers[0].received;
    assert_eq!(status.lanes.iter().map(|lane| lane.receive_overflows).sum::<u64>(), 0, "the control: all came");
    assert!(received.recovered_blocks > 20, "the control: the link lost some: {received:?}");
    assert_eq!(received.unrecoverable_blocks, 0, "{received:?}");
}
