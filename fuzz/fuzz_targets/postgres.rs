//! Any bytes of both sides through the PostgreSQL dialect, whole and byte by byte: the output is the same, and marks
//! never fall.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::gate::dialect::{Dialect, Mark, Release, Side, TlsChoice, Turn};
use onwire::gate::postgres::Postgres;
use onwire::gate::returns::{Place, EarlyPosition};

/// The output: bytes to the primary, bytes to the mirror, marks with their places, whether the connection ended, and
/// the places of mirrors that came back with too little.
type Outcome = (Vec<u8>, Vec<u8>, Vec<(usize, u64)>, bool, Vec<Place>);

/// On earlier connections the gate acknowledged up to this place on behalf of every mirror.
const RECALLED: u64 = 0x300_0200;

fuzz_target!(|input: &[u8]| {
    let Some((choice, script)) = input.split_first() else { return };
    let tls = TlsChoice { accepts: choice & 1 != 0, connects: choice & 2 != 0 };
    let whole = play(tls, script, usize::MAX);
    // Bytes behind a request for TLS are refused, and bytes before TLS is established are not read: then the result
    // depends on the pieces.
    if !tls.accepts && !tls.connects {
        assert_eq!(whole, play(tls, script, 1));
    }
    assert!(whole.2.is_sorted_by_key(|mark| mark.1));
});

/// Plays a script: repeatedly one byte of action, one byte of length, and that many bytes.
fn play(tls: TlsChoice, mut script: &[u8], piece: usize) -> Outcome {
    let mut dialect = Postgres::new(tls);
    let mut out = Outcome::default();
    while let [act, len, rest @ ..] = script {
        let (bytes, further) = rest.split_at((*len as usize).min(rest.len()));
        script = further;
        let mut turn = |act: &mut dyn FnMut(&mut Postgres, &mut Turn)| {
            let mut turn = Turn::default();
            act(&mut dialect, &mut turn);
            if turn.mirror().is_some() {
                dialect.on_recalled(Some(EarlyPosition { place: Place::Wal(RECALLED), stamp: 0 }));
            }
            let base = out.1.len();
            out.2.extend(turn.marks().iter().map(|Mark { after, mark }| (base + after, *mark)));
            out.0.extend_from_slice(turn.sent(Side::Primary));
            out.1.extend_from_slice(turn.sent(Side::Mirror));
            out.3 |= turn.closing().is_some();
            out.4.extend(turn.shortfall().cloned());
        };
        let side = if act & 1 == 0 { Side::Primary } else { Side::Mirror };
        match act % 8 {
            0..5 => bytes.chunks(piece).for_each(|piece| turn(&mut |it, turn| it.on_bytes(side, piece, turn))),
            5 => turn(&mut |it, turn| it.on_tls(side, turn)),
            6 => {
                let mark = bytes.first_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
                turn(&mut |it, turn| it.on_released(mark, Release::Protected, turn));
            }
            _ => turn(&mut |it, turn| it.on_end(side, turn)),
        }
    }
    out
}
