//! Sessions of a replica, written by hand from the protocol: what passes, what is marked, what is acknowledged to the
//! primary.

use super::*;
use crate::gate::dialect_tests::{
    self, Outcome,
    Step::{self, Ended, Mirror, Primary, Released},
    given,
};
use proptest::prelude::*;

const EOF_MARK: &str = "0123456789abcdef0123456789abcdef01234567";

fn play(steps: &[Step], cut: impl FnMut(usize) -> usize) -> Outcome {
    dialect_tests::play(Redis::new(TlsChoice::default()), steps, cut)
}

fn request(words: &[&str]) -> Vec<u8> {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{words}", words.matches('$').count()).into_bytes()
}

fn ack(offset: u64) -> Vec<u8> {
    request(&["REPLCONF", "ACK", &offset.to_string()])
}

fn primary(text: &str) -> Step {
    Primary(text.as_bytes().to_vec())
}

fn mirror(words: &[&str]) -> Step {
    Mirror(request(words))
}

/// The start of a session, up to and including `PSYNC`.
fn start_up(id: &str, first: &str) -> Vec<Step> {
    vec![
        mirror(&["PING"]),
        primary("-NOAUTH Authentication required.\r\n"),
        mirror(&["AUTH", "secret"]),
        primary("+OK\r\n"),
        mirror(&["REPLCONF", "listening-port", "6380"]),
        mirror(&["REPLCONF", "capa", "eof", "capa", "psync2"]),
        primary("+OK\r\n+OK\r\n"),
        mirror(&["PSYNC", id, first]),
    ]
}

fn full(snapshot: &str) -> Vec<Step> {
    let mut steps = start_up("?", "-1");
    steps.push(primary("\n+FULLRESYNC 8de1787ba490483314a4d30f1c628bc5025eb761 1000\r\n\n"));
    steps.push(primary(snapshot));
    steps
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("ASCII")
}

const STREAM: &str = "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nset\r\n$1\r\na\r\n$1\r\nb\r\n";

#[test]
fn offsets_count_from_the_answer_to_psync() {
    let continued = |answer: &str| {
        let mut steps = start_up("8de1787ba490483314a4d30f1c628bc5025eb761", "1001");
        steps.push(primary(answer));
        steps
    };
    let marked = format!("$EOF:{EOF_MARK}\r\nREDIS0010*1\r\n{EOF_MARK}");
    let cases = [
        ("a file", full("$9\r\nREDIS0010")),
        ("no file", full(&marked)),
        ("an empty snapshot", full("$0\r\n")),
        ("continued", continued("+CONTINUE\r\n")),
        ("continued under a new id", continued("+CONTINUE 1234567890123456789012345678901234567890\r\n")),
    ];
    for (name, mut steps) in cases {
        let before = play(&steps, |len| len);
        assert_eq!(before.last_mark(), None, "{name}: nothing of the snapshot is marked");
        steps.extend([Mirror(b"\n".to_vec()), Mirror(ack(1000)), primary(STREAM)]);
        let sent = play(&steps, |len| len);
        let offset = 1000 + STREAM.len() as u64;
        assert_eq!(sent.last_mark(), Some((offset, sent.to_mirror.len())), "{name}");
        assert_eq!(sent.phase, "replication", "{name}");
        assert_eq!(sent.acknowledged, Some(1000), "{name}");
        steps.push(Released(offset));
        let released = play(&steps, |len| len);
        assert_eq!(text(&released.to_primary), text(&sent.to_primary).to_owned() + text(&ack(offset)), "{name}");
        assert_eq!((released.counts, released.warnings.len()), ((1, 1), 0), "{name}");
        // The replica's own acknowledgement comes later and is not lower than the one sent.
        steps.push(Mirror(ack(1010)));
        steps.push(Mirror(ack(offset)));
        let told = play(&steps, |len| len);
        assert_eq!(
            text(&told.to_primary),
            text(&released.to_primary).to_owned() + &text(&ack(offset)).repeat(2),
            "{name}"
        );
        assert_eq!((told.acknowledged, told.counts), (Some(offset), (3, 1)), "{name}");
    }
}

#[test]
fn nothing_is_acknowledged_before_the_replica_has_acknowledged() {
    let mut steps = full("$9\r\nREDIS0010");
    steps.extend([primary(STREAM), Released(1010), Mirror(b"\n".to_vec())]);
    let silent = play(&steps, |len| len);
    assert_eq!(silent.counts, (0, 0));
    assert!(!text(&silent.to_primary).contains("ACK"));
    steps.push(Mirror(ack(1000)));
    let early_position = play(&steps, |len| len);
    assert_eq!(
        text(&early_position.to_primary),
        text(&silent.to_primary).to_owned() + text(&ack(1010)),
        "the first acknowledgement is raised"
    );
    assert_eq!(early_position.counts, (1, 0));
}

#[test]
fn an_early_acknowledgement_stands_between_two_commands() {
    let mut steps = full("$9\r\nREDIS0010");
    let second = ack(1020);
    steps.extend([Mirror(ack(1000)), primary(STREAM)]);
    steps.extend([Mirror(second[..11].to_vec()), Released(1010), Mirror(second[11..].to_vec())]);
    let outcome = play(&steps, |len| len);
    let told = text(&outcome.to_primary);
    assert!(told.ends_with(&[text(&ack(1000)), text(&ack(1010)), text(&ack(1020))].concat()), "{told}");
}

#[test]
fn the_offset_on_disk_stays_the_replicas_own() {
    let mut steps = full("$9\r\nREDIS0010");
    steps.extend([Mirror(ack(1000)), primary(STREAM), Released(1030)]);
    steps.push(mirror(&["REPLCONF", "ACK", "1020", "FACK", "1005"]));
    let outcome = play(&steps, |len| len);
    assert!(outcome.to_primary.ends_with(&request(&["REPLCONF", "ACK", "1030", "FACK", "1005"])));
    assert_eq!(outcome.acknowledged, Some(1020));
}

#[test]
fn the_offer_of_a_second_connection_is_hidden() {
    let offer = mirror(&["REPLCONF", "capa", "eof", "capa", "rdb-channel-repl", "capa", "dual-channel"]);
    let outcome = play(&[offer], |len| len);
    let hidden = request(&["REPLCONF", "capa", "eof", "capa", "----------------", "capa", "------------"]);
    assert_eq!(text(&outcome.to_primary), text(&hidden));
}

#[test]
fn a_refused_psync_may_be_asked_again() {
    let mut steps = start_up("?", "-1");
    steps.push(primary("-LOADING Redis is loading the dataset in memory\r\n"));
    steps.extend(full("$9\r\nREDIS0010").split_off(7));
    steps.extend([Mirror(ack(1000)), primary(STREAM), Released(1010)]);
    let outcome = play(&steps, |len| len);
    assert_eq!((outcome.counts, outcome.phase.as_str()), ((1, 1), "replication"));
}

#[test]
fn unknown_bytes_pass_and_are_not_acknowledged_early() {
    let ordinary = "ordinary session";
    let without = "replication without early acknowledgements";
    let answered = |answer: &str| {
        let mut steps = start_up("?", "-1");
        steps.push(primary(answer));
        steps
    };
    let streaming = |further: Step| {
        let mut steps = full("$9\r\nREDIS0010");
        steps.extend([Mirror(ack(1000)), primary(STREAM), further]);
        steps
    };
    let cases = [
        ("a client", vec![mirror(&["SET", "a", "b"]), primary("+OK\r\n")], ordinary),
        ("a client that logs in", vec![mirror(&["AUTH", "x"]), primary("+OK\r\n"), mirror(&["GET", "a"])], ordinary),
        ("a client with HELLO", vec![mirror(&["HELLO", "3"]), primary("%1\r\n+a\r\n+b\r\n")], ordinary),
        ("a refused client", vec![primary("-ERR max number of clients reached\r\n")], ordinary),
        (
            "a large value",
            vec![Mirror([b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9999\r\n", [b'x'; 5000].as_slice()].concat())],
            ordinary,
        ),
        ("an endless line", vec![Mirror(vec![b'x'; 5000])], ordinary),
        ("SYNC", vec![Mirror(b"SYNC\r\n".to_vec()), primary("$5\r\nREDIS*1\r\n$4\r\nPING\r\n")], without),
        ("TLS", vec![Mirror(b"\x16\x03\x01\x02\x00".to_vec())], without),
        ("a second connection", answered("+RDBCHANNELSYNC 17\r\n"), without),
        ("Valkey's second connection", answered("+DUALCHANNELSYNC\r\n"), without),
        ("no offset", answered("+FULLRESYNC abc\r\n"), without),
        ("continued from nowhere", answered("+CONTINUE\r\n"), without),
        ("an error for a snapshot", answered("+FULLRESYNC abc 5\r\n-ERR no\r\n"), without),
        ("an endless answer", answered(&"x".repeat(600)), without),
        ("an offset that was not sent", streaming(Mirror(ack(5000))), without),
        ("an offset of another stream", streaming(Mirror(ack(999))), without),
        ("a word for an offset", streaming(mirror(&["REPLCONF", "ACK", "x"])), without),
        ("another command", streaming(mirror(&["PING"])), without),
        ("noise", streaming(Mirror(b"*x\r\n".to_vec())), without),
    ];
    for (name, mut steps, phase) in cases {
        steps.extend([Mirror(ack(1005)), primary("more"), Released(u64::MAX)]);
        let outcome = play(&steps, |len| len);
        assert_eq!(outcome.phase, phase, "{name}");
        assert_eq!(outcome.warnings.len(), usize::from(phase == without), "{name}: {:?}", outcome.warnings);
        assert_eq!(outcome.counts.1, 0, "{name}");
        assert_eq!(text(&outcome.to_primary), text(&given(&steps, Side::Mirror)), "{name}");
        assert_eq!(text(&outcome.to_mirror), text(&given(&steps, Side::Primary)), "{name}");
    }
}

/// A mirror for which everything up to `recalled` was acknowledged early comes back with everything up to 1000.
fn reconnected_at(answer: &str, recalled: u64, cut: usize) -> Outcome {
    let mut steps = start_up("8de1787ba490483314a4d30f1c628bc5025eb761", "1001");
    steps.extend([primary(answer), Mirror(ack(1000)), primary(STREAM), primary(STREAM), Released(1060)]);
    let recalled = Some(EarlyPosition { place: Place::Offset(recalled), stamp: 0 });
    dialect_tests::play_again(Redis::new(TlsChoice::default()), recalled, &steps, |_| cut)
}

#[test]
fn a_replica_that_comes_back_without_an_acknowledged_write_is_reported() {
    let write = 1000 + STREAM.len() as u64;
    for cut in [1, 5, 1000] {
        let with = |recalled| reconnected_at("+CONTINUE\r\n", recalled, cut).shortfalls;
        assert_eq!(with(write), [Place::Offset(1000)], "the write ends there");
        assert_eq!(with(write + 500), [Place::Offset(1000)]);
        assert_eq!(with(write - 1), [], "a partial write is never acknowledged");
        assert_eq!(with(1000), []);
        assert_eq!(with(500), [], "it has more than was acknowledged early");
        let new_id = "+CONTINUE 1234567890123456789012345678901234567890\r\n";
        let renamed = reconnected_at(new_id, write, cut);
        assert_eq!(renamed.shortfalls, [Place::Offset(1000)]);
        let named = renamed.named.unwrap();
        assert_eq!(named.history.as_deref(), Some("replication 1234567890123456789012345678901234567890"));
        assert_eq!((named.name.as_str(), named.is_unique), ("the replica with port 6380", false));
        assert_eq!(renamed.early_position, Some(EarlyPosition { place: Place::Offset(1060), stamp: 0 }));
        let whole = "+FULLRESYNC 8de1787ba490483314a4d30f1c628bc5025eb761 1000\r\n$9\r\nREDIS0010";
        assert_eq!(
            reconnected_at(whole, write, cut).shortfalls,
            [],
            "a snapshot shows nothing of what the replica had"
        );
    }
}

#[test]
fn held_bytes_are_forwarded_when_the_mirror_ends() {
    let mut steps = vec![Mirror(b"*1\r\n$4\r\nPI".to_vec())];
    assert!(play(&steps, |len| len).to_primary.is_empty());
    steps.push(Ended(Side::Mirror));
    assert_eq!(play(&steps, |len| len).to_primary, given(&steps, Side::Mirror));
}

#[test]
fn tls_begins_with_the_first_byte_where_it_is_configured() {
    for (accepts, connects) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut turn = Turn::default();
        Redis::new(TlsChoice { accepts, connects }).on_open(&mut turn);
        let begun = |side| turn.tls().contains(&(side, 0));
        assert_eq!((begun(Side::Mirror), begun(Side::Primary)), (accepts, connects));
    }
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_the_same_outcome(sizes in proptest::collection::vec(1..40usize, 1..200)) {
        let marked = format!("$EOF:{EOF_MARK}\r\nREDIS0010*1\r\n{}{EOF_MARK}", &EOF_MARK[..17]);
        for snapshot in ["$9\r\nREDIS0010", marked.as_str()] {
            let mut steps = full(snapshot);
            steps.extend([
                Mirror(ack(1000)), primary(STREAM), Released(1010), Mirror(ack(1005)), primary(STREAM), Released(1060),
                mirror(&["REPLCONF", "ACK", "1030", "FACK", "1000"]), Mirror(b"\n".to_vec()), Released(1090),
            ]);
            let mut whole = play(&steps, |len| len);
            let mut sizes = sizes.iter().cycle();
            let mut pieces = play(&steps, |_| *sizes.next().expect("a cycle has no end"));
            // More pieces have more marked positions.
            prop_assert_eq!(pieces.last_mark(), whole.last_mark());
            (pieces.marks, whole.marks) = (vec![], vec![]);
            prop_assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn any_bytes_pass_whole_and_in_order(
        steps in proptest::collection::vec(
            (0..3u8, "(\\*[0-3]\r\n|\\$[0-9]\r\n|PSYNC a 5\r\n|PING\r\n|\\+CONTINUE\r\n|\\+PONG\r\n|\\+FULLRESYNC a 5\r\n|\
              [a-zA-Z\n]|REPLCONF ACK [0-9]{1,2}\r\n){0,6}"), 0..30),
    ) {
        let steps: Vec<Step> = steps.into_iter().map(|(kind, text)| match kind {
            0 => Primary(text.into_bytes()),
            1 => Mirror(text.into_bytes()),
            _ => Released(text.len() as u64),
        }).collect();
        let outcome = play(&steps, |len| len);
        prop_assert_eq!(outcome.to_mirror, given(&steps, Side::Primary));
    }
}
