//! The flow table, checked against a model that stores every single byte.
//!
//! Random histories of successive TCP connections on the same ports: bytes that were never seen, retransmissions with
//! other boundaries, blocks decided in any order or failed, acknowledgements, old packets, sequence numbers that wrap.
//! A byte may be reported as protected only if it and every earlier byte of its connection are; and every protected
//! position must be reported.
//!
//! Attackers off the path forge segments in both directions: one knows the ports and no numbers, one has guessed one of
//! the two numbers, and one knows both numbers but cannot make a valid checksum. None of their segments may change a
//! position.

use std::time::{Duration, Instant};

use onwire::flow::{
    BlockId, Event, FlowId, FlowState, FlowTable, GoneReason, InstanceCounter, Level, Limits, Violation,
};
use onwire::wire::checksum;
use onwire::wire::packet::PacketView;
use onwire::wire::virtio::VirtioHeader;
use proptest::prelude::*;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
/// The window that both ends offer, unscaled.
const WINDOW: u32 = 0xffff;
const BYTES: usize = 6000;

#[derive(Clone, Debug)]
enum Step {
    /// Sends the next bytes of the connection.
    Send {
        len: usize,
    },
    /// The next bytes take another path: they are never seen.
    Miss {
        len: usize,
    },
    /// Sends bytes again, from `back` before the end; or, out of order, bytes that were not seen before.
    Again {
        back: usize,
        len: usize,
    },
    /// Opens the next block.
    Close,
    /// Decides a closed block; `index` counts from the oldest undecided one.
    Decide {
        index: usize,
        level: Level,
    },
    Fail {
        index: usize,
    },
    /// The peer loses a block that may be protected.
    Lose {
        index: usize,
    },
    /// The other end acknowledges this percentage of the bytes sent.
    Acknowledge {
        percent: usize,
    },
    /// The SYN again.
    SynAgain,
    /// A new connection on the same ports.
    Syn {
        isn: u32,
    },
    /// A packet of the previous connection appears, and an acknowledgement of it.
    Old {
        back: usize,
        len: usize,
    },
    /// An attacker sends a segment in the name of one end.
    Forge(Forged),
    /// Block numbers start again.
    Epoch,
    Wait,
}

/// A forged segment.
#[derive(Clone, Copy, Debug)]
struct Forged {
    from_peer: bool,
    flags: u8,
    len: usize,
    /// Which parts are correct.
    guess: Guess,
    sequence: u32,
    acknowledgement: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guess {
    Nothing,
    Sequence,
    Acknowledgement,
    /// Both numbers, but not the checksum.
    Numbers,
}

fn forged() -> impl Strategy<Value = Forged> {
    let flags = prop_oneof![6 => Just(ACK), 1 => Just(ACK | FIN), 1 => Just(RST), 1 => Just(RST | ACK), 2 => Just(SYN)];
    let guess = prop_oneof![
        2 => Just(Guess::Nothing),
        2 => Just(Guess::Sequence),
        2 => Just(Guess::Acknowledgement),
        2 => Just(Guess::Numbers),
    ];
    (any::<bool>(), flags, 0usize..200, guess, any::<u32>(), any::<u32>()).prop_map(
        |(from_peer, flags, len, guess, sequence, acknowledgement)| Forged {
            from_peer,
            flags,
            len,
            guess,
            sequence,
            acknowledgement,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let level = prop_oneof![2 => Just(Level::Queued), 3 => Just(Level::Early), 6 => Just(Level::OnWire), 3 => Just(Level::Decoded)];
    prop_oneof![
        12 => (1usize..60).prop_map(|len| Step::Send { len }),
        1 => (1usize..30).prop_map(|len| Step::Miss { len }),
        5 => (1usize..300, 1usize..90).prop_map(|(back, len)| Step::Again { back, len }),
        8 => Just(Step::Close),
        12 => (0usize..6, level).prop_map(|(index, level)| Step::Decide { index, level }),
        2 => (0usize..6).prop_map(|index| Step::Fail { index }),
        1 => (0usize..6).prop_map(|index| Step::Lose { index }),
        3 => (0usize..=100).prop_map(|percent| Step::Acknowledge { percent }),
        1 => Just(Step::SynAgain),
        1 => prop_oneof![any::<u32>(), Just(u32::MAX), (0u32..200).prop_map(|near| u32::MAX - near)].prop_map(|isn| Step::Syn { isn }),
        2 => (0usize..200, 1usize..60).prop_map(|(back, len)| Step::Old { back, len }),
        4 => forged().prop_map(Step::Forge),
        1 => Just(Step::Epoch),
        1 => Just(Step::Wait),
    ]
}

/// The sequence number of the peer's first byte.
const PEER_ISN: u32 = 0xffff_ff00;

/// One connection, byte by byte.
struct Connection {
    isn: u32,
    /// Bytes written by the sender, seen or not.
    written: usize,
    /// The end of the last byte seen.
    seen: usize,
    acked: usize,
    /// By byte: 1 + the highest level that a block with the byte has reached; 0 for none.
    levels: Vec<u8>,
    /// The end of the bytes that were claimed as protected and lost.
    lost_below: usize,
}

impl Connection {
    fn new(isn: u32) -> Self {
        Self { isn, written: 0, seen: 0, acked: 0, levels: vec![0; BYTES], lost_below: 0 }
    }

    fn contiguous(&self, level: Level) -> usize {
        let reached = |at: usize| at < self.acked || self.levels[at] > level.index() as u8;
        (0..BYTES).take_while(|&at| reached(at)).count()
    }
}

/// The ranges of a block: connection, start, end.
type Held = Vec<(usize, usize, usize)>;

struct World {
    table: FlowTable,
    now: Instant,
    connections: Vec<Connection>,
    sbn: u64,
    /// Undecided blocks; the last is open.
    blocks: Vec<(u64, Held, Option<Level>)>,
    /// False if the current connection began near the end of the previous one: the table may then know less than the
    /// model.
    exact: bool,
    id: Option<FlowId>,
    /// The highest reported positions of the current instance.
    reported: [u64; Level::COUNT],
    /// Forged data segments since the sender's last own one.
    forged: u8,
}

impl World {
    fn new(isn: u32) -> Self {
        let limits = Limits { flows: 4, ranges: 4096, ..Limits::default() };
        let mut world = Self {
            table: FlowTable::new(limits, 3, InstanceCounter::default()),
            now: Instant::now(),
            connections: Vec::new(),
            sbn: 0,
            blocks: vec![(0, Held::new(), None)],
            exact: true,
            id: None,
            reported: [0; Level::COUNT],
            forged: 0,
        };
        world.begin(isn);
        world
    }

    fn begin(&mut self, isn: u32) {
        // Within three seconds of the previous connection, a new one can be told apart with certainty only if its
        // numbers are far away.
        self.exact = self.connections.last().is_none_or(|last| {
            let end = last.isn.wrapping_add(last.seen as u32);
            let distance = isn.wrapping_sub(end) as i32;
            distance.unsigned_abs() > (1 << 22) + 2 * BYTES as u32
        });
        self.connections.push(Connection::new(isn));
        let before = self.id;
        self.emit(SYN, isn, 0);
        self.receive(SYN | ACK, PEER_ISN.wrapping_sub(1), isn.wrapping_add(1), 0);
        self.forged = 0;
        self.drain();
        assert_ne!(self.id, before);
    }

    fn emit(&mut self, flags: u8, sequence: u32, len: usize) -> Option<FlowId> {
        let acknowledgement = if flags & ACK != 0 { PEER_ISN } else { 0 };
        let packet = packet(false, flags, sequence, acknowledgement, len);
        let view = PacketView::parse(&packet).expect("built as a packet");
        let block = BlockId { profile: 2, sbn: self.sbn };
        self.table.on_sent(&packet, &view, VirtioHeader::default(), block, self.now)
    }

    fn answer(&mut self, acknowledgement: u32) {
        self.receive(ACK, PEER_ISN, acknowledgement, 0);
    }

    fn receive(&mut self, flags: u8, sequence: u32, acknowledgement: u32, len: usize) {
        let packet = packet(true, flags, sequence, acknowledgement, len);
        self.hand_over(true, &packet);
    }

    fn hand_over(&mut self, from_peer: bool, packet: &[u8]) {
        let view = PacketView::parse(packet).expect("built as a packet");
        let block = BlockId { profile: 2, sbn: self.sbn };
        match from_peer {
            true => self.table.on_received(packet, &view, VirtioHeader::default(), self.now),
            false => {
                self.table.on_sent(packet, &view, VirtioHeader::default(), block, self.now);
            }
        }
    }

    /// Passes a forged segment: no reported state may change.
    fn forge(&mut self, forged: Forged) {
        let last = &self.connections[self.connections.len() - 1];
        let next = last.isn.wrapping_add(1 + last.seen as u32);
        // The numbers that would be accepted: the sender's, and the receiver's.
        let right = if forged.from_peer { [PEER_ISN, next] } else { [next, PEER_ISN] };
        let far = |number: u32, right: u32| match number.wrapping_sub(right).wrapping_add(1 << 20) < 1 << 21 {
            true => number.wrapping_add(1 << 22),
            false => number,
        };
        let knows = |guess| forged.guess == guess || forged.guess == Guess::Numbers;
        let sequence = if knows(Guess::Sequence) { right[0] } else { far(forged.sequence, right[0]) };
        let mut acknowledgement = far(forged.acknowledgement, right[1]);
        if knows(Guess::Acknowledgement) {
            acknowledgement = right[1];
        }
        // An RST or a SYN is checked by its sequence number alone: an attacker who has guessed it may end the flow.
        let alone = forged.flags & (RST | SYN) != 0 && forged.guess == Guess::Sequence;
        let is_data = !forged.from_peer && (forged.len > 0 || forged.flags & FIN != 0);
        // Eight stray segments in a row count as a new connection: that ends the instance, and raises no position. The
        // sender's own segments do not always interrupt the row: they may look like the end of the previous connection.
        if alone || (is_data && self.forged >= 6) {
            return;
        }
        self.forged += u8::from(is_data);
        let len = if forged.flags & (RST | SYN) != 0 { 0 } else { forged.len };
        let mut packet = packet(forged.from_peer, forged.flags, sequence, acknowledgement, len);
        if forged.guess == Guess::Numbers {
            packet[36] ^= 1;
        }
        let before = (self.id, self.states());
        self.hand_over(forged.from_peer, &packet);
        self.drain();
        assert_eq!(before, (self.id, self.states()), "{forged:?}");
    }

    /// The state of all flows, except when they were seen.
    fn states(&self) -> Vec<FlowState> {
        self.table.flows().map(|state| FlowState { seen_at: self.now, ..state }).collect()
    }

    fn send(&mut self, start: usize, len: usize) {
        let at = self.connections.len() - 1;
        let connection = &mut self.connections[at];
        let len = len.min(BYTES - start);
        if len == 0 {
            return;
        }
        connection.written = connection.written.max(start + len);
        connection.seen = connection.seen.max(start + len);
        let sequence = connection.isn.wrapping_add(1 + start as u32);
        self.blocks.last_mut().expect("one is always open").1.push((at, start, start + len));
        self.emit(ACK, sequence, len);
    }

    fn apply(&mut self, step: &Step) {
        let at = self.connections.len() - 1;
        let (isn, written, seen) = {
            let connection = &self.connections[at];
            (connection.isn, connection.written, connection.seen)
        };
        match *step {
            Step::Send { len } => self.send(written, len),
            Step::Miss { len } => self.connections[at].written = (written + len).min(BYTES),
            Step::Again { back, len } => {
                let start = written.saturating_sub(back).max(self.connections[at].acked.saturating_sub(50));
                self.send(start, len.min(written - start));
            }
            Step::Close => {
                self.sbn += 1;
                self.blocks.push((self.sbn, Held::new(), None));
            }
            Step::Decide { index, level } if index + 1 < self.blocks.len() => {
                let (sbn, held, known) = &mut self.blocks[index];
                let block = BlockId { profile: 2, sbn: *sbn };
                for &(connection, start, end) in held.iter() {
                    for byte in &mut self.connections[connection].levels[start..end] {
                        *byte = (*byte).max(level.index() as u8 + 1);
                    }
                }
                *known = (*known).max(Some(level));
                if level == Level::Decoded {
                    self.blocks.remove(index);
                }
                self.table.on_block_protected(block, level, Duration::ZERO);
            }
            Step::Fail { index } if index + 1 < self.blocks.len() && self.blocks[index].2 < Some(Level::Early) => {
                let (sbn, ..) = self.blocks.remove(index);
                self.table.on_block_failed(BlockId { profile: 2, sbn }, self.now);
            }
            Step::Lose { index } if index + 1 < self.blocks.len() => {
                let (sbn, held, level) = self.blocks.remove(index);
                let violation = self.table.violation(BlockId { profile: 2, sbn }, self.now);
                // A block without bytes that need protection may be unknown.
                assert!(violation.ranges.is_empty() || violation.level == level);
                self.check_violation(&violation, &held);
                for (connection, start, end) in held {
                    let connection = &mut self.connections[connection];
                    if level >= Some(Level::Early) && end > connection.contiguous(Level::Decoded) && end > start {
                        connection.lost_below = connection.lost_below.max(end);
                    }
                }
            }
            Step::Acknowledge { percent } => {
                let acked = seen * percent / 100;
                self.connections[at].acked = self.connections[at].acked.max(acked);
                self.answer(isn.wrapping_add(1 + acked as u32));
            }
            Step::SynAgain => {
                self.emit(SYN, isn, 0);
            }
            // The SYN of the previous connection counts as a late copy.
            Step::Syn { isn: next } if next != isn && (at == 0 || next != self.connections[at - 1].isn) => {
                self.begin(next)
            }
            Step::Old { back, len } if at > 0 => {
                let old = &self.connections[at - 1];
                let end = old.written.saturating_sub(back);
                let start = end.saturating_sub(len);
                let sequence = old.isn.wrapping_add(1 + start as u32);
                self.emit(ACK, sequence, end - start);
                self.answer(sequence);
            }
            Step::Forge(forged) => self.forge(forged),
            Step::Epoch => {
                self.table.on_epoch(self.now);
                self.sbn = 0;
                self.blocks = vec![(0, Held::new(), None)];
            }
            Step::Wait => self.now += Duration::from_millis(10),
            _ => {}
        }
    }

    /// Every listed range was in the block, and every byte of it that is still missing is listed.
    fn check_violation(&self, violation: &Violation, held: &Held) {
        let at = self.connections.len() - 1;
        let present = || held.iter().filter(|(connection, ..)| *connection == at);
        for range in &violation.ranges {
            for byte in range.start.bytes as usize..range.end.bytes as usize {
                assert!(present().any(|&(_, start, end)| (start..end).contains(&byte)), "byte {byte} was not in it");
            }
        }
        if violation.level.is_some() && self.exact {
            let safe = self.connections[at].contiguous(Level::Decoded);
            for &(_, start, end) in present() {
                for byte in start.max(safe)..end {
                    let named = |start: u64, end: u64| (start..end).contains(&(byte as u64));
                    assert!(
                        violation.ranges.iter().any(|range| named(range.start.bytes, range.end.bytes)),
                        "byte {byte} is lost and not listed"
                    );
                }
            }
        }
    }

    fn drain(&mut self) {
        let connection = self.connections.last().expect("one is always there");
        while let Some(event) = self.table.poll_event() {
            match event {
                Event::New(flow) => {
                    assert_ne!(Some(flow.id), self.id);
                    self.id = Some(flow.id);
                    self.reported = [0; Level::COUNT];
                }
                Event::Protected { flow, raised, .. } => {
                    assert_eq!(Some(flow.id), self.id);
                    for level in Level::ALL.into_iter().filter(|level| raised[level.index()]) {
                        let position = flow.position(level);
                        assert_eq!(position.sequence, connection.isn.wrapping_add(1 + position.bytes as u32));
                        assert!(position.bytes > self.reported[level.index()], "reported positions only rise");
                        self.reported[level.index()] = position.bytes;
                        if level != Level::Acked {
                            let expected = connection.contiguous(level) as u64;
                            assert!(position.bytes <= expected, "{level:?} {} of {expected}", position.bytes);
                        }
                    }
                }
                Event::Gone { reason, .. } => assert_eq!(reason, GoneReason::Replaced),
                Event::Overflow => panic!("drained after every step"),
            }
        }
    }

    /// Positions are as high as the model allows.
    fn check_complete(&mut self) {
        let connection = self.connections.last_mut().expect("one is always there");
        if !self.exact || self.table.counters().forgotten_spans > 0 {
            return;
        }
        let decoded = connection.contiguous(Level::Decoded);
        if decoded >= connection.lost_below {
            connection.lost_below = 0;
        }
        for level in [Level::Queued, Level::Early, Level::OnWire, Level::Decoded] {
            let reported = self.reported[level.index()];
            let expected = connection.contiguous(level) as u64;
            if connection.lost_below > 0 && level < Level::Decoded {
                assert!(
                    (decoded as u64..=expected).contains(&reported),
                    "{level:?}: {reported}, while a loss holds it"
                );
            } else {
                assert_eq!(reported, expected, "{level:?}");
            }
        }
        assert_eq!(self.reported[Level::Acked.index()], connection.acked as u64);
    }
}

fn packet(from_peer: bool, flags: u8, sequence: u32, acknowledgement: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![0; 40 + len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((40 + len) as u16).to_be_bytes());
    packet[9] = 6;
    packet[12..20].copy_from_slice(&[10, 1, 0, 1, 10, 2, 0, 1]);
    packet[20..24].copy_from_slice(&[0x80, 0, 0x15, 0x38]);
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[28..32].copy_from_slice(&acknowledgement.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = flags;
    packet[34..36].copy_from_slice(&(WINDOW as u16).to_be_bytes());
    if from_peer {
        packet[12..20].rotate_left(4);
        packet[20..24].rotate_left(2);
    }
    let view = PacketView::parse(&packet).expect("built as a packet");
    let pseudo = checksum::pseudo_header_sum(view.source, view.destination, 6, 20 + len);
    let sum = !checksum::add(checksum::sum(&packet[20..]), pseudo);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn positions_match_the_model_and_forged_segments_change_nothing(
        isn in prop_oneof![any::<u32>(), (0u32..3000).prop_map(|near| u32::MAX - near)],
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut world = World::new(isn);
        for step in &steps {
            world.apply(step);
            world.drain();
            world.check_complete();
        }
    }
}
