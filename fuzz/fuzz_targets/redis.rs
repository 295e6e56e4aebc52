//! Bytes of both sides of a Redis connection in any order, cut anywhere, with releases between them: all bytes of the
//! primary reach the mirror unchanged, marks never fall, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::gate::dialect::{Dialect, Release, Side, TlsChoice, Turn};
use onwire::gate::redis::Redis;
use onwire::gate::returns::{Place, EarlyPosition};

fuzz_target!(|input: &[u8]| {
    let mut redis = Redis::new(TlsChoice::default());
    let mut last = 0;
    let mut rest = input;
    while let Some(([kind, len], further)) = rest.split_first_chunk::<2>().map(|(head, rest)| (*head, rest)) {
        let (bytes, further) = further.split_at(further.len().min(len.into()));
        rest = further;
        let mut turn = Turn::default();
        match kind % 4 {
            0 => {
                redis.on_bytes(Side::Primary, bytes, &mut turn);
                assert_eq!(turn.sent(Side::Mirror), bytes);
            }
            1 | 2 => redis.on_bytes(Side::Mirror, bytes, &mut turn),
            _ => redis.on_released(last.min(len.into()), Release::Protected, &mut turn),
        }
        if turn.mirror().is_some() {
            redis.on_recalled(Some(EarlyPosition { place: Place::Offset(u64::MAX / 2), stamp: 0 }));
        }
        for mark in turn.marks() {
            assert!(mark.mark >= last && mark.after <= turn.sent(Side::Mirror).len());
            last = mark.mark;
        }
    }
    let mut turn = Turn::default();
    redis.on_end(Side::Mirror, &mut turn);
    redis.on_end(Side::Primary, &mut turn);
});
