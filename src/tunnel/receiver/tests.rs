//! Tests of the receiver: blocks, order, holes, and what is given up.

use super::*;
use crate::fec::source_block::SourceBlock;
use crate::wire::virtio::VirtioHeader;

const E: usize = 64;
const HOLD: Duration = Duration::from_millis(10);

/// A receiver fed with blocks of small packets, one in each symbol. A packet contains its sbn and esi.
struct Bench {
    receiver: Receiver,
    code: Code,
    reception: Reception,
    start: Instant,
}

impl Bench {
    fn new(strict: bool) -> Self {
        Self {
            receiver: Receiver::new(0, E, Delivery { strict, hold: HOLD, hold_max: HOLD }),
            code: Code::new(),
            reception: Reception::default(),
            start: Instant::now(),
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Source symbol `esi` of block `sbn`; every block has 3.
    fn source(&mut self, sbn: u64, esi: u16, millis: u64) -> Result<(), DropReason> {
        self.symbol(sbn, esi, if sbn == 0 { 0 } else { 3 }, millis)
    }

    /// The same, with `previous_symbols` as the length of the block before; 0 if unknown.
    fn symbol(&mut self, sbn: u64, esi: u16, previous_symbols: u16, millis: u64) -> Result<(), DropReason> {
        let mut block = SourceBlock::new(E, 8);
        block.room()[..2].copy_from_slice(&[sbn as u8, esi as u8]);
        block.commit(VirtioHeader::default(), 2);
        block.finish_symbol();
        let id = SourceId { profile: 0, unprotected: false, esi, sbn, previous_symbols, first_adu: 0 };
        let now = self.at(millis);
        let taken = self.receiver.handle_source(
            id,
            block.symbol(0),
            &mut Ingress { code: &mut self.code, reception: &mut self.reception, now },
        );
        // As `Peer::with_ingress` does.
        let excess = self.receiver.memory().saturating_sub(MEMORY_HIGH);
        if excess > 0 {
            self.receiver.relieve(excess);
        }
        taken
    }

    /// Repair symbol `index` of two, of a block of one packet; nothing else of the block comes.
    fn lone_repair(&mut self, sbn: u64, index: u16, previous_symbols: u8, millis: u64) {
        self.repair(sbn, 1, index, previous_symbols, millis);
    }

    /// Repair symbol `index` of two, of a block of `k` source symbols.
    fn repair(&mut self, sbn: u64, k: u8, index: u16, previous_symbols: u8, millis: u64) {
        let mut block = SourceBlock::new(E, 8);
        for esi in 0..k {
            block.room()[..2].copy_from_slice(&[sbn as u8, esi]);
            block.commit(VirtioHeader::default(), 2);
            block.finish_symbol();
        }
        let mut repair = Vec::new();
        let (layout, source) = block.coded();
        self.code.encode(layout, source, 2, &mut repair);
        let symbol = &repair[usize::from(index) * layout.size..][..layout.size];
        let (esi, source_symbols) = (u16::from(k) + index, k.into());
        let id = RepairId { profile: 0, esi, sbn, source_symbols, repair_symbols: 2, previous_symbols };
        let now = self.at(millis);
        self.receiver
            .handle_repair(id, symbol, &mut Ingress { code: &mut self.code, reception: &mut self.reception, now })
            .unwrap();
    }

    fn one(&mut self, millis: u64) -> Option<(u8, u8)> {
        let now = self.at(millis);
        let ready = self.receiver.next_adu(&mut self.reception, now)?;
        let packet = self.receiver.packet(&ready);
        Some((packet[0], packet[1]))
    }

    /// The sender reports that it has closed blocks `from..below`, and k of the last.
    fn report_closed(&mut self, from: u64, below: u64, symbols: u16, millis: u64) {
        let (sent, now) = (SentBelow { profile: 0, from, below, symbols }, self.at(millis));
        self.receiver
            .handle_sent(sent, &mut Ingress { code: &mut self.code, reception: &mut self.reception, now })
            .unwrap();
    }

    /// What the next report contains: lost blocks with their symbols, and the range of decided blocks.
    fn fates(&mut self) -> (Vec<(u64, u32, u16)>, Range<u64>) {
        let (mut room, mut lost) = (16, Vec::new());
        self.receiver.name_given_up(1, &mut room, &mut lost);
        let progress = self.receiver.progress().unwrap();
        let lost = lost.iter().map(|run| (run.first, run.count, run.symbols)).collect();
        (lost, progress.decoded_from..progress.decoded_below)
    }

    fn all(&mut self, millis: u64) -> Vec<(u8, u8)> {
        std::iter::from_fn(|| self.one(millis)).collect()
    }
}

#[test]
fn a_hole_holds_back_what_follows_until_it_is_filled_or_given_up() {
    let mut bench = Bench::new(true);
    for (sbn, esi) in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)] {
        bench.source(sbn, esi, 0).unwrap();
    }
    assert_eq!(bench.all(0), [(0, 0)]);
    assert_eq!(bench.receiver.deadline(), Some(bench.at(10)));
    assert_eq!(bench.all(9), []);
    assert_eq!(bench.all(10), [(0, 2), (1, 0), (1, 1), (1, 2)]);
    assert_eq!(bench.reception.unrecoverable_blocks, 1);
    assert_eq!(bench.source(0, 1, 11), Err(DropReason::LateSymbol));
    assert_eq!(bench.reception.late, 1);

    let mut bench = Bench::new(true);
    for (sbn, esi) in [(1, 0), (0, 0), (0, 2), (0, 1)] {
        bench.source(sbn, esi, 0).unwrap();
    }
    assert_eq!(bench.all(1), [(0, 0), (0, 1), (0, 2), (1, 0)]);
}

#[test]
fn a_block_waits_for_a_sender_that_pauses_in_its_midst() {
    let mut bench = Bench::new(true);
    bench.source(0, 0, 0).unwrap();
    assert_eq!((bench.all(0), bench.receiver.deadline()), (vec![(0, 0)], None));
    // The sender pauses for longer than the hold, first without a hole and then with one.
    bench.source(0, 2, 50).unwrap();
    assert_eq!((bench.all(50), bench.receiver.deadline()), (vec![], Some(bench.at(550))));
    bench.source(0, 1, 549).unwrap();
    assert_eq!((bench.all(549), bench.receiver.deadline()), (vec![(0, 1), (0, 2)], None));
    // The hold runs from the end of a block, also if the end is known late.
    bench.source(1, 1, 600).unwrap();
    assert_eq!(bench.all(600), []);
    assert_eq!(bench.receiver.deadline(), Some(bench.at(1100)));
    bench.report_closed(0, 2, 3, 700);
    assert_eq!(bench.receiver.deadline(), Some(bench.at(710)));
    bench.source(1, 2, 705).unwrap();
    assert_eq!(bench.receiver.deadline(), Some(bench.at(715)), "more of it came");
    bench.source(1, 0, 714).unwrap();
    assert_eq!(bench.all(714), [(1, 0), (1, 1), (1, 2)]);
    assert_eq!(bench.reception.unrecoverable_blocks, 0);
}

#[test]
fn a_block_waits_for_a_sender_that_pauses_between_two_repair_symbols() {
    let mut bench = Bench::new(true);
    bench.source(0, 2, 0).unwrap();
    bench.repair(0, 3, 0, 0, 1);
    assert_eq!((bench.all(1), bench.receiver.deadline()), (vec![], Some(bench.at(500))));
    bench.repair(0, 3, 1, 0, 499);
    assert_eq!((bench.all(499), bench.receiver.deadline()), (vec![(0, 0), (0, 1), (0, 2)], None));
}

#[test]
fn whole_adus_behind_a_hole_leave_when_the_peer_restarts() {
    let mut bench = Bench::new(true);
    for (sbn, esi) in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (3, 0)] {
        bench.source(sbn, esi, 0).unwrap();
    }
    assert_eq!(bench.all(1), [(0, 0)]);
    bench.receiver.retire();
    assert_eq!(bench.all(1), [(0, 2), (1, 0), (1, 1), (1, 2), (3, 0)], "at once, and in order");
    assert!(bench.receiver.is_empty());
    // The end of block 1 was not known, so it is lost. Block 3 is not: its sender may have ended in the middle of it.
    let lost: Vec<_> = bench.receiver.losses().newest().map(|lost| (lost.first, lost.count)).collect();
    assert_eq!(lost, [(0, 3)]);
}

#[test]
fn a_last_block_is_unfinished_until_something_shows_that_it_was_sent() {
    type Step = fn(&mut Bench);
    let rows: [(Step, usize, Option<u64>, u64); 7] = [
        (|it| it.source(0, 0, 0).unwrap(), 0, None, 0),
        (|it| it.source(0, 2, 0).unwrap(), 1, None, 0),
        (|it| drop(it.all(500)), 0, Some(0), 0),
        (|it| assert!(it.source(0, 1, 501).is_err()), 0, Some(0), 0),
        (|it| it.source(1, 0, 502).unwrap(), 0, None, 1),
        (|it| it.report_closed(0, 2, 3, 503), 1, None, 1),
        (|it| drop(it.all(513)), 0, None, 2),
    ];
    let mut bench = Bench::new(true);
    for (number, (step, waiting, unfinished, lost)) in rows.into_iter().enumerate() {
        step(&mut bench);
        bench.all(9);
        let receive_progress = bench.receiver.receive_progress();
        let found = (receive_progress.waiting, receive_progress.unfinished, bench.receiver.losses().blocks());
        assert_eq!(found, (waiting, unfinished, lost), "step {number}");
    }
}

#[test]
fn a_block_without_repair_before_one_without_source_is_not_lost() {
    for strict in [true, false] {
        let mut bench = Bench::new(strict);
        (0..3).for_each(|esi| bench.source(0, esi, 0).unwrap());
        assert_eq!(bench.all(0).len(), 3);
        // All repair symbols of block 0 are lost, and the source symbol of block 1: no more than each has repair for.
        bench.lone_repair(1, 0, 3, 1);
        assert_eq!((bench.all(1), bench.receiver.deadline()), (vec![(1, 0)], None), "nothing waits for block 0");
        bench.all(100);
        let receive_progress = bench.receiver.receive_progress();
        assert_eq!(
            (receive_progress.waiting, receive_progress.unfinished, bench.receiver.losses().blocks()),
            (0, None, 0)
        );
        assert_eq!((bench.fates(), bench.reception.unrecoverable_blocks), ((vec![], 0..2), 0));
    }
    // A block that had more symbols is missed. So is one of unknown length: it may have had more.
    for previous_symbols in [4, 0] {
        let mut bench = Bench::new(true);
        (0..3).for_each(|esi| bench.source(0, esi, 0).unwrap());
        bench.lone_repair(1, 0, previous_symbols, 1);
        assert_eq!(bench.all(1).len(), 3);
        assert_eq!((bench.all(11), bench.receiver.losses().blocks()), (vec![(1, 0)], 1));
    }
}

#[test]
fn without_order_adus_leave_as_they_become_whole() {
    let mut bench = Bench::new(false);
    let rows = [((1, 2), 1), ((0, 1), 1), ((2, 0), 1), ((0, 0), 1), ((1, 0), 1)];
    for ((sbn, esi), leave) in rows {
        bench.source(sbn, esi, 0).unwrap();
        let left = bench.all(0);
        assert_eq!(left.len(), leave);
        assert!(left.contains(&(sbn as u8, esi as u8)));
    }
    assert_eq!(bench.all(10), []);
    assert_eq!(bench.receiver.progress().unwrap().decoded_below, 0, "block 0 was not named yet");
    assert_eq!(bench.fates(), (vec![(0, 2, 0)], 0..2));
}

#[test]
fn a_late_symbol_of_a_block_being_given_up_is_dropped() {
    let mut bench = Bench::new(true);
    for (sbn, esi) in [(0, 1), (0, 2), (1, 0)] {
        bench.source(sbn, esi, 0).unwrap();
    }
    assert_eq!(bench.one(10), Some((0, 1)), "symbol 0 was skipped");
    assert_eq!(bench.source(0, 0, 10), Err(DropReason::LateSymbol));
    assert_eq!(bench.all(10), [(0, 2), (1, 0)]);
}

#[test]
fn a_block_of_which_nothing_came_is_given_up_after_the_hold() {
    let mut bench = Bench::new(true);
    (0..3).for_each(|esi| bench.source(0, esi, 0).unwrap());
    assert_eq!(bench.all(0).len(), 3);
    bench.source(2, 0, 5).unwrap();
    assert_eq!(bench.all(14), []);
    assert_eq!(bench.all(15), [(2, 0)]);
    // Block 0 counts too: its end was not known.
    assert_eq!(bench.reception.unrecoverable_blocks, 2);
}

#[test]
fn blocks_before_the_first_one_received_are_not_missed() {
    let mut bench = Bench::new(true);
    bench.source(1000, 0, 0).unwrap();
    assert_eq!(bench.all(0), [(232, 0)]);
    assert_eq!(bench.source(999, 0, 0), Err(DropReason::LateSymbol));
    let mut bench = Bench::new(true);
    bench.source(40, 0, 0).unwrap();
    assert_eq!(bench.all(9), [], "earlier blocks may be late");
    assert_eq!(bench.all(10), [(40, 0)]);
    // Only block 39 was named, by a symbol of block 40. It is not missed.
    assert_eq!(bench.reception.unrecoverable_blocks, 0);
}

#[test]
fn a_receiver_that_begins_in_the_middle_does_not_report_earlier_blocks_as_decoded() {
    let mut bench = Bench::new(true);
    bench.source(71, 0, 0).unwrap();
    bench.all(0);
    assert_eq!(bench.fates(), (vec![], 71..71));
    bench.report_closed(64, 72, 1, 1);
    bench.all(1);
    assert_eq!(bench.fates(), (vec![(64, 7, 0)], 71..72), "blocks 64 to 70 were sent to this run, too");
    let mut bench = Bench::new(true);
    bench.source(3, 0, 0).unwrap();
    bench.all(10);
    assert_eq!(bench.fates(), (vec![(0, 3, 0)], 0..3), "neither missed nor decoded");
}

#[test]
fn last_blocks_of_which_nothing_came_are_given_up_without_later_traffic() {
    let mut bench = Bench::new(true);
    (0..3).for_each(|esi| bench.source(0, esi, 0).unwrap());
    bench.all(0);
    bench.report_closed(0, 4, 3, 20);
    assert_eq!((bench.all(20), bench.receiver.deadline()), (vec![], Some(bench.at(30))));
    bench.report_closed(0, 4, 3, 29);
    assert_eq!((bench.all(29), bench.fates().1), (vec![], 0..0), "the end of block 0 may be late, too");
    assert_eq!(bench.all(30), [], "a repeated report does not prolong the hold");
    // Block 0 may be whole: 3 symbols of it came, and the sender knows whether these are all.
    assert_eq!(bench.fates(), (vec![(0, 1, 3), (1, 3, 0)], 0..4));
    assert_eq!(bench.reception.unrecoverable_blocks, 4);
    assert_eq!(bench.receiver.deadline(), None);
}

#[test]
fn a_report_shows_the_end_of_the_last_block_and_may_overtake_it() {
    let mut bench = Bench::new(true);
    (0..3).for_each(|esi| bench.source(0, esi, 0).unwrap());
    bench.report_closed(0, 1, 3, 5);
    bench.all(5);
    assert_eq!(bench.fates(), (vec![], 0..1));
    bench.source(1, 0, 6).unwrap();
    bench.report_closed(0, 2, 3, 40);
    assert_eq!(bench.all(49), [(1, 0)], "the hold of the rest begins at the report");
    (1..3).for_each(|esi| bench.source(1, esi, 49).unwrap());
    assert_eq!(bench.all(49).len(), 2);
    bench.report_closed(0, 3, 0, 50);
    bench.source(2, 0, 50).unwrap();
    assert_eq!(bench.all(60), [(2, 0)]);
    assert_eq!(bench.fates(), (vec![(2, 1, 1)], 0..3), "an abandoned block has no length");
}

#[test]
fn a_receiver_without_symbols_begins_at_the_first_block_that_the_sender_reports() {
    for (from, below) in [(0, 3), (500, 503)] {
        let mut bench = Bench::new(true);
        bench.report_closed(from, below, 3, 0);
        assert_eq!(bench.all(10), []);
        assert_eq!(bench.fates(), (vec![(from, 3, 0)], from..below));
        assert_eq!(bench.reception.unrecoverable_blocks, 3);
    }
}

#[test]
fn reported_blocks_are_bounded_and_all_are_named_for_any_numbers() {
    let mut bench = Bench::new(true);
    for below in [1, OPEN_BLOCKS_MAX + 50, 2 * OPEN_BLOCKS_MAX, 9 * OPEN_BLOCKS_MAX, 1 << 48] {
        bench.report_closed(0, below, 3, 0);
        assert!(bench.receiver.blocks.len() as u64 <= 2 * OPEN_BLOCKS_MAX);
        assert!(bench.receiver.memory() < 1 << 18, "no more than the lists");
        while bench.one(0).is_some() {}
        assert!(bench.receiver.blocks.len() as u64 <= OPEN_BLOCKS_MAX);
    }
    while bench.one(10).is_some() {}
    let (mut next, mut reports) = (0, 0);
    while next < 1 << 48 {
        reports += 1;
        let (lost, done) = bench.fates();
        assert_eq!(done, 0..lost.last().map(|&(first, count, _)| first + u64::from(count)).unwrap());
        for (first, count, symbols) in lost {
            assert_eq!((first, symbols), (next, 0));
            next += u64::from(count);
        }
        bench.receiver.on_acknowledged(1);
    }
    assert!(reports < 5000, "{reports} reports");
}

#[test]
fn an_outage_gives_up_whole_blocks_that_were_not_delivered() {
    let mut bench = Bench::new(true);
    for (sbn, esi) in [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)] {
        bench.source(sbn, esi, 0).unwrap();
    }
    bench.source(3 * OPEN_BLOCKS_MAX, 0, 0).unwrap();
    while bench.one(10).is_some() {}
    let (lost, done) = bench.fates();
    assert_eq!((lost, done), (vec![(0, 3 * OPEN_BLOCKS_MAX as u32, 0)], 0..3 * OPEN_BLOCKS_MAX));
}

#[test]
fn open_blocks_are_bounded_for_any_numbers() {
    let mut bench = Bench::new(true);
    for sbn in [0, 100, OPEN_BLOCKS_MAX + 50, 3 * OPEN_BLOCKS_MAX, 1 << 48] {
        bench.source(sbn, 0, 0).unwrap();
        assert!(bench.receiver.blocks.len() as u64 <= 2 * OPEN_BLOCKS_MAX);
        while bench.one(0).is_some() {}
        assert!(bench.receiver.blocks.len() as u64 <= OPEN_BLOCKS_MAX);
    }
    assert_eq!(bench.receiver.progress().unwrap().highest, 1 << 48);
}

#[test]
fn many_long_blocks_stay_within_the_memory_bound() {
    let mut bench = Bench::new(true);
    (0..400).for_each(|sbn| bench.source(sbn, 1, 0).unwrap());
    for sbn in (0..400).rev() {
        let _ = bench.source(sbn, 8191, 0);
        assert_eq!(bench.all(0).iter().filter(|&&(_, esi)| esi == 255).count(), 0);
        assert!(bench.receiver.memory() <= MEMORY_MAX, "{} bytes", bench.receiver.memory());
    }
    let counted = |open: &OpenBlock| OpenBlock::OVERHEAD + open.block.memory();
    let spare: usize = bench.receiver.spare.iter().map(|open| counted(open)).sum();
    assert_eq!(spare, bench.receiver.spare_memory);
    let open: usize = bench.receiver.blocks.iter().flatten().map(|open| counted(open)).sum();
    let lists = 16 * bench.receiver.blocks.capacity();
    assert_eq!(bench.receiver.memory(), spare + open + lists);
}

#[test]
fn input_without_room_is_dropped_and_a_repeated_report_is_taken_once_there_is_room() {
    let mut bench = Bench::new(true);
    bench.receiver.set_memory_max(10_000);
    assert_eq!(bench.source(0, 8000, 0), Err(DropReason::NoRoom));
    assert_eq!(bench.source(0, 0, 0), Ok(()), "a symbol with room is taken");
    let sent = SentBelow { profile: 0, from: 0, below: 4000, symbols: 3 };
    let now = bench.at(0);
    let Bench { receiver, code, reception, .. } = &mut bench;
    assert_eq!(receiver.handle_sent(sent, &mut Ingress { code, reception, now }), Err(DropReason::NoRoom));
    assert!(receiver.memory() <= 10_000, "{}", receiver.memory());
    receiver.set_memory_max(MEMORY_MAX);
    assert_eq!(receiver.handle_sent(sent, &mut Ingress { code, reception, now }), Ok(()));
    assert_eq!(receiver.blocks.len(), 4000);
}

#[test]
fn a_block_is_listed_once_when_its_symbols_alternate_with_those_of_another() {
    let mut bench = Bench::new(false);
    for esi in 0..1000 {
        bench.symbol(7, esi, 0, 0).unwrap();
        bench.symbol(3, esi, 0, 0).unwrap();
    }
    assert_eq!(bench.receiver.touched, [7, 3]);
    assert_eq!(bench.all(0).len(), 2000);
    assert!(bench.receiver.touched.is_empty());
    bench.symbol(3, 1000, 0, 0).unwrap();
    assert_eq!(bench.all(0).len(), 1);
}

/// No symbol is missing, but the block was not delivered whole: the sender must not take it as decoded.
#[test]
fn a_block_with_malformed_bytes_is_named_lost_and_not_decoded() {
    let mut bench = Bench::new(true);
    bench.source(0, 0, 0).unwrap();
    let now = bench.at(0);
    let id = SourceId { profile: 0, unprotected: false, esi: 1, sbn: 0, previous_symbols: 0, first_adu: 0 };
    let Bench { receiver, code, reception, .. } = &mut bench;
    receiver.handle_source(id, &[0xff; E], &mut Ingress { code, reception, now }).unwrap();
    bench.source(0, 2, 0).unwrap();
    [0, 1, 2].into_iter().for_each(|esi| bench.source(1, esi, 0).unwrap());
    bench.all(0);
    bench.all(HOLD.as_millis() as u64);
    let (lost, _) = bench.fates();
    assert!(lost.iter().any(|&(first, _, symbols)| first == 0 && symbols < 3), "{lost:?}");
}

#[test]
fn later_blocks_do_not_prolong_the_hold_of_a_hole() {
    let mut bench = Bench::new(true);
    bench.source(0, 2, 0).unwrap();
    bench.source(0, 1, 8).unwrap();
    assert_eq!(bench.receiver.deadline(), Some(bench.at(500)), "its sender may pause");
    for millis in [9, 12, 18] {
        bench.source(1, millis as u16 % 3, millis).unwrap_or_default();
        assert_eq!(bench.receiver.deadline(), Some(bench.at(19)), "the hold runs from its end");
    }
}

#[test]
fn the_oldest_blocks_are_given_up_when_long_ones_hold_too_much_memory() {
    let mut bench = Bench::new(true);
    for sbn in 0..400 {
        bench.symbol(sbn, 8191, 0, 0).unwrap();
        bench.all(0);
        assert!(bench.receiver.memory() <= MEMORY_MAX, "{} bytes", bench.receiver.memory());
    }
    assert!(bench.receiver.memory() > MEMORY_MAX / 2, "control: the memory is used");
    let (lost, done) = bench.fates();
    assert!(lost.iter().any(|&(first, count, _)| first == 0 && count > 100), "{lost:?} {done:?}");
}

#[test]
fn the_symbols_of_a_packet_decide_whether_it_is_marked_or_rebuilt() {
    use proptest::prelude::*;
    let strategy = (
        prop::collection::vec(1usize..200, 1..12),
        prop::collection::vec(any::<bool>(), 64),
        prop::option::of(any::<prop::sample::Index>()),
    );
    proptest!(|((packets, marks, lost) in strategy)| {
        let mut block = SourceBlock::new(E, 64);
        let virtio = VirtioHeader::default();
        let symbols: Vec<Range<usize>> = packets
            .iter()
            .map(|&len| {
                block.room()[..len].fill(1);
                block.commit(virtio, len)
            })
            .collect();
        block.finish_symbol();
        let k = block.finished();
        prop_assume!(k <= marks.len());
        let lost = lost.map(|index| index.index(k));
        let (mut code, mut reception, mut repair, now) = (Code::new(), Reception::default(), vec![], Instant::now());
        let (layout, source) = block.coded();
        code.encode(layout, source, 1, &mut repair);
        let mut receiver = Receiver::new(0, E, Delivery { strict: true, hold: HOLD, hold_max: HOLD });
        for esi in (0..k).filter(|&esi| Some(esi) != lost) {
            let id = SourceId {
                profile: 0,
                unprotected: false,
                esi: esi as u16,
                sbn: 0,
                previous_symbols: 0,
                first_adu: block.first_adu(esi),
            };
            let ingress = &mut Ingress { code: &mut code, reception: &mut reception, now };
            receiver.handle_source(id, block.symbol(esi), ingress).unwrap();
            if marks[esi] {
                prop_assert!(receiver.mark(id), "nothing has left");
            }
        }
        let id = RepairId {
            profile: 0,
            esi: k as u16,
            sbn: 0,
            source_symbols: k as u16,
            repair_symbols: 1,
            previous_symbols: 0,
        };
        let ingress = &mut Ingress { code: &mut code, reception: &mut reception, now };
        receiver.handle_repair(id, &repair, ingress).unwrap();
        for (len, symbols) in packets.iter().zip(symbols) {
            let ready = receiver.next_adu(&mut reception, now).expect("all is there");
            prop_assert_eq!(ready.header.packet_len, *len);
            // The header may end where a symbol ends; only bytes of the packet count.
            let mut marked = symbols.clone().filter(|&esi| marks[esi] && Some(esi) != lost);
            let first = ready.packet.start / E;
            prop_assert_eq!(ready.marked, marked.any(|esi| esi >= first));
            prop_assert_eq!(ready.rebuilt, lost.is_some_and(|esi| symbols.contains(&esi) && esi >= first));
        }
    });
}

#[test]
fn blocks_of_which_nothing_came_are_given_up_at_one_moment() {
    let mut bench = Bench::new(true);
    bench.source(0, 0, 0).unwrap();
    bench.symbol(5, 0, 0, 1).unwrap();
    assert_eq!(bench.all(1), [(0, 0)]);
    assert_eq!(bench.all(10), []);
    assert_eq!(bench.all(12), [(5, 0)]);
    let (lost, decided) = bench.fates();
    assert_eq!((lost.iter().map(|run| run.1).sum::<u32>(), decided), (5, 0..5));
}

/// The time of steps from block to block, with one symbol of each.
fn time_of_steps(by: u64, steps: u64) -> Duration {
    let time = |_| {
        let mut bench = Bench::new(true);
        let begun = Instant::now();
        for step in 0..steps {
            bench.source(step * by, 0, step).unwrap();
            while bench.one(step).is_some() {}
        }
        begun.elapsed()
    };
    (0..3).map(time).min().unwrap()
}

/// A peer that goes ahead as far as blocks are kept costs what the blocks cost that are passed, not their square.
#[test]
fn a_gap_costs_no_more_than_its_blocks() {
    let (gaps, blocks) = (time_of_steps(OPEN_BLOCKS_MAX - 1, 100), time_of_steps(1, 20_000));
    println!("100 gaps {gaps:?}, 20,000 blocks {blocks:?}");
    assert!(gaps < 4 * blocks, "100 gaps {gaps:?}, 20,000 blocks {blocks:?}");
}
