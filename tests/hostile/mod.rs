//! An authentic but compromised peer: whatever it seals, in trains, with symbols of any size and of any number of
//! profiles, the receiver's memory stays within its bounds, as counted by the allocator.
//!
//! An input is a byte string that describes the datagrams, so that a property test and a fuzzer can generate it.

mod lane;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use onwire::tunnel::drop_reason::DropReason;
use onwire::tunnel::forwarder::Forwarder;
use onwire::tunnel::outbox::Trains;
use onwire::tunnel::receiver::{Delivery, MEMORY_MAX};
use onwire::wire::datagram::{DatagramType, Header};

/// Memory besides the counted one, per profile: lists of abandoned blocks (docs/wire.md).
const LISTS: usize = 128 << 10;
/// Further memory per lane: two scratch buffers of the code, the send queues, and small allocations.
const LANE: usize = (2 * 16 + 4) << 20;
/// Temporary memory: scratch of one decoding, and the old copy of a block that grows.
const MOMENT: usize = (128 << 20) + MEMORY_MAX;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator with a byte count.
pub struct Counting;

// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

/// The result of one run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The maximum memory held between two trains, by the allocator's count, beyond that of a new lane.
    pub held: usize,
    /// Symbols and reports that were dropped for lack of room.
    pub no_room: u64,
    /// Blocks that were recovered.
    pub recovered: u64,
}

/// Reads the input; after its end it returns zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A small number, a number near the bound, or any number.
    fn number(&mut self, bound: u16) -> u16 {
        let (kind, value) = (self.byte(), self.word());
        match kind % 4 {
            0 => value % 8,
            1 => bound.saturating_sub(value % 3),
            _ => value % bound.max(1),
        }
    }
}

/// Sends the datagrams that `input` describes; panics if the receiver holds more memory than allowed.
pub fn run(input: &[u8]) -> Outcome {
    // Creates the tables that exist once per process.
    drop(onwire::fec::code::Code::new());
    let mut input = Input(input);
    let shape = input.byte();
    let symbol_size = [64, 1408, 9088, 65_472][usize::from(shape & 3)];
    let mut now = Instant::now();
    let from = SocketAddr::from(([192, 0, 2, 2], 7117));
    let delivery =
        Delivery { strict: shape & 4 != 0, hold: Duration::from_millis(100), hold_max: Duration::from_millis(100) };
    let mut forwarder = lane::forwarder(1408, false, delivery, now);
    forwarder.install(&lane::established(from, symbol_size, now), now);
    let key = lane::peers_key();
    let mut text = vec![0; 70_000];
    let mut datagram = Vec::with_capacity(70_000);
    let (mut profiles, mut counter, mut outcome) = (BTreeSet::new(), 0, Outcome::default());
    let (base, mut sbn) = (LIVE.load(Relaxed), 0u64);
    PEAK.store(base, Relaxed);
    while !input.0.is_empty() {
        let (kind, train) = (input.byte(), 1 + input.byte() % 64);
        let profile = input.byte() & if kind & 0x80 == 0 { 1 } else { 0xff };
        let (esi, k, m) = (input.number(8191), input.number(8192).max(1), input.number(8192).max(1));
        let (length, fill) = (input.number(symbol_size).clamp(1, symbol_size), input.byte());
        let step = input.byte();
        now += Duration::from_millis(u64::from(step & 31));
        sbn = match step >> 5 {
            0 => sbn.saturating_sub(u64::from(input.byte())),
            1 => sbn + u64::from(input.word()),
            2 => sbn + 4095,
            _ => sbn,
        };
        for number in 0..u16::from(train) {
            // Advances within a block, over blocks, or both.
            let (esi, sbn) = match kind >> 2 & 3 {
                0 => (esi.saturating_sub(number), sbn),
                1 => (esi, sbn + u64::from(number)),
                2 => (esi.saturating_sub(number), sbn + u64::from(number) % 3),
                _ => ((esi + number) % 8192, sbn),
            };
            let repair_length = length.next_multiple_of(64).min(symbol_size);
            let (datagram_type, length) = match kind & 3 {
                0 | 1 => (DatagramType::Source, 16 + usize::from(length)),
                2 => (DatagramType::Repair, 16 + usize::from(repair_length)),
                _ => (DatagramType::Report, 0),
            };
            text[16..length.max(16)].fill(fill);
            // Writes the header of an ADU of several symbols.
            text[16..20].copy_from_slice(&[if fill & 1 == 0 { fill } else { 0x80 }, 0, fill & 7, fill]);
            let length = match datagram_type {
                DatagramType::Source => {
                    text[..2].copy_from_slice(&[profile, kind >> 6 & 1]);
                    text[2..4].copy_from_slice(&esi.to_be_bytes());
                    text[4..12].copy_from_slice(&sbn.to_be_bytes());
                    text[12..14].copy_from_slice(&(k * u16::from(fill & 2 != 0)).to_be_bytes());
                    text[14..16].copy_from_slice(&(if fill & 4 == 0 { 0 } else { 0xffff_u16 }).to_be_bytes());
                    length
                }
                DatagramType::Repair => {
                    let index = esi % m;
                    text[..2].copy_from_slice(&[profile, 0]);
                    text[2..4].copy_from_slice(&(k + index).to_be_bytes());
                    text[4..12].copy_from_slice(&sbn.to_be_bytes());
                    [k, m].iter().enumerate().for_each(|(at, value)| {
                        text[12 + 2 * at..14 + 2 * at].copy_from_slice(&value.to_be_bytes());
                    });
                    length
                }
                _ => report(&mut text, profile, sbn, k, u64::from(number) + counter),
            };
            profiles.insert(profile);
            counter += 1;
            let clear = Header { datagram_type, receiver_index: 1, counter }.emit();
            datagram.clear();
            datagram.extend_from_slice(&clear);
            datagram.extend_from_slice(&text[..length]);
            let tag = key.seal(counter, &clear, &mut datagram[clear.len()..]);
            datagram.extend_from_slice(&tag);
            forwarder.handle_datagram(&mut datagram, from, now);
        }
        let limit = MEMORY_MAX + profiles.len() * LISTS + LANE;
        assert_within(base, limit, &forwarder);
        forwarder.handle_timeout(now);
        while forwarder.poll_delivery(now).is_some() {}
        while let Some((to, train)) = forwarder.poll_transmit(Trains::All, now) {
            let len = train.bytes.len();
            forwarder.on_sent(to, len, now);
        }
        while forwarder.poll_feedback().is_some() || forwarder.poll_block_event().is_some() {}
        while forwarder.poll_request(now).is_some() {}
        assert_within(base, limit, &forwarder);
        outcome.held = outcome.held.max(LIVE.load(Relaxed).saturating_sub(base));
    }
    outcome.no_room = forwarder.drops().of(DropReason::NoRoom);
    outcome.recovered = forwarder.peers()[0].reception().recovered_blocks;
    outcome
}

/// Held memory and peak memory are within their bounds, and the lane's own count is not less than what it holds.
fn assert_within(base: usize, limit: usize, forwarder: &Forwarder) {
    let held = LIVE.load(Relaxed).saturating_sub(base);
    assert!(held <= limit, "{held} bytes are held, at most {limit} may be");
    let peak = PEAK.load(Relaxed).saturating_sub(base);
    assert!(peak <= limit + MOMENT, "{peak} bytes were held for a moment, at most {} may be", limit + MOMENT);
    let counted = forwarder.memory();
    assert!(counted <= MEMORY_MAX, "{counted} bytes are counted");
    assert!(held <= counted + limit - MEMORY_MAX, "{held} bytes are held and only {counted} are counted");
}

/// A report about closed blocks of this profile, in the format of docs/wire.md.
fn report(text: &mut [u8], profile: u8, below: u64, symbols: u16, sent_at: u64) -> usize {
    let counts = 24 + 18 * 8;
    text[..counts + 24].fill(0);
    text[..8].copy_from_slice(&(sent_at + 1).to_be_bytes());
    // One entry about sent blocks.
    text[22] = 1;
    text[counts] = profile;
    text[counts + 2..counts + 4].copy_from_slice(&symbols.to_be_bytes());
    text[counts + 12..counts + 20].copy_from_slice(&below.to_be_bytes());
    counts + 20
}
