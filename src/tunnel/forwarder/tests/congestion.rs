//! Tests of congestion: which packets are marked or dropped in front of a path with a rate, and what marks of the path
//! and lost datagrams mean for packets.

use super::*;
use crate::tunnel::drop_reason::DropReason;
use crate::wire::packet::TCP;
use crate::wire::segment::segment_count;
use crate::wire::traffic_class::TrafficClass;

const MS: Duration = Duration::from_millis(1);

/// A forwarder of `side` whose path has this rate; it copies ECN, and its blocks have four symbols and `repair` more.
fn forwarder(side: u8, rate: Option<u64>, repair: usize, now: Instant) -> Forwarder {
    let prefix = |side: u8| format!("10.{side}.0.0/16").parse().expect("a prefix");
    let peer = PeerSettings {
        address: None,
        symbol_size: 1408,
        bytes_per_second: rate,
        queue_max: 50 * MS,
        outer: OuterRule { copies_ecn: true, dscp: Some(0) },
        signals_rebuilt: true,
        claims: true,
        is_removed: false,
        policy: Policy::new([], ProfileId(0)),
    };
    let profile = Profile {
        number: 0,
        block_symbols: 4,
        close_when_idle: Duration::from_micros(50),
        close_after: 2 * MS,
        plan: Plan::fixed(4, repair, 0.01),
        survive_burst: Duration::ZERO,
        keeps_promise: true,
    };
    let settings = Settings {
        lane: 0,
        local_prefixes: [(prefix(side), ())].into_iter().collect(),
        peer_prefixes: [(prefix(3 - side), PeerId(0))].into_iter().collect(),
        peers: vec![peer],
        profiles: vec![profile],
        delivery: Delivery { strict: true, hold: 10 * MS, hold_max: 10 * MS },
        survive_burst: Duration::ZERO,
    };
    Forwarder::new(settings, now)
}

fn congested_pair(rate: Option<u64>, repair: usize, now: Instant) -> [Forwarder; 2] {
    pair_of([forwarder(1, rate, repair, now), forwarder(2, None, repair, now)], now)
}

/// A TCP packet or super-packet whose payload begins at this sequence number.
fn segment(sequence: u32, payload: usize, class: u8) -> (VirtioHeader, Vec<u8>) {
    let mut transport = samples::tcp(0x10, &[], payload);
    transport[4..8].copy_from_slice(&sequence.to_be_bytes());
    let gso = (payload > 1000).then_some(1000);
    let (header, mut packet) = samples::partial(4, TCP, transport, gso);
    packet[1] = class;
    packet[10..12].fill(0);
    let sum = !crate::wire::checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    (header, packet)
}

/// The bytes of the stream that a packet of [`segment`] carries, and its class.
fn carried(packet: &[u8]) -> (std::ops::Range<u32>, u8) {
    let view = PacketView::parse(packet).unwrap();
    assert_eq!(crate::wire::checksum::sum(&packet[..20]), 0xffff, "the header's checksum is right");
    let sequence = view.tcp(packet).unwrap().sequence;
    (sequence..sequence + (packet.len() - 40) as u32, packet[1])
}

/// Offers super-packets of ten segments at twice the rate for 400 ms. Returns what the observer saw of the dropped and of
/// the taken, what was delivered, and the end of the stream.
#[allow(clippy::type_complexity, reason = "three lists of the same kind")]
fn overloaded(class: u8) -> ([Vec<(std::ops::Range<u32>, u8)>; 3], u32, [Forwarder; 2]) {
    let start = Instant::now();
    let (rate, step) = (1_250_000u64, 4 * MS);
    let [mut near, mut far] = congested_pair(Some(rate), 1, start);
    let (mut now, mut sequence) = (start, 0u32);
    let (mut dropped, mut taken, mut came) = (vec![], vec![], vec![]);
    while now < start + 400 * MS {
        let (header, packet) = segment(sequence, 10_000, class);
        sequence += 10_000;
        near.room()[..packet.len()].copy_from_slice(&packet);
        near.handle_packet(header, packet.len(), now, |outgoing| {
            assert!(outgoing.block.is_some() || segment_count(outgoing.header, outgoing.packet) != 9);
            let list = if outgoing.block.is_some() { &mut taken } else { &mut dropped };
            list.push(carried(outgoing.packet));
        });
        near.handle_idle(now);
        now += step;
        near.handle_timeout(now);
        carry(&mut near, 1, &mut far, now);
        came.extend(delivered(&mut far, now).iter().map(|(_, packet)| carried(packet)));
    }
    // What waits leaves.
    near.flush(now);
    for _ in 0..100 {
        now += MS;
        carry(&mut near, 1, &mut far, now);
        came.extend(delivered(&mut far, now).iter().map(|(_, packet)| carried(packet)));
    }
    ([dropped, taken, came], sequence, [near, far])
}

#[test]
fn a_standing_queue_costs_a_super_packet_one_segment_and_the_observer_sees_both_parts() {
    let ([dropped, taken, came], end, [near, _]) = overloaded(0);
    let sent = near.peers()[0].sent();
    let full: u64 = dropped.iter().filter(|(bytes, _)| bytes.len() == 10_000).count() as u64;
    assert_eq!(sent.standing_dropped, near.drops().of(DropReason::PathQueueStands));
    assert_eq!(sent.standing_dropped + full, dropped.len() as u64);
    assert_eq!(full, near.drops().of(DropReason::PathQueueFull), "the hard bound drops whole packets");
    assert!((2..20).contains(&sent.standing_dropped), "{sent:?}");
    assert_eq!(sent.standing_marked, 0);
    assert!(dropped.iter().all(|(bytes, _)| [1000, 10_000].contains(&bytes.len())));
    assert_eq!(came, taken, "all that was taken arrives, in order and unmarked");
    // Each byte of the stream was taken or dropped, once.
    let mut all: Vec<_> = dropped.into_iter().chain(taken).map(|(bytes, _)| (bytes.start, bytes.end)).collect();
    all.sort_unstable();
    let last = all.iter().fold(0, |at, &(start, end)| {
        assert_eq!(at, start);
        end
    });
    assert_eq!(last, end);
}

#[test]
fn a_standing_queue_marks_packets_whose_sender_understands_it() {
    let ([dropped, taken, came], _, [near, _]) = overloaded(0x0a);
    let sent = near.peers()[0].sent();
    assert_eq!(sent.standing_dropped, 0);
    assert_eq!(dropped.len() as u64, near.drops().of(DropReason::PathQueueFull));
    let marked = taken.iter().filter(|(_, class)| *class == 0x0b).count() as u64;
    assert!(marked >= 2 && marked == sent.standing_marked, "{marked} marked, {sent:?}");
    assert_eq!(came, taken);
}

/// Offers super-packets of ten segments without a rate for a second; the far end reads each datagram `wait` late. Returns how
/// many segments were dropped, and how many packets were marked.
fn late_reader(wait: Duration, class: u8) -> (u64, u64) {
    let start = Instant::now();
    let [mut near, mut far] = congested_pair(None, 1, start);
    let (mut now, mut sequence, mut short) = (start, 0u32, 0);
    while now < start + 1000 * MS {
        let (header, packet) = segment(sequence, 10_000, class);
        sequence += 10_000;
        near.room()[..packet.len()].copy_from_slice(&packet);
        near.handle_packet(header, packet.len(), now, |outgoing| {
            let left = segment_count(outgoing.header, outgoing.packet);
            assert!(outgoing.block.is_some() || left < 2, "one segment and no more");
            short += u64::from(outgoing.block.is_none());
        });
        // An acknowledgement or a request.
        let (header, packet) = segment(1, 100, class);
        near.room()[..packet.len()].copy_from_slice(&packet);
        near.handle_packet(header, packet.len(), now, |outgoing| {
            assert!(outgoing.block.is_some(), "it fills no queue")
        });
        near.handle_idle(now);
        now += 4 * MS;
        near.handle_timeout(now);
        far.on_receive_wait(wait, now);
        carry(&mut near, 1, &mut far, now);
        delivered(&mut far, now);
        far.handle_timeout(now);
        carry(&mut far, 0, &mut near, now);
    }
    assert_eq!(near.drops().of(DropReason::PeerQueueStands), short);
    (short, near.peers()[0].sent().standing_marked)
}

#[test]
fn senders_hear_of_a_queue_in_front_of_the_peer() {
    assert_eq!(late_reader(MS, 0), (0, 0), "a short wait is none");
    let (dropped, marked) = late_reader(3 * MS, 0);
    assert!((8..40).contains(&dropped) && marked == 0, "{dropped} dropped, {marked} marked");
    let (dropped, marked) = late_reader(3 * MS, 0x0a);
    assert!(dropped == 0 && (8..40).contains(&marked), "{dropped} dropped, {marked} marked");
}

#[test]
fn behind_a_standing_queue_blocks_close_without_repair_symbols() {
    let (_, _, [mut near, _]) = overloaded(0);
    let mut sizes = Vec::new();
    while let Some((_, event)) = near.poll_block_event() {
        if let BlockEvent::Closed { repair_symbols, .. } = event {
            sizes.push(repair_symbols);
        }
    }
    let sent = near.peers()[0].sent();
    let without = sizes.iter().filter(|&&repair| repair == 0).count();
    assert!(sizes[..10].iter().all(|&repair| repair > 0), "a burst of less than 100 ms is protected: {sizes:?}");
    assert!(without > 10, "{sizes:?}");
    assert!(sent.repair_shed >= without as u64, "{sent:?}");
    assert_eq!(sent.repair_symbols, sizes.iter().map(|&repair| u64::from(repair)).sum::<u64>());
}

/// Carries what the near side has sent; `marked` and `lost` say which datagrams, by their number.
fn carry_some(from: &mut Forwarder, to: &mut Forwarder, marked: &[usize], lost: &[usize], now: Instant) {
    for (number, mut datagram) in datagrams(from, now).into_iter().enumerate() {
        if !lost.contains(&number) {
            to.handle_arrival(&mut datagram, address(1), marked.contains(&number), now);
        }
    }
}

fn classes(forwarder: &mut Forwarder, now: Instant) -> Vec<u8> {
    delivered(forwarder, now).iter().map(|(_, packet)| carried(packet).1).collect()
}

/// Sends packets of these classes, each in a symbol of its own, as one block.
fn send(near: &mut Forwarder, classes: &[u8], now: Instant) {
    for (number, &class) in classes.iter().enumerate() {
        let (header, packet) = segment(number as u32 * 1000, 900, class);
        push(near, header, &packet, now);
        near.handle_idle(now);
    }
    near.flush(now);
}

#[test]
fn a_mark_of_the_path_goes_to_the_packets_in_the_datagram_that_understand_it() {
    let now = Instant::now();
    let [mut near, mut far] = congested_pair(None, 1, now);
    send(&mut near, &[2, 2, 0, 1], now);
    carry_some(&mut near, &mut far, &[1, 2, 3], &[], now);
    assert_eq!(classes(&mut far, now), [2, 3, 0, 3], "the third understands no marks and is not dropped");
    assert_eq!((far.peers()[0].marks().from_path, far.peers()[0].marks().rebuilt), (2, 0));
}

#[test]
fn the_mark_of_a_repair_symbol_goes_to_the_next_packet_that_understands_it() {
    let now = Instant::now();
    let [mut near, mut far] = congested_pair(None, 1, now);
    send(&mut near, &[2, 2, 2, 2], now);
    carry_some(&mut near, &mut far, &[4], &[], now);
    let mut seen = classes(&mut far, now);
    send(&mut near, &[0, 2, 2], now);
    carry_some(&mut near, &mut far, &[], &[], now);
    seen.extend(classes(&mut far, now));
    assert_eq!(seen, [3, 2, 2, 2, 0, 2, 2]);
    // When all of its block has left: the next block.
    send(&mut near, &[2, 2, 2, 2], now);
    let mut sent = datagrams(&mut near, now);
    let mut repair = sent.split_off(4);
    sent.iter_mut().for_each(|datagram| far.handle_datagram(datagram, address(1), now));
    assert_eq!(classes(&mut far, now), [2, 2, 2, 2]);
    repair.iter_mut().for_each(|datagram| far.handle_arrival(datagram, address(1), true, now));
    send(&mut near, &[0, 2, 2], now);
    carry_some(&mut near, &mut far, &[], &[], now);
    assert_eq!(classes(&mut far, now), [0, 3, 2]);
}

#[test]
fn a_packet_that_is_marked_does_not_spoil_what_is_rebuilt_later() {
    let now = Instant::now();
    let [mut near, mut far] = congested_pair(None, 1, now);
    send(&mut near, &[2, 2, 2, 2], now);
    let expected: Vec<_> = (0..4).map(|number| segment(number * 1000, 900, if number == 0 { 3 } else { 2 })).collect();
    let mut sent = datagrams(&mut near, now);
    far.handle_arrival(&mut sent[0], address(1), true, now);
    let mut came = delivered(&mut far, now);
    assert_eq!(came.len(), 1, "it leaves before the lost one is rebuilt");
    [2, 3, 4].into_iter().for_each(|number: usize| far.handle_datagram(&mut sent[number], address(1), now));
    came.extend(delivered(&mut far, now));
    for (came, expected) in came.iter().zip(&expected) {
        assert_eq!(carried(&came.1), carried(&expected.1));
        assert_eq!(came.1[20..], expected.1[20..]);
    }
    assert_eq!(came.len(), 4);
}

#[test]
fn rebuilt_packets_are_marked_while_the_peer_meets_congestion() {
    let now = Instant::now();
    let [mut near, mut far] = congested_pair(None, 1, now);
    for (congested, expected) in [(false, [2, 2, 0, 2]), (true, [2, 3, 0, 2]), (false, [2, 2, 0, 2])] {
        far.peers[0].set_marks_rebuilt(congested);
        send(&mut near, &[2, 2, 0, 2], now);
        carry_some(&mut near, &mut far, &[], &[1], now);
        assert_eq!(classes(&mut far, now), expected, "{congested}");
    }
    assert_eq!((far.peers()[0].marks().from_path, far.peers()[0].marks().rebuilt), (0, 1));
}

#[test]
fn senders_without_marks_lose_as_many_segments_as_were_repaired_of_what_a_full_queue_dropped() {
    let now = Instant::now();
    let [mut near, mut far] = congested_pair(None, 1, now);
    let mut offer = |near: &mut Forwarder, payload: usize, class: u8, protocol: u8| {
        let (header, mut packet) = segment(0, payload, class);
        if protocol != TCP {
            (packet[9], packet[10], packet[11]) = (protocol, 0, 0);
            let sum = !crate::wire::checksum::sum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        near.room()[..packet.len()].copy_from_slice(&packet);
        let mut seen = Vec::new();
        near.handle_packet(
            if protocol == TCP { header } else { VirtioHeader::default() },
            packet.len(),
            now,
            |outgoing| {
                seen.push((outgoing.block.is_some(), outgoing.packet.len() - 40));
            },
        );
        carry(near, 1, &mut far, now);
        seen
    };
    near.peers[0].owe_repaired_losses(4, now);
    assert_eq!(offer(&mut near, 100, 0, TCP), [(true, 100)], "a commit fills no queue");
    assert_eq!(offer(&mut near, 1000, 0, 17), [(true, 1000)], "nobody knows whether UDP would listen");
    assert_eq!(offer(&mut near, 10_000, 0, TCP), [(false, 1000), (true, 9000)]);
    assert_eq!(offer(&mut near, 1000, 0, TCP), [(false, 1000)]);
    assert_eq!(offer(&mut near, 10_000, 2, TCP), [(true, 10_000)], "the peer marks what it rebuilds of this");
    assert_eq!(offer(&mut near, 10_000, 0, TCP), [(false, 1000), (true, 9000)], "the last of four");
    assert_eq!(offer(&mut near, 10_000, 0, TCP), [(true, 10_000)]);
    assert_eq!((near.peers()[0].sent().repaired_dropped, near.drops().of(DropReason::RepairedLoss)), (3, 3));
}

#[test]
fn a_datagram_may_be_marked_only_if_all_of_its_packets_may() {
    let now = Instant::now();
    let [mut near, _] = congested_pair(None, 1, now);
    let mut seen = |classes: &[u8]| {
        send(&mut near, classes, now);
        let mut seen = Vec::new();
        while let Some((peer, train)) = near.poll_transmit(Trains::All, now) {
            let len = train.bytes.len();
            seen.extend(std::iter::repeat_n(TrafficClass::is_ect(train.class), len.div_ceil(train.datagram_len)));
            near.on_sent(peer, len, now);
        }
        seen
    };
    assert_eq!(seen(&[2, 1, 3, 2]), [true; 5], "four source symbols and a repair symbol");
    assert_eq!(seen(&[2, 2, 0, 2]), [true, true, false, true, false]);
}
