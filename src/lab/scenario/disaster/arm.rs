//! What is compared in a disaster: when a write is acknowledged, and what protects it on the way; and how many repair
//! symbols a loss deserves.
//!
//! The mathematics is that of independent losses, which is what the emulator does. Runs nothing.

use crate::lab::error::LabError;

/// Source symbols of a full block.
pub const BLOCK_SYMBOLS: u32 = 32;
/// The chance of losing a full block that the arms with enough repair are dimensioned for, at most.
const RESIDUAL: f64 = 1e-9;

/// A loss that one repair symbol does not survive.
const MUCH_LOSS: f64 = 0.05;

/// When a write is acknowledged, and how it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arm {
    /// When it is protected.
    NetworkSync,
    /// When the own host has it; over the plain route.
    LocalSync,
    /// When the own host has it; through the appliances.
    LocalSyncFec,
    /// When it has been sent; through appliances that add no repair symbols.
    NetworkSyncNoRepair,
    /// When it is protected, with one repair symbol however many are lost.
    TooLittleRepair,
}

impl Arm {
    /// Every arm, the one that must not lose first.
    pub const ALL: [Self; 5] =
        [Self::NetworkSync, Self::LocalSync, Self::LocalSyncFec, Self::NetworkSyncNoRepair, Self::TooLittleRepair];

    /// Its name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkSync => "network-sync",
            Self::LocalSync => "local-sync",
            Self::LocalSyncFec => "local-sync+fec",
            Self::NetworkSyncNoRepair => "network-sync-norepair",
            Self::TooLittleRepair => "too-little-repair",
        }
    }

    /// Those that the user named, or all.
    pub fn chosen(names: &[String]) -> Result<Vec<Self>, LabError> {
        let find = |name: &String| {
            Self::ALL.into_iter().find(|arm| arm.name() == name).ok_or_else(|| {
                let all = Self::ALL.map(Self::name).join(", ");
                LabError::Sentence(format!("--arm: found \"{name}\"; allowed: {all}"))
            })
        };
        if names.is_empty() { Ok(Self::ALL.to_vec()) } else { names.iter().map(find).collect() }
    }

    /// Whether it sends through the appliances.
    pub fn has_appliances(self) -> bool {
        self != Self::LocalSync
    }

    /// Whether a write waits until it is called protected.
    pub fn waits_for_protection(self) -> bool {
        matches!(self, Self::NetworkSync | Self::TooLittleRepair)
    }

    /// At which of the chosen losses it is tried. Too little repair shows only where it is much too little: what is lost must
    /// be lost in the last moment, before TCP has sent it again.
    pub fn losses(self, chosen: &[f64]) -> Vec<f64> {
        match self {
            Self::TooLittleRepair => vec![chosen.iter().copied().fold(MUCH_LOSS, f64::max)],
            _ => chosen.to_vec(),
        }
    }

    /// Repair symbols of a full block at this loss.
    pub fn repair(self, loss: f64) -> u32 {
        match self {
            Self::NetworkSync | Self::LocalSyncFec => repair_for(loss),
            Self::TooLittleRepair => 1,
            Self::LocalSync | Self::NetworkSyncNoRepair => 0,
        }
    }
}

/// The fewest repair symbols that leave at most [`RESIDUAL`].
fn repair_for(loss: f64) -> u32 {
    (1..).find(|repair| residual(BLOCK_SYMBOLS, *repair, loss) <= RESIDUAL).unwrap_or(BLOCK_SYMBOLS)
}

/// The chance that more than `repair` of `source + repair` datagrams are lost.
pub fn residual(source: u32, repair: u32, loss: f64) -> f64 {
    if loss <= 0.0 {
        return 0.0;
    }
    if loss >= 1.0 {
        return 1.0;
    }
    let all = source + repair;
    // The chance of exactly `lost`, from that of one fewer; the tail is summed from where it begins.
    let mut exactly = (1.0 - loss).powi(all as i32);
    let mut tail = 0.0;
    for lost in 1..=all {
        exactly *= f64::from(all - lost + 1) / f64::from(lost) * loss / (1.0 - loss);
        if lost > repair {
            tail += exactly;
        }
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_that_of_the_binomial_distribution() {
        let near = |found: f64, wanted: f64| (found / wanted - 1.0).abs() < 1e-6;
        // By hand: all of three lost; more than none of three; more than one of three.
        assert!(near(residual(1, 2, 0.1), 0.001));
        assert!(near(residual(3, 0, 0.1), 1.0 - 0.729));
        assert!(near(residual(2, 1, 0.1), 3.0 * 0.01 * 0.9 + 0.001));
        assert_eq!((residual(5, 1, 0.0), residual(5, 1, 1.0)), (0.0, 1.0));
    }

    #[test]
    fn enough_repair_is_enough_and_no_more() {
        for loss in [0.001, 0.005, 0.01, 0.05] {
            let repair = Arm::NetworkSync.repair(loss);
            assert!(residual(BLOCK_SYMBOLS, repair, loss) <= RESIDUAL);
            assert!(residual(BLOCK_SYMBOLS, repair - 1, loss) > RESIDUAL, "{repair} at {loss}");
        }
        assert_eq!(Arm::NetworkSync.losses(&[0.001, 0.01]), [0.001, 0.01]);
        assert_eq!(Arm::TooLittleRepair.losses(&[0.001, 0.01]), [MUCH_LOSS]);
        assert_eq!(Arm::TooLittleRepair.losses(&[0.1]), [0.1]);
        assert!(Arm::TooLittleRepair.repair(0.05) < Arm::NetworkSync.repair(0.001));
    }

    #[test]
    fn arms_are_found_by_name() {
        assert_eq!(Arm::chosen(&[]).unwrap(), Arm::ALL);
        for arm in Arm::ALL {
            assert_eq!(Arm::chosen(&[arm.name().to_owned()]).unwrap(), [arm]);
        }
        let error = Arm::chosen(&["remote".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("allowed: network-sync, local-sync, local-sync+fec"), "{error}");
    }
}
