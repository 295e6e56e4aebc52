//! Plays sessions through a dialect, for the tests of dialects: steps of both sides, cut anywhere, and the outcome. It
//! knows no protocol.

use super::dialect::{Dialect, Mark, Note, Release, Side, Turn};
use super::returns::{EarlyPosition, Mirror, Place};

/// One step of a session.
#[derive(Clone, Debug)]
pub enum Step {
    /// The primary sends this.
    Primary(Vec<u8>),
    /// The mirror sends this.
    Mirror(Vec<u8>),
    /// The gate releases this mark.
    Released(u64),
    /// This side sends nothing more.
    Ended(Side),
}

/// The outcome of a session.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Everything sent to the primary.
    pub to_primary: Vec<u8>,
    /// Everything sent to the mirror.
    pub to_mirror: Vec<u8>,
    /// The marks, each with the number of bytes before it.
    pub marks: Vec<(u64, usize)>,
    /// The highest mark that the mirror has acknowledged itself.
    pub acknowledged: Option<u64>,
    /// Acknowledgements forwarded and injected.
    pub counts: (u64, u64),
    /// The mirror's identity, as sent last.
    pub named: Option<Mirror>,
    /// The mirror's identity in the present turn.
    mirror: Option<Mirror>,
    /// The last position acknowledged early for it.
    pub early_position: Option<EarlyPosition>,
    /// What it came back with, each time that was too little.
    pub shortfalls: Vec<Place>,
    /// The warnings logged.
    pub warnings: Vec<String>,
    /// The dialect's phase at the end.
    pub phase: String,
}

/// Plays the steps; `cut` gets the number of bytes that a side still has to send and returns how many come at once.
pub fn play(dialect: impl Dialect, steps: &[Step], cut: impl FnMut(usize) -> usize) -> Outcome {
    play_again(dialect, None, steps, cut)
}

/// As [`play`], with a mirror for which `recalled` was acknowledged early before.
pub fn play_again(
    mut dialect: impl Dialect,
    recalled: Option<EarlyPosition>,
    steps: &[Step],
    mut cut: impl FnMut(usize) -> usize,
) -> Outcome {
    let mut outcome = Outcome::default();
    for step in steps {
        let (side, mut rest) = match step {
            Step::Primary(bytes) => (Side::Primary, bytes.as_slice()),
            Step::Mirror(bytes) => (Side::Mirror, bytes.as_slice()),
            Step::Released(mark) => {
                outcome.take(|turn| dialect.on_released(*mark, Release::Protected, turn));
                continue;
            }
            Step::Ended(side) => {
                outcome.take(|turn| dialect.on_end(*side, turn));
                continue;
            }
        };
        while !rest.is_empty() {
            let (piece, further) = rest.split_at(cut(rest.len()).clamp(1, rest.len()));
            outcome.mirror = None;
            outcome.take(|turn| dialect.on_bytes(side, piece, turn));
            if let Some(mirror) = outcome.mirror.take() {
                outcome.named = Some(mirror);
                dialect.on_recalled(recalled.clone());
            }
            rest = further;
        }
    }
    outcome.phase = dialect.phase().to_owned();
    outcome
}

/// All that `side` sends in these steps.
pub fn given(steps: &[Step], side: Side) -> Vec<u8> {
    let of_side = |step: &Step| match (step, side) {
        (Step::Primary(bytes), Side::Primary) | (Step::Mirror(bytes), Side::Mirror) => bytes.clone(),
        _ => vec![],
    };
    steps.iter().flat_map(of_side).collect()
}

impl Outcome {
    /// The highest mark and the number of bytes before it.
    pub fn last_mark(&self) -> Option<(u64, usize)> {
        self.marks.last().copied()
    }

    fn take(&mut self, act: impl FnOnce(&mut Turn)) {
        let mut turn = Turn::default();
        act(&mut turn);
        for Mark { after, mark } in turn.marks() {
            assert!(self.marks.last().is_none_or(|(last, _)| last <= mark), "marks rise");
            self.marks.push((*mark, self.to_mirror.len() + after));
        }
        self.to_primary.extend_from_slice(turn.sent(Side::Primary));
        self.to_mirror.extend_from_slice(turn.sent(Side::Mirror));
        self.acknowledged = self.acknowledged.max(turn.acknowledged());
        self.counts = (self.counts.0 + turn.counts().0, self.counts.1 + turn.counts().1);
        self.mirror = turn.mirror().cloned();
        self.early_position = turn.early_position().cloned().or(self.early_position.take());
        self.shortfalls.extend(turn.shortfall().cloned());
        for note in turn.notes() {
            if let Note::Warning(text) = note {
                self.warnings.push(text.clone());
            }
        }
        assert_eq!(turn.closing(), None);
    }
}
