//! Sessions of a replica, written by hand from the protocol: what passes, what is marked, what is acknowledged to the
//! primary.

use super::event::tests::{event, rotate};
use super::greeting::tests::greeting;
use super::*;
use crate::gate::dialect_tests::{
    self, Outcome,
    Step::{self, Ended, Mirror, Primary, Released},
    given,
};
use proptest::prelude::*;

fn play(steps: &[Step], cut: impl FnMut(usize) -> usize) -> Outcome {
    dialect_tests::play(MariaDb::new(), steps, cut)
}

fn packet(number: u8, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u32).to_le_bytes();
    [&len[..3], &[number], content].concat()
}

/// An event as a semi-synchronous replica receives it.
fn semi_sync(number: u8, wanted: u8, event: &[u8]) -> Step {
    Primary(packet(number, &[&[0, 0xef, wanted], event].concat()))
}

fn ack(position: u64, file: &str) -> Vec<u8> {
    packet(0, &[&[0xef], &position.to_le_bytes()[..], file.as_bytes()].concat())
}

/// The start of a session, up to and including the command that asks for the binary log.
fn start_up() -> Vec<Step> {
    let ok = Primary(packet(1, b"\0\0\0\x02\0\0\0"));
    vec![
        Primary(packet(0, &greeting(!0x0400_0820))),
        Mirror(packet(1, b"\x05\xa2\x0b\0 and the rest of the answer")),
        Primary(packet(2, b"\0\0\0\x02\0\0\0")),
        Mirror(packet(0, b"\x03SET @rpl_semi_sync_slave= 1")),
        ok.clone(),
        Mirror(packet(0, b"\x15 a replica registers")),
        ok,
        Mirror(packet(0, b"\x12\x04\0\0\0\0\0\x02\0\0\0")),
    ]
}

/// A dump with two events for which the primary does not wait.
fn dump() -> Vec<Step> {
    let mut steps = start_up();
    steps.push(semi_sync(1, 0, &rotate("bin.000001")));
    steps.push(semi_sync(2, 0, &event(15, 256, 0, b"a format description")));
    steps
}

#[test]
fn a_mirror_that_comes_back_without_an_acknowledged_transaction_is_reported() {
    let mut steps = dump();
    steps.push(semi_sync(3, 0, &event(162, 300, 0, b"begin")));
    steps.push(semi_sync(4, 1, &event(16, 400, 0, b"commit")));
    steps.extend([Mirror(ack(256, "bin.000001")), Released(1)]);
    let start = 300 - 19 - 5;
    let place = |position| returns::Place::Binlog { file: b"bin.000001".as_slice().into(), position };
    for (recalled, shortfalls) in [(400, vec![place(start)]), (5000, vec![place(start)]), (start, vec![])] {
        let recalled = Some(EarlyPosition { place: place(recalled), stamp: 1_700_000_000 });
        for cut in [1, 3, 10_000] {
            let outcome = dialect_tests::play_again(MariaDb::new(), recalled.clone(), &steps, |_| cut);
            assert_eq!(outcome.shortfalls, shortfalls);
            assert_eq!(outcome.named.map(|mirror| mirror.name), Some("server 2".to_owned()));
            assert_eq!(outcome.early_position, Some(EarlyPosition { place: place(400), stamp: 1_700_000_000 }));
        }
    }
    assert_eq!(play(&steps, |len| len).shortfalls, [], "nothing was acknowledged early for it");
}

#[test]
fn a_transaction_is_acknowledged_when_it_is_protected() {
    let mut steps = dump();
    steps.push(semi_sync(3, 0, &event(162, 300, 0, b"begin")));
    steps.push(semi_sync(4, 1, &event(16, 400, 0, b"commit")));
    steps.push(Mirror(ack(400, "bin.000001")));
    let first = play(&steps, |len| len);
    assert_eq!(first.marks, [(1, first.to_mirror.len())]);
    assert_eq!((first.acknowledged, first.counts, first.warnings.len()), (Some(1), (1, 0), 0));
    assert_eq!(first.phase, "semi-synchronous replication");
    assert_eq!(first.to_primary, given(&steps, Side::Mirror));
    assert_eq!(first.to_mirror, given(&steps, Side::Primary));

    steps.push(semi_sync(1, 1, &event(16, 500, 0, b"commit")));
    steps.push(semi_sync(1, 0, &event(4, 540, 0, b"\x04\0\0\0\0\0\0\0bin.000002")));
    steps.push(semi_sync(2, 0, &rotate("bin.000002")));
    steps.push(semi_sync(3, 1, &event(16, 350, 0, b"commit")));
    let sent = play(&steps, |len| len);
    assert_eq!(sent.marks.iter().map(|mark| mark.0).collect::<Vec<_>>(), [1, 2, 3]);
    steps.push(Released(2));
    steps.push(Released(3));
    let released = play(&steps, |len| len);
    let told = [sent.to_primary, ack(500, "bin.000001"), ack(350, "bin.000002")].concat();
    assert_eq!((&released.to_primary, released.counts), (&told, (1, 2)));
    // The replica's own acknowledgements come later; the primary has them already.
    steps.push(Mirror([ack(500, "bin.000001"), ack(350, "bin.000002"), packet(0, b"\x01")].concat()));
    let ended = play(&steps, |len| len);
    assert_eq!(ended.to_primary, [told, packet(0, b"\x01")].concat());
    assert_eq!((ended.acknowledged, ended.counts), (Some(3), (3, 2)));
}

#[test]
fn nothing_is_acknowledged_before_the_replica_has_acknowledged() {
    let mut steps = dump();
    steps.push(semi_sync(3, 1, &event(16, 400, 0, b"commit")));
    steps.push(semi_sync(1, 1, &event(16, 500, 0, b"commit")));
    steps.push(Released(2));
    let silent = play(&steps, |len| len);
    assert_eq!((silent.counts, silent.to_primary), ((0, 0), given(&steps, Side::Mirror)));
    steps.push(Mirror(ack(400, "bin.000001")));
    let early_position = play(&steps, |len| len);
    assert_eq!(early_position.to_primary, [given(&steps, Side::Mirror), ack(500, "bin.000001")].concat());
    assert_eq!(early_position.counts, (1, 1));
}

#[test]
fn a_mark_of_an_earlier_dump_acknowledges_nothing_of_the_next() {
    let mut steps = dump();
    steps.push(semi_sync(3, 1, &event(16, 400, 0, b"commit")));
    // The dump ends, and the mirror asks for another on the same connection.
    steps.push(Primary(packet(4, b"\xfe\0\0\x02\0")));
    steps.push(Mirror(packet(0, b"\x12\x04\0\0\0\0\0\x02\0\0\0")));
    steps.push(semi_sync(1, 0, &rotate("bin.000002")));
    steps.push(semi_sync(2, 1, &event(16, 700, 0, b"commit")));
    steps.push(Released(1));
    steps.push(Mirror(ack(4, "bin.000002")));
    let outcome = play(&steps, |rest| rest);
    assert_eq!(outcome.marks.iter().map(|(mark, _)| *mark).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(outcome.counts, (1, 0), "only the mirror has acknowledged");
    steps.push(Released(2));
    assert_eq!(play(&steps, |rest| rest).counts, (1, 1));
}

#[test]
fn an_early_acknowledgement_stands_between_two_packets() {
    let mut steps = dump();
    steps.push(semi_sync(3, 1, &event(16, 400, 0, b"commit")));
    steps.push(semi_sync(1, 1, &event(16, 500, 0, b"commit")));
    let (first, quit) = (ack(400, "bin.000001"), packet(0, b"\x01"));
    steps.extend([Mirror([&first, &quit[..3]].concat()), Released(2), Mirror(quit[3..].to_vec())]);
    let outcome = play(&steps, |len| len);
    let expected = [given(&start_up(), Side::Mirror), first, ack(500, "bin.000001"), quit].concat();
    assert_eq!(outcome.to_primary, expected);
}

#[test]
fn neither_tls_nor_compression_is_offered() {
    let outcome = play(&[Primary(packet(0, &greeting(0xffff_ffff)))], |len| len);
    assert_eq!(outcome.to_mirror, packet(0, &greeting(!(0x20 | 0x800 | 0x0400_0000))));
    let refused = [Primary(packet(0, b"\xff\x10\x04Too many connections"))];
    let outcome = play(&refused, |len| len);
    assert_eq!((outcome.phase.as_str(), outcome.to_mirror), ("refused by the primary", given(&refused, Side::Primary)));
}

#[test]
fn a_large_event_is_marked_at_its_end() {
    const FULL: usize = 0xff_ffff;
    let content = [&[0, 0xef, 1], event(16, 900, 0, &vec![7; FULL + 100]).as_slice()].concat();
    let large = [packet(3, &content[..FULL]), packet(4, &content[FULL..])].concat();
    let mut steps = dump();
    steps.extend([Primary(large), Mirror(ack(900, "bin.000001"))]);
    let outcome = play(&steps, |len| len.min(65_536));
    assert_eq!(outcome.marks, [(1, outcome.to_mirror.len())]);
    assert_eq!((outcome.acknowledged, outcome.to_mirror), (Some(1), given(&steps, Side::Primary)));
}

#[test]
fn an_ordinary_session_passes() {
    let mut steps = start_up();
    steps.truncate(3);
    steps.push(Mirror(packet(0, b"\x03SELECT 1")));
    // A row, and a data packet that looks like a command.
    steps.push(Primary(packet(1, b"\x01")));
    steps.push(Mirror(packet(3, b"\x12 data")));
    steps.push(Released(1));
    let outcome = play(&steps, |len| len);
    assert_eq!((outcome.phase.as_str(), outcome.warnings.len()), ("ordinary session", 0));
    assert_eq!(outcome.to_primary, given(&steps, Side::Mirror));
    assert_eq!(outcome.to_mirror, given(&steps, Side::Primary));
}

#[test]
fn an_unknown_packet_passes_and_is_not_acknowledged_early() {
    let without = "replication without early acknowledgements";
    let after = |mut steps: Vec<Step>, further: Step| {
        steps.push(further);
        steps
    };
    let answer = |content: &[u8]| {
        let mut steps = start_up();
        steps.truncate(1);
        after(steps, Mirror(packet(1, content)))
    };
    let wanted = semi_sync(3, 1, &event(16, 400, 0, b"commit"));
    let cases = [
        ("TLS", answer(b"\x05\xaa\x0b\0 and TLS"), without, 1),
        ("compression", answer(b"\x25\xa2\x0b\0 and more"), without, 1),
        ("an OK for an event", after(start_up(), Primary(packet(1, b"\0\0\0\x02\0\0\0"))), without, 1),
        (
            "no semi-sync",
            after(start_up(), Primary(packet(1, &[&[0], rotate("b.000001").as_slice()].concat()))),
            "asynchronous replication",
            1,
        ),
        ("a bad name", after(start_up(), semi_sync(1, 0, &rotate("name"))), without, 1),
        ("an error", after(start_up(), Primary(packet(1, b"\xff\xd4\x04#HY000no"))), "ordinary session", 0),
        ("an event without header", after(dump(), Primary(packet(3, &event(16, 400, 0, b"")))), without, 1),
        ("an event of a wrong size", after(dump(), semi_sync(3, 1, &event(16, 400, 0, b"abc")[..20])), without, 1),
        (
            "the end",
            after(after(dump(), wanted.clone()), Primary(packet(4, b"\xff\xd4\x04#HY000no"))),
            "ordinary session",
            0,
        ),
        ("another file", after(after(dump(), wanted.clone()), Mirror(ack(4, "other.000001"))), without, 1),
        ("another form", after(after(dump(), wanted), Mirror(packet(0, b"\xef0123456789012345"))), without, 1),
        ("something long", after(dump(), Mirror(packet(0, &[0; 2000]))), without, 1),
    ];
    for (name, mut steps, phase, warnings) in cases {
        steps.extend([Released(u64::MAX), Mirror(ack(400, "bin.000001")), Primary(vec![0; 30])]);
        let outcome = play(&steps, |len| len);
        assert_eq!(outcome.phase, phase, "{name}");
        assert_eq!(outcome.warnings.len(), warnings, "{name}: {:?}", outcome.warnings);
        assert_eq!(outcome.counts.1, 0, "{name}");
        assert_eq!(outcome.to_primary, given(&steps, Side::Mirror), "{name}");
        assert_eq!(outcome.to_mirror, given(&steps, Side::Primary), "{name}");
    }
}

#[test]
fn held_bytes_are_forwarded_when_their_side_ends() {
    let mut steps = dump();
    steps.push(Mirror(b"\x13\0\0\0\xef".to_vec()));
    assert_ne!(play(&steps, |len| len).to_primary, given(&steps, Side::Mirror));
    steps.push(Ended(Side::Mirror));
    assert_eq!(play(&steps, |len| len).to_primary, given(&steps, Side::Mirror));
    let mut steps = vec![Primary(b"\x50\0\0\0\x0a5.5".to_vec())];
    assert!(play(&steps, |len| len).to_mirror.is_empty());
    steps.push(Ended(Side::Primary));
    assert_eq!(play(&steps, |len| len).to_mirror, given(&steps, Side::Primary));
}

#[test]
fn a_client_that_sends_before_the_greeting_still_gets_the_greeting() {
    let greeting = packet(0, &greeting(0xffff_ffff));
    let word = packet(1, b"\x05\xaa\x0b\0");
    let (begin, rest) = greeting.split_at(9);
    let steps = [Primary(begin.to_vec()), Mirror(word), Primary(rest.to_vec())];
    let outcome = play(&steps, |len| len);
    assert_eq!((outcome.to_mirror, outcome.warnings.len()), (greeting, 1));
    assert_eq!(outcome.to_primary, given(&steps, Side::Mirror));
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_the_same_outcome(sizes in proptest::collection::vec(1..40usize, 1..200)) {
        let mut steps = dump();
        steps.push(semi_sync(3, 1, &event(16, 400, 0, b"commit")));
        steps.push(Mirror(ack(400, "bin.000001")));
        steps.push(semi_sync(1, 1, &event(16, 500, 0, b"commit")));
        steps.push(Released(2));
        steps.push(semi_sync(1, 0, &rotate("bin.000002")));
        steps.push(semi_sync(2, 1, &event(16, 350, 0, &[7; 700])));
        steps.push(Mirror([ack(500, "bin.000001"), ack(350, "bin.000002"), packet(0, b"\x01")].concat()));
        let whole = play(&steps, |len| len);
        let mut sizes = sizes.iter().cycle();
        let pieces = play(&steps, |_| *sizes.next().expect("a cycle has no end"));
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn any_bytes_pass_whole_and_in_order(
        begin in any::<bool>(),
        further in proptest::collection::vec((any::<bool>(), proptest::collection::vec(prop_oneof![Just(0u8), Just(0xef), any::<u8>()], 0..40)), 0..20),
    ) {
        let mut steps = if begin { dump() } else { vec![] };
        steps.extend(further.into_iter().map(|(primary, bytes)| if primary { Primary(bytes) } else { Mirror(bytes) }));
        steps.extend([Ended(Side::Primary), Ended(Side::Mirror)]);
        let outcome = play(&steps, |len| len);
        prop_assert_eq!(outcome.to_mirror.len(), given(&steps, Side::Primary).len());
        prop_assert_eq!(outcome.to_primary, given(&steps, Side::Mirror));
    }
}
