//! Any bytes to a publisher and to a client, raw and behind a valid seal: no panic, no subscription, and nothing is
//! ever called protected.
#![no_main]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use onwire::notify::client::{Core, Status, Wish};
use onwire::notify::envelope::{Direction, Envelope, Key, KeyRing, LEN};
use onwire::notify::message::{FlowKey, Level};
use onwire::notify::publisher::{Limits, Publisher};

const EPOCH: u64 = 77;

fuzz_target!(|input: &[u8]| {
    let now = Instant::now();
    let key = Key::new(1, &[9; 32]).expect("the secret is long enough");
    let mut keys = KeyRing::new();
    keys.insert(key.clone()).expect("the ring is empty");
    let from = SocketAddr::from(([127, 0, 0, 1], 9));
    let flow = FlowKey::tcp(([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
    let mut publisher = Publisher::new(keys, Limits::default(), EPOCH, &[1; 32], now);
    let mut client = Core::new(key.clone(), Wish::default(), EPOCH, now);
    client.watch(flow, now);
    let mut out = vec![];
    client.poll_datagram(&mut out, now);
    for direction in [None, Some(Direction::Request), Some(Direction::Notification)] {
        let mut datagram = input.to_vec();
        if let Some(direction) = direction {
            datagram = [&[0; LEN], input].concat();
            let envelope = Envelope { direction, key: 1, sender: EPOCH, receiver: EPOCH, counter: 1 };
            key.seal(&envelope, &mut datagram);
        }
        publisher.handle_datagram(from, &datagram, now);
        publisher.poll_datagrams(64, now, |_, bytes| {
            assert!(bytes.len() <= datagram.len());
            true
        });
        client.handle_datagram(&datagram, now);
        while client.poll_datagram(&mut out, now) {}
    }
    publisher.handle_timeout(now + Duration::from_secs(1));
    assert_eq!(publisher.subscribers().count(), 0);
    assert!(!matches!(client.status(&flow, 0, Level::Queued, now), Status::Protected { .. }));
});
