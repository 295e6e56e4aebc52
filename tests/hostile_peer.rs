//! An authentic but compromised peer cannot make the appliance hold more memory than docs/wire.md allows, by the
//! allocator's count. The fuzz target `hostile_peer` tests the same with its own inputs.

// Only an allocator can count the held memory.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)]

#[path = "hostile/mod.rs"]
mod hostile;

use std::sync::{Mutex, MutexGuard, PoisonError};

use hostile::{Counting, run};
use onwire::tunnel::receiver::MEMORY_MAX;
use proptest::prelude::*;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The count covers the whole program, so the tests run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A train in the form of an input.
#[derive(Clone, Copy, Debug)]
struct Train {
    kind: u8,
    datagrams: u8,
    profile: u8,
    esi: (u8, u16),
    k: (u8, u16),
    m: (u8, u16),
    length: (u8, u16),
    fill: u8,
    step: u8,
}

const HIGHEST: (u8, u16) = (1, 0);

impl Train {
    /// One source symbol of one byte with the highest ESI, in block 0 of this profile.
    fn of(profile: u8) -> Self {
        let (kind, k, m) = (0x80, (0, 1), (0, 1));
        Self { kind, datagrams: 0, profile, esi: HIGHEST, k, m, length: (0, 1), fill: 0, step: 0x60 }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.datagrams, self.profile];
        for (kind, value) in [self.esi, self.k, self.m, self.length] {
            bytes.push(kind);
            bytes.extend(value.to_be_bytes());
        }
        bytes.extend([self.fill, self.step]);
        bytes
    }
}

fn input(shape: u8, trains: &[Train]) -> Vec<u8> {
    [shape].into_iter().chain(trains.iter().flat_map(Train::bytes)).collect()
}

#[test]
fn one_datagram_with_a_high_esi_stays_within_the_memory_bound() {
    let _alone = alone();
    // A block of the longest symbols does not fit in the bound; one of an ordinary path does.
    let outcome = run(&input(3, &[Train::of(0)]));
    assert!((outcome.no_room, outcome.held < 1 << 20) == (1, true), "{outcome:?}");
    let outcome = run(&input(1, &[Train::of(0)]));
    assert!((outcome.no_room, outcome.held > 8192 * 1408) == (0, true), "{outcome:?}");
}

#[test]
fn many_profiles_share_one_memory_bound() {
    let _alone = alone();
    for shape in [0, 1, 4, 5] {
        let trains: Vec<Train> =
            (0..=255).map(|profile| Train { kind: 0x84, datagrams: 63, ..Train::of(profile) }).collect();
        let outcome = run(&input(shape, &trains));
        assert!(outcome.held > MEMORY_MAX / 4, "the control: {outcome:?}");
    }
}

#[test]
fn decoding_with_many_repair_symbols_stays_within_the_memory_bound() {
    let _alone = alone();
    let repair = Train { kind: 0x82, k: (0, 1), m: HIGHEST, length: HIGHEST, esi: HIGHEST, ..Train::of(0) };
    assert_eq!(run(&input(3, &[repair])).recovered, 0);
    assert_eq!(run(&input(3, &[Train { m: (2, 500), ..repair }])).recovered, 1, "the control");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn all_sealed_input_stays_within_the_memory_bound(
        shape: u8,
        trains in prop::collection::vec(prop::collection::vec(any::<u8>(), 16..20), 1..40),
    ) {
        let _alone = alone();
        let bytes: Vec<u8> = [shape].into_iter().chain(trains.concat()).collect();
        run(&bytes);
    }
}
