//! Datagrams from unauthenticated senders, and sealed datagrams from a misbehaving peer: no panic, no delivery outside
//! the prefixes, and memory within its bounds.
//!
//! The input is a sequence of records: one byte of kind, one byte of milliseconds to wait, two bytes of length, the
//! bytes.
#![no_main]

#[path = "../../tests/hostile/lane.rs"]
mod lane;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use onwire::tunnel::outbox::Trains;
use onwire::tunnel::receiver::{Delivery, MEMORY_MAX};
use onwire::wire::datagram::{DatagramType, Header};
use onwire::wire::packet::PacketView;

const SYMBOL_SIZE: u16 = 128;

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let peer = SocketAddr::from(([192, 0, 2, 2], 7117));
    let strict = input.first().is_some_and(|byte| byte & 0x80 != 0);
    let delivery = Delivery { strict, hold: Duration::from_millis(10), hold_max: Duration::from_millis(10) };
    let mut forwarder = lane::forwarder(SYMBOL_SIZE, true, delivery, now);
    forwarder.install(&lane::established(peer, SYMBOL_SIZE, now), now);
    let key = lane::peers_key();
    let (mut rest, mut counter) = (input, 0);
    while let Some((&[kind, wait, high, low], behind)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([high, low]) & 0x0fff).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        now += Duration::from_millis(u64::from(wait & 0x1f));
        let datagram_type = match kind & 3 {
            0 => None,
            1 => Some(DatagramType::Source),
            2 => Some(DatagramType::Repair),
            _ => Some(DatagramType::Report),
        };
        let mut datagram = match datagram_type {
            None => bytes.to_vec(),
            Some(datagram_type) => {
                counter += 1 + u64::from(kind >> 6);
                let clear = Header { datagram_type, receiver_index: 1, counter }.emit();
                let mut sealed = bytes.to_vec();
                let tag = key.seal(counter, &clear, &mut sealed);
                [&clear[..], &sealed, &tag].concat()
            }
        };
        forwarder.handle_datagram(&mut datagram, peer, now);
        forwarder.handle_timeout(now);
        while let Some(delivery) = forwarder.poll_delivery(now) {
            let view = PacketView::parse(delivery.packet).expect("what is delivered is a packet");
            assert!(view.source.to_string().starts_with("10.2."), "from {}", view.source);
        }
        while let Some((to, train)) = forwarder.poll_transmit(Trains::All, now) {
            let len = train.bytes.len();
            forwarder.on_sent(to, len, now);
        }
        if kind & 4 != 0 {
            while let Some((_, feedback)) = forwarder.poll_feedback() {
                assert!(feedback.proven_at.is_none_or(|at| at <= now), "proven at a time in the future");
            }
        }
        let estimate = forwarder.peers()[0].estimate(now);
        assert!((estimate.loss..=1.0).contains(&estimate.loss_upper), "{estimate:?}");
        assert!(forwarder.memory() <= MEMORY_MAX);
        while forwarder.poll_request(now).is_some() {}
        assert!(forwarder.poll_timeout(now).is_none_or(|at| at > now), "all is drained, yet something is due");
    }
});
