//! Tests of the forwarder: packets in and out of it, sessions, and what it drops.

mod congestion;
mod reload;

use super::super::handshake::REJECT_AFTER;
use super::super::handshake::Role;
use super::super::hello::{Hello, PROTOCOL_VERSION};
use super::super::outer_class::OuterRule;
use super::super::policy::{Policy, ProfileId};
use super::super::seal::{Cipher, CipherSet, OpeningKey, SealingKey};
use super::*;
use crate::fec::plan::Plan;
use crate::wire::packet::UDP;
use crate::wire::samples;
use std::sync::Arc;
use std::time::Duration;

fn address(side: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, side], 7117))
}

/// Side 1 holds the source of the sample packets, side 2 their destination.
fn forwarder(side: u8, now: Instant) -> Forwarder {
    forwarder_that(false, side, now)
}

fn forwarder_that(claims: bool, side: u8, now: Instant) -> Forwarder {
    forwarder_with(&[side], &[(3 - side, 0)], claims, now)
}

/// A forwarder whose own prefixes are those of the sides `local`; each of the others belongs to a peer.
fn forwarder_with(local: &[u8], others: &[(u8, u16)], claims: bool, now: Instant) -> Forwarder {
    Forwarder::new(settings_with(local, others, claims), now)
}

fn settings_with(local: &[u8], others: &[(u8, u16)], claims: bool) -> Settings {
    let prefix = |side: u8| format!("10.{side}.0.0/16").parse().expect("a prefix");
    let profile = Profile {
        number: 0,
        block_symbols: 4,
        close_when_idle: Duration::from_micros(50),
        close_after: Duration::from_millis(2),
        plan: Plan::fixed(4, 1, 0.01),
        survive_burst: Duration::ZERO,
        keeps_promise: true,
    };
    let peer = PeerSettings {
        address: None,
        symbol_size: 1408,
        bytes_per_second: None,
        queue_max: Duration::ZERO,
        outer: OuterRule::default(),
        signals_rebuilt: false,
        claims,
        is_removed: false,
        policy: Policy::new([], ProfileId(0)),
    };
    Settings {
        lane: 0,
        local_prefixes: local.iter().map(|&side| (prefix(side), ())).collect(),
        peer_prefixes: others.iter().map(|&(side, peer)| (prefix(side), PeerId(peer))).collect(),
        peers: vec![peer; others.len()],
        profiles: vec![profile],
        delivery: Delivery { strict: true, hold: Duration::from_millis(10), hold_max: Duration::from_millis(10) },
        survive_burst: Duration::ZERO,
    }
}

fn established(side: u8, role: Role, epoch: u64, at: Instant) -> Established {
    let other = 3 - side;
    Established {
        peer: PeerId(0),
        role,
        local_index: side.into(),
        remote_index: other.into(),
        sealing: Arc::new(SealingKey::new(Cipher::ChaCha20Poly1305, &[side; 32])),
        opening: Arc::new(OpeningKey::new(Cipher::ChaCha20Poly1305, &[other; 32])),
        remote: Hello {
            version: PROTOCOL_VERSION,
            lanes: 1,
            ciphers: CipherSet::preferred(),
            epoch,
            symbol_size: 1408,
        },
        endpoint: address(other).into(),
        at,
    }
}

/// A pair that has exchanged its first reports.
fn pair(now: Instant) -> [Forwarder; 2] {
    pair_of([forwarder(1, now), forwarder(2, now)], now)
}

fn pair_of([mut near, mut far]: [Forwarder; 2], now: Instant) -> [Forwarder; 2] {
    far.install(&established(2, Role::Responder, 1, now), now);
    near.install(&established(1, Role::Initiator, 2, now), now);
    carry(&mut near, 1, &mut far, now);
    carry(&mut far, 2, &mut near, now);
    [near, far]
}

fn push(forwarder: &mut Forwarder, header: VirtioHeader, packet: &[u8], now: Instant) {
    forwarder.room()[..packet.len()].copy_from_slice(packet);
    forwarder.handle_packet(header, packet.len(), now, |_| {});
}

fn datagrams(forwarder: &mut Forwarder, now: Instant) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    while let Some((peer, train)) = forwarder.poll_transmit(Trains::All, now) {
        datagrams.extend(train.bytes.chunks(train.datagram_len).map(<[u8]>::to_vec));
        let len = train.bytes.len();
        forwarder.on_sent(peer, len, now);
    }
    datagrams
}

fn carry(from: &mut Forwarder, side: u8, to: &mut Forwarder, now: Instant) {
    for mut datagram in datagrams(from, now) {
        to.handle_datagram(&mut datagram, address(side), now);
    }
}

fn delivered(forwarder: &mut Forwarder, now: Instant) -> Vec<(VirtioHeader, Vec<u8>)> {
    let mut packets = Vec::new();
    while let Some(packet) = forwarder.poll_delivery(now) {
        packets.push((packet.header, packet.packet.to_vec()));
    }
    packets
}

#[test]
fn a_packet_crosses_unchanged_and_a_replay_is_dropped() {
    let now = Instant::now();
    let [mut near, mut far] = pair(now);
    let (header, packet) = samples::partial(4, UDP, samples::udp(3000), Some(1000));
    push(&mut near, header, &packet, now);
    near.handle_idle(now);
    let sent = datagrams(&mut near, now);
    for mut datagram in sent.iter().chain(&sent).cloned() {
        far.handle_datagram(&mut datagram, address(1), now);
    }
    assert_eq!(delivered(&mut far, now), [(header, packet)]);
    assert_eq!(far.drops().of(DropReason::Replayed), sent.len() as u64);
    assert_eq!(far.peers()[0].reception().duplicates, sent.len() as u64);
}

#[test]
fn wrong_input_is_counted_by_reason() {
    let now = Instant::now();
    let plain = VirtioHeader::default();
    let good = samples::ipv4(UDP, &[], &samples::udp(10));
    let (mut foreign, mut lost) = (good.clone(), good.clone());
    foreign[13] = 9;
    lost[17] = 9;
    let rows: [(&[u8], VirtioHeader, DropReason); 5] = [
        (&foreign, plain, DropReason::ForeignSource),
        (&lost, plain, DropReason::NoPeer),
        (&good[..15], plain, DropReason::MalformedPacket),
        (&[], plain, DropReason::MalformedPacket),
        (&good, VirtioHeader { gso_type: 1, ..plain }, DropReason::MalformedPacket),
    ];
    let [mut near, _] = pair(now);
    for (packet, header, reason) in rows {
        let before = near.drops().of(reason);
        push(&mut near, header, packet, now);
        assert_eq!(near.drops().of(reason), before + 1, "{reason:?}");
    }
    near.handle_packet(plain, PACKET_MAX + 1, now, |_| {});
    let mut lonely = forwarder(1, now);
    push(&mut lonely, plain, &good, now);
    assert_eq!(lonely.drops().of(DropReason::NoSession), 1);

    let rows: [(&[u8], DropReason); 4] = [
        (&[], DropReason::NotOurs),
        (&[4; 27], DropReason::NotOurs),
        (&[4; 28], DropReason::UnknownSession),
        (&[4, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], DropReason::WrongLane),
    ];
    for (datagram, reason) in rows {
        let before = near.drops().of(reason);
        near.handle_datagram(&mut datagram.to_vec(), address(2), now);
        assert_eq!(near.drops().of(reason), before + 1, "{reason:?}");
    }
}

#[test]
fn a_peer_may_send_only_from_its_own_prefixes() {
    let now = Instant::now();
    let [mut near, mut far] = pair(now);
    far.peer_prefixes = PrefixTable::default();
    push(&mut near, VirtioHeader::default(), &samples::ipv4(UDP, &[], &samples::udp(10)), now);
    near.flush(now);
    carry(&mut near, 1, &mut far, now);
    assert_eq!(delivered(&mut far, now), []);
    assert_eq!(far.drops().of(DropReason::ForeignAddress), 1);
}

#[test]
fn an_expired_session_does_not_keep_the_lane_awake() {
    let now = Instant::now();
    let [mut near, _] = pair(now);
    let later = now + REJECT_AFTER;
    near.handle_timeout(later);
    assert_eq!(near.poll_request(later), Some(PeerId(0)));
    assert_eq!(near.poll_request(later), None);
    assert_eq!(datagrams(&mut near, later), Vec::<Vec<u8>>::new());
    assert!(near.poll_timeout(later).is_some_and(|at| at > later), "to request again");
}

#[test]
fn the_lane_wakes_to_request_a_session_when_data_stays_unanswered() {
    let start = Instant::now();
    let [mut near, _] = pair(start);
    push(&mut near, VirtioHeader::default(), &samples::ipv4(UDP, &[], &samples::udp(10)), start);
    let mut now = start;
    for _ in 0..100 {
        near.handle_timeout(now);
        datagrams(&mut near, now);
        if near.poll_request(now).is_some() {
            break;
        }
        now = near.poll_timeout(now).unwrap();
    }
    assert_eq!(now - start, Duration::from_millis(250));
}

#[test]
fn a_new_run_of_the_peer_does_not_deliver_a_packet_again() {
    let now = Instant::now();
    let [mut near, mut far] = pair(now);
    let (header, packet) = samples::partial(4, UDP, samples::udp(1300), None);
    push(&mut near, header, &packet, now);
    near.handle_idle(now);
    carry(&mut near, 1, &mut far, now);
    assert_eq!(delivered(&mut far, now).len(), 1);
    // The block is still open; the repair symbol that closes it would rebuild the packet.
    let mut again = forwarder(2, now);
    again.install(&established(2, Role::Responder, 1, now), now);
    near.install(&established(1, Role::Initiator, 3, now), now);
    near.flush(now);
    carry(&mut near, 1, &mut again, now);
    assert_eq!(delivered(&mut again, now + Duration::from_secs(1)), []);
}

/// Hands everything that `from` has to send to `to`, as if it came from the host `side`.
fn report(from: &mut Forwarder, side: u8, to: &mut Forwarder, now: Instant) {
    from.handle_timeout(now);
    carry(from, side, to, now);
}

fn proven_at(forwarder: &mut Forwarder) -> Option<Instant> {
    forwarder.poll_feedback().and_then(|(_, feedback)| feedback.proven_at)
}

#[test]
fn a_new_address_is_proven_by_an_echo_of_a_report_written_for_it() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    // The peer sends from another address once, or its address changes to and fro.
    for path in [&[(9, 40)][..], &[(9, 40), (2, 60), (9, 80)]] {
        let [mut near, mut far] = pair_of([forwarder_that(true, 1, start), forwarder(2, start)], start);
        report(&mut near, 1, &mut far, at(20));
        report(&mut far, 2, &mut near, at(20));
        assert_eq!(proven_at(&mut near), Some(at(20)));
        let moves = |near: &mut Forwarder| {
            std::iter::from_fn(|| near.poll_block_event()).filter(|(_, event)| *event == BlockEvent::Moved).count()
        };
        assert_eq!(moves(&mut near), 0);
        report(&mut near, 1, &mut far, at(38));
        // A report waits in the outbox meanwhile.
        near.handle_timeout(at(40));
        for &(host, millis) in path {
            report(&mut far, host, &mut near, at(millis));
        }
        assert_eq!(moves(&mut near), path.len());
        assert_eq!(proven_at(&mut near), None, "the old path has proven this, and it was not polled yet");
        assert_eq!(near.poll_transmit(Trains::All, at(90)).map(|(_, train)| train.to.remote), Some(address(9)));
        carry(&mut near, 1, &mut far, at(90));
        report(&mut far, 9, &mut near, at(100));
        assert_eq!(proven_at(&mut near), None, "it was written before the move");
        report(&mut near, 1, &mut far, at(110));
        report(&mut far, 9, &mut near, at(120));
        assert_eq!(proven_at(&mut near), Some(at(110)));
        assert_eq!(moves(&mut near), 0);
    }
}

#[test]
fn a_proof_that_was_not_polled_does_not_hold_for_a_new_address() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    for (host, proven) in [(2, Some(at(20))), (9, None)] {
        let [mut near, mut far] = pair_of([forwarder_that(true, 1, start), forwarder(2, start)], start);
        report(&mut near, 1, &mut far, at(20));
        report(&mut far, 2, &mut near, at(20));
        push(&mut far, VirtioHeader::default(), &answer(), at(21));
        far.flush(at(21));
        carry(&mut far, host, &mut near, at(21));
        assert_eq!(proven_at(&mut near), proven);
    }
}

#[test]
fn a_proof_of_the_earlier_run_does_not_hold_for_the_new_one() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let [mut near, mut far] = pair_of([forwarder_that(true, 1, start), forwarder(2, start)], start);
    report(&mut near, 1, &mut far, at(520));
    report(&mut far, 2, &mut near, at(520));
    // The proof was not polled yet when the peer is restarted, with a new clock.
    let mut again = forwarder(2, at(540));
    again.install(&established(2, Role::Responder, 1, at(540)), at(540));
    near.install(&established(1, Role::Initiator, 3, at(540)), at(540));
    assert_eq!(proven_at(&mut near), None);
    carry(&mut near, 1, &mut again, at(560));
    report(&mut again, 2, &mut near, at(560));
    assert_eq!(proven_at(&mut near), None, "its first report was written before it had read one of ours");
    report(&mut again, 2, &mut near, at(580));
    assert_eq!(proven_at(&mut near), Some(at(540)), "by a report written for the new run");
}

#[test]
fn an_address_is_not_learned_from_a_late_datagram_or_an_old_session() {
    let now = Instant::now();
    let later = now + Duration::from_millis(20);
    let [mut near, mut far] = pair(now);
    let session = |side: u8, role| Established {
        local_index: 10 + u32::from(side),
        remote_index: 13 - u32::from(side),
        ..established(side, role, u64::from(3 - side), later)
    };
    let send = |far: &mut Forwarder| {
        push(far, VirtioHeader::default(), &answer(), now);
        far.flush(now);
        datagrams(far, now)
    };
    let (mut early, mut late) = (send(&mut far), send(&mut far));
    near.handle_datagram(&mut late[0], address(2), now);
    near.handle_datagram(&mut early[0], address(7), now);
    assert_eq!(near.peers()[0].address(), Some(address(2)), "it was overtaken");
    near.handle_datagram(&mut late[1], address(3), now);
    assert_eq!(near.peers()[0].address(), Some(address(3)), "the newest shows where the peer is");

    let mut old = send(&mut far);
    near.install(&session(1, Role::Responder), later);
    far.install(&session(2, Role::Initiator), later);
    carry(&mut far, 4, &mut near, later);
    assert_eq!(near.peers()[0].address(), Some(address(4)));
    near.handle_datagram(&mut old[0], address(7), later);
    assert_eq!(near.peers()[0].address(), Some(address(4)), "it was sent before the session that is in use");
    assert_eq!(near.drops(), &Drops::default(), "all of them were opened");
}

#[test]
fn an_expired_session_opens_nothing() {
    let now = Instant::now();
    for (age, packets, expired) in [(REJECT_AFTER - Duration::from_nanos(1), 1, 0), (REJECT_AFTER, 0, 1)] {
        let [mut near, mut far] = pair(now);
        push(&mut far, VirtioHeader::default(), &answer(), now);
        far.handle_idle(now);
        carry(&mut far, 7, &mut near, now + age);
        assert_eq!(delivered(&mut near, now + age).len(), packets);
        assert_eq!(near.drops().of(DropReason::ExpiredSession), expired);
        let host = if packets > 0 { 7 } else { 2 };
        assert_eq!(near.peers()[0].address(), Some(address(host)));
    }
}

/// A packet from side 2 to side 1.
fn answer() -> Vec<u8> {
    let mut packet = samples::ipv4(UDP, &[], &samples::udp(10));
    let (source, destination) = packet[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    packet
}

#[test]
fn a_verified_checksum_is_shown_to_the_observer_and_not_sent_to_the_peer() {
    let now = Instant::now();
    let packet = samples::ipv4(UDP, &[], &samples::udp(100));
    let [mut near, mut far] = pair(now);
    for flags in [0, VirtioHeader::DATA_VALID] {
        near.room()[..packet.len()].copy_from_slice(&packet);
        let mut seen = None;
        let header = VirtioHeader { flags, ..VirtioHeader::default() };
        near.handle_packet(header, packet.len(), now, |outgoing| seen = Some(outgoing.header.flags));
        assert_eq!(seen, Some(flags));
        near.flush(now);
        carry(&mut near, 1, &mut far, now);
        let deliverable = far.poll_delivery(now).expect("it arrived");
        assert_eq!(deliverable.header, VirtioHeader::default());
    }
}

/// The packets that the far side delivers when the near side sends `packets`.
fn exchange(near: &mut Forwarder, far: &mut Forwarder, packets: &[&[u8]], now: Instant) -> Vec<Vec<u8>> {
    far.install(&established(2, Role::Responder, 1, now), now);
    near.install(&established(1, Role::Initiator, 2, now), now);
    carry(near, 1, far, now);
    packets.iter().for_each(|packet| push(near, VirtioHeader::default(), packet, now));
    near.flush(now);
    carry(near, 1, far, now);
    delivered(far, now).into_iter().map(|(_, packet)| packet).collect()
}

#[test]
fn a_packet_from_the_prefix_of_another_peer_is_not_delivered() {
    let now = Instant::now();
    // The near side is peer 0 of the far one, and also sends from the prefix of its peer 1.
    let mut near = forwarder_with(&[1, 3], &[(2, 0)], false, now);
    let mut far = forwarder_with(&[2], &[(1, 0), (3, 1)], false, now);
    let own = samples::ipv4(UDP, &[], &samples::udp(10));
    let mut of_another = own.clone();
    of_another[13] = 3;
    assert_eq!(exchange(&mut near, &mut far, &[&own, &of_another], now), [own]);
    assert_eq!(far.drops().of(DropReason::ForeignAddress), 1);
}

#[test]
fn a_packet_to_an_address_that_is_not_ours_is_not_delivered() {
    let now = Instant::now();
    let mut near = forwarder_with(&[1], &[(2, 0), (9, 0)], false, now);
    let mut far = forwarder_with(&[2], &[(1, 0)], false, now);
    let to_us = samples::ipv4(UDP, &[], &samples::udp(10));
    let mut elsewhere = to_us.clone();
    elsewhere[17] = 9;
    assert_eq!(exchange(&mut near, &mut far, &[&elsewhere, &to_us], now), [to_us]);
    assert_eq!(far.drops().of(DropReason::ForeignAddress), 1);
}

#[test]
fn an_unsendable_datagram_makes_an_event_where_protection_is_claimed() {
    let now = Instant::now();
    let mut near = forwarder_with(&[1], &[(2, 0)], true, now);
    near.install(&established(1, Role::Initiator, 2, now), now);
    datagrams(&mut near, now);
    push(&mut near, VirtioHeader::default(), &samples::ipv4(UDP, &[], &samples::udp(10)), now);
    near.flush(now);
    std::iter::from_fn(|| near.poll_block_event()).for_each(drop);
    let (peer, train) = near.poll_transmit(Trains::All, now).unwrap();
    let len = train.datagram_len.min(train.bytes.len());
    near.on_unsendable(peer, len, now);
    let events: Vec<_> = std::iter::from_fn(|| near.poll_block_event()).collect();
    assert!(events.contains(&(PeerId(0), BlockEvent::Unsendable)), "{events:?}");
    assert_eq!(near.drops().of(DropReason::SendFailed), 1);
}

/// A sender without the key must not use up a number that the peer will use, nor move the window over later numbers.
#[test]
fn a_forged_datagram_does_not_change_the_replay_window() {
    let now = Instant::now();
    let [mut near, mut far] = pair(now);
    let (header, packet) = samples::partial(4, UDP, samples::udp(1300), None);
    push(&mut near, header, &packet, now);
    near.flush(now);
    let genuine = datagrams(&mut near, now);
    for datagram in &genuine {
        let mut same_number = datagram.clone();
        *same_number.last_mut().unwrap() ^= 1;
        let mut far_ahead = datagram.clone();
        far_ahead[6] = 0x40;
        for mut forged in [same_number, far_ahead] {
            far.handle_datagram(&mut forged, address(66), now);
        }
    }
    assert_eq!(far.drops().of(DropReason::BadTag), 2 * genuine.len() as u64);
    assert_eq!(far.peers()[0].address(), Some(address(1)));
    genuine.into_iter().for_each(|mut datagram| far.handle_datagram(&mut datagram, address(1), now));
    assert_eq!(delivered(&mut far, now), [(header, packet)]);
}

#[test]
fn a_datagram_from_below_the_replay_window_is_dropped() {
    let now = Instant::now();
    let [mut near, mut far] = pair(now);
    let (header, packet) = samples::partial(4, UDP, samples::udp(1300), None);
    push(&mut near, header, &packet, now);
    near.flush(now);
    let recorded = datagrams(&mut near, now);
    // The peer has sent very many datagrams since.
    assert_eq!(far.peers[0].sessions.find(2).unwrap().accept(1 << 40).0, Freshness::Fresh);
    recorded.iter().cloned().for_each(|mut datagram| far.handle_datagram(&mut datagram, address(1), now));
    assert_eq!(far.drops().of(DropReason::TooOld), recorded.len() as u64);
    assert_eq!(delivered(&mut far, now), []);
}

#[test]
fn a_new_run_of_the_peer_voids_blocks_sent_to_the_earlier_one() {
    let now = Instant::now();
    let mut near = forwarder_with(&[1], &[(2, 0)], true, now);
    near.install(&established(1, Role::Initiator, 2, now), now);
    push(&mut near, VirtioHeader::default(), &samples::ipv4(UDP, &[], &samples::udp(10)), now);
    near.flush(now);
    datagrams(&mut near, now);
    push(&mut near, VirtioHeader::default(), &samples::ipv4(UDP, &[], &samples::udp(10)), now);
    std::iter::from_fn(|| near.poll_block_event()).for_each(drop);
    let block = |sbn| BlockId { profile: 0, sbn };
    near.install(&established(1, Role::Initiator, 3, now), now);
    let events: Vec<_> = std::iter::from_fn(|| near.poll_block_event()).map(|(_, event)| event).collect();
    let wanted =
        [BlockEvent::Abandoned { block: block(1) }, BlockEvent::PeerRestarted, BlockEvent::Void { below: block(2) }];
    assert_eq!(events, wanted, "the first was sent, the second was open");
    near.install(&established(1, Role::Initiator, 3, now), now);
    assert_eq!(near.poll_block_event(), None, "new keys of the same run");
}

/// Named losses wait for their acknowledgement. Losses that have no room in the report must wait too, and must not
/// count as reported.
#[test]
fn every_loss_is_reported_with_many_waiting_and_many_reports_lost() {
    let start = Instant::now();
    let [mut near, mut far] = pair(start);
    let packet = samples::ipv4(UDP, &[], &samples::udp(10));
    let blocks = 300;
    for number in 0..blocks {
        push(&mut near, VirtioHeader::default(), &packet, start);
        near.flush(start);
        match number % 2 {
            0 => drop(datagrams(&mut near, start)),
            _ => carry(&mut near, 1, &mut far, start),
        }
    }
    let (mut reported, mut below) = (Vec::new(), 0);
    for turn in 1..100 {
        let now = start + Duration::from_millis(20 * turn);
        delivered(&mut far, now);
        [&mut near, &mut far].into_iter().for_each(|side| side.handle_timeout(now));
        carry(&mut near, 1, &mut far, now);
        match turn {
            ..10 => drop(datagrams(&mut far, now)),
            _ => carry(&mut far, 2, &mut near, now),
        }
        while let Some((_, feedback)) = near.poll_feedback() {
            reported.extend(feedback.lost);
            below = feedback.progress.first().map_or(below, |progress| progress.decoded_below);
            let lost = (0..below).step_by(2);
            let is_reported =
                |sbn: u64| reported.iter().any(|run| (run.first..run.first + u64::from(run.count)).contains(&sbn));
            assert!(lost.into_iter().all(is_reported), "decoded below {below}, {reported:?}");
        }
    }
    assert_eq!(below, blocks);
}
