//! A target that a plan does not reach: which one, why, and what would reach it. As values, and in words.

use std::fmt;
use std::time::Duration;

/// One of the targets of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `residual`.
    Residual,
    /// `survive_burst`.
    SurviveBurst,
    /// `max_overhead`.
    MaxOverhead,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Residual, Self::SurviveBurst, Self::MaxOverhead];

    /// Its key in the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Self::Residual => "residual",
            Self::SurviveBurst => "survive_burst",
            Self::MaxOverhead => "max_overhead",
        }
    }
}

/// A target that is not reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreached {
    /// Which one.
    pub target: Target,
    /// Why.
    pub cause: Cause,
    /// What would reach it: each alone, except that a longer block may need both its time and its symbols.
    pub remedies: Vec<Remedy>,
}

/// Why a target is not reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// Losses come from a full queue, and more repair would make them worse.
    Congested,
    /// The peer does not accept late repair symbols.
    PeerWithoutLate,
    /// It needs more repair than `max_overhead` allows. Both are shares of the source bytes.
    Overhead {
        /// The least share with which it would be reached, with blocks as long as they may be.
        needed: f64,
        /// The share that is allowed at this rate.
        allowed: f64,
    },
    /// The link loses too much, or for too long, for blocks of so many symbols.
    Link {
        /// Source symbols of the block.
        symbols: usize,
        /// The chance that it is lost all the same.
        chance: f64,
    },
}

/// What would reach a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Remedy {
    /// A longer block: `close_after` of at least this, and `block_symbols` of at least this where the present one is too
    /// few.
    LongerBlock {
        /// The time that the block takes.
        close_after: Duration,
        /// Its source symbols, where more than now.
        block_symbols: Option<usize>,
    },
    /// A `max_overhead` of at least this share.
    MaxOverhead(f64),
    /// A `survive_burst` of this.
    SurviveBurst(Duration),
    /// A `residual` of this.
    Residual(f64),
    /// A lower `path.rate`, or one at all.
    Pace,
    /// A newer version on the peer.
    NewerPeer,
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not reached: {}", self.target.key(), self.cause)?;
        for (at, remedy) in self.remedies.iter().enumerate() {
            write!(f, "{}{remedy}", if at == 0 { "; what would reach it: " } else { ", or " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Congested => f.write_str("losses come from a full queue, so repair is cut to `min`"),
            Self::PeerWithoutLate => f.write_str("the peer does not accept late repair"),
            Self::Overhead { needed, allowed } => {
                write!(f, "it needs {} repair, and {} is allowed", Percent(*needed), Percent(*allowed))
            }
            Self::Link { symbols, chance } => {
                let plural = if *symbols == 1 { "" } else { "s" };
                write!(f, "a block of {symbols} symbol{plural} is lost with {chance:.1e} on this link")
            }
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongerBlock { close_after, block_symbols } => {
                write!(f, "close_after: {}", Milliseconds(*close_after))?;
                block_symbols.map_or(Ok(()), |symbols| write!(f, " with block_symbols: {symbols}"))
            }
            Self::MaxOverhead(share) => write!(f, "max_overhead: {}", Percent(*share)),
            Self::SurviveBurst(time) => write!(f, "survive_burst: {}", Milliseconds(*time)),
            Self::Residual(chance) => write!(f, "residual: {chance:.0e}"),
            Self::Pace => f.write_str("a path.rate that the link carries"),
            Self::NewerPeer => f.write_str("this version on the peer"),
        }
    }
}

/// A share as the configuration writes it, rounded up to whole percents.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 100.0 - 1e-9).ceil().max(0.0))
    }
}

/// A time as the configuration writes it, rounded up to whole milliseconds.
struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_nanos().div_ceil(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_name_target_cause_and_remedies() {
        let unreached = Unreached {
            target: Target::SurviveBurst,
            cause: Cause::Overhead { needed: 0.801, allowed: 0.1 },
            remedies: vec![
                Remedy::LongerBlock { close_after: Duration::from_micros(34_100), block_symbols: Some(24) },
                Remedy::MaxOverhead(0.81),
            ],
        };
        assert_eq!(
            unreached.to_string(),
            "survive_burst is not reached: it needs 81% repair, and 10% is allowed; what would reach it: close_after: 35ms \
             with block_symbols: 24, or max_overhead: 81%"
        );
        let unreached = Unreached {
            target: Target::Residual,
            cause: Cause::Link { symbols: 1, chance: 2e-4 },
            remedies: Vec::new(),
        };
        assert_eq!(
            unreached.to_string(),
            "residual is not reached: a block of 1 symbol is lost with 2.0e-4 on this link"
        );
    }
}
