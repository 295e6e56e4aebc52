//! Trains sealed by an authentic peer, with symbols of any size and any number of profiles: the memory of the receiving
//! side stays within its bounds, as counted by the allocator. tests/hostile_peer.rs does the same with random inputs.
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
