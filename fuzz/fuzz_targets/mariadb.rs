//! Bytes of both sides of a MariaDB connection in any order, cut anywhere, with releases between them: as many bytes as
//! the primary sends reach the mirror, marks rise, and nothing panics. Half of the inputs begin during a dump.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::gate::dialect::{Dialect, Release, Side, Turn};
use onwire::gate::mariadb::MariaDb;
use onwire::gate::returns::{Place, EarlyPosition};

/// A greeting, an answer, the command that asks for the binary log, and the event that names it.
const GREETING: &[u8] = b"\x20\0\0\0\x0a5\0\x07\0\0\0abcdefgh\0\x05\xa2\x21\x02\0\0\0\x15\0\0\0\0\0\0\0\0";
const ANSWER: &[u8] = b"\x04\0\0\x01\x05\xa2\0\0\x01\0\0\0\x12";
const ROTATE: &[u8] = b"\x28\0\0\x01\0\xef\0\0\0\0\0\x04\x01\0\0\0\x25\0\0\0\0\0\0\0\x20\0\x04\0\0\0\0\0\0\0bin.000001";

/// On earlier connections the gate acknowledged up to this place on behalf of every mirror.
fn early_position() -> Option<EarlyPosition> {
    let place = Place::Binlog { file: b"bin.000001".as_slice().into(), position: 1 << 30 };
    Some(EarlyPosition { place, stamp: u64::from(u32::MAX) })
}

fuzz_target!(|input: &[u8]| {
    let mut dialect = MariaDb::new();
    let mut last = 0;
    let Some((begin, mut rest)) = input.split_first() else { return };
    if begin % 2 == 1 {
        let mut turn = Turn::default();
        dialect.on_bytes(Side::Primary, GREETING, &mut turn);
        dialect.on_bytes(Side::Mirror, ANSWER, &mut turn);
        dialect.on_recalled(early_position());
        dialect.on_bytes(Side::Primary, ROTATE, &mut turn);
        assert_eq!(dialect.phase(), "semi-synchronous replication");
    }
    let (mut given, mut passed) = (0, 0);
    while let Some(([kind, len], further)) = rest.split_first_chunk::<2>().map(|(head, rest)| (*head, rest)) {
        let (bytes, further) = further.split_at(further.len().min(len.into()));
        rest = further;
        let mut turn = Turn::default();
        match kind % 4 {
            0 => {
                dialect.on_bytes(Side::Primary, bytes, &mut turn);
                given += bytes.len();
            }
            1 | 2 => dialect.on_bytes(Side::Mirror, bytes, &mut turn),
            _ => dialect.on_released(last.min(len.into()), Release::Protected, &mut turn),
        }
        if turn.mirror().is_some() {
            dialect.on_recalled(early_position());
        }
        passed += turn.sent(Side::Mirror).len();
        assert!(passed <= given);
        for mark in turn.marks() {
            assert!(mark.mark > last && mark.after <= turn.sent(Side::Mirror).len());
            last = mark.mark;
        }
    }
    let mut turn = Turn::default();
    dialect.on_end(Side::Primary, &mut turn);
    dialect.on_end(Side::Mirror, &mut turn);
    assert_eq!(passed + turn.sent(Side::Mirror).len(), given);
});
