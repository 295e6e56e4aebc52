//! Trains that an authentic peer has sealed, of symbols of any size and any number of profiles: what the receiving side holds
//! stays within its bounds, by the allocator's count. tests/hostile_peer.rs does the same with inputs made at random.
#![no_main]

#[path = "../../tests/hostile/mod.rs"]
mod hostile;

use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: hostile::Counting = hostile::Counting;

fuzz_target!(|input: &[u8]| {
    let outcome = hostile::run(input);
    assert!(outcome.held > 0 || outcome.no_room + outcome.recovered == 0, "{outcome:?}");
});
