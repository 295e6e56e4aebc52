//! Tests of a configuration that changes while the lane runs.

use super::*;

const MS: Duration = Duration::from_millis(1);

/// The settings of a side, its only peer removed or not.
fn settings(side: u8, is_removed: bool) -> Settings {
    let mut settings = settings_with(&[side], &[(3 - side, 0)], true);
    if is_removed {
        settings.peer_prefixes = PrefixTable::default();
        settings.peers[0].is_removed = true;
    }
    settings
}

fn packet(number: u8) -> Vec<u8> {
    let mut transport = samples::udp(100);
    transport[20] = number;
    samples::ipv4(UDP, &[], &transport)
}

#[test]
fn what_a_removed_peer_sent_in_whole_is_delivered_and_nothing_after_it() {
    let now = Instant::now();
    let [mut near, mut far] = pair_of([forwarder_that(true, 1, now), forwarder_that(true, 2, now)], now);
    for number in 0..3 {
        push(&mut near, VirtioHeader::default(), &packet(number), now);
        near.handle_idle(now);
    }
    let mut sent = datagrams(&mut near, now);
    // The first is lost, so the others are held back.
    sent.iter_mut().skip(1).for_each(|datagram| far.handle_datagram(datagram, address(1), now));
    assert!(delivered(&mut far, now).is_empty());
    far.remove_peers(&settings(2, true), now);
    assert_eq!(delivered(&mut far, now).len(), 2, "whole packets behind the hole: they may have been called protected");
    far.reload(settings(2, true), &[], now);
    near.flush(now);
    carry(&mut near, 1, &mut far, now);
    assert_eq!(delivered(&mut far, now), []);
    assert!(far.drops().of(DropReason::UnknownSession) > 0);
    far.install(&established(2, Role::Responder, 1, now), now);
    assert!(far.peers()[0].sessions().current().is_none() && far.indices.is_empty(), "a handshake that ended too late");
}

#[test]
fn what_is_in_a_block_for_a_removed_peer_leaves_and_it_comes_back() {
    let now = Instant::now();
    let [mut near, mut far] = pair_of([forwarder_that(true, 1, now), forwarder_that(true, 2, now)], now);
    push(&mut near, VirtioHeader::default(), &packet(1), now);
    near.remove_peers(&settings(1, true), now);
    near.reload(settings(1, true), &[], now);
    carry(&mut near, 1, &mut far, now);
    assert_eq!(delivered(&mut far, now).len(), 1);
    push(&mut near, VirtioHeader::default(), &packet(2), now);
    assert_eq!(near.drops().of(DropReason::NoPeer), 1);
    near.reload(settings(1, false), &[], now);
    near.install(&established(1, Role::Initiator, 2, now), now);
    push(&mut near, VirtioHeader::default(), &packet(3), now);
    near.flush(now);
    assert!(datagrams(&mut near, now).len() > 1, "a block for it");
}

#[test]
fn a_block_ends_under_the_profile_with_which_it_began() {
    let now = Instant::now();
    let [mut near, _] = pair_of([forwarder_that(true, 1, now), forwarder_that(true, 2, now)], now);
    push(&mut near, VirtioHeader::default(), &packet(1), now);
    let mut other = settings(1, false);
    other.profiles[0].plan = Plan::fixed(4, 3, 0.01);
    other.profiles[0].survive_burst = 2 * MS;
    near.reload(other, &[0], now);
    near.flush(now);
    push(&mut near, VirtioHeader::default(), &packet(2), now);
    near.flush(now);
    let closed: Vec<_> = std::iter::from_fn(|| near.poll_block_event())
        .filter_map(|(_, event)| match event {
            BlockEvent::Closed { repair_symbols, survives, .. } => Some((repair_symbols, survives)),
            _ => None,
        })
        .collect();
    assert_eq!(closed[0], (1, Duration::ZERO));
    assert!(closed[1].0 > 3 && closed[1].1 == 2 * MS, "{closed:?}");
}

#[test]
fn later_late_repair_is_promised_when_the_peer_knows_how_long_to_wait() {
    let now = Instant::now();
    let [mut near, mut far] = pair_of([forwarder_that(true, 1, now), forwarder_that(true, 2, now)], now);
    let report = |from: &mut Forwarder, side: u8, to: &mut Forwarder, at: Instant| {
        from.handle_timeout(at);
        carry(from, side, to, at);
    };
    for at in [20, 40] {
        report(&mut near, 1, &mut far, now + at * MS);
        report(&mut far, 2, &mut near, now + at * MS + MS);
    }
    assert!(near.peers()[0].reporting().peer_waits_for_late());
    near.reload(Settings { survive_burst: 5 * MS, ..settings(1, false) }, &[], now + 45 * MS);
    assert!(!near.peers()[0].reporting().peer_waits_for_late(), "it may give up blocks before");
    report(&mut far, 2, &mut near, now + 61 * MS);
    assert!(!near.peers()[0].reporting().peer_waits_for_late(), "that answers an earlier report");
    report(&mut near, 1, &mut far, now + 65 * MS);
    report(&mut far, 2, &mut near, now + 90 * MS);
    assert!(near.peers()[0].reporting().peer_waits_for_late());
    near.reload(settings(1, false), &[], now + 91 * MS);
    assert!(near.peers()[0].reporting().peer_waits_for_late(), "it waits no shorter");
}
