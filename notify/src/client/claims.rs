//! Claims about the bytes of one flow: how far each level reaches, and up to where which interruption is survived.
//!
//! Each message says what it says for all bytes below its position, and what was true of bytes stays true of them. So
//! messages are combined by the maximum, in whatever order they come. The promise of a flow may change: what was claimed
//! under a greater one is kept apart, and a position under a lesser one does not raise it.

use std::time::Duration;

use crate::message::{Level, Positions};

/// Promises kept apart. A flow has one, seldom two in its life.
const MOST: usize = 8;

/// What was claimed.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    positions: Positions,
    /// Interruptions in microseconds, each with the position on the wire up to which it is survived: the longer, the
    /// lower. None is 0.
    bursts: Vec<(u32, u64)>,
}

impl Claims {
    /// A message claims these positions; its bytes on the wire survive an interruption of `burst` microseconds.
    pub fn raise(&mut self, positions: &Positions, burst: u32) {
        self.positions.raise(positions);
        if let Some(on_wire) = positions.on_wire {
            self.raise_burst(burst, on_wire);
        }
    }

    /// Bytes below `position` are at this level.
    pub fn raise_level(&mut self, level: Level, position: u64) {
        self.positions.set(level, self.positions.at(level).unwrap_or(0).max(position));
    }

    /// Bytes below `position` are on the wire and survive an interruption of `burst` microseconds.
    pub fn raise_burst(&mut self, burst: u32, position: u64) {
        let implied = |known: &(u32, u64)| known.0 >= burst && known.1 >= position;
        if burst == 0 || self.bursts.iter().any(implied) {
            return;
        }
        self.bursts.retain(|known| known.0 > burst || known.1 > position);
        let at = self.bursts.partition_point(|known| known.0 < burst);
        self.bursts.insert(at, (burst, position));
        // The longest is about the oldest bytes; without it less is called protected, never more.
        self.bursts.truncate(MOST);
    }

    /// The position below which all bytes are at exactly this level and survive an interruption of `burst`.
    pub fn at(&self, level: Level, burst: Duration) -> Option<u64> {
        let survives = |known: &&(u32, u64)| Duration::from_micros(known.0.into()) >= burst;
        match level {
            _ if burst.is_zero() => self.positions.at(level),
            Level::Queued | Level::Early => None,
            Level::OnWire => self.bursts.iter().find(survives).map(|known| known.1),
            Level::Decoded | Level::Acked => self.positions.at(level),
        }
    }

    /// The interruptions that were promised, in microseconds.
    pub fn bursts(&self) -> impl Iterator<Item = u32> {
        self.bursts.iter().map(|known| known.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn on_wire(position: u64) -> Positions {
        Positions { on_wire: Some(position), ..Positions::default() }
    }

    #[test]
    fn a_position_under_a_lesser_promise_does_not_raise_a_greater_one() {
        let mut claims = Claims::default();
        claims.raise(&on_wire(100), 2000);
        claims.raise(&on_wire(300), 500);
        claims.raise(&Positions { early: Some(900), decoded: Some(40), queued: Some(999), ..on_wire(200) }, 0);
        let at = |level, micros| claims.at(level, Duration::from_micros(micros));
        for (micros, reach) in [(0, Some(300)), (1, Some(300)), (500, Some(300)), (501, Some(100)), (2000, Some(100))] {
            assert_eq!(at(Level::OnWire, micros), reach, "{micros}");
        }
        assert_eq!((at(Level::OnWire, 2001), at(Level::Decoded, 2001)), (None, Some(40)));
        assert_eq!((at(Level::Early, 0), at(Level::Early, 1), at(Level::Queued, 1)), (Some(900), None, None));
        claims.raise(&on_wire(300), 2000);
        assert_eq!(claims.bursts().collect::<Vec<_>>(), [2000], "the lesser promise is implied");
    }

    proptest! {
        /// Compares with a model that keeps every claim. With few promises nothing is forgotten.
        #[test]
        fn reach_is_the_highest_claim_under_the_demanded_promise(
            claimed in proptest::collection::vec((0..12u32, 0..50u64), 0..60), few in 1..12u32,
        ) {
            let mut claims = Claims::default();
            let claimed: Vec<_> = claimed.into_iter().map(|(burst, position)| (burst % few, position)).collect();
            claimed.iter().for_each(|(burst, position)| claims.raise(&on_wire(*position), *burst));
            prop_assert!(claims.bursts.len() <= MOST);
            for demanded in 0..13u32 {
                let model = claimed.iter().filter(|(burst, _)| *burst >= demanded).map(|(_, position)| *position).max();
                let reach = claims.at(Level::OnWire, Duration::from_micros(demanded.into()));
                match few as usize <= MOST {
                    true => prop_assert_eq!(reach, model, "{}", demanded),
                    false => prop_assert!(reach <= model),
                }
            }
        }
    }
}
