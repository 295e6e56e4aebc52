//! Compares kept packets with a plain list; simulates a lossy LAN and local ends that acknowledge little. Time is
//! passed in, not measured.

use std::collections::BTreeMap;

use super::*;
use crate::wire::packet::{PacketView, TCP, TcpHeader};
use crate::wire::samples;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

fn header(mark: u16) -> VirtioHeader {
    VirtioHeader { gso_size: mark, ..VirtioHeader::default() }
}

fn handed(slot: u32, begin: u64, upto: u64, packet: &[u8]) -> DeliveredPacket<'_> {
    DeliveredPacket { slot, peer: (slot % 2) as u16, begin, upto, header: header(upto as u16), packet, clock: None }
}

/// The packets of a flow, lowest byte first.
fn list(retained: &Retained, slot: u32) -> Vec<(u64, u64, usize)> {
    let mut found = Vec::new();
    let mut at = retained.flows.get(slot as usize).and_then(Option::as_ref).map_or(NONE, |flow| flow.head);
    while let Some(entry) = retained.entries.get(at as usize) {
        found.push((entry.begin, entry.upto, entry.bytes.len()));
        at = entry.behind;
    }
    found
}

/// The reference model: one list in order of age.
#[derive(Default)]
struct Model {
    packets: Vec<(u32, u64, u64, usize)>,
    acked: BTreeMap<u32, u64>,
    dropped: u64,
}

impl Model {
    fn charge(&self, of: impl Fn(u32) -> bool) -> usize {
        self.packets.iter().filter(|it| of(it.0)).map(|it| Buffers::size(it.3) + ENTRY_COST).sum()
    }

    fn list(&self, slot: u32) -> Vec<(u64, u64, usize)> {
        let mut found: Vec<_> = self.packets.iter().filter(|it| it.0 == slot).map(|it| (it.1, it.2, it.3)).collect();
        found.sort_by_key(|it| it.0);
        found
    }

    fn keep(&mut self, bounds: Bounds, slot: u32, begin: u64, upto: u64, len: usize) {
        if upto <= self.acked.get(&slot).copied().unwrap_or(0) {
            return;
        }
        let charge = Buffers::size(len) + ENTRY_COST;
        if charge > bounds.flow.min(bounds.memory) {
            self.dropped += 1;
            return;
        }
        while self.charge(|it| it == slot) + charge > bounds.flow {
            let lowest = self.list(slot)[0];
            let at = self.packets.iter().position(|it| *it == (slot, lowest.0, lowest.1, lowest.2)).unwrap();
            self.packets.remove(at);
            self.dropped += 1;
        }
        while self.charge(|_| true) + charge > bounds.memory {
            self.packets.remove(0);
            self.dropped += 1;
        }
        let before = self.list(slot).into_iter().rfind(|it| it.0 <= begin);
        if before.is_none_or(|it| it.1 < upto) {
            self.packets.push((slot, begin, upto, len));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Keep(u32, u64, u64, usize),
    Acknowledge(u32, u64),
    Forget(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keep = (0u32..4, 0u64..40, 1u64..6, 1usize..1200)
        .prop_map(|(slot, begin, len, bytes)| Step::Keep(slot, begin * 3, begin * 3 + len * 3, bytes));
    let acknowledge = (0u32..4, 0u64..140).prop_map(|(slot, upto)| Step::Acknowledge(slot, upto));
    prop::collection::vec(prop_oneof![8 => keep, 3 => acknowledge, 1 => (0u32..4).prop_map(Step::Forget)], 1..120)
}

proptest! {
    #[test]
    fn agrees_with_a_plain_list_and_keeps_within_its_bounds(steps in steps(), memory in 4usize..16, flow in 2usize..8) {
        let bounds = Bounds { memory: memory << 10, flow: flow << 10 };
        let (mut retained, mut model, now) = (Retained::new(bounds), Model::default(), Instant::now());
        for step in steps {
            match step {
                Step::Keep(slot, begin, upto, bytes) => {
                    retained.keep(&handed(slot, begin, upto, &vec![upto as u8; bytes]), now);
                    model.keep(bounds, slot, begin, upto, bytes);
                }
                Step::Acknowledge(slot, upto) => {
                    retained.on_acknowledged(slot, upto, true, now);
                    let is_known = retained.flows.get(slot as usize).is_some_and(Option::is_some);
                    let acked = model.acked.entry(slot).or_default();
                    *acked = if is_known { upto.max(*acked) } else { 0 };
                    // Only from the front: overlapping packets are dropped when they are first.
                    while let Some(first) = model.list(slot).first().filter(|it| it.1 <= model.acked[&slot]).copied() {
                        let first = (slot, first.0, first.1, first.2);
                        let at = model.packets.iter().position(|it| *it == first).unwrap();
                        model.packets.remove(at);
                    }
                }
                Step::Forget(slot) => {
                    retained.forget(slot);
                    model.acked.remove(&slot);
                    model.packets.retain(|it| it.0 != slot);
                }
            }
            for slot in 0..4 {
                prop_assert_eq!(list(&retained, slot), model.list(slot));
            }
            let tally = retained.tally();
            prop_assert_eq!(tally.packets, model.packets.len() as u64);
            prop_assert_eq!(tally.dropped, model.dropped);
            prop_assert_eq!(retained.charge, model.charge(|_| true));
            prop_assert!(tally.memory <= bounds.memory);
            prop_assert!(retained.entries.len() == retained.vacant.len() + model.packets.len());
            for peer in 0..2 {
                prop_assert_eq!(retained.has_of(peer), model.packets.iter().any(|it| it.0 % 2 == u32::from(peer)));
            }
        }
    }

    /// The local TCP behind a lossy LAN, and a sender that is gone.
    #[test]
    fn every_packet_lost_on_the_lan_arrives_after_the_sender_is_gone(seed in 0u64..1_000_000, percent in 0u32..40) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let start = Instant::now();
        let mut now = start;
        let mut retained = Retained::new(Bounds::default());
        let flows = rng.random_range(1..6u32);
        let mut ends = vec![Receiver::default(); flows as usize];
        let is_lost = |rng: &mut SmallRng| rng.random_range(0..100) < percent;
        for slot in 0..flows {
            let mut begin = 0;
            for number in 0..rng.random_range(1..60) {
                let upto = begin + rng.random_range(1..3000);
                let bytes = [slot as u8, number as u8];
                retained.keep(&handed(slot, begin, upto, &bytes), now);
                let end = &mut ends[slot as usize];
                end.sent.insert(number as u8, (begin, upto, bytes));
                if !is_lost(&mut rng) {
                    end.take(begin, upto);
                }
                // The acknowledgement may be lost too; a later one covers it.
                if !is_lost(&mut rng) {
                    retained.on_acknowledged(slot, end.upto, true, now);
                }
                begin = upto;
            }
            ends[slot as usize].all = begin;
        }
        prop_assert!(retained.poll(|_| false, now + Duration::from_secs(10)).is_none(), "the senders are alive");
        let wanted = |ends: &[Receiver]| ends.iter().any(|end| end.upto < end.all);
        while wanted(&ends) {
            let next = retained.deadline(|_| Some(start));
            now = now.max(next.expect("a packet is missing"));
            prop_assert!(now < start + Duration::from_secs(240));
            while let Some((header, bytes)) = retained.poll(|_| true, now) {
                let slot = u32::from(bytes[0]);
                let end = &mut ends[slot as usize];
                let &(begin, upto, kept) = &end.sent[&bytes[1]];
                prop_assert_eq!((bytes, header.gso_size), (&kept[..], upto as u16));
                if !is_lost(&mut rng) {
                    end.take(begin, upto);
                    if !is_lost(&mut rng) {
                        retained.on_acknowledged(slot, end.upto, true, now);
                    }
                }
            }
            now += Duration::from_micros(200);
        }
        for slot in 0..flows {
            retained.on_acknowledged(slot, ends[slot as usize].all, true, now);
        }
        prop_assert_eq!((retained.is_empty(), retained.deadline(|_| Some(start))), (true, None));
    }
}

/// The receive state of a TCP.
#[derive(Clone, Default)]
struct Receiver {
    sent: BTreeMap<u8, (u64, u64, [u8; 2])>,
    apart: Vec<(u64, u64)>,
    upto: u64,
    all: u64,
}

impl Receiver {
    fn take(&mut self, begin: u64, upto: u64) {
        self.apart.push((begin, upto));
        while let Some(at) = self.apart.iter().position(|it| it.0 <= self.upto) {
            self.upto = self.upto.max(self.apart.swap_remove(at).1);
        }
    }
}

fn at(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

/// Counts the repeats until `until`; `on_repeat` is called after each one.
fn repeats(
    retained: &mut Retained,
    mut now: Instant,
    until: Instant,
    mut on_repeat: impl FnMut(&mut Retained, Instant),
) -> u32 {
    let mut count = 0;
    let start = now;
    while now < until {
        if retained.poll(|_| true, now).is_some() {
            count += 1;
            on_repeat(retained, now);
        } else {
            let Some(next) = retained.deadline(|_| Some(start)) else { break };
            now = next.max(now + Duration::from_micros(1));
        }
    }
    count
}

#[test]
fn missing_packets_are_repeated_lowest_first_and_only_while_the_sender_is_silent() {
    let start = Instant::now();
    let mut retained = Retained::new(Bounds::default());
    for number in [1, 0, 2] {
        retained.keep(&handed(0, number * 100, number * 100 + 100, &[number as u8; 100]), start);
    }
    // A segment with only a FIN: an acknowledgement of the bytes alone does not acknowledge it.
    retained.keep(&handed(0, 300, 301, &[3; 40]), start);
    assert_eq!(retained.kept(0), 301);
    let sent = |retained: &mut Retained, now| retained.poll(|peer| peer == 0, now).map(|(_, bytes)| bytes[0]);
    assert_eq!(sent(&mut retained, at(start, 199)), None, "an acknowledgement may be on its way");
    assert_eq!(retained.deadline(|_| Some(at(start, 150))), Some(at(start, 200)));
    assert_eq!(retained.deadline(|_| Some(at(start, 250))), Some(at(start, 250)));
    assert_eq!(retained.deadline(|_| None), None);
    assert!(retained.poll(|_| false, at(start, 200)).is_none());
    assert_eq!(sent(&mut retained, at(start, 211)), Some(0));
    assert_eq!(sent(&mut retained, at(start, 212)), None, "one at a time");
    retained.on_acknowledged(0, 150, true, at(start, 212));
    assert_eq!(retained.kept(0), 151);
    assert_eq!(sent(&mut retained, at(start, 212)), Some(1), "at once, because the last repeat was acknowledged");
    retained.on_acknowledged(0, 150, true, at(start, 213));
    assert_eq!(sent(&mut retained, at(start, 213)), None, "no new acknowledgement");
    assert_eq!(sent(&mut retained, at(start, 632)), Some(1), "then after twice the wait");
    // The sender is alive again and retransmits itself.
    retained.on_acknowledged(0, 200, true, at(start, 640));
    assert!(retained.poll(|_| false, at(start, 640)).is_none());
    assert!(retained.poll(|_| false, at(start, 10_000)).is_none());
    retained.keep(&handed(0, 301, 401, &[4; 100]), at(start, 10_000));
    retained.on_acknowledged(0, 300, true, at(start, 10_001));
    assert_eq!(sent(&mut retained, at(start, 10_002)), None);
    assert_eq!(sent(&mut retained, at(start, 10_201)), Some(3), "the FIN");
    retained.on_acknowledged(0, 401, true, at(start, 10_202));
    assert_eq!((retained.kept(0), retained.is_empty()), (0, true));
    assert_eq!(retained.tally().repeated, 4);
}

#[test]
fn a_closed_window_is_probed_rarely_and_an_opened_one_gets_a_packet_at_once() {
    let start = Instant::now();
    let mut retained = Retained::new(Bounds::default());
    (0..100).for_each(|number| retained.keep(&handed(0, number * 1000, number * 1000 + 1000, &[0; 1000]), start));
    let shut = |retained: &mut Retained, now| retained.on_acknowledged(0, 0, false, now);
    let asked = repeats(&mut retained, start, at(start, 600_000), shut);
    assert!((120..180).contains(&asked), "every four seconds: {asked} times in ten minutes");
    let now = at(start, 600_000);
    retained.on_acknowledged(0, 0, true, now);
    assert!(retained.poll(|_| true, now).is_some());
    assert!(retained.poll(|_| true, now).is_none());
}

#[test]
fn a_silent_local_end_gets_no_more_repeats_until_it_sends_a_segment() {
    let start = Instant::now();
    let mut retained = Retained::new(Bounds::default());
    retained.keep(&handed(0, 0, 1000, &[0; 1000]), start);
    let tried = repeats(&mut retained, start, at(start, 3_600_000), |_, _| ());
    assert_eq!(tried, 64);
    assert_eq!(retained.deadline(|_| Some(start)), None, "no wake-up is scheduled");
    assert_eq!(retained.kept(0), 1000);
    let now = at(start, 3_600_000);
    retained.on_acknowledged(0, 0, true, now);
    assert_eq!(repeats(&mut retained, now, at(start, 7_200_000), |_, _| ()), 1, "a segment allows one more try");
    retained.on_acknowledged(0, 400, true, at(start, 7_200_000));
    assert!(
        repeats(&mut retained, at(start, 7_200_000), at(start, 7_210_000), |_, _| ()) > 3,
        "a new acknowledgement allows all tries again"
    );
}

#[test]
fn memory_is_bounded_for_many_flows_that_are_never_acknowledged() {
    let start = Instant::now();
    let bounds = Bounds { memory: 8 << 20, flow: 1 << 20 };
    let mut retained = Retained::new(bounds);
    let packet = vec![7; 60_000];
    let mut kept = 0;
    for round in 0..40u64 {
        for slot in 0..10_000 {
            // All sizes, and one flow with far more bytes than the others.
            let len = if slot == 0 { 60_000 } else { 100 + (slot as usize * 7 + round as usize * 311) % 3000 };
            let times = if slot == 0 { 25 } else { 1 };
            for number in 0..times {
                let begin = (round * times + number) * 60_000;
                retained.keep(&handed(slot, begin, begin + len as u64, &packet[..len]), start);
                kept += 1;
            }
        }
        let tally = retained.tally();
        assert!(tally.memory <= bounds.memory, "{tally:?}");
        assert!(retained.flows[0].as_ref().unwrap().charge <= bounds.flow);
        assert!(tally.memory > bounds.memory / 2, "the bound is used: {tally:?}");
        assert_eq!(tally.dropped + tally.packets, kept);
    }
    assert!(retained.entries.len() <= bounds.memory / (256 + ENTRY_COST), "the tables are bounded, too");
    // All flows are due at once: the LAN is not flooded.
    let mut bytes = 0;
    for milli in 1000..2000 {
        while let Some((_, packet)) = retained.poll(|_| true, at(start, milli)) {
            bytes += packet.len() as u64;
        }
    }
    assert!((1 << 20..63 << 20).contains(&bytes), "{bytes} in a second");
    let tally = retained.tally();
    (0..10_000).step_by(2).for_each(|slot| retained.give_way(slot));
    (0..10_000).for_each(|slot| retained.forget(slot));
    assert!(retained.tally().dropped > tally.dropped && retained.tally().dropped < tally.dropped + tally.packets);
    assert!(retained.is_empty() && retained.due.is_empty() && retained.charge == 0);
}

#[test]
fn a_forgotten_flow_leaves_no_entry_in_the_due_queue() {
    let start = Instant::now();
    let mut retained = Retained::new(Bounds::default());
    for slot in 0..4 {
        retained.keep(&handed(slot, 0, 100, &[slot as u8; 100]), start);
    }
    assert!(retained.poll(|_| true, at(start, 300)).is_some_and(|(_, bytes)| bytes[0] == 0));
    [1, 2].into_iter().for_each(|slot| retained.forget(slot));
    retained.keep(&handed(1, 0, 100, &[9; 100]), at(start, 300));
    assert!(retained.poll(|_| true, at(start, 300)).is_some_and(|(_, bytes)| bytes[0] == 3));
    assert!(retained.poll(|_| true, at(start, 300)).is_none(), "the new connection starts its own wait");
}

#[test]
fn a_packet_far_out_of_order_costs_a_bounded_search() {
    let start = Instant::now();
    let mut retained = Retained::new(Bounds::default());
    (0..2000).rev().for_each(|number| retained.keep(&handed(0, number * 10, number * 10 + 10, &[1]), start));
    assert_eq!(retained.tally().packets, 2000, "at either end");
    retained.keep(&handed(0, 10_001, 10_009, &[1]), start);
    assert_eq!((retained.tally().packets, retained.tally().dropped), (2000, 1), "not in the middle");
    retained.keep(&handed(0, 0, 20, &[1]), start);
    assert_eq!(retained.tally().packets, 2001);
    let order = list(&retained, 0);
    assert!(order.is_sorted_by_key(|it| it.0));
}

#[test]
fn a_repeated_packet_carries_the_senders_latest_timestamp() {
    let start = Instant::now();
    let mut retained = Retained::new(Bounds::default());
    let packet = |clock: u32, len: usize| {
        let options = [&[1, 1, 8, 10][..], &clock.to_be_bytes(), &[0; 4]].concat();
        samples::ipv4(TCP, &[], &samples::tcp(TcpHeader::ACK, &options, len))
    };
    let clock_of = |packet: &[u8]| {
        let view = PacketView::parse(packet).unwrap();
        Clock::find(&view, &view.tcp(packet).unwrap(), packet)
    };
    let keep = |retained: &mut Retained, begin, clock, len| {
        let packet = packet(clock, len);
        let upto = begin + len as u64;
        retained.keep(&DeliveredPacket { clock: clock_of(&packet), ..handed(0, begin, upto, &packet) }, start);
    };
    keep(&mut retained, 0, u32::MAX, 100);
    keep(&mut retained, 100, u32::MAX, 100);
    // The sender retransmits the first packet, then dies. An older timestamp replaces nothing.
    keep(&mut retained, 0, 5, 100);
    keep(&mut retained, 200, 4, 100);
    // A segment without payload has a timestamp, too.
    keep(&mut retained, 300, 6, 0);
    retained.on_acknowledged(0, 100, true, start);
    let (_, sent) = retained.poll(|_| true, at(start, 300)).unwrap();
    assert_eq!(clock_of(sent).map(|clock| clock.value), Some(6));
    assert_eq!(sent.len(), packet(0, 100).len());
    assert_eq!(retained.tally().packets, 2);
}
