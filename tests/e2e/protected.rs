//! The notifications of a running appliance about real connections.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use onwire::notify::{
    client::{Reason, Waited},
    message::{Level, LinkState},
};

use crate::{
    protected_site::{client, connection, notifying_pair, protected, soon, wait_link, write_protected},
    testbed::Testbed,
};

const DELAY: Duration = Duration::from_millis(50);

#[test]
fn a_write_is_protected_before_it_can_reach_the_mirror() {
    let testbed = Testbed::emulated("delay 50ms");
    let (_pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, b"first");
    let mut took = Vec::new();
    for round in 0..50 {
        let begin = Instant::now();
        stream.write_all(&[round; 200]).unwrap();
        let waited = client.wait_all(&stream, soon()).unwrap();
        assert!(matches!(waited, Waited::Protected { level } if level >= Level::OnWire), "{waited:?}");
        took.push(begin.elapsed());
        thread::sleep(Duration::from_millis(3));
    }
    took.sort();
    println!("median {:?}, slowest {:?}", took[25], took[49]);
    // The mirror's own answer takes two one-way delays; one is a generous limit even on a busy machine.
    assert!(took[25] < DELAY, "median {:?}", took[25]);
}

#[test]
fn protection_stops_while_the_peer_is_down_and_resumes_afterwards() {
    let testbed = Testbed::emulated("delay 5ms");
    let (mut pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, b"first");
    pair.syracuse.kill();
    wait_link(&mut client, LinkState::Degraded);
    stream.write_all(b"second").unwrap();
    let waited = client.wait_all(&stream, Instant::now() + Duration::from_millis(300)).unwrap();
    assert!(matches!(waited, Waited::NotProtected { reason: Reason::Link(..) }), "{waited:?}");
    pair.syracuse.start();
    wait_link(&mut client, LinkState::Up);
    protected(&mut client, &stream);
}
