//! The sending side of one profile toward one peer: fills source blocks, closes them, adds repair symbols.
//!
//! 1. The TUN is read into [`room`](Sender::room); [`commit`](Sender::commit) takes the packet as an ADU.
//! 2. Full symbols leave at once: protection never delays data.
//! 3. The TUN is empty: the open symbol leaves short, the block stays open for `close_when_idle`.
//! 4. The block is full, idle or old: it closes, and its repair symbols leave.
//!
//! The length of a block is in its repair symbols and in all symbols of the next block, so the receiver learns where a
//! lost block ends. What arrives at the peer is not known here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::block_event::BlockEvent;
use super::outbox::Outbox;
use super::outer_class::{OuterRule, SymbolClasses};
use super::session::Session;
use crate::fec::code::Code;
use crate::fec::plan::Plan;
use crate::fec::source_block::SourceBlock;
use crate::wire::datagram::{DatagramType, HEADER_LEN, TAG_LEN};
use crate::wire::payload_id::{BlockId, PAYLOAD_ID_LEN, RepairId, SourceId};
use crate::wire::traffic_class::TrafficClass;
use crate::wire::virtio::VirtioHeader;

/// How blocks of a profile are closed and how many repair symbols they get.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The profile's number in our datagrams.
    pub number: u8,
    /// A block closes when it has this many source symbols.
    pub block_symbols: usize,
    /// A block closes when the TUN has been empty for this long.
    pub close_when_idle: Duration,
    /// A block closes this long after its first byte at the latest.
    pub close_after: Duration,
    /// Repair symbols for each block length.
    pub plan: Plan,
}

/// Counts of what was sent to a peer since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets and super-packets.
    pub adus: u64,
    /// Bytes in them.
    pub adu_bytes: u64,
    /// Blocks closed.
    pub blocks: u64,
    /// Source symbols sent.
    pub source_symbols: u64,
    /// Repair symbols sent.
    pub repair_symbols: u64,
    /// Source and repair symbols of full length. Their datagrams are the longest that we send.
    pub full_symbols: u64,
    /// Datagrams of every kind.
    pub datagrams: u64,
    /// UDP payload bytes in them.
    pub bytes: u64,
    /// Packets and super-packets that were dropped because too much waited for the path's rate.
    pub queue_dropped: u64,
    /// Packets, and first segments of super-packets, that were dropped because the queue for the path's rate stands.
    pub standing_dropped: u64,
    /// Packets and super-packets that were marked for the same reason.
    pub standing_marked: u64,
    /// Repair symbols that were not sent for the same reason.
    pub repair_shed: u64,
}

impl Sent {
    /// Adds the counts of another lane.
    pub fn add(&mut self, other: &Self) {
        self.adus += other.adus;
        self.adu_bytes += other.adu_bytes;
        self.blocks += other.blocks;
        self.source_symbols += other.source_symbols;
        self.repair_symbols += other.repair_symbols;
        self.full_symbols += other.full_symbols;
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
        self.queue_dropped += other.queue_dropped;
        self.standing_dropped += other.standing_dropped;
        self.standing_marked += other.standing_marked;
        self.repair_shed += other.repair_shed;
    }
}

/// What a sender needs to seal datagrams, and where they go.
pub struct Egress<'a> {
    /// Seals datagrams and numbers them.
    pub session: &'a mut Session,
    /// Takes the sealed datagrams.
    pub outbox: &'a mut Outbox,
    /// Computes repair symbols.
    pub code: &'a mut Code,
    /// Counts what is sent.
    pub sent: &'a mut Sent,
    /// Takes the events of blocks, if protection is claimed toward this peer.
    pub events: Option<&'a mut VecDeque<BlockEvent>>,
}

impl Egress<'_> {
    /// Seals one datagram of `prefix` and `body` straight into the outbox.
    pub fn seal(&mut self, datagram_type: DatagramType, class: TrafficClass, prefix: &[u8], body: &[u8]) {
        let header = self.session.next_header(datagram_type);
        let clear = header.emit();
        let len = HEADER_LEN + prefix.len() + body.len() + TAG_LEN;
        let datagram = self.outbox.append(len, class);
        let (head, sealed) = datagram.split_at_mut(HEADER_LEN);
        let (text, tag) = sealed.split_at_mut(prefix.len() + body.len());
        head.copy_from_slice(&clear);
        text[..prefix.len()].copy_from_slice(prefix);
        text[prefix.len()..].copy_from_slice(body);
        tag.copy_from_slice(&self.session.seal(header.counter, &clear, text));
        self.sent.datagrams += 1;
        self.sent.bytes += len as u64;
    }
}

/// The open block of one profile toward one peer.
#[derive(Debug)]
pub struct Sender {
    profile: Profile,
    block: SourceBlock,
    classes: SymbolClasses,
    repair: Vec<u8>,
    symbol_size: usize,
    sbn: u64,
    previous_symbols: u16,
    opened_at: Option<Instant>,
    idle_since: Option<Instant>,
}

impl Sender {
    /// A sender that has sent nothing yet.
    pub fn new(profile: Profile, symbol_size: usize, outer: OuterRule) -> Self {
        let block = SourceBlock::new(symbol_size, profile.block_symbols);
        let classes = SymbolClasses::new(outer, SourceBlock::symbols_max(symbol_size, profile.block_symbols));
        Self {
            profile,
            block,
            classes,
            repair: Vec::new(),
            symbol_size,
            sbn: 0,
            previous_symbols: 0,
            opened_at: None,
            idle_since: None,
        }
    }

    /// The buffer for the next packet.
    pub fn room(&mut self) -> &mut [u8] {
        self.block.room()
    }

    /// Takes the packet of `len` bytes at the front of [`room`](Self::room); sends full symbols, closes a full block.
    pub fn commit(&mut self, virtio: VirtioHeader, len: usize, egress: &mut Egress<'_>, now: Instant) {
        self.opened_at.get_or_insert(now);
        self.idle_since = None;
        let class = TrafficClass::of(&self.block.room()[..len]);
        self.classes.add(self.block.commit(virtio, len), class);
        egress.sent.adus += 1;
        egress.sent.adu_bytes += len as u64;
        self.send_finished(egress);
        if self.block.symbols() >= self.profile.block_symbols {
            self.close(egress, now);
        }
    }

    /// The TUN is empty: the open symbol leaves short.
    pub fn handle_idle(&mut self, egress: &mut Egress<'_>, now: Instant) {
        if self.is_open() {
            self.block.finish_symbol();
            self.send_finished(egress);
            self.idle_since.get_or_insert(now);
        }
    }

    /// Closes the block if its deadline has passed.
    pub fn handle_timeout(&mut self, egress: &mut Egress<'_>, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.close(egress, now);
        }
    }

    /// When the open block closes if nothing more comes.
    pub fn deadline(&self) -> Option<Instant> {
        let latest = self.opened_at? + self.profile.close_after;
        Some(match self.idle_since {
            Some(since) => latest.min(since + self.profile.close_when_idle),
            None => latest,
        })
    }

    /// A block is open.
    pub fn is_open(&self) -> bool {
        !self.block.is_empty()
    }

    /// Closes the open block now: sends what is left of it and its repair symbols. Behind a queue that stands there are
    /// none, so the block is never protected: they would make the congestion worse that they are meant to survive.
    pub fn close(&mut self, egress: &mut Egress<'_>, now: Instant) {
        if !self.is_open() {
            return;
        }
        self.block.finish_symbol();
        self.send_finished(egress);
        let k = self.block.finished();
        let mut m = self.profile.plan.repair_symbols(k);
        if egress.outbox.sheds_repair(now) {
            egress.sent.repair_shed += std::mem::take(&mut m) as u64;
        }
        if m > 0 {
            self.send_repair(k, m, egress);
        }
        if let Some(events) = &mut egress.events {
            let (source_symbols, repair_symbols) = (k as u16, m as u16);
            events.push_back(BlockEvent::Closed { block: self.block_id(), source_symbols, repair_symbols });
        }
        egress.sent.blocks += 1;
        self.begin_next(k as u16);
    }

    /// The number below which every block is closed, and k of the last of them; k is 0 if that block was abandoned.
    pub fn closed_below(&self) -> (u64, u16) {
        (self.sbn, self.previous_symbols)
    }

    /// Forgets the open block: its session has ended, or the peer that has its beginning was restarted. Its number is
    /// not used again, for two reasons. Symbols of two blocks would look like one block. And the new run of the peer
    /// could rebuild and deliver again what the earlier run has delivered.
    ///
    /// Returns the block, if one was open.
    pub fn abandon(&mut self) -> Option<BlockId> {
        let block = self.is_open().then(|| self.block_id())?;
        self.begin_next(0);
        Some(block)
    }

    /// The block that the next packet is put into.
    pub fn block_id(&self) -> BlockId {
        BlockId { profile: self.profile.number, sbn: self.sbn }
    }

    fn begin_next(&mut self, previous_symbols: u16) {
        self.previous_symbols = previous_symbols;
        self.sbn += 1;
        self.block.clear();
        self.classes.clear();
        self.opened_at = None;
        self.idle_since = None;
    }

    fn send_finished(&mut self, egress: &mut Egress<'_>) {
        for esi in self.block.take_finished() {
            let id = SourceId {
                profile: self.profile.number,
                unprotected: self.profile.plan.is_none(),
                esi: esi as u16,
                sbn: self.sbn,
                previous_symbols: self.previous_symbols,
                first_adu: self.block.first_adu(esi),
            };
            let symbol = self.block.symbol(esi);
            egress.seal(DatagramType::Source, self.classes.source(esi), &id.emit(), symbol);
            egress.sent.source_symbols += 1;
            egress.sent.full_symbols += u64::from(symbol.len() == self.symbol_size);
        }
    }

    fn send_repair(&mut self, k: usize, m: usize, egress: &mut Egress<'_>) {
        let (layout, source) = self.block.coded();
        egress.code.encode(layout, source, m, &mut self.repair);
        for (index, symbol) in self.repair.chunks_exact(layout.size).enumerate() {
            let id = RepairId {
                profile: self.profile.number,
                esi: (k + index) as u16,
                sbn: self.sbn,
                source_symbols: k as u16,
                repair_symbols: m as u16,
                previous_symbols: RepairId::previous(self.previous_symbols),
            };
            egress.seal(DatagramType::Repair, self.classes.repair(), &id.emit(), symbol);
            egress.sent.repair_symbols += 1;
            egress.sent.full_symbols += u64::from(symbol.len() == self.symbol_size);
        }
        if egress.events.is_some() {
            egress.outbox.end_block(self.block_id());
        }
    }

    /// Bytes of a full datagram of this sender.
    pub fn datagram_len(&self) -> usize {
        HEADER_LEN + PAYLOAD_ID_LEN + self.symbol_size + TAG_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::super::handshake::{Established, Role};
    use super::super::hello::{Hello, PROTOCOL_VERSION};
    use super::super::outbox::Trains;
    use super::super::pacer::Pacer;
    use super::super::seal::{Cipher, CipherSet, OpeningKey, SealingKey};
    use super::super::session::Sessions;
    use super::*;
    use crate::tunnel::PeerId;
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
    #[derive(Debug, PartialEq, Eq)]
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
            };
            act(&mut self.sender, &mut egress)
        }

        fn push(&mut self, len: usize) {
            let now = self.now;
            let header = VirtioHeader { flags: u8::from(len > E), ..VirtioHeader::default() };
            self.with(|sender, egress| {
                sender.room()[..len].fill(7);
                sender.commit(header, len, egress, now);
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
        bench.with(|sender, egress| sender.handle_idle(egress, micros(5)));
        assert_eq!(bench.sent(), [Source(0, 0, 0)], "no byte waits for the next packet");
        assert_eq!(bench.sender.deadline(), Some(micros(55)));
        bench.with(|sender, egress| sender.handle_idle(egress, micros(30)));
        assert_eq!(bench.sender.deadline(), Some(micros(55)), "idle since the first call");
        bench.push(10);
        assert_eq!(bench.sender.deadline(), Some(micros(2000)));
        bench.with(|sender, egress| sender.handle_idle(egress, micros(1990)));
        assert_eq!(bench.sender.deadline(), Some(micros(2000)), "old before it is idle");
        bench.with(|sender, egress| sender.handle_timeout(egress, micros(1999)));
        assert_eq!(bench.sent(), [Source(0, 1, 0)]);
        bench.with(|sender, egress| sender.handle_timeout(egress, micros(2000)));
        assert_eq!(bench.sent(), [Repair(0, 2, 2, 1)]);
        assert_eq!(bench.sender.deadline(), None);
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
            bench.outbox.on_sent(len, now, |block, send, alone| taken.push((block.sbn, send, alone)));
            trains.push((datagrams, taken));
        }
        assert_eq!(trains, [(5, vec![]), (2, vec![]), (1, vec![(0, 2, true)])]);
        let block = BlockId { profile: 0, sbn: 0 };
        assert_eq!(bench.events, [BlockEvent::Closed { block, source_symbols: 5, repair_symbols: 3 }]);
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
}
