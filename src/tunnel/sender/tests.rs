//! Datagrams and events of a sender, opened with the peer's key.

use super::*;
use crate::tunnel::PeerId;
use crate::tunnel::handshake::{Established, Role};
use crate::tunnel::hello::{Hello, PROTOCOL_VERSION};
use crate::tunnel::outbox::Trains;
use crate::tunnel::pacer::Pacer;
use crate::tunnel::seal::{Cipher, CipherSet, OpeningKey, SealingKey};
use crate::tunnel::session::Sessions;
use std::net::SocketAddr;
use std::sync::Arc;

const E: usize = 128;

/// A sender with its session and outbox.
struct Bench {
    sender: Sender,
    sessions: Sessions,
    outbox: Outbox,
    code: Code,
    sent: Sent,
    claims: bool,
    events: VecDeque<BlockEvent>,
    now: Instant,
}

/// A datagram as a test compares it: source (sbn, esi, k of the previous block) or repair (sbn, esi, k, m). A
/// repair symbol must carry the same k of the previous block as the source symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Datagram {
    Source(u64, u16, u16),
    Repair(u64, u16, u16, u16),
}
use Datagram::{Repair, Source};

impl Bench {
    fn new(repair_symbols: usize) -> Self {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        let established = Established {
            peer: PeerId(0),
            role: Role::Initiator,
            local_index: 1,
            remote_index: 2,
            sealing: Arc::new(SealingKey::new(Cipher::ChaCha20Poly1305, &[1; 32])),
            opening: Arc::new(OpeningKey::new(Cipher::ChaCha20Poly1305, &[2; 32])),
            remote: Hello {
                version: PROTOCOL_VERSION,
                lanes: 1,
                ciphers: CipherSet::preferred(),
                epoch: 7,
                symbol_size: E as u16,
            },
            endpoint: SocketAddr::from(([192, 0, 2, 1], 7117)).into(),
            at: now,
        };
        sessions.install(&established, 0);
        let profile = Profile {
            number: 0,
            block_symbols: 4,
            close_when_idle: Duration::from_micros(50),
            close_after: Duration::from_millis(2),
            plan: Plan::fixed(4, repair_symbols, 0.01),
            survive_burst: Duration::ZERO,
            keeps_promise: true,
        };
        let (outbox, code) = (Outbox::new(Pacer::new(None), Duration::ZERO), Code::new());
        let (sender, events) = (Sender::new(profile, E, OuterRule::default()), VecDeque::new());
        Self { sender, sessions, outbox, code, sent: Sent::default(), claims: false, events, now }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Sender, &mut Egress<'_>) -> T) -> T {
        let session = self.sessions.sealing(self.now).unwrap();
        let mut egress = Egress {
            session,
            outbox: &mut self.outbox,
            code: &mut self.code,
            sent: &mut self.sent,
            events: self.claims.then_some(&mut self.events),
            now: self.now,
        };
        act(&mut self.sender, &mut egress)
    }

    fn at(&mut self, now: Instant, act: impl FnOnce(&mut Sender, &mut Egress<'_>)) {
        let before = std::mem::replace(&mut self.now, now);
        self.with(act);
        self.now = before;
    }

    fn push(&mut self, len: usize) {
        let header = VirtioHeader { flags: u8::from(len > E), ..VirtioHeader::default() };
        self.with(|sender, egress| {
            sender.room()[..len].fill(7);
            sender.commit(header, len, egress);
        });
    }

    /// Everything sent since the last call.
    fn sent(&mut self) -> Vec<Datagram> {
        let key = OpeningKey::new(Cipher::ChaCha20Poly1305, &[1; 32]);
        let mut datagrams = Vec::new();
        while let Some(train) =
            self.outbox.front(SocketAddr::from(([192, 0, 2, 1], 7117)).into(), Trains::All, self.now)
        {
            let len = train.bytes.len();
            for datagram in train.bytes.chunks(train.datagram_len) {
                let header = crate::wire::datagram::Header::parse(datagram).unwrap();
                let (clear, mut sealed) = (&datagram[..HEADER_LEN], datagram[HEADER_LEN..].to_vec());
                let opened = key.open(header.counter, clear, &mut sealed).unwrap();
                datagrams.push(match header.datagram_type {
                    DatagramType::Source => {
                        let (id, _) = SourceId::parse(opened).unwrap();
                        Source(id.sbn, id.esi, id.previous_symbols)
                    }
                    _ => {
                        let (id, _) = RepairId::parse(opened).unwrap();
                        let seen = datagrams.iter().rev().find_map(|it| match it {
                            Source(sbn, _, previous) if *sbn == id.sbn => Some(*previous),
                            _ => None,
                        });
                        assert!(seen.is_none_or(|previous| previous == u16::from(id.previous_symbols)), "{id:?}");
                        Repair(id.sbn, id.esi, id.source_symbols, id.repair_symbols)
                    }
                });
            }
            self.outbox.on_sent(len, self.now, |_, _, _| {});
        }
        datagrams
    }
}

#[test]
fn full_symbols_leave_at_once_and_a_full_block_closes() {
    let mut bench = Bench::new(1);
    bench.push(100);
    assert_eq!(bench.sent(), []);
    bench.push(100);
    assert_eq!(bench.sent(), [Source(0, 0, 0)]);
    bench.push(200);
    assert_eq!(bench.sent(), [Source(0, 1, 0), Source(0, 2, 0), Source(0, 3, 0), Repair(0, 4, 4, 1)]);
    assert!(!bench.sender.is_open());
    bench.push(300);
    assert_eq!(bench.sent(), [Source(1, 0, 4), Source(1, 1, 4)]);
    bench.push(200);
    assert_eq!(
        bench.sent(),
        [Source(1, 2, 4), Source(1, 3, 4), Source(1, 4, 4), Repair(1, 5, 5, 2), Repair(1, 6, 5, 2)],
        "all carry 4 as the length of block 0"
    );
}

#[test]
fn without_a_plan_no_repair_symbols_are_sent() {
    let mut bench = Bench::new(0);
    bench.push(600);
    assert_eq!(bench.sent(), (0..5).map(|esi| Source(0, esi, 0)).collect::<Vec<_>>());
    assert_eq!((bench.sent.blocks, bench.sent.repair_symbols), (1, 0));
}

#[test]
fn a_block_closes_when_it_is_idle_or_old() {
    let mut bench = Bench::new(1);
    let start = bench.now;
    let micros = |micros| start + Duration::from_micros(micros);
    assert_eq!(bench.sender.deadline(), None);
    bench.push(10);
    assert_eq!(bench.sender.deadline(), Some(micros(2000)), "the TUN may have more");
    bench.at(micros(5), |sender, egress| sender.handle_idle(egress));
    assert_eq!(bench.sent(), [Source(0, 0, 0)], "no byte waits for the next packet");
    assert_eq!(bench.sender.deadline(), Some(micros(55)));
    bench.at(micros(30), |sender, egress| sender.handle_idle(egress));
    assert_eq!(bench.sender.deadline(), Some(micros(55)), "idle since the first call");
    bench.push(10);
    assert_eq!(bench.sender.deadline(), Some(micros(2000)));
    bench.at(micros(1990), |sender, egress| sender.handle_idle(egress));
    assert_eq!(bench.sender.deadline(), Some(micros(2000)), "old before it is idle");
    bench.at(micros(1999), |sender, egress| sender.handle_timeout(egress));
    assert_eq!(bench.sent(), [Source(0, 1, 0)]);
    bench.at(micros(2000), |sender, egress| sender.handle_timeout(egress));
    assert_eq!(bench.sent(), [Repair(0, 2, 2, 1)]);
    assert_eq!(bench.sender.deadline(), None);
}

/// Packets of 10 bytes, each `gap` after the one before; returns what each turn sends before its block is idle for long
/// enough, and the trains.
fn lone_packets(bench: &mut Bench, count: usize, gap: Duration) -> Vec<Vec<Datagram>> {
    let mut turns = Vec::new();
    for _ in 0..count {
        bench.now += gap;
        let now = bench.now;
        bench.at(now, |sender, egress| sender.handle_timeout(egress));
        bench.sent();
        bench.push(10);
        bench.at(now, |sender, egress| sender.handle_idle(egress));
        turns.push(bench.sent());
    }
    turns
}

#[test]
fn packets_that_come_alone_leave_with_their_repair_symbols() {
    let mut bench = Bench::new(2);
    let turns = lone_packets(&mut bench, 6, Duration::from_millis(1));
    let alone = |sbn: u64| vec![Source(sbn, 0, u16::from(sbn > 0))];
    for (sbn, turn) in (0..4).zip(&turns) {
        assert_eq!(*turn, alone(sbn), "nothing is known yet, so the block waits");
    }
    for (sbn, turn) in (4..).zip(&turns[4..]) {
        assert_eq!(*turn, [alone(sbn), vec![Repair(sbn, 1, 1, 2), Repair(sbn, 2, 1, 2)]].concat());
    }
    assert_eq!(bench.sender.deadline(), None, "no timer is left");

    // The block before would have taken this one.
    let turns = lone_packets(&mut bench, 1, Duration::from_micros(49));
    assert_eq!(turns, [alone(6)]);
    bench.push(10);
    bench.now += Duration::from_millis(1);
    let turns = lone_packets(&mut bench, 4, Duration::from_millis(1));
    assert!(turns.iter().all(|turn| turn.len() == 1), "two packets in a block: {turns:?}");
}

#[test]
fn a_lone_packet_and_its_repair_symbols_are_one_train() {
    let mut bench = Bench::new(2);
    lone_packets(&mut bench, 4, Duration::from_millis(1));
    bench.now += Duration::from_millis(1);
    bench.with(|sender, egress| sender.handle_timeout(egress));
    bench.sent();
    bench.push(10);
    bench.with(|sender, egress| sender.handle_idle(egress));
    let to = SocketAddr::from(([192, 0, 2, 1], 7117)).into();
    let train = bench.outbox.front(to, Trains::All, bench.now).unwrap();
    assert_eq!(
        (train.datagram_len, train.bytes.len() / train.datagram_len),
        (HEADER_LEN + PAYLOAD_ID_LEN + 64 + TAG_LEN, 3)
    );
}

#[test]
fn the_end_of_a_block_is_marked_where_protection_is_claimed() {
    let mut bench = Bench::new(2);
    bench.claims = true;
    bench.push(600);
    bench.push(100);
    let (to, now) = (SocketAddr::from(([192, 0, 2, 1], 7117)).into(), bench.now);
    let mut trains = Vec::new();
    while let Some(train) = bench.outbox.front(to, Trains::All, now) {
        let (len, datagrams) = (train.bytes.len(), train.bytes.len().div_ceil(train.datagram_len));
        let mut taken = Vec::new();
        bench.outbox.on_sent(len, now, |(block, _), send, alone| taken.push((block.sbn, send, alone)));
        trains.push((datagrams, taken));
    }
    assert_eq!(trains, [(5, vec![]), (2, vec![]), (1, vec![(0, 2, true)])]);
    let block = BlockId { profile: 0, sbn: 0 };
    let (source_symbols, repair_symbols) = (5, 3);
    let closed = BlockEvent::Closed {
        block,
        source_symbols,
        repair_symbols,
        has_late: false,
        keeps_promise: true,
        survives: Duration::ZERO,
    };
    assert_eq!(bench.events, [closed]);
}

#[test]
fn the_number_of_an_abandoned_block_is_not_used_again() {
    let mut bench = Bench::new(1);
    bench.push(200);
    assert_eq!(bench.sent(), [Source(0, 0, 0)]);
    bench.sender.abandon();
    bench.sender.abandon();
    assert!(!bench.sender.is_open() && bench.sender.deadline().is_none());
    bench.push(200);
    assert_eq!(bench.sent(), [Source(1, 0, 0)], "an abandoned block has no length");
}

/// A sender whose blocks survive two milliseconds.
fn surviving() -> Bench {
    let mut bench = Bench::new(2);
    bench.claims = true;
    let profile = Profile { survive_burst: SURVIVE, ..bench.sender.profile.clone() };
    bench.sender.set_profile(profile);
    bench
}

const SURVIVE: Duration = Duration::from_millis(2);

/// Closes a block of one packet, which has two early repair symbols.
fn close_one(bench: &mut Bench) -> u64 {
    let sbn = bench.sender.block_id().sbn;
    bench.push(50);
    bench.with(|sender, egress| sender.close(egress));
    sbn
}

#[test]
fn a_late_part_follows_its_early_part_in_time_and_once() {
    let mut bench = surviving();
    let sbn = close_one(&mut bench);
    assert_eq!(bench.sent(), [Source(sbn, 0, 0), Repair(sbn, 1, 1, 3), Repair(sbn, 2, 1, 3)], "one of three is late");
    let (source_symbols, repair_symbols, block) = (1, 3, BlockId { profile: 0, sbn });
    let closed = BlockEvent::Closed {
        block,
        source_symbols,
        repair_symbols,
        has_late: true,
        keeps_promise: true,
        survives: SURVIVE,
    };
    assert_eq!(std::mem::take(&mut bench.events), [closed]);
    let left = bench.now + Duration::from_micros(80);
    assert_eq!(bench.sender.on_early_left(sbn, Duration::ZERO, left), Some(Spread::Kept));
    let due = bench.sender.deadline().unwrap();
    assert!(due > left + SURVIVE);
    bench.at(due - Duration::from_nanos(1), |sender, egress| sender.handle_timeout(egress));
    assert_eq!(bench.sent(), []);
    bench.at(due, |sender, egress| sender.handle_timeout(egress));
    assert!(!bench.sender.has_late() && bench.sent.late_symbols == 1 && bench.sent.repair_symbols == 3);
    assert!(bench.events.is_empty() && bench.sender.deadline().is_none());
}

#[test]
fn a_block_that_promises_to_survive_always_has_a_late_part() {
    let mut bench = surviving();
    bench.push(50);
    bench.with(|sender, egress| sender.handle_idle(egress));
    // So long after its only source symbol that no interruption takes it and the early repair symbols.
    bench.now += 10 * SURVIVE;
    bench.with(|sender, egress| sender.close(egress));
    assert!(bench.sender.has_late(), "what lagged in truth is judged when the early part has left");
}

#[test]
fn a_late_part_without_a_session_or_whose_early_part_stays_here_breaks_the_promise() {
    let mut bench = surviving();
    let sbn = close_one(&mut bench);
    let later = bench.now + Duration::from_secs(1);
    bench.at(later, |sender, egress| sender.handle_timeout(egress));
    let broken = |sbn| BlockEvent::PromiseBroken { block: BlockId { profile: 0, sbn } };
    assert_eq!(bench.events.pop_back(), Some(broken(sbn)));
    assert_eq!(bench.sender.on_early_left(sbn, Duration::ZERO, later), None, "too late");
    let sbn = close_one(&mut bench);
    let Bench { sender, sent, events, .. } = &mut bench;
    sender.drop_late(sent, Some(events));
    assert_eq!(bench.events.pop_back(), Some(broken(sbn)));
    assert_eq!((bench.sent.late_dropped, bench.sender.has_late()), (2, false));
}

#[test]
fn a_new_profile_counts_from_the_next_block_on_also_if_its_blocks_are_longer() {
    let mut bench = Bench::new(2);
    bench.push(50);
    let longer = Profile { block_symbols: 40, plan: Plan::fixed(40, 7, 0.01), ..bench.sender.profile.clone() };
    bench.sender.set_profile(longer);
    bench.with(|sender, egress| sender.close(egress));
    let first = bench.sent().len();
    assert!(first < 6, "the open block has the repair of the profile before");
    (0..40).for_each(|_| {
        bench.push(E - 4);
    });
    assert_eq!(bench.sent.blocks, 2);
    assert_eq!(bench.sent().len(), 47);
}
