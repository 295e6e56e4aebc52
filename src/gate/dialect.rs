//! What a replication protocol is to the gate: a state machine that sees the bytes of both sides of one connection.
//!
//! A dialect forwards what it is given, notes marks in the stream toward the mirror, and when the gate releases a mark
//! says so to the primary in the protocol's own words. It has no socket and no clock, never fails and never panics,
//! whatever the bytes: what it does not understand it forwards, and acknowledges nothing early from then on.

use super::returns::{Mirror, Place, Spoken};

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
    /// The appliance calls everything up to it protected.
    Protected,
    /// Neither protected nor acknowledged by the mirror within the time of the policy `available`.
    Exposed,
}

/// On which legs of a connection TLS is configured to end at the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsChoice {
    /// The gate has a certificate for those who connect to it.
    pub accepts: bool,
    /// The gate speaks TLS to the server that it connects to.
    pub connects: bool,
}

/// A replication protocol.
pub trait Dialect: Send {
    /// Both sides are connected and nothing has come from either.
    fn on_open(&mut self, _turn: &mut Turn) {}

    /// Bytes that came from `side`, in order. Whatever has to be forwarded goes to the other side through `turn`.
    fn on_bytes(&mut self, side: Side, bytes: &[u8], turn: &mut Turn);

    /// Everything up to and with the mark `mark` (the highest, when several are released at once) may be acknowledged to
    /// the primary. Marks that the mirror has acknowledged itself are not released any more.
    fn on_released(&mut self, mark: u64, release: Release, turn: &mut Turn);

    /// What the mirror that [`Turn::on_mirror`] named was spoken for on earlier connections; none if for nothing. Comes
    /// before any further bytes. Dialects that prove with how much a mirror comes back keep it.
    fn on_recalled(&mut self, _spoken: Option<Spoken>) {}

    /// `side` will send nothing more. What is still held back is forwarded now; the gate then ends the other side's
    /// stream too.
    fn on_end(&mut self, _side: Side, _turn: &mut Turn) {}

    /// TLS was established on `side` after [`Turn::start_tls`]; bytes given and taken from now on are plain text.
    fn on_tls(&mut self, _side: Side, _turn: &mut Turn) {}

    /// How many bytes may be read from the primary now: less than everything only where the gate must hold back the
    /// program, as the cap on unprotected bytes does.
    fn may_read(&self) -> usize {
        usize::MAX
    }

    /// Whoever connected was not admitted by the server yet, so what it does may be limited in time. False where the
    /// protocol does not show it.
    fn is_starting(&self) -> bool {
        false
    }

    /// Released marks are acknowledged to the primary: the mirror has shown that it is one. False while they are only noted.
    fn gives_early(&self) -> bool {
        true
    }

    /// What the connection does at the moment, for people: "start-up", "replication of slot mirror", "ordinary session".
    fn phase(&self) -> &str;
}

/// What a dialect wants done, in order. Bytes reserved for one side are never seen by the other.
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
    spoken: Option<Spoken>,
    shortfall: Option<Place>,
    close: Option<String>,
}

/// A place in the stream toward the mirror that the primary waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Bytes of this turn's output toward the mirror that come before it.
    pub after: usize,
    /// The protocol's own number of it; never falls within a connection.
    pub mark: u64,
}

/// Something to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Good to know.
    Info(String),
    /// The connection works, and is not what its owner wants.
    Warning(String),
}

impl Turn {
    /// Sends `bytes` to `side`, behind what this turn sends there already.
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

    /// An acknowledgement that the mirror has not given yet was sent to the primary, for counting.
    pub fn on_injected(&mut self) {
        self.injected += 1;
    }

    /// The mirror says who it is, and asks to be replicated to.
    pub fn on_mirror(&mut self, mirror: Mirror) {
        self.mirror = Some(mirror);
    }

    /// The primary was told, before the mirror said so, that the mirror has everything up to there.
    pub fn on_spoken(&mut self, spoken: Spoken) {
        self.spoken = Some(spoken);
    }

    /// The mirror is proven to have come back with everything up to `has` and no more, which is less than was recalled.
    pub fn on_shortfall(&mut self, has: Place) {
        self.shortfall = Some(has);
    }

    /// Begins TLS on `side`, behind what this turn has sent there so far: as server toward who connected to the gate, as
    /// client toward whom the gate connected to. [`Dialect::on_tls`] follows.
    pub fn start_tls(&mut self, side: Side) {
        let after = match side {
            Side::Primary => self.to_primary.len(),
            Side::Mirror => self.to_mirror.len(),
        };
        self.tls.push((side, after));
    }

    /// Logs.
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

    /// Marks noted, in order.
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

    /// Where TLS begins: the side, and the bytes of this turn that are sent to it before.
    pub fn tls(&self) -> &[(Side, usize)] {
        &self.tls
    }

    /// What to log.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The mirror that has said who it is.
    pub fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
    }

    /// Up to where the mirror was spoken for last.
    pub fn spoken(&self) -> Option<&Spoken> {
        self.spoken.as_ref()
    }

    /// What the mirror has come back with, if that is too little.
    pub fn shortfall(&self) -> Option<&Place> {
        self.shortfall.as_ref()
    }

    /// Why the connection must end, if it must.
    pub fn closing(&self) -> Option<&str> {
        self.close.as_deref()
    }

    /// Empties it for the next turn; keeps its memory.
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
            spoken,
            shortfall,
            close,
        } = self;
        to_primary.clear();
        to_mirror.clear();
        marks.clear();
        (*acknowledged, *real, *injected) = (None, 0, 0);
        tls.clear();
        notes.clear();
        (*mirror, *spoken, *shortfall) = (None, None, None);
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
        turn.on_spoken(Spoken { place: Place::Wal(5), stamp: 0 });
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
        assert!(turn.mirror().is_none() && turn.spoken().is_none() && turn.shortfall().is_none());
    }
}
