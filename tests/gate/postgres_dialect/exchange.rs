//! PostgreSQL messages, and a connection of two sides through the dialect.

use onwire::gate::{
    dialect::{Dialect, Note, Release, Side, TlsChoice, Turn},
    postgres::Postgres,
    returns::{EarlyPosition, Mirror},
};

/// A typed message.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// A CopyData message.
pub fn copy(body: &[u8]) -> Vec<u8> {
    message(b'd', body)
}

/// A simple query.
pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

/// WAL, or a logical change, of `len` bytes at `start`; the end of the server's WAL is far beyond it.
pub fn wal(start: u64, len: usize) -> Vec<u8> {
    copy(&[&b"w"[..], &start.to_be_bytes(), &(1_u64 << 60).to_be_bytes(), &[0; 8], &vec![0x72; len]].concat())
}

/// A keepalive from the primary.
pub fn keepalive(end: u64) -> Vec<u8> {
    copy(&[&b"k"[..], &end.to_be_bytes(), &[0; 9]].concat())
}

/// A standby status update.
pub fn status(write: u64, flush: u64, apply: u64, reply: u8) -> Vec<u8> {
    let positions = [write, flush, apply, 0x1234_5678].map(u64::to_be_bytes).concat();
    copy(&[&b"r"[..], &positions, &[reply]].concat())
}

/// A first packet.
pub fn startup(code: u32, parameters: &str) -> Vec<u8> {
    let length = u32::try_from(parameters.len() + 8).unwrap();
    [&length.to_be_bytes()[..], &code.to_be_bytes(), parameters.as_bytes()].concat()
}

/// A request to cancel.
pub fn cancel() -> Vec<u8> {
    startup(80_877_102, "12345678")
}

/// Both sides of a connection, and all that the dialect sent.
pub struct Exchange {
    dialect: Postgres,
    to_primary: Vec<u8>,
    to_mirror: Vec<u8>,
    /// How many bytes of each the test has looked at.
    seen: [usize; 2],
    marks: Vec<(usize, u64)>,
    acknowledged: Option<u64>,
    counts: (u64, u64),
    notes: Vec<Note>,
    tls: Vec<(Side, usize)>,
    closing: Option<String>,
    mirror: Option<Mirror>,
    early_position: Option<EarlyPosition>,
}

impl Exchange {
    pub fn new(tls: TlsChoice) -> Self {
        let dialect = Postgres::new(tls);
        Self {
            dialect,
            to_primary: vec![],
            to_mirror: vec![],
            seen: [0; 2],
            marks: vec![],
            acknowledged: None,
            counts: (0, 0),
            notes: vec![],
            tls: vec![],
            closing: None,
            mirror: None,
            early_position: None,
        }
    }

    fn turn(&mut self, act: impl FnOnce(&mut Postgres, &mut Turn)) {
        let mut turn = Turn::default();
        act(&mut self.dialect, &mut turn);
        let base = self.to_mirror.len() - self.seen[1];
        let noted = turn.marks().iter().map(|mark| (base + mark.after, mark.mark));
        let last = self.marks.last().map_or(0, |mark| mark.1);
        self.marks.extend(noted);
        assert!(self.marks.is_sorted_by_key(|mark| mark.1) && self.marks.last().is_none_or(|mark| mark.1 >= last));
        self.to_primary.extend_from_slice(turn.sent(Side::Primary));
        self.to_mirror.extend_from_slice(turn.sent(Side::Mirror));
        self.acknowledged = self.acknowledged.max(turn.acknowledged());
        self.counts.0 += turn.counts().0;
        self.counts.1 += turn.counts().1;
        self.notes.extend_from_slice(turn.notes());
        self.mirror = turn.mirror().cloned().or(self.mirror.take());
        self.early_position = turn.early_position().cloned().or(self.early_position.take());
        self.tls = turn.tls().to_vec();
        if let Some(reason) = turn.closing() {
            self.closing.get_or_insert(reason.to_owned());
        }
    }

    pub fn give(&mut self, side: Side, bytes: &[u8]) {
        self.turn(|dialect, turn| dialect.on_bytes(side, bytes, turn));
    }

    pub fn primary(&mut self, bytes: &[u8]) {
        self.give(Side::Primary, bytes);
    }

    pub fn mirror(&mut self, bytes: &[u8]) {
        self.give(Side::Mirror, bytes);
    }

    pub fn release(&mut self, mark: u64) {
        self.release_as(mark, Release::Protected);
    }

    pub fn release_as(&mut self, mark: u64, release: Release) {
        self.turn(|dialect, turn| dialect.on_released(mark, release, turn));
    }

    pub fn secured(&mut self, side: Side) {
        self.turn(|dialect, turn| dialect.on_tls(side, turn));
    }

    pub fn end(&mut self, side: Side) {
        self.turn(|dialect, turn| dialect.on_end(side, turn));
    }

    /// A start-up without a password, up to the first ReadyForQuery.
    pub fn log_in(&mut self, parameters: &str) {
        self.mirror(&startup(0x3_0000, parameters));
        let status = message(b'S', b"server_version\x0015\0");
        self.primary(&[message(b'R', &[0; 4]), status, message(b'K', &[1; 8]), message(b'Z', b"I")].concat());
    }

    /// A command that starts replication, and its answer.
    pub fn start(&mut self, command: &str) {
        self.mirror(&query(command));
        self.primary(&message(b'W', b"\0\0\0"));
    }

    /// Counts everything sent so far as seen: offsets of marks start here.
    pub fn forget(&mut self) {
        self.seen = [self.to_primary.len(), self.to_mirror.len()];
        self.marks.clear();
    }

    /// The bytes sent to the primary since the last call.
    pub fn received_by_primary(&mut self) -> Vec<u8> {
        let news = self.to_primary[self.seen[0]..].to_vec();
        self.seen[0] = self.to_primary.len();
        news
    }

    /// The bytes sent to the mirror since [`forget`](Self::forget).
    pub fn mirror_heard(&self) -> Vec<u8> {
        self.to_mirror[self.seen[1]..].to_vec()
    }

    /// All bytes sent to the primary since the beginning of replication.
    pub fn all_to_primary(&self) -> &[u8] {
        &self.to_primary[self.seen[0]..]
    }

    /// As [`all_to_primary`](Self::all_to_primary), for the mirror.
    pub fn all_to_mirror(&self) -> &[u8] {
        &self.to_mirror[self.seen[1]..]
    }

    pub fn marks(&self) -> Vec<(usize, u64)> {
        self.marks.clone()
    }

    pub fn acknowledged(&self) -> Option<u64> {
        self.acknowledged
    }

    pub fn counts(&self) -> (u64, u64) {
        self.counts
    }

    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    pub fn warnings(&self) -> usize {
        self.notes.iter().filter(|note| matches!(note, Note::Warning(_))).count()
    }

    pub fn tls(&self) -> Vec<(Side, usize)> {
        self.tls.clone()
    }

    pub fn closing(&self) -> Option<&str> {
        self.closing.as_deref()
    }

    /// The mirror's identity, as sent last.
    pub fn mirror_is(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
    }

    /// The last position acknowledged early for it.
    pub fn early_position(&self) -> Option<&EarlyPosition> {
        self.early_position.as_ref()
    }

    pub fn phase(&self) -> String {
        self.dialect.phase().to_owned()
    }
}
