//! The flow table through its public interface: packets and block outcomes in, positions out.

mod instances;
mod losses;

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::wire::packet::{PacketView, TCP, TcpHeader, UDP};
use crate::wire::samples;
use crate::wire::virtio::VirtioHeader;

const ACK: u8 = TcpHeader::ACK;
const SYN: u8 = TcpHeader::SYN;
const FIN: u8 = TcpHeader::FIN;
const RST: u8 = TcpHeader::RST;

/// A table, and the packets of a few flows.
struct Bench {
    table: FlowTable,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits { flows: 4, ..Limits::default() })
    }

    fn with(limits: Limits) -> Self {
        Self { table: FlowTable::new(limits, 1, InstanceCounter::default()), now: Instant::now() }
    }

    fn sent(&mut self, packet: &[u8], virtio: VirtioHeader, sbn: u64) -> Option<FlowId> {
        let view = PacketView::parse(packet).unwrap();
        self.table.on_sent(packet, &view, virtio, block(sbn), self.now)
    }

    fn tcp(&mut self, port: u16, flags: u8, sequence: u32, len: usize, sbn: u64) -> Option<FlowId> {
        self.sent(&segment(4, port, flags, sequence, 0, len), VirtioHeader::default(), sbn)
    }

    fn udp(&mut self, port: u16, len: usize, sbn: u64) -> Option<FlowId> {
        let mut datagram = samples::udp(len);
        datagram[..2].copy_from_slice(&port.to_be_bytes());
        self.sent(&samples::ipv4(UDP, &[], &datagram), VirtioHeader::default(), sbn)
    }

    fn answer(&mut self, port: u16, flags: u8, acknowledgement: u32) {
        let packet = turned(segment(4, port, flags, 77, acknowledgement, 0));
        let view = PacketView::parse(&packet).unwrap();
        self.table.on_received(&packet, &view, VirtioHeader::default(), self.now);
    }

    fn received(&mut self, packet: &[u8], virtio: VirtioHeader) {
        let view = PacketView::parse(packet).unwrap();
        self.table.on_received(packet, &view, virtio, self.now);
    }

    fn protect(&mut self, sbn: u64) {
        self.table.on_block_protected(block(sbn), Level::OnWire, Duration::ZERO);
    }

    fn bytes(&self, id: FlowId, level: Level) -> u64 {
        self.table.flow(id).unwrap().position(level).bytes
    }

    fn on_wire(&self, id: FlowId) -> u64 {
        self.bytes(id, Level::OnWire)
    }

    /// All pending events, abbreviated.
    fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.table.poll_event())
            .flat_map(|event| match event {
                Event::New(flow) => vec![format!("new {}", flow.id.instance())],
                Event::Protected { flow, raised, .. } => {
                    // Without late parts, early rises with on_wire.
                    let levels = Level::ALL.into_iter().filter(|level| raised[level.index()] && *level != Level::Early);
                    let line = |level| {
                        let position = flow.position(level);
                        format!("{level:?} {} {} {}", flow.id.instance(), position.bytes, position.sequence)
                    };
                    levels.map(line).collect()
                }
                Event::Gone { flow, reason } => vec![format!("{reason:?} {}", flow.id.instance())],
                Event::Overflow => vec!["overflow".to_owned()],
            })
            .collect()
    }
}

fn block(sbn: u64) -> BlockId {
    BlockId { profile: 0, sbn }
}

fn segment(version: u8, port: u16, flags: u8, sequence: u32, acknowledgement: u32, len: usize) -> Vec<u8> {
    let mut bytes = samples::tcp(flags, &[1; 12], len);
    bytes[..2].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    match version {
        4 => samples::ipv4(TCP, &[], &bytes),
        _ => samples::ipv6(TCP, &bytes),
    }
}

/// The same packet with source and destination swapped.
fn turned(mut packet: Vec<u8>) -> Vec<u8> {
    packet[12..20].rotate_left(4);
    packet[20..24].rotate_left(2);
    packet
}

#[test]
fn a_position_rises_over_contiguous_bytes_only() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, u32::MAX - 100, 0, 0).unwrap();
    for (index, sbn) in [0, 1, 2, 3].into_iter().enumerate() {
        let sequence = (u32::MAX - 99).wrapping_add(50 * index as u32);
        assert_eq!(bench.tcp(1, ACK, sequence, 50, sbn), Some(id));
    }
    for (sbn, expected) in [(3, 0), (0, 50), (2, 50), (1, 200)] {
        bench.protect(sbn);
        assert_eq!(bench.on_wire(id), expected, "block {sbn}");
    }
    assert_eq!(bench.events(), ["new 1", "Queued 1 200 100", "OnWire 1 200 100"]);
    assert_eq!(bench.bytes(id, Level::Decoded), 0);
    bench.table.on_blocks_decoded(0, 3);
    assert_eq!(bench.events(), ["Decoded 1 150 50"]);
    bench.answer(1, ACK, 80);
    assert_eq!(bench.events(), ["Decoded 1 180 80", "Acked 1 180 80"]);
}

#[test]
fn both_ip_versions_and_super_packets_are_one_range_each() {
    for version in [4, 6] {
        let mut bench = Bench::new();
        let syn = segment(version, 9, SYN, 10, 0, 0);
        let id = bench.sent(&syn, VirtioHeader::default(), 0).unwrap();
        let packet = segment(version, 9, ACK, 11, 0, 60_000);
        let virtio = VirtioHeader { gso_type: VirtioHeader::GSO_TCPV4, gso_size: 1400, ..VirtioHeader::default() };
        assert_eq!(bench.sent(&packet, virtio, 0), Some(id));
        bench.protect(0);
        assert_eq!(bench.on_wire(id), 60_000);
        assert_eq!(bench.table.find(&bench.table.flow(id).unwrap().key).unwrap().id, id);
    }
}

#[test]
fn retransmissions_probes_and_overlaps_never_lower_a_position() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 999, 0, 0).unwrap();
    bench.tcp(1, ACK, 1000, 100, 0);
    bench.protect(0);
    bench.answer(1, ACK, 1100);
    for (case, flags, sequence, len) in [
        ("the same again", ACK, 1000, 100),
        ("a part of it", ACK, 1050, 20),
        ("keepalive", ACK, 1099, 0),
        ("keepalive with a byte", ACK, 1099, 1),
        ("bare acknowledgement", ACK, 1100, 0),
        ("the SYN again", SYN, 999, 0),
    ] {
        assert_eq!(bench.tcp(1, flags, sequence, len, 1), Some(id), "{case}");
        assert_eq!(bench.on_wire(id), 100, "{case}");
    }
    bench.tcp(1, ACK, 1050, 100, 2);
    assert_eq!(bench.on_wire(id), 100, "the second half is new and unprotected");
    bench.protect(2);
    assert_eq!(bench.on_wire(id), 150);
    bench.protect(1);
    assert_eq!(bench.on_wire(id), 150);
}

/// A connection with 1000 protected bytes, none acknowledged; both ends have offered windows of 30,000.
fn living() -> (Bench, FlowId) {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 999, 0, 0).unwrap();
    for packet in [shown(SYN | ACK, 76, 1000), shown(ACK, 77, 1000)] {
        bench.received(&packet, VirtioHeader::default());
    }
    bench.sent(&segment(4, 1, ACK, 1000, 77, 1000), VirtioHeader::default(), 0);
    bench.protect(0);
    assert_eq!((bench.on_wire(id), bench.bytes(id, Level::Acked)), (1000, 0));
    (bench, id)
}

/// An answer with a window of 30,000.
fn shown(flags: u8, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    let mut bytes = samples::tcp(flags, &[], 0);
    bytes[..4].copy_from_slice(&[21, 56, 0, 1]);
    bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    bytes[14..16].copy_from_slice(&30_000u16.to_be_bytes());
    let mut packet = samples::ipv4(TCP, &[], &bytes);
    packet[12..20].rotate_left(4);
    packet
}

#[test]
fn a_forged_acknowledgement_raises_no_position() {
    let (mut bench, id) = living();
    for (case, packet) in [
        ("a sequence number outside the window", shown(ACK, 500_000, 2000)),
        ("the same below the window", shown(ACK, 77u32.wrapping_sub(500_000), 2000)),
        ("more than was sent", shown(ACK, 77, 2001)),
        ("a FIN outside the window", shown(ACK | FIN, 500_000, 2000)),
        ("an RST outside the window", shown(RST | ACK, 500_000, 2000)),
    ] {
        let before = bench.table.counters().implausible_acks;
        bench.received(&packet, VirtioHeader::default());
        assert_eq!(bench.bytes(id, Level::Acked), 0, "{case}");
        assert_eq!(bench.table.counters().implausible_acks, before + 1, "{case}");
        assert!(!bench.table.flow(id).unwrap().closed, "{case}");
    }
    let mut wrong = shown(ACK, 77, 2000);
    wrong[37] ^= 1;
    bench.received(&wrong, VirtioHeader::default());
    assert_eq!((bench.bytes(id, Level::Acked), bench.table.counters().bad_checksums), (0, 1));
    let partial = VirtioHeader { flags: VirtioHeader::NEEDS_CSUM, ..VirtioHeader::default() };
    bench.received(&wrong, partial);
    assert_eq!(bench.bytes(id, Level::Acked), 1000, "the checksum is not computed yet");
}

#[test]
fn forged_data_moves_no_position_past_the_bytes_written() {
    let (mut bench, id) = living();
    let mut wrong = segment(4, 1, ACK, 2000, 77, 500);
    wrong[60] ^= 1;
    for (case, packet) in [
        ("beyond the window", segment(4, 1, ACK, 1000 + 30_002, 77, 500)),
        ("next, with an implausible acknowledgement", segment(4, 1, ACK, 2000, 1_000_000, 500)),
        ("next, without an acknowledgement", segment(4, 1, 0, 2000, 77, 500)),
        ("next, with a wrong checksum", wrong),
    ] {
        bench.sent(&packet, VirtioHeader::default(), 1);
        assert_eq!(bench.table.flow(id).unwrap().sent.bytes, 1000, "{case}");
    }
    // An RST and a FIN outside the window end nothing.
    for flags in [RST, ACK | FIN] {
        bench.sent(&segment(4, 1, flags, 500_000, 77, 0), VirtioHeader::default(), 1);
    }
    bench.protect(1);
    bench.sent(&segment(4, 1, ACK, 2000, 77, 500), VirtioHeader::default(), 2);
    assert_eq!(bench.on_wire(id), 1000);
    bench.protect(2);
    assert_eq!((bench.on_wire(id), bench.table.flow(id).unwrap().closed), (1500, false));
    let counters = bench.table.counters();
    assert_eq!((counters.bad_checksums, counters.strays), (1, 5), "{counters:?}");
    // An RST inside the window does.
    bench.sent(&segment(4, 1, RST, 2500, 0, 0), VirtioHeader::default(), 3);
    assert!(bench.table.flow(id).unwrap().closed);
}

#[test]
fn acknowledgements_from_an_end_without_data_advance_the_expected_number() {
    let (mut bench, id) = living();
    for acknowledgement in [60_077, 120_077] {
        bench.sent(&segment(4, 1, ACK, 2000, acknowledgement, 0), VirtioHeader::default(), 1);
    }
    bench.received(&shown(ACK, 120_077, 1500), VirtioHeader::default());
    assert_eq!(bench.bytes(id, Level::Acked), 500);
}

#[test]
fn a_flow_first_seen_in_the_middle_has_no_position_before_an_acknowledgement() {
    let mut bench = Bench::new();
    assert_eq!(bench.tcp(1, ACK, 5000, 0, 0), None, "an acknowledgement makes no flow");
    let id = bench.tcp(1, ACK, 5000, 100, 0).unwrap();
    assert_eq!(bench.table.flow(id).unwrap().origin, Origin::Middle);
    bench.protect(0);
    for (acknowledgement, expected) in [(4999, 0), (5101, 0), (5000, 100)] {
        bench.answer(1, ACK, acknowledgement);
        assert_eq!(bench.on_wire(id), expected, "{acknowledgement}");
    }
    assert_eq!(bench.table.flow(id).unwrap().position(Level::OnWire).sequence, 5100);
    assert_eq!(bench.table.counters().implausible_acks, 1);
}

#[test]
fn data_in_a_syn_counts_once_acknowledged() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 10, 0).unwrap();
    bench.protect(0);
    assert_eq!(bench.on_wire(id), 0);
    bench.answer(1, SYN | ACK, 110);
    assert_eq!(bench.on_wire(id), 10);
}

#[test]
fn a_fin_and_its_acknowledgement_count_no_byte_and_close_the_flow() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK | FIN, 100, 10, 0);
    bench.answer(1, ACK | FIN, 111);
    let flow = bench.table.flow(id).unwrap();
    assert_eq!((flow.closed, flow.position(Level::Acked).bytes, flow.sent.bytes), (true, 10, 10));
    bench.events();
    bench.now += Duration::from_secs(12);
    assert!(bench.table.deadline().unwrap() < bench.now);
    bench.table.handle_timeout(bench.now);
    assert_eq!((bench.events(), bench.table.is_empty()), (vec!["Closed 1".to_owned()], true));
}

#[test]
fn a_reset_acknowledges_nothing() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 0);
    bench.answer(1, RST | ACK, 110);
    assert_eq!(bench.on_wire(id), 0);
    assert!(bench.table.flow(id).unwrap().closed);
    bench.tcp(1, ACK, 110, 10, 0);
    assert!(!bench.table.flow(id).unwrap().closed, "it was a stray reset");
}

#[test]
fn udp_counts_packets_and_bytes_and_restarts_after_a_loss() {
    let mut bench = Bench::new();
    let id = bench.udp(1, 100, 0).unwrap();
    bench.udp(1, 0, 0);
    let (virtio, packet) = samples::partial(4, UDP, samples::udp(1000), Some(300));
    bench.sent(&packet, virtio, 1);
    bench.udp(1, 5, 1);
    bench.protect(1);
    bench.protect(0);
    let position = bench.table.flow(id).unwrap().position(Level::OnWire);
    assert_eq!((position.bytes, position.packets), (105, 3));
    bench.udp(1, 7, 2);
    bench.events();
    bench.table.on_block_failed(block(2), bench.now);
    assert_eq!(bench.events(), ["Replaced 1", "new 3"], "2 is the super-packet's flow");
    let id = bench.udp(1, 9, 3).unwrap();
    bench.protect(3);
    let position = bench.table.flow(id).unwrap().position(Level::OnWire);
    assert_eq!((position.bytes, position.packets), (9, 1));
}

#[test]
fn a_udp_super_packet_counts_each_of_its_packets() {
    let mut bench = Bench::new();
    let (virtio, packet) = samples::partial(6, UDP, samples::udp(1000), Some(300));
    let id = bench.sent(&packet, virtio, 0).unwrap();
    bench.protect(0);
    let position = bench.table.flow(id).unwrap().position(Level::OnWire);
    assert_eq!((position.bytes, position.packets), (1000, 4));
}

#[test]
fn forged_segments_far_ahead_do_not_wrap_the_count() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 0);
    for step in 1..=5u32 {
        bench.tcp(1, ACK, 100u32.wrapping_add(step.wrapping_mul(0x3fff_ffff)), 10, 0);
    }
    assert!(bench.table.flow(id).unwrap().sent.bytes <= (1 << 30) + 10);
    bench.answer(1, ACK, 110);
    assert_eq!(bench.bytes(id, Level::Acked), 10);
    bench.tcp(1, ACK, 110, 10, 1);
    assert_eq!(bench.on_wire(id), 10);
}

#[test]
fn without_acknowledgements_contiguous_bytes_extend_the_reach() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    let mut sequence = 100u32;
    for sbn in 0..20_000u64 {
        bench.tcp(1, ACK, sequence, 60_000, sbn);
        sequence = sequence.wrapping_add(60_000);
        bench.protect(sbn);
        bench.table.on_block_protected(block(sbn), Level::Decoded, Duration::ZERO);
    }
    assert_eq!(bench.on_wire(id), 20_000 * 60_000, "more than a window");
    assert_eq!(bench.table.counters().strays, 0);
}

#[test]
fn the_answer_to_an_unseen_syn_acknowledges_nothing() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 1000, 0);
    bench.answer(1, ACK | SYN, 100);
    assert!(bench.table.flow(id).is_some(), "the same answer again");
    bench.answer(1, ACK | SYN, 600);
    assert_eq!(bench.table.flow(id), None, "the answer of another connection, with a number in this one's window");

    let middle = bench.tcp(2, ACK, 5000, 1000, 0).unwrap();
    bench.answer(2, ACK | SYN, 5600);
    bench.protect(0);
    assert_eq!(bench.on_wire(middle), 0);
}

#[test]
fn a_state_reports_no_position_where_none_is_known() {
    let mut bench = Bench::new();
    let middle = bench.tcp(1, ACK, 5000, 100, 0).unwrap();
    let udp = bench.udp(2, 10, 0).unwrap();
    bench.protect(0);
    let reported = |bench: &Bench, id| {
        let flow = bench.table.flow(id).unwrap();
        (flow.origin_sequence, Level::ALL.map(|level| flow.reported(level).map(|position| position.bytes)))
    };
    assert_eq!(reported(&bench, middle), (Some(5000), [None; Level::COUNT]));
    bench.answer(1, ACK, 5000);
    assert_eq!(reported(&bench, middle), (Some(5000), [Some(100), Some(100), Some(100), Some(0), Some(0)]));
    assert_eq!(reported(&bench, udp), (None, [Some(10), Some(10), Some(10), Some(0), None]));
}

#[test]
fn a_dump_in_parts_lists_each_lasting_flow_once() {
    let mut bench = Bench::with(Limits { flows: 8, ..Limits::default() });
    let ids: Vec<_> = (0..8).map(|port| bench.tcp(port, SYN, 99, 0, 0).unwrap()).collect();
    let (mut place, mut listed) = (0, Vec::new());
    for page in 0..4 {
        for (next, flow) in bench.table.flows_from(place).take(3) {
            place = next;
            listed.push(flow.id);
        }
        if page == 0 {
            bench.answer(5, RST, 0);
            bench.tcp(99, SYN, 99, 0, 0).unwrap();
        }
    }
    assert!(ids.iter().enumerate().all(|(at, id)| at == 5 || listed.iter().filter(|&other| other == id).count() == 1));
    assert_eq!((listed.len(), bench.table.flows_from(place).count()), (8, 0));
    assert_eq!(bench.table.flows_from(usize::MAX).count(), 0);
}

#[test]
fn an_epoch_voids_open_blocks_and_keeps_reported_positions() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 0);
    bench.tcp(1, ACK, 110, 10, 1);
    bench.protect(0);
    bench.table.on_epoch(bench.now);
    bench.protect(1);
    assert_eq!(bench.on_wire(id), 10);
    bench.tcp(1, ACK, 120, 10, 0);
    bench.protect(0);
    assert_eq!(bench.on_wire(id), 10);
    bench.answer(1, ACK, 120);
    assert_eq!(bench.on_wire(id), 30, "block 0 of the new epoch counts");
}

#[test]
fn a_cookie_applies_to_current_and_later_instances() {
    let mut bench = Bench::with(Limits { cookies: 2, ..Limits::default() });
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    let key = bench.table.flow(id).unwrap().key;
    let other = |port| FlowKey { source_port: port, ..key };
    assert_eq!(bench.table.register(&key, 7, bench.now), Ok(Some(id)));
    assert_eq!(bench.table.register(&other(2), 8, bench.now), Ok(None));
    assert_eq!(bench.table.register(&other(3), 9, bench.now), Ok(None));
    assert_eq!(bench.table.register(&other(4), 9, bench.now), Err(TooManyCookies { limit: 2 }));
    let next = bench.tcp(1, SYN, 0x5000_0000, 0, 0).unwrap();
    let second = bench.tcp(2, SYN, 99, 0, 0).unwrap();
    assert_eq!(bench.table.flow(next).unwrap().cookie, Some(7), "the cookie belongs to the ports");
    assert_eq!(bench.table.flow(second).unwrap().cookie, Some(8));
    bench.now += Duration::from_secs(400);
    assert_eq!(bench.table.register(&other(4), 9, bench.now), Ok(None), "expired cookies make room");
    let third = bench.tcp(3, SYN, 99, 0, 0).unwrap();
    assert_eq!(bench.table.flow(third).unwrap().cookie, None);
}

#[test]
fn a_reader_that_never_polls_costs_bounded_memory() {
    let mut bench = Bench::with(Limits { flows: 1, ..Limits::default() });
    for round in 0..5000u32 {
        let syn = round.wrapping_mul(0x0500_0000);
        bench.tcp(1, SYN, syn, 0, u64::from(round));
        bench.tcp(1, ACK, syn + 1, 1, u64::from(round));
        bench.protect(round.into());
        bench.now += Duration::from_secs(4);
    }
    assert!(bench.table.events.changed_len() <= 3);
    let events = bench.events();
    let sequence = 4999u32.wrapping_mul(0x0500_0000) + 2;
    let last = ["overflow".to_owned(), format!("Queued 5000 1 {sequence}"), format!("OnWire 5000 1 {sequence}")];
    assert_eq!(events[events.len() - 3..], last);
}

#[test]
fn packets_of_no_flow_are_ignored() {
    let mut bench = Bench::new();
    let mut fragment = segment(4, 1, ACK, 100, 0, 10);
    fragment[6] = 0x20;
    assert_eq!(bench.sent(&fragment, VirtioHeader::default(), 0), None);
    assert_eq!(bench.sent(&samples::ipv4(1, &[], &[0; 8]), VirtioHeader::default(), 0), None);
    assert_eq!(bench.sent(&samples::ipv4(TCP, &[], &[0; 8]), VirtioHeader::default(), 0), None);
    assert_eq!(bench.sent(&samples::ipv4(UDP, &[], &[0; 6]), VirtioHeader::default(), 0), None);
    assert_eq!(bench.tcp(1, RST, 100, 10, 0), None);
    assert_eq!((bench.table.counters().fragments, bench.table.is_empty()), (1, true));
}

proptest! {
    #[test]
    fn any_sequence_of_packets_and_outcomes_keeps_the_invariants(
        steps in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u8>(), 0u8..12, 0u64..9, any::<[u8; 3]>()), 1..150),
    ) {
        let limits = Limits { flows: 3, ranges: 5, blocks: 4, cookies: 1, ..Limits::default() };
        let mut bench = Bench::with(limits);
        for (sequence, acknowledgement, flags, action, sbn, noise) in steps {
            let [port, at, value] = noise;
            let version = if port & 8 == 0 { 4 } else { 6 };
            let mut packet = segment(version, u16::from(port & 7), flags, sequence, acknowledgement, 5);
            let at = usize::from(at) % packet.len();
            packet[at] = value;
            let sbn = if sbn == 8 { u64::from(sequence) << 32 } else { sbn };
            let view = PacketView::parse(&packet);
            match (action, view) {
                (0..5, Ok(view)) => {
                    bench.table.on_sent(&packet, &view, VirtioHeader::default(), block(sbn), bench.now);
                }
                (5..7, Ok(view)) => bench.table.on_received(&packet, &view, VirtioHeader::default(), bench.now),
                (7, _) => bench.table.on_block_protected(block(sbn), Level::ALL[usize::from(value) % Level::COUNT], Duration::ZERO),
                (8, _) => bench.table.on_block_failed(block(sbn), bench.now),
                (9, _) => {
                    bench.table.violation(block(sbn), bench.now);
                }
                (10, _) => bench.table.on_blocks_decoded(0, sbn),
                (11, _) if value < 32 => bench.table.on_epoch(bench.now),
                _ => {
                    bench.now += Duration::from_secs(u64::from(value) * 10);
                    bench.table.handle_timeout(bench.now);
                }
            }
            prop_assert!(bench.table.len() <= 3);
            if port & 16 == 0 {
                bench.events();
            }
        }
        for flow in bench.table.flows() {
            let bytes = flow.positions.map(|position| position.bytes);
            prop_assert!(bytes.is_sorted_by(|weak, strong| weak >= strong), "{bytes:?}");
            prop_assert!(bytes[0] <= flow.sent.bytes);
        }
    }
}

#[test]
fn a_full_table_fits_the_documented_memory() {
    let limits = Limits::default();
    let flow = size_of::<Option<super::instance::Flow>>() + size_of::<super::instance::Rest>();
    let flows = limits.flows * (flow + 40);
    let ranges = limits.ranges * size_of::<super::blocks::Range>();
    assert!(flows + ranges < 45 << 20, "{} MB", (flows + ranges) >> 20);
}
