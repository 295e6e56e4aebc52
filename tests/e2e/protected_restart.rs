//! Appliances restart under a live connection: earlier claims stay valid, and no claim exceeds the written bytes.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use onwire::notify::{
    client::{Client, Status},
    message::{FlowKey, Level, LinkState, Message, StateReason},
};

use crate::{
    appliance::Appliance,
    protected_site::{
        client, connection, follower, messages, notifying_pair, protected, soon, turn, wait_link, wait_until,
        write_protected,
    },
    testbed::Testbed,
};

/// A connection into which the test writes, and the claims about it.
struct Written<'c> {
    client: &'c mut Client,
    stream: &'c mut TcpStream,
    key: FlowKey,
    bytes: u64,
}

impl Written<'_> {
    fn write(&mut self, count: usize) {
        self.stream.write_all(&vec![5; count]).unwrap();
        self.bytes += count as u64;
    }

    /// Claims never exceed the written bytes and never decrease.
    fn look(&mut self, said: &mut u64) {
        turn(self.client);
        for level in Level::ALL {
            let covered = self.client.core().covered(&self.key, level);
            assert!(covered <= self.bytes, "{level:?} up to {covered}, of {} bytes", self.bytes);
        }
        let covered = self.client.core().covered(&self.key, Level::OnWire);
        assert!(covered >= *said, "taken back from {said} to {covered}");
        *said = covered;
    }
}

fn the_near_side(go: fn(&mut Appliance<'_>)) {
    let testbed = Testbed::emulated("delay 20ms");
    let (mut pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, &[1; 12_345]);
    let key = Client::flow_of(&stream).unwrap().key;
    let mut written = Written { client: &mut client, stream: &mut stream, key, bytes: 12_345 };
    let mut said = 12_345;
    for _ in 0..2 {
        let run = written.client.core().run();
        let before = said;
        // Some of this is in flight when the appliance ends.
        written.write(20_000);
        go(&mut pair.ithaca);
        written.write(3_000);
        for _ in 0..20 {
            written.look(&mut said);
        }
        pair.ithaca.start();
        let deadline = soon();
        while written.client.core().run() == run || !written.client.core().has_contact(Instant::now()) {
            assert!(Instant::now() < deadline, "no contact with the new run");
            written.look(&mut said);
        }
        // The claim of the earlier run is still valid.
        let status = written.client.status(&key, before).unwrap();
        assert!(matches!(status, Status::Protected { .. }), "{status:?}");
        // For the new run the flow begins in the middle; an acknowledgement joins the two runs.
        let deadline = soon();
        while written.client.core().covered(&key, Level::OnWire) < written.bytes {
            assert!(Instant::now() < deadline, "not healed: {said} of {} bytes", written.bytes);
            written.look(&mut said);
        }
        assert!(protected(written.client, written.stream) >= Level::OnWire);
        // Protection works as before, also for new data.
        wait_link(written.client, LinkState::Up);
        for _ in 0..5 {
            written.write(1_000);
            assert!(protected(written.client, written.stream) >= Level::OnWire);
            written.look(&mut said);
        }
    }
}

#[test]
fn claims_stay_valid_when_the_near_side_is_killed() {
    the_near_side(|appliance| appliance.kill());
}

#[test]
fn claims_stay_valid_when_the_near_side_is_stopped() {
    the_near_side(|appliance| assert!(appliance.terminate().0.success()));
}

fn the_far_side(go: fn(&mut Appliance<'_>)) {
    let testbed = Testbed::emulated("delay 5ms");
    let (mut pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = follower(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, &[1; 5_000]);
    messages(&mut client);
    go(&mut pair.syracuse);
    wait_link(&mut client, LinkState::Degraded);
    let key = Client::flow_of(&stream).unwrap().key;
    assert!(matches!(client.status(&key, 5_000).unwrap(), Status::Protected { .. }), "what was said stands");
    stream.write_all(&[2; 700]).unwrap();
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        let status = client.status(&key, 5_700).unwrap();
        assert!(matches!(status, Status::Pending(_)), "there is nobody to rebuild it: {status:?}");
        turn(&mut client);
    }
    pair.syracuse.start();
    wait_link(&mut client, LinkState::Up);
    protected(&mut client, &stream);
    write_protected(&mut client, &mut stream, &[3; 5_000]);
    let mut states: Vec<_> = messages(&mut client)
        .into_iter()
        .filter_map(|message| match message {
            Message::State(peer) => Some((peer.state, peer.reason)),
            _ => None,
        })
        .collect();
    // Each change is notified several times.
    states.dedup();
    let up = (LinkState::Up, StateReason::None);
    assert!(states.contains(&(LinkState::Degraded, StateReason::NoReports)), "{states:?}");
    assert_eq!(states.last(), Some(&up), "{states:?}");
    assert!(states.iter().filter(|state| **state == up).count() <= 2, "it came back once: {states:?}");
}

#[test]
fn a_killed_far_side_degrades_the_link_until_it_restarts() {
    the_far_side(|appliance| appliance.kill());
}

#[test]
fn a_stopped_far_side_degrades_the_link_until_it_restarts() {
    the_far_side(|appliance| assert!(appliance.terminate().0.success()));
}

#[test]
fn a_stop_is_notified_and_earlier_writes_are_protected_or_not_as_a_whole() {
    // Nothing is acknowledged before the test is over.
    let testbed = Testbed::emulated("delay 1s");
    let (mut pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = follower(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, b"first");
    let key = Client::flow_of(&stream).unwrap().key;
    let mut received = messages(&mut client);
    stream.write_all(&[1; 5_000]).unwrap();
    pair.ithaca.ask_to_stop();
    // The client processes messages while the appliance stops.
    wait_until(&mut client, "silent", |client| !client.core().has_contact(Instant::now()));
    assert!(pair.ithaca.terminate().0.success());
    turn(&mut client);
    received.append(&mut messages(&mut client));
    let draining = |message: &Message| {
        matches!(message, Message::State(peer)
            if (peer.state, peer.reason) == (LinkState::Draining, StateReason::Administrator))
    };
    assert!(received.iter().any(draining), "{received:?}");
    let claimed = client.core().covered(&key, Level::OnWire);
    assert!([5, 5_005].contains(&claimed), "a write is decided as a whole: {claimed}");
    println!("{claimed} of 5005 bytes were protected when it stopped");
    // After the appliance has ended, data that was not protected stays unprotected.
    stream.write_all(b"more").unwrap();
    assert!(matches!(client.status(&key, 5_009).unwrap(), Status::Pending(_)));
}
