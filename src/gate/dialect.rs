//! A replication protocol as the gate sees it: a state machine that reads the bytes of both sides of one connection.
//!
//! A dialect forwards the bytes, notes marks in the stream toward the mirror, and when the gate releases a mark it
//! sends the primary the protocol's own acknowledgement. It has no socket and no clock, never fails and never panics,
//! whatever the bytes: it forwards what it does not understand, and from then on acknowledges nothing early.

use super::returns::{EarlyPosition, Mirror, Place};

/// One side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server that has the data first.
    Primary,
    /// Its copy at the far site, behind the appliance.
    Mirror,
}

/// Why a mark is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The appliance reports everything up to it as protected.
    Protected,
    /// Neither protected nor acknowledged by the mirror within the time of the policy `available`.
    Exposed,
}

/// The legs of a connection on which TLS ends at the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsChoice {
    /// The gate has a certificate for its callers.
    pub accepts: bool,
    /// The gate uses TLS to the server that it connects to.
    pub connects: bool,
}

/// A replication protocol.
pub trait Dialect: Send {
    /// Both sides are connected, and neither has sent anything.
    fn on_open(&mut self, _turn: &mut Turn) {}

    /// Bytes that came from `side`, in order. The dialect forwards them to the other side through `turn`.
    fn on_bytes(&mut self, side: Side, bytes: &[u8], turn: &mut Turn);

    /// Everything up to and including the mark `mark` (the highest, if several are released at once) may be
    /// acknowledged to the primary. Marks that the mirror has acknowledged itself are no longer released.
    fn on_released(&mut self, mark: u64, release: Release, turn: &mut Turn);

    /// The last position acknowledged early, on earlier connections, for the mirror that [`Turn::on_mirror`] named;
    /// none if there is none. Called before any further bytes. Dialects that check how much a mirror has when it
    /// reconnects keep it.
    fn on_recalled(&mut self, _spoken: Option<EarlyPosition>) {}

    /// `side` sends nothing more. The dialect forwards what it still holds; then the gate ends the other side's stream
    /// too.
    fn on_end(&mut self, _side: Side, _turn: &mut Turn) {}

    /// TLS was established on `side` after [`Turn::start_tls`]; from now on the bytes in both directions are plain
    /// text.
    fn on_tls(&mut self, _side: Side, _turn: &mut Turn) {}

    /// How many bytes may be read from the primary now. Limited only if the gate must slow the program down, for the
    /// cap on unprotected bytes.
    fn may_read(&self) -> usize {
        usize::MAX
    }

    /// Whether the server has not admitted the caller yet, so that the time for it may be limited. False if the
    /// protocol does not show it.
    fn is_starting(&self) -> bool {
        false
    }

    /// Whether released marks are acknowledged to the primary: the mirror has proven to be one. False while they are
    /// only noted.
    fn gives_early(&self) -> bool {
        true
    }

    /// What the connection does at the moment, for people: "start-up", "replication of slot mirror", "ordinary
    /// session".
    fn phase(&self) -> &str;
}

/// What a dialect wants done, in order. Bytes for one side are never sent to the other.
#[derive(Debug, Default)]
pub struct Turn {
    to_primary: Vec<u8>,
    to_mirror: Vec<u8>,
    marks: Vec<Mark>,
    acknowledged: Option<u64>,
    real: u64,
    injected: u64,
    tls: Vec<(Side, usize)>,
    notes: Vec<Note>,
    mirror: Option<Mirror>,
    early_position: Option<EarlyPosition>,
    shortfall: Option<Place>,
    close: Option<String>,
}

/// A position in the stream toward the mirror that the primary waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Bytes of this turn's output toward the mirror that come before it.
    pub after: usize,
    /// The protocol's own number for it; never falls within a connection.
    pub mark: u64,
}

/// A log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// For information.
    Info(String),
    /// The connection works, but not as its owner wants.
    Warning(String),
}

impl Turn {
    /// Sends `bytes` to `side`, after what this turn already sends there.
    pub fn send(&mut self, side: Side, bytes: &[u8]) {
        match side {
            Side::Primary => self.to_primary.extend_from_slice(bytes),
            Side::Mirror => self.to_mirror.extend_from_slice(bytes),
        }
    }

    /// Notes that the primary waits for everything sent to the mirror so far. `mark` must not be below an earlier one.
    pub fn mark(&mut self, mark: u64) {
        self.marks.push(Mark { after: self.to_mirror.len(), mark });
    }

    /// The mirror has acknowledged everything up to `mark` itself: a real acknowledgement was forwarded.
    pub fn on_acknowledged(&mut self, mark: u64) {
        self.real += 1;
        self.acknowledged = self.acknowledged.max(Some(mark));
    }

    /// Counts an acknowledgement that was sent to the primary and that the mirror has not given yet.
    pub fn on_injected(&mut self) {
        self.injected += 1;
    }

    /// The mirror has sent its name and asked for replication.
    pub fn on_mirror(&mut self, mirror: Mirror) {
        self.mirror = Some(mirror);
    }

    /// Everything up to there was acknowledged to the primary before the mirror acknowledged it.
    pub fn on_early_position(&mut self, early_position: EarlyPosition) {
        self.early_position = Some(early_position);
    }

    /// The mirror has come back with everything up to `has` and no more, which is proven, and less than was recalled.
    pub fn on_shortfall(&mut self, has: Place) {
        self.shortfall = Some(has);
    }

    /// Starts TLS on `side`, after what this turn has sent there so far: as the server toward the caller, as the client
    /// toward the server. [`Dialect::on_tls`] follows.
    pub fn start_tls(&mut self, side: Side) {
        let after = match side {
            Side::Primary => self.to_primary.len(),
            Side::Mirror => self.to_mirror.len(),
        };
        self.tls.push((side, after));
    }

    /// Logs `note`.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Ends the connection on both sides once everything is sent, and logs why.
    pub fn close(&mut self, reason: impl Into<String>) {
        self.close.get_or_insert(reason.into());
    }

    /// Bytes for `side`.
    pub fn sent(&self, side: Side) -> &[u8] {
        match side {
            Side::Primary => &self.to_primary,
            Side::Mirror => &self.to_mirror,
        }
    }

    /// The marks noted, in order.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// The highest mark that the mirror has acknowledged itself in this turn.
    pub fn acknowledged(&self) -> Option<u64> {
        self.acknowledged
    }

    /// Acknowledgements forwarded and injected in this turn.
    pub fn counts(&self) -> (u64, u64) {
        (self.real, self.injected)
    }

    /// Where TLS starts: the side, and how many bytes of this turn are sent to it before.
    pub fn tls(&self) -> &[(Side, usize)] {
        &self.tls
    }

    /// The lines to log.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The mirror that has sent its name.
    pub fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
    }

    /// The last position acknowledged early for the mirror.
    pub fn early_position(&self) -> Option<&EarlyPosition> {
        self.early_position.as_ref()
    }

    /// What the mirror came back with, if that is too little.
    pub fn shortfall(&self) -> Option<&Place> {
        self.shortfall.as_ref()
    }

    /// Why the connection must end, if it must.
    pub fn closing(&self) -> Option<&str> {
        self.close.as_deref()
    }

    /// Empties it for the next turn, and keeps its memory.
    pub fn clear(&mut self) {
        let Self {
            to_primary,
            to_mirror,
            marks,
            acknowledged,
            real,
            injected,
            tls,
            notes,
            mirror,
            early_position,
            shortfall,
            close,
        } = self;
        to_primary.clear();
        to_mirror.clear();
        marks.clear();
        (*acknowledged, *real, *injected) = (None, 0, 0);
        tls.clear();
        notes.clear();
        (*mirror, *early_position, *shortfall) = (None, None, None);
        *close = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_keeps_order_and_is_empty_after_clearing() {
        let mut turn = Turn::default();
        turn.send(Side::Mirror, b"abc");
        turn.mark(3);
        turn.send(Side::Mirror, b"de");
        turn.mark(5);
        turn.send(Side::Primary, b"S");
        turn.start_tls(Side::Primary);
        turn.on_acknowledged(2);
        turn.on_acknowledged(1);
        turn.on_injected();
        turn.on_early_position(EarlyPosition { place: Place::Wal(5), stamp: 0 });
        turn.on_shortfall(Place::Wal(3));
        turn.close("done");
        turn.close("later");
        assert_eq!(turn.sent(Side::Mirror), b"abcde");
        assert_eq!(turn.marks(), [Mark { after: 3, mark: 3 }, Mark { after: 5, mark: 5 }]);
        assert_eq!(turn.tls(), [(Side::Primary, 1)]);
        assert_eq!((turn.acknowledged(), turn.counts(), turn.closing()), (Some(2), (2, 1), Some("done")));
        turn.clear();
        assert!(turn.sent(Side::Mirror).is_empty() && turn.marks().is_empty() && turn.closing().is_none());
        assert_eq!((turn.acknowledged(), turn.counts()), (None, (0, 0)));
        assert!(turn.mirror().is_none() && turn.early_position().is_none() && turn.shortfall().is_none());
    }
}
