//! The PostgreSQL dialect, driven by bytes: whole exchanges, cut at every byte, with releases at every moment.

mod exchange;

use self::exchange::{Exchange, cancel, copy, keepalive, message, query, startup, status, wal};
use onwire::gate::dialect::{Release, Side, TlsChoice};
use proptest::prelude::*;

const PLAIN: TlsChoice = TlsChoice { accepts: false, connects: false };
const BOTH: TlsChoice = TlsChoice { accepts: true, connects: true };

/// A standby that has logged in and begun to replicate from 0/1000.
fn replicating() -> Exchange {
    let mut it = Exchange::new(PLAIN);
    it.log_in("user\0r\0replication\0true\0\0");
    it.start("START_REPLICATION SLOT \"mirror\" 0/1000 TIMELINE 1");
    it.forget();
    it
}

#[test]
fn a_commit_is_acknowledged_when_it_is_protected_and_flush_stays_real() {
    let mut it = replicating();
    assert_eq!(it.phase(), "replication of slot mirror");
    it.mirror(&status(0x1000, 0x1000, 0x900, 0));
    assert_eq!(it.received_by_primary(), status(0x1000, 0x1000, 0x900, 0), "unchanged");
    it.primary(&wal(0x1000, 0x80));
    assert_eq!(it.mirror_heard(), wal(0x1000, 0x80));
    assert_eq!(it.marks(), [(wal(0x1000, 0x80).len(), 0x1080)]);
    assert_eq!(it.received_by_primary(), b"", "nothing before it is protected");
    it.release(0x1080);
    assert_eq!(it.received_by_primary(), status(0x1080, 0x1000, 0x900, 0));
    assert_eq!(it.counts(), (1, 1));
    it.mirror(&status(0x1040, 0x1040, 0x1000, 1));
    assert_eq!(
        it.received_by_primary(),
        status(0x1080, 0x1040, 0x1000, 1),
        "write does not fall, all else is the mirror's"
    );
    assert_eq!(it.acknowledged(), Some(0x1040), "the mirror's own status, not the gate's");
    it.release(0x1080);
    assert_eq!(it.received_by_primary(), b"", "acknowledged already");
}

#[test]
fn a_mirror_is_identified_by_its_slot_or_else_by_its_name() {
    let number = [&b"\0\x04\0\0\0\x0a"[..], b"7123456789", b"\0\0\0\x011\0\0\0\x030/0\xff\xff\xff\xff"].concat();
    let row = [message(b'T', b"\0\x04"), message(b'D', &number), message(b'C', b"S\0"), message(b'Z', b"I")].concat();
    for (command, name, is_unique, history) in [
        ("SLOT \"mirror\" 0/1000 TIMELINE 3", "slot mirror", true, "system 7123456789, timeline 3"),
        ("0/1000 TIMELINE 1", "syracuse", false, "system 7123456789, timeline 1"),
    ] {
        for piece in [1, 8, 10_000] {
            let mut it = Exchange::new(PLAIN);
            it.log_in("user\0r\0replication\0true\0application_name\0syracuse\0\0");
            it.mirror(&query("IDENTIFY_SYSTEM"));
            row.chunks(piece).for_each(|bytes| it.primary(bytes));
            it.start(&format!("START_REPLICATION {command}"));
            let found = it.mirror_is().unwrap();
            assert_eq!((found.name.as_str(), found.is_unique), (name, is_unique));
            assert_eq!(found.history.as_deref(), Some(history));
            it.primary(&wal(0x1000, 0x80));
            it.mirror(&status(0x1000, 0x1000, 0x900, 0));
            assert_eq!(it.early_position(), None);
            it.release(0x1080);
            assert_eq!(
                it.early_position().map(|early_position| early_position.place.to_string()),
                Some("0/1080".to_owned())
            );
        }
    }
    let mut it = Exchange::new(PLAIN);
    it.log_in("user\0r\0replication\0database\0database\0d\0\0");
    it.start("START_REPLICATION SLOT \"sub\" LOGICAL 0/900 (proto_version '3')");
    assert_eq!(it.mirror_is(), None, "a subscriber's position is no proof");
}

#[test]
fn nothing_is_acknowledged_for_a_client_that_has_flushed_or_applied_nothing() {
    let mut it = replicating();
    it.primary(&wal(0x1000, 0x80));
    it.release(0x1080);
    assert_eq!(it.received_by_primary(), b"", "it has acknowledged nothing yet");
    it.mirror(&status(0x1010, 0, 0, 0));
    assert_eq!(
        it.received_by_primary(),
        status(0x1010, 0, 0, 0),
        "as pg_receivewal and pg_basebackup without a slot do"
    );
    it.mirror(&status(0x1010, 0x1008, 0, 0));
    assert_eq!(it.received_by_primary(), status(0x1010, 0x1008, 0, 0), "as they do with a slot");
    it.release(0x1080);
    assert_eq!(it.received_by_primary(), b"", "they apply nothing, and are no mirror");
    it.mirror(&status(0x1010, 0x1008, 0x1000, 0));
    assert_eq!(it.received_by_primary(), status(0x1080, 0x1008, 0x1000, 0));
    it.primary(&wal(0x1080, 1));
    it.release_as(0x1081, Release::Exposed);
    assert_eq!(
        it.received_by_primary(),
        status(0x1081, 0x1008, 0x1000, 0),
        "the policy decided; the message is the same"
    );
}

#[test]
fn an_acknowledgement_waits_for_the_end_of_the_mirrors_message() {
    let feedback = copy(&[&b"h"[..], &[7; 24]].concat());
    for cut in 1..feedback.len() {
        let mut it = replicating();
        it.mirror(&status(0x1000, 0x1000, 0x900, 0));
        it.primary(&wal(0x1000, 0x80));
        it.forget();
        it.mirror(&feedback[..cut]);
        it.release(0x1080);
        it.mirror(&feedback[cut..]);
        let ours = status(0x1080, 0x1000, 0x900, 0);
        let (before, after) = ([&ours[..], &feedback].concat(), [&feedback[..], &ours].concat());
        let sent = it.received_by_primary();
        // Until its sixth byte, nothing of the mirror's message has been forwarded.
        assert_eq!(sent, if cut < 6 { before } else { after }, "cut at {cut}");
    }
    // A status update is held until it is complete, so the gate's may overtake it.
    let theirs = status(0x1020, 0x1010, 0x900, 0);
    for cut in 1..theirs.len() {
        let mut it = replicating();
        it.mirror(&status(0x1000, 0x1000, 0x900, 0));
        it.primary(&wal(0x1000, 0x80));
        it.forget();
        it.mirror(&theirs[..cut]);
        it.release(0x1080);
        it.mirror(&theirs[cut..]);
        assert_eq!(
            it.received_by_primary(),
            [status(0x1080, 0x1000, 0x900, 0), status(0x1080, 0x1010, 0x900, 0)].concat()
        );
    }
}

#[test]
fn a_change_of_timeline_forgets_everything() {
    let mut it = replicating();
    it.mirror(&status(0x1000, 0x1000, 0x900, 0));
    it.primary(&wal(0x1000, 0x100));
    it.release(0x1080);
    it.primary(&message(b'c', b""));
    it.release(0x1100);
    it.forget();
    it.mirror(&status(0x1100, 0x1100, 0x900, 0));
    assert_eq!(it.received_by_primary(), status(0x1100, 0x1100, 0x900, 0));
    it.mirror(&message(b'c', b""));
    it.primary(&[message(b'T', b"\0\x02"), message(b'D', b"2"), message(b'C', b"SELECT\0")].concat());
    it.primary(&[message(b'C', b"START_STREAMING\0"), message(b'Z', b"I")].concat());
    it.mirror(&query("TIMELINE_HISTORY 2"));
    it.primary(&[message(b'T', b"\0\x02"), message(b'D', b"3"), message(b'Z', b"I")].concat());
    it.start("START_REPLICATION SLOT \"mirror\" 0/1000 TIMELINE 2");
    it.forget();
    it.primary(&wal(0x1000, 0x80));
    let mark = it.marks()[0].1;
    assert!(mark > 0x1100, "{mark:#x} is above every mark of the earlier timeline");
    it.release(mark);
    assert_eq!(it.received_by_primary(), b"", "the mirror must acknowledge first, again");
    it.mirror(&status(0x1000, 0x1000, 0x900, 0));
    assert_eq!(it.received_by_primary(), status(0x1080, 0x1000, 0x900, 0));
    assert_eq!(it.warnings(), 0, "{:?}", it.notes());
}

#[test]
fn a_logical_subscriber_is_acknowledged_early_too() {
    let mut it = Exchange::new(PLAIN);
    it.log_in("user\0r\0replication\0database\0database\0d\0\0");
    it.mirror(&query("SELECT 1"));
    it.primary(&[message(b'T', b"\0\x01"), message(b'D', b"1"), message(b'C', b"S\0"), message(b'Z', b"I")].concat());
    it.start("START_REPLICATION SLOT \"sub\" LOGICAL 0/900 (proto_version '3', publication_names '\"p\"')");
    assert_eq!(it.phase(), "logical replication of slot sub");
    it.mirror(&status(0x900, 0x900, 0x900, 0));
    it.forget();
    // Begin, a change, the commit: positions count, not lengths.
    it.primary(&[wal(0x2000, 20), wal(0x1f00, 5000), wal(0x2040, 26)].concat());
    let whole = [wal(0x2000, 20), wal(0x1f00, 5000), wal(0x2040, 26)].concat().len();
    assert_eq!(it.marks(), [(wal(0, 20).len(), 0x2000), (whole, 0x2040)]);
    it.release(0x2040);
    assert_eq!(it.received_by_primary(), status(0x2040, 0x900, 0x900, 0));
    // Nothing of the next transaction is published: only a keepalive is sent for it.
    it.primary(&keepalive(0x2100));
    assert_eq!(it.marks().last(), Some(&(whole + keepalive(0).len(), 0x2100)));
    it.release(0x2100);
    assert_eq!(it.received_by_primary(), status(0x2100, 0x900, 0x900, 0));
}

#[test]
fn replication_commands_and_a_base_backup_pass() {
    let mut it = Exchange::new(PLAIN);
    it.log_in("user\0r\0replication\0true\0\0");
    it.forget();
    let backup = [
        message(b'H', b"\0\0\0"),
        copy(b"nbase.tar\0\0"),
        // These bytes look like WAL, but belong to the file.
        copy(&[&b"d"[..], &wal(0x1000, 100)].concat()),
        wal(0x9000, 100),
        message(b'c', b""),
        message(b'C', b"SELECT\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    it.mirror(&query("BASE_BACKUP ( LABEL 'START_REPLICATION 0/1' )"));
    assert_eq!(it.phase(), "commands of replication");
    it.primary(&backup);
    assert_eq!(it.mirror_heard(), backup);
    assert_eq!((it.marks(), it.notes().len()), (vec![], 0));
    // A failed start leaves no trace.
    it.mirror(&query("START_REPLICATION SLOT \"none\" 0/5000"));
    it.primary(&[message(b'E', b"SERROR\0\0"), message(b'Z', b"I")].concat());
    it.start("START_REPLICATION 0/1000");
    assert_eq!(it.phase(), "replication without a slot");
    it.primary(&wal(0x1000, 1));
    assert_eq!(it.marks().len(), 1);
}

#[test]
fn after_the_end_of_the_stream_nothing_is_acknowledged_for_the_mirror() {
    for end in [message(b'E', b"SFATAL\0\0"), message(b'C', b"COPY 0\0"), message(b'c', b"")] {
        let mut it = replicating();
        it.mirror(&status(0x1000, 0x1000, 0x900, 0));
        it.primary(&wal(0x1000, 8));
        it.forget();
        it.primary(&end);
        it.release(0x1008);
        assert_eq!(it.received_by_primary(), b"");
    }
    for end in [message(b'c', b""), message(b'X', b"")] {
        let mut it = replicating();
        it.mirror(&status(0x1000, 0x1000, 0x900, 0));
        it.primary(&wal(0x1000, 8));
        it.forget();
        it.mirror(&end);
        it.release(0x1008);
        assert_eq!(it.received_by_primary(), end);
    }
}

#[test]
fn unknown_messages_are_forwarded_with_one_warning() {
    let gap = [wal(0x1000, 8), wal(0x1010, 8), wal(0x2000, 8)].concat();
    let short = copy(b"w12345");
    let bad = [&b"d\0\0\0\x02"[..], b"anything"].concat();
    for stream in [gap, short, bad] {
        let mut it = replicating();
        it.mirror(&status(0x1000, 0x1000, 0x900, 0));
        it.forget();
        it.primary(&stream);
        it.primary(&wal(0x1008, 8));
        assert_eq!(it.mirror_heard(), [stream.clone(), wal(0x1008, 8)].concat());
        it.release(0x1010);
        it.mirror(&status(0x1003, 0x1001, 0x900, 0));
        assert_eq!(it.received_by_primary(), status(0x1003, 0x1001, 0x900, 0), "only the mirror's own status");
        assert_eq!(it.warnings(), 1, "{:?}", it.notes());
    }
    let mut it = replicating();
    let long = copy(&[b'r'; 40]);
    it.mirror(&long);
    it.mirror(&long);
    assert_eq!((it.received_by_primary(), it.warnings()), ([&long[..], &long].concat(), 1));
    let mut it = Exchange::new(PLAIN);
    it.log_in("replication\0true\0\0");
    it.primary(&message(b'W', b"\0\0\0"));
    it.mirror(&query("START_REPLICATION"));
    it.primary(&message(b'W', b"\0\0\0"));
    assert_eq!((it.warnings(), it.phase()), (1, "passed without early acknowledgements".to_owned()));
}

#[test]
fn a_mirror_that_leaves_because_it_requires_encryption_is_logged() {
    let ssl = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
    for (bytes, words) in [(&ssl[..], 1), (&ssl[..3], 0), (b"", 0)] {
        let mut it = Exchange::new(PLAIN);
        it.mirror(bytes);
        it.end(Side::Mirror);
        assert_eq!(it.warnings(), words, "{:?}", it.notes());
        assert!(words == 0 || format!("{:?}", it.notes()).contains("sslmode=prefer in primary_conninfo"));
    }
}

#[test]
fn requests_for_encryption_are_declined_and_everything_else_passes() {
    let mut it = Exchange::new(PLAIN);
    let ssl = startup(80_877_103, "");
    let gss = startup(80_877_104, "");
    it.mirror(&gss);
    it.mirror(&ssl[..3]);
    it.mirror(&ssl[3..]);
    assert_eq!((it.mirror_heard(), it.received_by_primary()), (b"NN".to_vec(), vec![]));
    let start = startup(0x3_0002, "user\0u\0database\0d\0\0");
    it.mirror(&start);
    it.mirror(b"Q and whatever");
    it.primary(b"anything");
    assert_eq!(it.received_by_primary(), [&start[..], b"Q and whatever"].concat());
    assert_eq!(it.mirror_heard(), b"NNanything");
    assert_eq!((it.phase(), it.notes().len()), ("ordinary session".to_owned(), 0));

    let mut it = Exchange::new(PLAIN);
    it.mirror(&cancel());
    assert_eq!((it.received_by_primary(), it.phase()), (cancel(), "cancellation".to_owned()));

    for (first, phase) in
        [(&b"\x16\x03\x01\0\x05hello"[..], "TLS passed through"), (b"GET / HTTP", "an unknown protocol")]
    {
        let mut it = Exchange::new(PLAIN);
        it.mirror(first);
        it.primary(first);
        assert_eq!((it.received_by_primary(), it.mirror_heard()), (first.to_vec(), first.to_vec()));
        assert_eq!((it.phase(), it.warnings()), (phase.to_owned(), 1));
    }
    let mut it = Exchange::new(PLAIN);
    it.mirror(&startup(0x3_0000, "user\0u\0\0")[..7]);
    it.end(Side::Mirror);
    assert_eq!(it.received_by_primary(), &startup(0x3_0000, "user\0u\0\0")[..7], "what was held is not lost");
}

#[test]
fn endless_requests_for_encryption_are_answered_only_twice() {
    let request = b"\0\0\0\x08\x04\xd2\x16\x2f";
    let mut it = Exchange::new(PLAIN);
    it.mirror(&request.repeat(100_000));
    assert_eq!(it.mirror_heard(), b"NN");
    assert_eq!(it.received_by_primary(), request.repeat(99_998), "the primary refuses it with its own error");
    assert_eq!((it.phase(), it.warnings()), ("an unknown protocol".to_owned(), 1));
}

#[test]
fn tls_ends_at_the_gate_on_both_legs() {
    let mut it = Exchange::new(BOTH);
    it.mirror(&startup(80_877_103, ""));
    assert_eq!((it.mirror_heard(), it.tls()), (b"S".to_vec(), vec![(Side::Mirror, 1)]));
    it.secured(Side::Mirror);
    let start = startup(0x3_0000, "user\0r\0replication\0true\0\0");
    it.mirror(&start);
    assert_eq!(it.received_by_primary(), startup(80_877_103, ""), "the start-up packet waits for TLS");
    it.forget();
    it.primary(b"S");
    assert_eq!((it.received_by_primary(), it.tls()), (vec![], vec![(Side::Primary, 0)]));
    it.secured(Side::Primary);
    assert_eq!(it.received_by_primary(), start);
    let list = |names: &str| message(b'R', &[&[0, 0, 0, 10], names.as_bytes()].concat());
    it.primary(&list("SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"));
    assert_eq!(it.mirror_heard(), list("SCRAM-SHA-256\0\0"), "channel binding cannot work");
    it.forget();
    let first = message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0dn,,n=,r=nonce");
    it.mirror(&first);
    it.primary(&[message(b'R', b"\0\0\0\x0br=nonce"), message(b'R', b"\0\0\0\x0cv=")].concat());
    assert_eq!(it.received_by_primary(), first);
    it.primary(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat());
    it.start("START_REPLICATION 0/1000");
    it.mirror(&status(0x1000, 0x1000, 0x900, 0));
    it.primary(&wal(0x1000, 4));
    it.forget();
    it.release(0x1004);
    assert_eq!(it.received_by_primary(), status(0x1004, 0x1000, 0x900, 0));
    assert_eq!(it.closing(), None);
}

#[test]
fn a_client_that_requires_channel_binding_gets_an_error_with_the_remedy() {
    let mut it = Exchange::new(BOTH);
    it.mirror(&startup(80_877_103, ""));
    it.secured(Side::Mirror);
    it.mirror(&startup(0x3_0000, "user\0u\0\0"));
    it.primary(b"S");
    it.secured(Side::Primary);
    it.primary(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"));
    it.forget();
    it.mirror(&message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0dy,,n=,r=nonce"));
    assert!(it.closing().unwrap().contains("channel_binding=disable"), "{:?}", it.closing());
    let said = String::from_utf8_lossy(&it.mirror_heard()).into_owned();
    assert!(said.starts_with('E') && said.contains("channel_binding=disable"), "{said:?}");
    assert_eq!(it.received_by_primary(), b"");
}

#[test]
fn nothing_passes_without_tls_where_tls_is_configured() {
    type Case = (&'static str, TlsChoice, fn(&mut Exchange));
    let cases: [Case; 7] = [
        ("accepts only connections with TLS", BOTH, |it| it.mirror(&startup(0x3_0000, "user\0u\0\0"))),
        ("unencrypted bytes follow", BOTH, |it| it.mirror(&[startup(80_877_103, ""), b"x".to_vec()].concat())),
        ("not PostgreSQL's protocol 3", BOTH, |it| it.mirror(b"GET / HTTP/1.1")),
        ("does not offer TLS", TlsChoice { accepts: false, connects: true }, |it| {
            it.mirror(&startup(0x3_0000, "user\0u\0\0"));
            it.primary(b"N");
        }),
        ("with something else", TlsChoice { accepts: false, connects: true }, |it| {
            it.mirror(&startup(0x3_0000, "user\0u\0\0"));
            it.primary(b"SE");
        }),
        ("before it was spoken to", TlsChoice { accepts: false, connects: true }, |it| it.primary(b"E")),
        ("before the start-up packet was answered", TlsChoice { accepts: false, connects: true }, |it| {
            it.mirror(&startup(0x3_0000, "user\0u\0\0"));
            it.mirror(b"p");
        }),
    ];
    for (wanted, tls, act) in cases {
        let mut it = Exchange::new(tls);
        act(&mut it);
        let reason = it.closing().unwrap_or_default();
        assert!(reason.contains(wanted), "wanted {wanted:?}, got {reason:?}");
        let said = String::from_utf8_lossy(&it.mirror_heard()).into_owned();
        assert!(said.starts_with('E') && said.contains(wanted), "{said:?}");
        let sent = it.received_by_primary();
        assert!(sent.is_empty() || sent == startup(80_877_103, ""), "{sent:?}");
        it.mirror(b"more");
        it.primary(b"more");
        assert_eq!(it.received_by_primary().len(), 0, "it is over");
    }
    // Every libpq before 17 sends cancel requests without encryption; they carry no data.
    let mut it = Exchange::new(TlsChoice { accepts: true, connects: false });
    it.mirror(&cancel());
    assert_eq!(it.received_by_primary(), cancel());
}

/// An event of a session, for the properties below.
#[derive(Clone, Debug)]
enum Event {
    Wal(usize),
    Keepalive,
    Notice,
    Status { behind: u64 },
    Feedback,
    Release { behind: u64 },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..2000_usize).prop_map(Event::Wal),
        1 => Just(Event::Keepalive),
        1 => Just(Event::Notice),
        4 => (0..3000_u64).prop_map(|behind| Event::Status { behind }),
        2 => Just(Event::Feedback),
        4 => (0..3000_u64).prop_map(|behind| Event::Release { behind }),
    ];
    prop::collection::vec(event, 1..40)
}

/// Plays events; each message is cut into pieces of the given lengths, cyclically. Releases come between messages, or
/// in the middle of them.
fn play(events: &[Event], pieces: &[usize], amid: bool) -> (Exchange, Vec<u8>, Vec<u8>, u64) {
    let mut it = replicating();
    let (mut to_mirror, mut to_primary) = (vec![], vec![]);
    let (mut end, mut highest, mut real) = (0x1000_u64, 0, 0x1000);
    let mut lengths = pieces.iter().copied().cycle();
    let mut releases: Vec<u64> = vec![];
    for event in events {
        let (side, bytes) = match event {
            Event::Wal(len) => {
                let bytes = wal(end, *len);
                end += *len as u64;
                (Side::Primary, bytes)
            }
            Event::Keepalive => (Side::Primary, keepalive(end + 500)),
            Event::Notice => (Side::Primary, message(b'N', b"SNOTICE\0\0")),
            Event::Status { behind } => {
                real = end.saturating_sub(*behind).max(real);
                (Side::Mirror, status(real, real, 0x1000 + to_primary.len() as u64, 0))
            }
            Event::Feedback => (Side::Mirror, copy(&[&b"h"[..], &[9; 24]].concat())),
            Event::Release { behind } => {
                let noted = it.marks().iter().map(|mark| mark.1).rfind(|mark| *mark <= end.saturating_sub(*behind));
                if let Some(mark) = noted {
                    highest = highest.max(mark);
                    if amid { releases.push(mark) } else { it.release(mark) }
                }
                continue;
            }
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, further) = rest.split_at(lengths.next().unwrap().min(rest.len()));
            it.give(side, piece);
            rest = further;
            if let Some(mark) = releases.pop() {
                it.release(mark);
            }
        }
        match side {
            Side::Primary => to_mirror.extend(bytes),
            Side::Mirror => to_primary.extend(bytes),
        }
    }
    (it, to_mirror, to_primary, highest)
}

/// The status updates of a stream (write, flush, apply), and everything else in it.
fn statuses(mut stream: &[u8]) -> (Vec<[u64; 3]>, Vec<u8>) {
    let (mut found, mut others) = (vec![], vec![]);
    while !stream.is_empty() {
        let len = 1 + u32::from_be_bytes(stream[1..5].try_into().unwrap()) as usize;
        let (message, rest) = stream.split_at(len);
        stream = rest;
        if len == 39 && message[5] == b'r' {
            found.push([6, 14, 22].map(|at| u64::from_be_bytes(message[at..at + 8].try_into().unwrap())));
        } else {
            others.extend_from_slice(message);
        }
    }
    (found, others)
}

/// Bytes that are almost the protocol: first packets, messages, and random bytes.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let starts = ["START_REPLICATION 0/10", "START_REPLICATION SLOT s LOGICAL 0/0", "START_REPLICATION", "SELECT 1"];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(startup(80_877_103, "")),
        Just(startup(0x3_0000, "user\0u\0replication\0on\0\0")),
        Just(startup(0x3_0000, "user\0u\0\0")),
        (0..4_usize).prop_map(move |at| query(starts[at])),
        (0..64_u64, 0..64_usize).prop_map(|(start, len)| wal(start, len)),
        (0..64_u64, 0..3_u64, 0..3_u64).prop_map(|(write, flush, apply)| status(write, flush, apply, 0)),
        any::<u64>().prop_map(|start| wal(start, 3)),
        (prop::sample::select(b"RSZWCEcdNTpQXf".to_vec()), prop::collection::vec(0..12_u8, 0..30))
            .prop_map(|(tag, body)| message(tag, &body)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_forwarded_in_order_and_nothing_panics(
        acts in prop::collection::vec((0..6_u8, nearly()), 1..30),
        accepts: bool,
        connects: bool,
    ) {
        let mut it = Exchange::new(TlsChoice { accepts, connects });
        let mut cut = Exchange::new(TlsChoice { accepts, connects });
        for (act, bytes) in &acts {
            let side = if act % 2 == 0 { Side::Primary } else { Side::Mirror };
            match act {
                0..4 => {
                    it.give(side, bytes);
                    bytes.iter().for_each(|byte| cut.give(side, &[*byte]));
                }
                4 => [&mut it, &mut cut].into_iter().for_each(|it| it.release(bytes.len() as u64)),
                _ => [&mut it, &mut cut].into_iter().for_each(|it| it.secured(side)),
            }
        }
        // With TLS it matters which bytes arrive together: bytes after the request are refused.
        if !accepts && !connects {
            prop_assert_eq!(it.all_to_primary(), cut.all_to_primary());
            prop_assert_eq!(it.all_to_mirror(), cut.all_to_mirror());
            prop_assert_eq!(it.marks(), cut.marks());
            prop_assert_eq!(it.counts(), cut.counts());
            prop_assert_eq!(it.notes(), cut.notes());
            prop_assert_eq!(it.closing(), None);
        }
    }
}

proptest! {
    #[test]
    fn the_result_is_the_same_however_the_bytes_are_cut(
        events in events(),
        pieces in prop::collection::vec(1..60_usize, 1..20),
    ) {
        let (once, ..) = play(&events, &[usize::MAX], false);
        let (cut, to_mirror, ..) = play(&events, &pieces, false);
        prop_assert_eq!(cut.all_to_mirror(), &to_mirror[..]);
        prop_assert_eq!(once.all_to_mirror(), &to_mirror[..]);
        prop_assert_eq!(once.all_to_primary(), cut.all_to_primary());
        prop_assert_eq!(once.marks(), cut.marks());
        prop_assert_eq!(once.acknowledged(), cut.acknowledged());
        prop_assert_eq!(once.counts(), cut.counts());
        prop_assert_eq!(once.notes(), cut.notes());
    }

    #[test]
    fn the_primary_gets_whole_and_correct_messages_whenever_marks_are_released(
        events in events(),
        pieces in prop::collection::vec(1..60_usize, 1..20),
    ) {
        let (it, to_mirror, to_primary, highest) = play(&events, &pieces, true);
        prop_assert_eq!(it.all_to_mirror(), &to_mirror[..]);
        let (told, others) = statuses(it.all_to_primary());
        let (real, real_others) = statuses(&to_primary);
        prop_assert_eq!(others, real_others, "everything else passes as it is");
        prop_assert!(told.is_sorted_by_key(|status| status[0]), "write never falls: {told:?}");
        let mut theirs = real.iter();
        let mut last = None;
        for status in &told {
            // Either the mirror's status with write raised, or the flush and apply of an earlier one repeated.
            if last.is_none_or(|last: &[u64; 3]| status[1..] != last[1..]) {
                last = theirs.next();
            }
            let last = last.expect("nothing is acknowledged before the mirror acknowledges");
            prop_assert_eq!(&status[1..], &last[1..], "flush and apply are the mirror's");
            prop_assert!(status[0] <= highest.max(real.last().unwrap()[0]), "{status:?} is beyond everything known");
        }
    }
}
