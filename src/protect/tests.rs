//! The rules of protection, each tested with the input that would break it. Barriers are tested in `barriers`, several
//! peers on one lane in `lanes`.

mod barriers;
mod forgotten;
mod lanes;
mod late;
mod refresh;
mod state;

use std::time::{Duration, Instant};

use super::ledger::BLOCKS_MAX;
use super::{Evidence, Notification, PeerProtection};
use crate::flow::{FlowTable, InstanceCounter, Level, Limits};
use crate::notify::message::{Event, LinkState, StateReason};
use crate::tunnel::PeerId;
use crate::tunnel::block_event::{BlockEvent, Part};
use crate::tunnel::feedback::Feedback;
use crate::tunnel::forwarder::Outgoing;
use crate::wire::packet::{PacketView, TCP, TcpHeader, UDP};
use crate::wire::payload_id::BlockId;
use crate::wire::report::{LostRun, Progress};
use crate::wire::samples;
use crate::wire::virtio::VirtioHeader;

const RTT: Duration = Duration::from_millis(10);

/// A link, and a UDP flow with packets of ten bytes.
struct Bench {
    protection: PeerProtection,
    now: Instant,
    packet: Vec<u8>,
    view: PacketView,
    /// The block of each send.
    sends: Vec<u64>,
}

fn block(sbn: u64) -> BlockId {
    BlockId { profile: 0, sbn }
}

fn run(first: u64, count: u32, symbols: u16) -> LostRun {
    LostRun { profile: 0, first, count, symbols }
}

impl Bench {
    fn new(evidence: Evidence) -> Self {
        let packet = samples::ipv4(UDP, &[], &samples::udp(10));
        let view = PacketView::parse(&packet).unwrap();
        let protection =
            PeerProtection::new(FlowTable::new(Limits::default(), 7, InstanceCounter::default()), evidence);
        Self { protection, now: Instant::now(), packet, view, sends: Vec::new() }
    }

    /// A link that is up.
    fn up() -> Self {
        let mut bench = Self::new(Evidence::Timestamps);
        bench.protection.on_session(true);
        bench.prove(3);
        assert_eq!(bench.state(), (LinkState::Up, StateReason::None));
        bench.notifications();
        bench
    }

    /// As `up`, with a TCP connection whose SYN was seen: each packet carries its first ten bytes.
    fn tcp() -> Self {
        let mut bench = Self::up();
        bench.next_segment(TcpHeader::SYN, 99, 0);
        bench.packet(0);
        bench.next_segment(TcpHeader::ACK, 100, 10);
        bench
    }

    /// Sets the segment that is sent from now on.
    fn next_segment(&mut self, flags: u8, sequence: u32, len: usize) {
        let mut segment = [0; 20].to_vec();
        segment.resize(20 + len, 7);
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        (segment[12], segment[13]) = (5 << 4, flags);
        self.packet = samples::ipv4(TCP, &[], &segment);
        self.view = PacketView::parse(&self.packet).unwrap();
    }

    fn prove(&mut self, times: u32) {
        for _ in 0..times {
            self.pass(20);
            let feedback = Feedback { proven_at: Some(self.now - RTT), least_rtt: Some(RTT), ..Feedback::default() };
            self.protection.on_feedback(&feedback, self.now);
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn state(&mut self) -> (LinkState, StateReason) {
        self.protection.handle_timeout(self.now);
        self.protection.state()
    }

    fn packet(&mut self, sbn: u64) {
        self.outgoing(Some(block(sbn)));
    }

    /// A packet was read and dropped.
    fn drop_packet(&mut self) {
        self.outgoing(None);
    }

    fn outgoing(&mut self, block: Option<BlockId>) {
        let outgoing = Outgoing {
            peer: PeerId(0),
            block,
            header: VirtioHeader::default(),
            packet: &self.packet,
            view: &self.view,
        };
        self.protection.on_outgoing(&outgoing, self.now);
    }

    fn event(&mut self, event: BlockEvent) {
        self.protection.on_block(event, self.now);
    }

    /// The kernel took the block in a send of its own.
    fn sent(&mut self, sbn: u64) {
        let last = self.sends.len() as u64;
        self.sends.push(sbn);
        self.protection.on_taken(last);
        self.event(BlockEvent::Sent { block: block(sbn), last, alone: true, part: Part::Early });
    }

    fn close(&mut self, sbn: u64) {
        self.event(BlockEvent::Closed {
            block: block(sbn),
            source_symbols: 2,
            repair_symbols: 1,
            has_late: false,
            keeps_promise: true,
            survives: Duration::ZERO,
        });
    }

    /// A block of one packet, taken by the kernel.
    fn send(&mut self, sbn: u64) {
        self.packet(sbn);
        self.close(sbn);
        self.sent(sbn);
    }

    /// As `send`, and its timestamp came.
    fn leave(&mut self, sbn: u64) {
        self.send(sbn);
        self.left(sbn);
    }

    /// The timestamp of the block's send came; for an unknown block, one of a send that never was.
    fn left(&mut self, sbn: u64) {
        let at = self.sends.iter().position(|sent| *sent == sbn).unwrap_or(self.sends.len());
        self.protection.on_left(at as u64, self.now, self.now);
    }

    fn hear(&mut self, lost: Vec<LostRun>, from: u64, below: u64) {
        let progress = vec![Progress { profile: 0, highest: below, decoded_from: from, decoded_below: below }];
        let feedback = Feedback { proven_at: Some(self.now - RTT), least_rtt: Some(RTT), progress, lost };
        self.protection.on_feedback(&feedback, self.now);
    }

    fn notifications(&mut self) -> Vec<Notification> {
        self.protection.handle_timeout(self.now);
        std::iter::from_fn(|| self.protection.poll_notification()).collect()
    }

    /// Bytes that are known to have reached `level`.
    fn reached(&mut self, level: Level) -> u64 {
        let positions = self.protection.flows().flows().map(|flow| flow.position(level).bytes);
        positions.max().unwrap_or(0)
    }

    fn protected(&mut self) -> u64 {
        self.reached(Level::OnWire)
    }
}

/// As many blocks as are remembered, from `first` on.
fn fill(bench: &mut Bench, first: u64) {
    (first..first + BLOCKS_MAX as u64).for_each(|sbn| bench.send(sbn));
}

#[test]
fn a_block_is_protected_once_it_has_left_and_not_before() {
    let mut bench = Bench::up();
    bench.packet(0);
    bench.left(0);
    bench.close(0);
    bench.left(0);
    assert_eq!(bench.protected(), 0, "a timestamp of a block that was not sent");
    bench.sent(0);
    assert_eq!((bench.protected(), bench.reached(Level::Queued)), (0, 0));
    bench.left(0);
    assert_eq!(bench.protected(), 10);
    let reported = bench.notifications();
    assert!(
        matches!(
            reported[..],
            [Notification::Flow { event: Event::New, .. }, .., Notification::Flow { event: Event::Protected, .. }]
        ),
        "{reported:?}"
    );
}

#[test]
fn a_later_timestamp_does_not_protect_a_silently_dropped_block() {
    let mut bench = Bench::up();
    (0..3).for_each(|sbn| bench.send(sbn));
    bench.left(0);
    bench.left(2);
    assert_eq!(
        (bench.protected(), bench.protection.counters().protected),
        (10, 2),
        "the bytes behind a hole are not protected"
    );
    for _ in 0..60 {
        bench.prove(1);
        bench.protection.handle_timeout(bench.now);
    }
    bench.left(1);
    assert_eq!((bench.protected(), bench.protection.counters().stamps_missing), (10, 1), "too late to count");
    bench.hear(vec![], 0, 2);
    assert_eq!(bench.protected(), 30, "the peer has it");
}

#[test]
fn a_block_in_several_sends_is_protected_when_all_of_them_have_left() {
    let mut bench = Bench::up();
    bench.packet(0);
    // Two trains; the second holds the block's end. The end of a train is shown by the next send.
    bench.protection.on_taken(0);
    bench.close(0);
    bench.protection.on_taken(1);
    bench.event(BlockEvent::Sent { block: block(0), last: 1, alone: false, part: Part::Early });
    bench.protection.on_taken(2);
    for (send, protected) in [(1, 0), (2, 0), (0, 10)] {
        bench.protection.on_left(send, bench.now, bench.now);
        assert_eq!(bench.protected(), protected, "send {send}");
    }
}

#[test]
fn a_block_that_leaves_too_late_for_its_peer_is_not_protected() {
    for (millis, protected) in [(400, 10), (401, 0)] {
        let mut bench = Bench::up();
        bench.packet(0);
        // The link stays proven; only the block was slow, as when the host stands still in the middle of it.
        (0..20).for_each(|_| bench.prove(1));
        bench.close(0);
        bench.pass(millis - 400);
        bench.sent(0);
        bench.left(0);
        assert_eq!(bench.protected(), protected, "{millis} ms");
        assert_eq!(bench.protection.counters().untrusted, u64::from(protected == 0));
    }
}

#[test]
fn a_block_that_was_not_sent_whole_is_not_protected() {
    let mut bench = Bench::up();
    bench.send(0);
    bench.packet(1);
    bench.close(1);
    bench.packet(2);
    bench.event(BlockEvent::Unsendable);
    bench.prove(6);
    bench.left(0);
    for sbn in [1, 2] {
        bench.close(sbn);
        bench.sent(sbn);
        bench.left(sbn);
    }
    assert_eq!(bench.protected(), 10, "only block 0, which was sent before");
    assert_eq!(bench.protection.counters().unsendable, 2);
}

#[test]
fn a_send_error_fails_waiting_blocks_before_an_abandoned_one() {
    let mut bench = Bench::up();
    bench.packet(0);
    bench.close(0);
    bench.packet(1);
    bench.event(BlockEvent::Abandoned { block: block(1) });
    bench.event(BlockEvent::Unsendable);
    bench.sent(0);
    bench.pass(101);
    bench.prove(3);
    bench.left(0);
    assert_eq!(bench.protected(), 0);
}

#[test]
fn a_link_is_trusted_for_three_round_trips_after_the_last_proof() {
    for (rtt, life) in [(RTT, 100), (Duration::from_millis(50), 150)] {
        let mut bench = Bench::up();
        let proven_at = bench.now;
        bench.protection.on_feedback(
            &Feedback { proven_at: Some(proven_at), least_rtt: Some(rtt), ..Feedback::default() },
            proven_at,
        );
        bench.pass(life);
        bench.leave(0);
        assert_eq!(bench.protected(), 10);
        assert_eq!(bench.state().0, LinkState::Up);
        let due = bench.protection.deadline(bench.now).unwrap();
        assert!(due - proven_at < Duration::from_millis(life + 1), "no other deadline would wake the lane");
        bench.now = due;
        bench.leave(1);
        assert_eq!(bench.protected(), 10);
        assert_eq!(bench.state(), (LinkState::Degraded, StateReason::NoReports));
        bench.prove(2);
        bench.leave(2);
        assert_eq!((bench.protected(), bench.protection.counters().protected), (10, 1));
        assert_eq!(bench.state(), (LinkState::Degraded, StateReason::NoReports), "two proofs do not restore trust");
        bench.prove(1);
        assert_eq!(bench.state().0, LinkState::Up);
    }
}

#[test]
fn a_link_with_a_long_round_trip_is_trusted_up_to_the_configured_cap() {
    for (max, life) in [(None, 600), (Some(1500), 1200)] {
        let mut bench = Bench::new(Evidence::Timestamps);
        max.into_iter().for_each(|max| bench.protection.limit_trust(Duration::from_millis(max)));
        bench.protection.on_session(true);
        let mut proven_at = bench.now;
        for _ in 0..3 {
            bench.pass(20);
            proven_at = bench.now;
            let least_rtt = Some(Duration::from_millis(400));
            bench
                .protection
                .on_feedback(&Feedback { proven_at: Some(proven_at), least_rtt, ..Feedback::default() }, bench.now);
        }
        bench.now = proven_at + Duration::from_millis(life);
        assert_eq!(bench.state(), (LinkState::Up, StateReason::None));
        bench.pass(1);
        assert_eq!(bench.state(), (LinkState::Degraded, StateReason::NoReports));
    }
}

#[test]
fn an_old_echo_proves_nothing() {
    let mut bench = Bench::up();
    let old = bench.now;
    bench.pass(200);
    for _ in 0..5 {
        bench
            .protection
            .on_feedback(&Feedback { proven_at: Some(old), least_rtt: Some(RTT), ..Feedback::default() }, bench.now);
    }
    assert_eq!(bench.state(), (LinkState::Degraded, StateReason::NoReports));
}

#[test]
fn a_loss_after_the_claim_is_a_violation_and_a_loss_before_it_is_not() {
    let mut bench = Bench::up();
    bench.leave(0);
    bench.leave(1);
    bench.send(2);
    bench.notifications();
    bench.hear(vec![run(1, 2, 0)], 0, 3);
    let reported = bench.notifications();
    let violations: Vec<_> =
        reported.iter().filter(|notification| matches!(notification, Notification::Violation(_))).collect();
    assert!(
        matches!(violations[..], [Notification::Violation(violation)] if violation.block == block(1)),
        "{reported:?}"
    );
    assert_eq!((bench.protection.counters().lost, bench.protection.counters().violations), (2, 1));
    assert_eq!(bench.state(), (LinkState::Degraded, StateReason::Violation));
    bench.prove(51);
    assert_eq!(bench.state().0, LinkState::Up, "clean for a second");
    bench.hear(vec![run(1, 2, 0)], 0, 3);
    assert_eq!(bench.protection.counters().violations, 1, "each loss counts once, however often it is reported");
}

#[test]
fn a_lost_block_with_all_source_symbols_at_the_peer_is_whole() {
    let mut bench = Bench::up();
    bench.leave(0);
    bench.hear(vec![run(0, 1, 2)], 0, 1);
    assert_eq!((bench.protection.counters().lost, bench.reached(Level::Decoded)), (0, 10));
    bench.leave(1);
    bench.hear(vec![run(1, 1, 1)], 0, 2);
    assert_eq!(bench.protection.counters().violations, 1);
}

#[test]
fn blocks_before_the_first_one_that_the_peer_counts_are_lost() {
    let mut bench = Bench::up();
    bench.leave(0);
    bench.leave(1);
    bench.hear(vec![], 1, 2);
    assert_eq!(bench.protection.counters().violations, 1);
    assert_eq!(bench.reached(Level::Decoded), 0);
}

#[test]
fn an_open_block_is_not_decoded_whatever_the_report_contains() {
    let mut bench = Bench::up();
    bench.leave(0);
    bench.packet(1);
    bench.hear(vec![], 0, 9);
    assert_eq!(bench.reached(Level::Decoded), 10);
    bench.packet(1);
    bench.close(1);
    bench.sent(1);
    bench.left(1);
    assert_eq!((bench.protected(), bench.reached(Level::Decoded)), (30, 10));
}

#[test]
fn a_restart_of_the_peer_voids_pending_blocks_and_barriers() {
    let mut bench = Bench::up();
    bench.send(0);
    bench.protection.ask_barrier(5);
    bench.event(BlockEvent::PeerRestarted);
    bench.event(BlockEvent::Void { below: block(1) });
    bench.left(0);
    assert_eq!(bench.protected(), 0);
    assert!(bench.notifications().contains(&Notification::Barrier(5, None)));
    bench.leave(1);
    assert_eq!(bench.protected(), 0, "nothing is proven for the new run");
}

#[test]
fn missing_timestamps_degrade_the_link_until_one_comes() {
    let mut bench = Bench::up();
    for sbn in 0..3 {
        bench.send(sbn);
    }
    for _ in 0..60 {
        bench.prove(1);
        bench.protection.handle_timeout(bench.now);
    }
    assert_eq!(bench.state(), (LinkState::Degraded, StateReason::NoTimestamps));
    assert_eq!(bench.protection.counters().stamps_missing, 3);
    bench.left(0);
    assert_eq!(bench.protected(), 0, "too late to count");
    bench.leave(3);
    assert_eq!(bench.state().0, LinkState::Up);
}

#[test]
fn without_timestamps_blocks_are_queued_at_most() {
    for (evidence, state) in [(Evidence::HandOver, LinkState::Up), (Evidence::HandOverOnly, LinkState::Degraded)] {
        let mut bench = Bench::new(evidence);
        bench.protection.on_session(true);
        bench.prove(3);
        assert_eq!(bench.state().0, state);
        bench.leave(0);
        assert_eq!((bench.reached(Level::Queued), bench.protected()), (10, 0), "{evidence:?}");
        bench.pass(200);
        bench.leave(1);
        assert_eq!(bench.reached(Level::Queued), 10, "{evidence:?}: the proof has expired");
    }
}

#[test]
fn a_block_sent_before_a_silent_drop_is_not_protected_by_a_later_timestamp() {
    let mut bench = Bench::up();
    bench.send(0);
    // The queue drops a part of it; when the rest leaves, the link seems clean again.
    bench.protection.on_dropped_here(bench.now);
    bench.prove(10);
    assert_eq!(bench.state(), (LinkState::Up, StateReason::None));
    bench.left(0);
    bench.send(1);
    bench.left(1);
    let counters = bench.protection.counters();
    assert_eq!((counters.unsendable, counters.protected), (1, 1), "{counters:?}");
}

#[test]
fn departures_and_proofs_of_the_old_path_do_not_count_for_a_new_one() {
    let mut bench = Bench::up();
    bench.send(0);
    bench.packet(1);
    bench.event(BlockEvent::Moved);
    bench.close(1);
    bench.sent(1);
    bench.leave(2);
    let counters = bench.protection.counters();
    assert_eq!((counters.untrusted, counters.protected, bench.protected()), (3, 0, 0), "{counters:?}");
    assert_eq!(bench.state(), (LinkState::Degraded, StateReason::NoReports), "no proof of the new path yet");
    bench.prove(2);
    bench.leave(3);
    assert_eq!(bench.protection.counters().protected, 0);
    bench.prove(4);
    bench.leave(4);
    assert_eq!(bench.protection.counters().protected, 1, "the new path is proven");
    bench.hear(vec![], 0, 4);
    assert_eq!(bench.protected(), 50, "the peer has the earlier blocks");
}

#[test]
fn a_subscriber_of_blocks_gets_each_block_with_its_ranges() {
    let mut bench = Bench::up();
    bench.leave(0);
    bench.protection.set_publishes_blocks(true);
    bench.leave(1);
    bench.event(BlockEvent::Unsendable);
    bench.leave(2);
    let blocks: Vec<_> = bench
        .notifications()
        .into_iter()
        .filter(|notification| matches!(notification, Notification::Block { .. }))
        .collect();
    let [
        Notification::Block { block: first, level, ranges, .. },
        Notification::Block { block: second, level: none, .. },
    ] = &blocks[..]
    else {
        panic!("{blocks:?}")
    };
    assert_eq!((*first, *level), (block(1), Some(Level::OnWire)));
    assert_eq!(ranges.iter().map(|range| (range.start.bytes, range.end.bytes)).collect::<Vec<_>>(), [(10, 20)]);
    assert_eq!((*second, *none), (block(2), None), "the link is not trusted after an error");
}

#[test]
fn a_profile_without_repair_symbols_is_never_protected() {
    let mut bench = Bench::up();
    bench.packet(0);
    bench.event(BlockEvent::Closed {
        block: block(0),
        source_symbols: 2,
        repair_symbols: 0,
        has_late: false,
        keeps_promise: true,
        survives: Duration::ZERO,
    });
    bench.sent(0);
    bench.left(0);
    assert_eq!(bench.protected(), 0);
    bench.hear(vec![], 0, 1);
    assert_eq!(bench.reached(Level::Decoded), 10);
}

#[test]
fn a_block_opened_before_the_restart_event_belongs_to_the_new_run() {
    let mut bench = Bench::up();
    bench.send(0);
    bench.packet(1);
    bench.event(BlockEvent::PeerRestarted);
    bench.event(BlockEvent::Void { below: block(1) });
    bench.protection.ask_barrier(5);
    assert!(
        !bench.notifications().iter().any(|notification| matches!(notification, Notification::Barrier(5, _))),
        "block 1 is open"
    );
    bench.prove(3);
    bench.close(1);
    bench.sent(1);
    bench.left(1);
    assert!(bench.notifications().contains(&Notification::Barrier(5, Some(Level::OnWire))));
}

#[test]
fn a_send_error_fails_waiting_blocks_before_one_without_repair_symbols() {
    let mut bench = Bench::up();
    bench.packet(0);
    bench.close(0);
    bench.packet(1);
    bench.event(BlockEvent::Closed {
        block: block(1),
        source_symbols: 2,
        repair_symbols: 0,
        has_late: false,
        keeps_promise: true,
        survives: Duration::ZERO,
    });
    bench.event(BlockEvent::Unsendable);
    bench.sent(0);
    bench.pass(101);
    bench.prove(3);
    bench.left(0);
    assert_eq!(bench.protected(), 0);
}
