//! Tests of one direction of the emulated WAN: losses, order, and that every datagram is accounted for.

use proptest::prelude::*;

use super::*;

fn plain(byte: u8, length: usize) -> Train {
    Train { header: VirtioHeader::default(), packet: vec![byte; length] }
}

/// A UDP super-packet of `segments` datagrams of 1000 bytes, the last one of 500; each is filled with its number.
fn train(segments: usize) -> Train {
    let payload: Vec<u8> =
        (0..segments).flat_map(|at| vec![at as u8; if at + 1 == segments { 500 } else { 1000 }]).collect();
    let builder = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(7117, 7117);
    let mut packet = Vec::new();
    builder.write(&mut packet, &payload).unwrap();
    let header = VirtioHeader {
        flags: VirtioHeader::NEEDS_CSUM,
        gso_type: if segments > 1 { VirtioHeader::GSO_UDP_L4 } else { VirtioHeader::GSO_NONE },
        hdr_len: 28,
        gso_size: if segments > 1 { 1000 } else { 0 },
        csum_start: 20,
        csum_offset: 6,
    };
    Train { header, packet }
}

fn with(settings: &[(&str, &str)]) -> Impairment {
    let mut impairment = Impairment::default();
    settings.iter().for_each(|(key, value)| impairment.set(key, value).unwrap());
    impairment
}

fn drain(link: &mut Link, now: Instant) -> Vec<Train> {
    std::iter::from_fn(|| link.poll_train(now)).collect()
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_packet_arrives_after_the_delay_and_in_order() {
    let now = Instant::now();
    let mut link = Link::new(with(&[("delay", "25ms"), ("jitter", "10ms")]), 1);
    for at in 0..100u8 {
        link.handle_train(plain(at, 100), now + MS * u32::from(at));
    }
    assert!(link.poll_train(now + 24 * MS).is_none());
    assert!(link.poll_timeout().unwrap() >= now + 25 * MS);
    let arrived: Vec<u8> = drain(&mut link, now + 200 * MS).iter().map(|train| train.packet[0]).collect();
    assert_eq!(arrived, (0..100).collect::<Vec<_>>());
    assert!(link.counters().balanced());
}

#[test]
fn losing_one_datagram_splits_a_train_in_two() {
    let now = Instant::now();
    // The test searches for a suitable seed, so that it does not depend on the random generator.
    let (trains, counters) = (0..10_000)
        .find_map(|seed| {
            let mut link = Link::new(with(&[("loss", "2%")]), seed);
            link.handle_train(train(44), now);
            let is_hit = link.counters().lost.chance == 1;
            let trains = drain(&mut link, now);
            (is_hit && trains.len() == 2).then(|| (trains, link.counters()))
        })
        .unwrap();
    assert_eq!((counters.entered, counters.delivered, counters.lost.total()), (44, 43, 1));
    let segments: usize = trains.iter().map(|train| segment_count(train.header, &train.packet)).sum();
    assert_eq!(segments, 43);
    assert_eq!(counters.entered_bytes - counters.delivered_bytes, 1028);
    for train in &trains {
        assert!(etherparse::SlicedPacket::from_ip(&train.packet).is_ok());
    }
}

#[test]
fn lost_last_counts_only_losses_after_the_last_delivered_datagram() {
    let now = Instant::now();
    let mut seen = [0; 3];
    for seed in 0..200 {
        let mut link = Link::new(with(&[("loss", "40%")]), seed);
        link.handle_train(train(44), now);
        let last = drain(&mut link, now).last().and_then(|train| train.packet.last().copied()).unwrap();
        let behind = 43 - u64::from(last);
        assert_eq!(link.counters().lost_last, behind, "seed {seed}");
        seen[behind.min(2) as usize] += 1;
        // Datagrams that meet a cut do not count as lost at the end.
        link.set_impairment(with(&[("passage", "cut")]));
        link.handle_train(train(10), now);
        assert_eq!(link.counters().lost_last, behind, "seed {seed}");
        link.set_impairment(with(&[]));
        link.handle_train(train(1), now);
        assert_eq!(link.counters().lost_last, 0, "seed {seed}");
    }
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}

#[test]
fn a_train_without_events_stays_whole() {
    let now = Instant::now();
    let mut link = Link::new(with(&[("delay", "1ms"), ("loss", "0.0001%")]), 1);
    let sent = train(44);
    let bytes = sent.packet.clone();
    link.handle_train(sent, now);
    let arrived = drain(&mut link, now + MS);
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0].packet, bytes);
    assert_eq!(link.counters().delivered, 44);
}

#[test]
fn a_blackhole_drops_datagrams_in_flight_and_a_cut_does_not() {
    let now = Instant::now();
    for (passage, arrives) in [("cut", 44), ("blackhole", 0)] {
        let mut link = Link::new(with(&[("delay", "25ms")]), 1);
        link.handle_train(train(44), now);
        link.set_impairment(with(&[("delay", "25ms"), ("passage", passage)]));
        link.handle_train(train(10), now + MS);
        drain(&mut link, now + 100 * MS);
        let counters = link.counters();
        assert_eq!(counters.delivered, arrives, "{passage}");
        assert_eq!(counters.lost.cut + counters.lost.blackhole, 54 - arrives);
        link.set_impairment(with(&[("delay", "25ms")]));
        link.handle_train(train(3), now + 200 * MS);
        assert_eq!(drain(&mut link, now + 300 * MS).len(), 1);
        assert!(link.counters().balanced());
    }
}

#[test]
fn the_rate_paces_and_its_queue_is_bounded() {
    let now = Instant::now();
    let mut link = Link::new(with(&[("rate", "8mbit"), ("queue", "10kB")]), 1);
    for _ in 0..20 {
        link.handle_train(plain(0, 1000), now);
    }
    // The packet being sent counts as one of the ten.
    assert_eq!(link.counters().lost.queue, 10);
    assert_eq!(drain(&mut link, now + 5 * MS).len(), 5);
    assert_eq!(drain(&mut link, now + 11 * MS).len(), 5);
    link.handle_train(train(5), now + 20 * MS);
    assert_eq!(drain(&mut link, now + 22 * MS).len(), 1, "a slow train arrives datagram by datagram");
    assert_eq!(drain(&mut link, now + 30 * MS).len(), 4);
    assert!(link.counters().balanced());
}

#[test]
fn reordered_datagrams_are_overtaken_and_duplicates_follow() {
    let now = Instant::now();
    let mut link = Link::new(with(&[("reorder", "10%"), ("reorder_delay", "5ms"), ("duplicate", "10%")]), 3);
    for at in 0..200u8 {
        link.handle_train(plain(at, 100), now + MS * u32::from(at));
    }
    let arrived: Vec<u8> = drain(&mut link, now + 1000 * MS).iter().map(|train| train.packet[0]).collect();
    let counters = link.counters();
    assert!(counters.reordered > 5 && counters.duplicated > 5);
    assert_eq!(arrived.len() as u64, 200 + counters.duplicated);
    assert!(arrived.windows(2).any(|pair| pair[1] < pair[0]));
}

#[test]
fn corruption_flips_payload_bits_of_single_datagrams() {
    let now = Instant::now();
    let mut link = Link::new(with(&[("corrupt", "100%")]), 3);
    let sent = train(1);
    let original = sent.packet.clone();
    link.handle_train(sent, now);
    let arrived = link.poll_train(now).unwrap();
    assert_eq!(arrived.packet[..28], original[..28]);
    assert_ne!(arrived.packet, original);
    assert_eq!(link.counters().corrupted, 1);
    link.handle_train(plain(0x45, 21), now);
    assert_eq!(link.counters().corrupted, 1, "no payload, nothing to corrupt");
}

#[test]
fn packets_above_the_mtu_do_not_enter() {
    let mut link = Link::new(with(&[("mtu", "1000")]), 3);
    let now = Instant::now();
    link.handle_train(train(4), now);
    link.handle_train(plain(0, 1000), now);
    assert_eq!((link.counters().lost.mtu, link.counters().in_flight), (4, 1));
}

#[test]
fn memory_is_bounded() {
    let now = Instant::now();
    let mut link = Link::new(with(&[("delay", "10s")]), 3);
    for _ in 0..6000 {
        let mut packet = link.buffer(60_000);
        packet.resize(60_000, 0);
        link.handle_train(Train { header: VirtioHeader::default(), packet }, now);
    }
    assert!(link.counters().lost.overflow > 0 && link.memory <= MEMORY);
    link.set_impairment(with(&[("passage", "blackhole")]));
    assert!(link.counters().balanced() && link.poll_timeout().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Every datagram is accounted for, and the same seed gives the same result.
    #[test]
    fn every_datagram_is_accounted_for(
        seed: u64,
        loss in 0..40u32,
        others in 0..30u32,
        rate in prop::option::of(1..400u32),
        steps in prop::collection::vec((1..60usize, 0..4000u32, 0..12u8), 1..60),
    ) {
        let run = || {
            let mut impairment = with(&[("delay", "3ms"), ("jitter", "1ms"), ("queue", "100kB")]);
            impairment.set("loss", &format!("{loss}%")).unwrap();
            for key in ["reorder", "duplicate", "corrupt"] {
                impairment.set(key, &format!("{others}%")).unwrap();
            }
            impairment.rate = rate.map(|rate| u64::from(rate) * 1_000_000);
            let mut link = Link::new(impairment.clone(), seed);
            let start = Instant::now();
            let mut now = start;
            let mut log = Vec::new();
            for (segments, wait, action) in &steps {
                now += Duration::from_micros(u64::from(*wait));
                impairment.passage = match action { 0 => Passage::Cut, 1 => Passage::Blackhole, _ => Passage::Open };
                link.set_impairment(impairment.clone());
                link.handle_train(train(*segments), now);
                for train in drain(&mut link, now) {
                    log.push((now - start, train.packet.clone()));
                    link.recycle(train);
                }
                assert!(link.counters().balanced(), "{:?}", link.counters());
            }
            for train in drain(&mut link, now + Duration::from_secs(60)) {
                assert!(segment_count(train.header, &train.packet) >= 1);
                log.push((now - start, train.packet));
            }
            assert_eq!(link.counters().in_flight, 0);
            assert_eq!(link.memory, 0);
            (log, link.counters())
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn an_interruption_swallows_whole_trains_by_their_time_and_is_counted() {
    let now = Instant::now();
    let mut link = Link::new(with(&[("delay", "25ms")]), 1);
    link.interruptions().add(now + 3 * MS, now + 5 * MS);
    for at in 0..8 {
        link.handle_train(train(10), now + MS * at);
    }
    assert_eq!(link.counters().lost.interrupted, 20);
    assert_eq!(link.interruptions().all().map(|window| window.swallowed).collect::<Vec<_>>(), [20]);
    assert_eq!(link.counters().lost_last, 0, "trains have passed behind it");
    assert_eq!(drain(&mut link, now + 100 * MS).len(), 6);
    assert!(link.counters().balanced());
    link.interruptions().add(now + 8 * MS, now + 9 * MS);
    link.handle_train(train(10), now + 8 * MS);
    assert_eq!(link.counters().lost_last, 10);
}

#[test]
fn so_many_of_the_next_long_datagrams_are_lost() {
    let now = Instant::now();
    let mut link = Link::new(with(&[("delay", "1ms")]), 1);
    link.lose_next(13, 500);
    link.handle_train(plain(1, 100), now);
    link.handle_train(train(10), now);
    link.handle_train(train(10), now);
    link.handle_train(train(10), now);
    assert_eq!((link.counters().lost.chance, link.counters().entered), (13, 31));
    drain(&mut link, now + 2 * MS);
    assert_eq!((link.counters().delivered, link.counters().balanced()), (18, true));
}

#[test]
fn a_trace_repeats_and_other_settings_do_not_restart_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "2 ok\n1 lost\n").unwrap();
    let (now, loss) = (Instant::now(), format!("trace {}", file.path().display()));
    let mut link = Link::new(with(&[("loss", &loss)]), 1);
    link.handle_train(train(4), now);
    link.set_impairment(with(&[("loss", &loss), ("delay", "1ms")]));
    link.handle_train(train(4), now);
    link.handle_train(train(1), now);
    assert_eq!((link.counters().lost.chance, link.counters().lost_last), (3, 1));
}
