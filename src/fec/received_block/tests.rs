//! Blocks whose symbols arrive in every order, with every symbol missing, and with invalid bytes.

use super::*;
use crate::fec::source_block::SourceBlock;
use crate::wire::virtio::VirtioHeader;

const E: usize = 128;
const ROOM: usize = 1 << 20;

/// A closed block of packets of these lengths, each in symbols of its own; packet `i` is filled with `i + 1`.
fn block_of(lengths: &[usize]) -> SourceBlock {
    let mut block = SourceBlock::new(E, 64);
    for (number, &len) in lengths.iter().enumerate() {
        block.room()[..len].fill(number as u8 + 1);
        let virtio = VirtioHeader { flags: u8::from(len > 90), ..VirtioHeader::default() };
        block.commit(virtio, len);
        block.finish_symbol();
    }
    block
}

fn source_id(block: &SourceBlock, esi: usize) -> SourceId {
    SourceId {
        profile: 0,
        unprotected: false,
        esi: esi as u16,
        sbn: 0,
        previous_symbols: 0,
        first_adu: block.first_adu(esi),
    }
}

fn insert(received: &mut ReceivedBlock, sent: &SourceBlock, esi: usize) -> Insertion {
    received.insert_source(source_id(sent, esi), sent.symbol(esi), ROOM)
}

/// Numbers of the packets that leave now.
fn leave(received: &mut ReceivedBlock, skip_holes: bool) -> Vec<u8> {
    let mut numbers = Vec::new();
    while let Some((header, packet)) = received.next_adu(skip_holes) {
        let bytes = &received.bytes()[packet];
        assert_eq!(bytes.len(), header.packet_len);
        assert!(bytes.iter().all(|&byte| byte == bytes[0]), "a packet is not mixed from two");
        numbers.push(bytes[0]);
    }
    numbers
}

/// The symbol that arrives, and the packets that leave then.
type Arrival<'a> = (usize, &'a [u8]);

#[test]
fn adus_leave_as_soon_as_they_are_whole() {
    // The packets lie in symbols 0; 1 and 2; 3.
    let sent = block_of(&[40, 200, 50]);
    let rows: &[(bool, &[Arrival<'_>])] = &[
        (false, &[(0, &[1]), (1, &[]), (2, &[2]), (3, &[3])]),
        (false, &[(3, &[]), (2, &[]), (1, &[]), (0, &[1, 2, 3])]),
        (false, &[(0, &[1]), (2, &[]), (3, &[]), (1, &[2, 3])]),
        (true, &[(3, &[3]), (2, &[]), (1, &[2]), (0, &[1])]),
        (true, &[(1, &[]), (3, &[3]), (0, &[1]), (2, &[2])]),
        (true, &[(0, &[1]), (2, &[]), (3, &[3]), (1, &[2])]),
    ];
    for (skip_holes, steps) in rows {
        let mut received = ReceivedBlock::new(E);
        for (step, &(esi, numbers)) in steps.iter().enumerate() {
            assert_eq!(insert(&mut received, &sent, esi), Insertion::New);
            assert_eq!(leave(&mut received, *skip_holes), numbers, "step {step} of {steps:?}");
        }
        assert!(!received.is_delivered(), "k is not known yet");
        assert!(received.learn_symbols(4) && leave(&mut received, *skip_holes).is_empty());
        assert!(received.is_delivered());
    }
}

#[test]
fn a_whole_adu_in_a_hole_leaves_before_its_neighbours_arrive() {
    let sent = block_of(&[40, 41, 42, 43]);
    let mut received = ReceivedBlock::new(E);
    insert(&mut received, &sent, 3);
    assert_eq!(leave(&mut received, true), [4]);
    insert(&mut received, &sent, 1);
    assert_eq!(leave(&mut received, true), [2], "although its neighbours are missing");
    insert(&mut received, &sent, 0);
    assert_eq!(leave(&mut received, true), [1]);
    insert(&mut received, &sent, 2);
    assert_eq!(leave(&mut received, true), [3]);
}

#[test]
fn lost_symbols_are_rebuilt_and_their_adus_leave_once() {
    let mut sent = block_of(&[40, 300, 50, 60]);
    let (mut code, mut repair) = (Code::new(), Vec::new());
    let (layout, source) = sent.coded();
    code.encode(layout, source, 2, &mut repair);
    let k = layout.symbols;
    for skip_holes in [false, true] {
        for (first, second) in (0..k).flat_map(|first| (0..first).map(move |second| (first, second))) {
            let mut received = ReceivedBlock::new(E);
            let mut numbers = Vec::new();
            for esi in (0..k).filter(|&esi| esi != first && esi != second) {
                insert(&mut received, &sent, esi);
                numbers.extend(leave(&mut received, skip_holes));
            }
            for (index, symbol) in repair.chunks(layout.size).enumerate() {
                let (k, esi) = (k as u16, (k + index) as u16);
                let id =
                    RepairId { profile: 0, esi, sbn: 0, source_symbols: k, repair_symbols: 2, previous_symbols: 0 };
                assert_eq!(received.insert_repair(id, symbol, ROOM), Insertion::New);
                assert_eq!(received.rebuild(&mut code, ROOM), index * 2);
            }
            numbers.extend(leave(&mut received, skip_holes));
            assert!(received.is_delivered());
            if skip_holes {
                numbers.sort();
            }
            assert_eq!(numbers, [1, 2, 3, 4], "without {first} and {second}");
            assert_eq!(insert(&mut received, &sent, first), Insertion::Unneeded);
        }
    }
}

#[test]
fn symbols_that_contradict_the_block_are_refused() {
    let sent = block_of(&[40, 40, 40]);
    let repair =
        |k, m, esi| RepairId { profile: 0, esi, sbn: 0, source_symbols: k, repair_symbols: m, previous_symbols: 0 };
    let mut received = ReceivedBlock::new(E);
    assert_eq!(insert(&mut received, &sent, 2), Insertion::New);
    assert_eq!(insert(&mut received, &sent, 2), Insertion::Unneeded);
    assert_eq!(received.insert_repair(repair(2, 2, 2), &[0; 64], ROOM), Insertion::Contradictory, "symbol 2 is there");
    assert_eq!(received.insert_repair(repair(4, 2, 4), &[0; E + 64], ROOM), Insertion::Contradictory, "too long");
    assert_eq!(received.insert_repair(repair(4, 2, 4), &[0; 64], ROOM), Insertion::New);
    assert_eq!(received.insert_repair(repair(4, 2, 4), &[0; 64], ROOM), Insertion::Unneeded);
    assert_eq!(received.insert_repair(repair(4, 3, 5), &[0; 64], ROOM), Insertion::Contradictory, "another m");
    assert_eq!(received.insert_repair(repair(4, 2, 5), &[0; 128], ROOM), Insertion::Contradictory, "another size");
    assert_eq!(received.insert_repair(repair(5, 2, 6), &[0; 64], ROOM), Insertion::Contradictory, "another k");
    let beyond = SourceId { esi: 4, ..source_id(&sent, 0) };
    assert_eq!(received.insert_source(beyond, &[0; 10], ROOM), Insertion::Contradictory);
    assert_eq!(received.insert_source(source_id(&sent, 0), &[0; E + 1], ROOM), Insertion::Contradictory);
    assert!(!received.learn_symbols(5) && received.learn_symbols(4));
}

#[test]
fn one_datagram_cannot_make_a_block_hold_half_a_gigabyte() {
    let id = |esi| SourceId { profile: 0, unprotected: false, esi, sbn: 0, previous_symbols: 0, first_adu: 0 };
    let mut received = ReceivedBlock::new(65_472);
    assert_eq!(received.insert_source(id(8191), &[1], 64 << 20), Insertion::NoRoom);
    assert_eq!(received.memory(), 0);
    // Symbols to be rebuilt are bounded by the room, too.
    let repair =
        RepairId { profile: 0, esi: 8192, sbn: 0, source_symbols: 8192, repair_symbols: 1, previous_symbols: 0 };
    assert_eq!(received.insert_repair(repair, &[0; 64], 0), Insertion::NoRoom);
    assert_eq!(received.insert_repair(repair, &[0; 64], 1 << 10), Insertion::New);
    assert_eq!(received.rebuild(&mut Code::new(), 64 << 20), 0);
    assert!(received.memory() <= 1 << 10);
}

#[test]
fn a_block_never_holds_more_than_it_was_given_room_for() {
    use proptest::prelude::*;
    let symbols =
        proptest::collection::vec((any::<bool>(), 0..600u16, prop_oneof![0..4096usize, 0..200_000usize]), 1..200);
    proptest!(|(symbols in symbols)| {
        let (mut received, mut code) = (ReceivedBlock::new(E), Code::new());
        for (is_source, esi, room) in symbols {
            let held = received.memory();
            let id = SourceId { profile: 0, unprotected: false, esi, sbn: 0, previous_symbols: 0, first_adu: 0 };
            let repair = RepairId {
                profile: 0,
                esi: 600 + esi,
                sbn: 0,
                source_symbols: 600,
                repair_symbols: 600,
                previous_symbols: 0,
            };
            let insertion = match is_source {
                true => received.insert_source(id, &[0x80; 3], room),
                false => received.insert_repair(repair, &[0; E], room),
            };
            prop_assert!(received.memory() <= held + room);
            let held = received.memory();
            prop_assert!(insertion != Insertion::NoRoom || room < 600 * (E + SYMBOL_OVERHEAD));
            received.rebuild(&mut code, room);
            prop_assert!(received.memory() <= held + room);
        }
    });
}

#[test]
fn any_bytes_in_symbols_are_walked_to_the_end() {
    use proptest::prelude::*;
    let symbols =
        proptest::collection::vec((0..12u16, proptest::collection::vec(any::<u8>(), 1..=E), any::<u16>()), 1..24);
    proptest!(|(symbols in symbols, skip_holes: bool)| {
        let mut received = ReceivedBlock::new(E);
        for (esi, mut symbol, first_adu) in symbols {
            // Often make it look like the header of a packet of some symbols.
            if symbol[0] < 200 && symbol.len() > 4 {
                symbol[0] = 0x80 | (symbol[0] & 0x40);
                symbol[1] = 0;
                symbol[2] &= 3;
            }
            let first_adu = if first_adu % 3 == 0 { NO_ADU } else { first_adu % symbol.len() as u16 };
            let id = SourceId { profile: 0, unprotected: false, esi, sbn: 0, previous_symbols: 0, first_adu };
            received.insert_source(id, &symbol, ROOM);
            let mut left = 0;
            while let Some((_, packet)) = received.next_adu(skip_holes) {
                prop_assert!(packet.end <= received.bytes().len());
                left += 1;
                prop_assert!(left < 12 * E, "the walk makes progress");
            }
        }
        received.learn_symbols(12);
        while received.next_adu(true).is_some() {}
    });
}
