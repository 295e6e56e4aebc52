//! `redundancy`: named profiles that say how blocks are cut and protected. Does not plan repair for short blocks; the
//! code's planner does.

use std::time::Duration;

/// How the traffic of one kind is cut into blocks and protected.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Unique name.
    pub name: String,
    /// A block closes when it holds this many source symbols (k) ...
    pub block_symbols: u16,
    /// ... or when nothing more has come for this long ...
    pub close_when_idle: Duration,
    /// ... or, at the latest, this long after its first byte.
    pub close_after: Duration,
    /// How many repair symbols a block gets.
    pub repair: Repair,
}

/// The repair symbols of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Repair {
    /// A tunnel without protection.
    None,
    /// A fixed number for a full block; a short block gets so many that its residual loss is no worse.
    Fixed {
        /// Repair symbols (m) of a full block, 1 to 4096.
        symbols: u16,
        /// The loss, as a fraction, at which short and full blocks are compared.
        ///
        /// The default of 0.1 % is small on purpose: a short block that is no worse than a full one at little loss is
        /// no worse at any greater loss either, and the reverse does not hold.
        assume_loss: f64,
    },
}

impl Repair {
    /// Repair symbols of a full block: m.
    pub fn symbols(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Fixed { symbols, .. } => symbols,
        }
    }
}

impl Profile {
    /// m/k of a full block, as a fraction.
    pub fn overhead(&self) -> f64 {
        f64::from(self.repair.symbols()) / f64::from(self.block_symbols.max(1))
    }
}
