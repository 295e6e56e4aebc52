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

use super::block_event::{BlockEvent, Part};
use super::late_repair::{EarlyPart, LatePart, LateRepair, Spread};
use super::outbox::Outbox;
use super::outer_class::{OuterRule, SymbolClasses};
use super::sent::Sent;
use super::session::Session;
use crate::fec::code::Code;
use crate::fec::layout::MAX_ENCODING_SYMBOLS;
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
    /// Repair symbols that leave with each block, by its length.
    pub plan: Plan,
    /// An interruption of the link of this length, at any moment, loses no block whose late part has left. Zero: there is
    /// no late part.
    pub survive_burst: Duration,
    /// The plan reaches what the profile promises on the link as it is.
    pub keeps_promise: bool,
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
    /// The present.
    pub now: Instant,
}

impl Egress<'_> {
    /// Seals one datagram of `prefix` and `body` straight into the outbox.
    pub fn seal(&mut self, datagram_type: DatagramType, class: TrafficClass, prefix: &[u8], body: &[u8]) {
        let header = self.session.next_header(datagram_type);
        let clear = header.emit();
        let len = HEADER_LEN + prefix.len() + body.len() + TAG_LEN;
        let datagram = self.outbox.append(len, class, self.now);
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
    /// The longest block that `block` has memory for.
    room_for: usize,
    block: SourceBlock,
    classes: SymbolClasses,
    repair: Vec<u8>,
    symbol_size: usize,
    sbn: u64,
    previous_symbols: u16,
    opened_at: Option<Instant>,
    idle_since: Option<Instant>,
    /// When each source symbol of the open block was sent; empty without late repair.
    times: Vec<Instant>,
    late: LateRepair,
    /// How long what was sent has waited in this host of late, at most.
    lag: Duration,
    /// Replaces the profile when the next block begins.
    next_profile: Option<Profile>,
}

impl Sender {
    /// A sender that has sent nothing yet.
    pub fn new(profile: Profile, symbol_size: usize, outer: OuterRule) -> Self {
        let block = SourceBlock::new(symbol_size, profile.block_symbols);
        let classes = SymbolClasses::new(outer, SourceBlock::symbols_max(symbol_size, profile.block_symbols));
        Self {
            room_for: profile.block_symbols,
            profile,
            block,
            classes,
            repair: Vec::new(),
            symbol_size,
            sbn: 0,
            previous_symbols: 0,
            opened_at: None,
            idle_since: None,
            times: Vec::new(),
            late: LateRepair::default(),
            lag: Duration::ZERO,
            next_profile: None,
        }
    }

    /// Blocks follow this profile from the next one on. It has the same number.
    pub fn set_profile(&mut self, profile: Profile) {
        self.next_profile = Some(profile);
        if !self.is_open() {
            self.follow_profile();
        }
    }

    fn follow_profile(&mut self) {
        if let Some(next) = self.next_profile.take() {
            if next.block_symbols > self.room_for {
                self.block = SourceBlock::new(self.symbol_size, next.block_symbols);
                self.classes.make_room(SourceBlock::symbols_max(self.symbol_size, next.block_symbols));
                self.room_for = next.block_symbols;
            }
            self.profile = next;
        }
    }

    /// The buffer for the next packet.
    pub fn room(&mut self) -> &mut [u8] {
        self.block.room()
    }

    /// Takes the packet of `len` bytes at the front of [`room`](Self::room); sends full symbols, closes a full block.
    pub fn commit(&mut self, virtio: VirtioHeader, len: usize, egress: &mut Egress<'_>) {
        self.opened_at.get_or_insert(egress.now);
        self.idle_since = None;
        let class = TrafficClass::of(&self.block.room()[..len]);
        self.classes.add(self.block.commit(virtio, len), class);
        egress.sent.adus += 1;
        egress.sent.adu_bytes += len as u64;
        self.send_finished(egress);
        if self.block.symbols() >= self.profile.block_symbols {
            self.close(egress);
        }
    }

    /// The TUN is empty: the open symbol leaves short.
    pub fn handle_idle(&mut self, egress: &mut Egress<'_>) {
        if self.is_open() {
            self.block.finish_symbol();
            self.send_finished(egress);
            self.idle_since.get_or_insert(egress.now);
        }
    }

    /// Closes the block if its deadline has passed, and sends the late parts that are due.
    pub fn handle_timeout(&mut self, egress: &mut Egress<'_>) {
        if self.closes_at().is_some_and(|deadline| deadline <= egress.now) {
            self.close(egress);
        }
        while let Some(part) = self.late.poll_due(egress.now) {
            if egress.outbox.sheds_repair(egress.now) {
                egress.sent.repair_shed += part.count();
                drop_late(&part, egress.sent, egress.events.as_deref_mut());
            } else {
                self.send_late(&part, egress);
            }
        }
        while let Some(part) = self.late.poll_expired(egress.now) {
            drop_late(&part, egress.sent, egress.events.as_deref_mut());
        }
    }

    /// When the open block closes or a late part is due, if nothing more comes.
    pub fn deadline(&self) -> Option<Instant> {
        self.closes_at().into_iter().chain(self.late.deadline()).min()
    }

    fn closes_at(&self) -> Option<Instant> {
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
    pub fn close(&mut self, egress: &mut Egress<'_>) {
        if !self.is_open() {
            return;
        }
        self.block.finish_symbol();
        self.send_finished(egress);
        let k = self.block.finished();
        let mut early = self.profile.plan.repair_symbols(k);
        let mut late = self.late_symbols(early, egress.now);
        let is_promised = late > 0;
        if egress.outbox.sheds_repair(egress.now) {
            egress.sent.repair_shed += (std::mem::take(&mut early) + std::mem::take(&mut late)) as u64;
        }
        let (block, m) = (self.block_id(), early + late);
        let mut has_late = late > 0;
        if m > 0 {
            let size = self.send_repair(k, early, m, egress);
            has_late = has_late && self.keep_late(k, early, m, size, egress);
        }
        let keeps_promise = self.profile.keeps_promise && has_late == is_promised;
        if let Some(events) = &mut egress.events {
            let (source_symbols, repair_symbols) = (k as u16, m as u16);
            events.push_back(BlockEvent::Closed { block, source_symbols, repair_symbols, has_late, keeps_promise });
        }
        egress.sent.blocks += 1;
        self.begin_next(k as u16);
    }

    /// The late repair symbols of the block that closes now. There are none without early ones: the last of these shows
    /// when the early part has left.
    fn late_symbols(&self, early: usize, now: Instant) -> usize {
        if self.profile.survive_burst.is_zero() || early == 0 {
            return 0;
        }
        let part = EarlyPart { source: &self.times, repair_symbols: early, closed_at: now };
        let late = part.late_symbols(self.profile.survive_burst, self.lag);
        late.min(MAX_ENCODING_SYMBOLS.saturating_sub(self.block.finished() + early))
    }

    /// The number below which every block is closed, and k of the last of them; k is 0 if that block was abandoned.
    pub fn closed_below(&self) -> (u64, u16) {
        (self.sbn, self.previous_symbols)
    }

    /// The early part of block `sbn` has left this host by now, nothing of it more than `lag` after it was sent: its late
    /// part follows. Returns false if the block's promise is not kept.
    pub fn on_early_left(&mut self, sbn: u64, lag: Duration, now: Instant) -> bool {
        self.lag = lag;
        self.late.on_early_left(sbn, lag, now) != Some(Spread::Broken)
    }

    /// A late part waits.
    pub fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Drops the late parts: their session has ended, or the peer was restarted.
    pub fn drop_late(&mut self, sent: &mut Sent, mut events: Option<&mut VecDeque<BlockEvent>>) {
        while let Some(part) = self.late.pop() {
            drop_late(&part, sent, events.as_deref_mut());
        }
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
        self.times.clear();
        self.follow_profile();
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
            if !self.profile.survive_burst.is_zero() {
                self.times.push(egress.now);
            }
            egress.sent.full_symbols += u64::from(symbol.len() == self.symbol_size);
        }
    }

    /// Computes all repair symbols of the block and sends the early ones. Returns their size.
    fn send_repair(&mut self, k: usize, early: usize, m: usize, egress: &mut Egress<'_>) -> usize {
        let (layout, source) = self.block.coded();
        let encoded = egress.code.encode(layout, source, m, &mut self.repair);
        debug_assert_eq!(encoded, m, "plan and late part keep the limits of the code");
        let first = self.repair_id(k, 0, m);
        send_symbols(
            first,
            &self.repair[..early * layout.size],
            layout.size,
            self.symbol_size,
            self.classes.repair(),
            egress,
        );
        if egress.events.is_some() || early < m {
            egress.outbox.end_part(self.block_id(), Part::Early);
        }
        layout.size
    }

    fn repair_id(&self, k: usize, index: usize, m: usize) -> RepairId {
        RepairId {
            profile: self.profile.number,
            esi: (k + index) as u16,
            sbn: self.sbn,
            source_symbols: k as u16,
            repair_symbols: m as u16,
            previous_symbols: RepairId::previous(self.previous_symbols),
        }
    }

    /// Keeps the repair symbols behind the early ones until they are due. Returns false if there is no room.
    fn keep_late(&mut self, k: usize, early: usize, m: usize, size: usize, egress: &mut Egress<'_>) -> bool {
        let first = self.repair_id(k, early, m);
        let symbols = &self.repair[early * size..];
        let part = EarlyPart { source: &self.times, repair_symbols: early, closed_at: egress.now };
        let is_kept = self.late.push(first, symbols, size, self.classes.repair(), part, self.profile.survive_burst);
        if !is_kept {
            egress.sent.late_dropped += (m - early) as u64;
        }
        is_kept
    }

    fn send_late(&self, part: &LatePart, egress: &mut Egress<'_>) {
        send_symbols(part.first, &part.symbols, part.symbol_size, self.symbol_size, part.class, egress);
        egress.sent.late_symbols += part.count();
        if egress.events.is_some() {
            let block = BlockId { profile: part.first.profile, sbn: part.first.sbn };
            egress.outbox.end_part(block, Part::Late);
        }
    }

    /// Bytes of a full datagram of this sender.
    pub fn datagram_len(&self) -> usize {
        HEADER_LEN + PAYLOAD_ID_LEN + self.symbol_size + TAG_LEN
    }
}

/// Sends repair symbols of one block, which lie end to end in `symbols`; the first has the id `first`.
fn send_symbols(
    first: RepairId,
    symbols: &[u8],
    size: usize,
    full: usize,
    class: TrafficClass,
    egress: &mut Egress<'_>,
) {
    for (index, symbol) in symbols.chunks_exact(size).enumerate() {
        let id = RepairId { esi: first.esi + index as u16, ..first };
        egress.seal(DatagramType::Repair, class, &id.emit(), symbol);
        egress.sent.repair_symbols += 1;
        egress.sent.full_symbols += u64::from(symbol.len() == full);
    }
}

/// A late part is not sent.
fn drop_late(part: &LatePart, sent: &mut Sent, events: Option<&mut VecDeque<BlockEvent>>) {
    sent.late_dropped += part.count();
    if let Some(events) = events {
        let block = BlockId { profile: part.first.profile, sbn: part.first.sbn };
        events.push_back(BlockEvent::PromiseBroken { block });
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
        let closed = BlockEvent::Closed { block, source_symbols, repair_symbols, has_late: false, keeps_promise: true };
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
}
