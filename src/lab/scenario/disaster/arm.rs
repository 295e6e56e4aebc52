//! The arms of a disaster: when a write counts as acknowledged, and what protects it on the way; and the number of
//! repair symbols for a loss.
//!
//! The mathematics assumes independent losses, as the emulator produces them; the arms with losses in time have targets instead
//! of numbers. Runs nothing.

use std::time::Duration;

use crate::lab::error::LabError;

/// Source symbols of a full block.
pub const BLOCK_SYMBOLS: u32 = 32;
/// Upper bound of the chance to lose a full block, for the arms with enough repair.
const RESIDUAL: f64 = 1e-9;

/// A loss that one repair symbol does not survive.
const MUCH_LOSS: f64 = 0.05;

/// Losses in time: interruptions of 0.2 ms in the mean, and their share of time. Their length is random: one in 22,000 is longer
/// than what must be survived.
const BURSTS: (&str, f64) = ("interruptions 49800us 200us", 0.004);
/// The interruption that ends in the cut, and what survives it.
const INTERRUPTION: Duration = Duration::from_millis(2);
const SURVIVING: &str = "{ survive_burst: 2ms, max_overhead: 400%, min: 4 }";

/// What happens to the WAN before the cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Half a second of loss, in the emulator's syntax.
    Loss(&'static str),
    /// Half a second in which each datagram is lost with the chosen chance.
    SingleLosses,
    /// An interruption of this length that ends in the cut.
    Interruption(Duration),
}

/// When a write counts as acknowledged, and how it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arm {
    /// Acknowledged when it is protected.
    NetworkSync,
    /// Acknowledged when the local host has it; over the plain route.
    LocalSync,
    /// Acknowledged when the local host has it; through the appliances.
    LocalSyncFec,
    /// Acknowledged when it has been sent; through appliances that add no repair symbols.
    NetworkSyncNoRepair,
    /// Acknowledged when it is protected, with one repair symbol at any loss.
    TooLittleRepair,
    /// Acknowledged when it is protected, with targets, on a link that loses in bursts.
    NetworkSyncBursts,
    /// Acknowledged when it is protected, with targets; the cut begins as an interruption.
    NetworkSyncInterrupted,
    /// The same with a fixed number of repair symbols.
    FixedInterrupted,
}

impl Arm {
    /// Every arm; the first is the one whose losses the user chooses and that must not lose anything.
    pub const ALL: [Self; 8] = [
        Self::NetworkSync,
        Self::LocalSync,
        Self::LocalSyncFec,
        Self::NetworkSyncNoRepair,
        Self::TooLittleRepair,
        Self::NetworkSyncBursts,
        Self::NetworkSyncInterrupted,
        Self::FixedInterrupted,
    ];

    /// Its name in output and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkSync => "network-sync",
            Self::LocalSync => "local-sync",
            Self::LocalSyncFec => "local-sync+fec",
            Self::NetworkSyncNoRepair => "network-sync-norepair",
            Self::TooLittleRepair => "too-little-repair",
            Self::NetworkSyncBursts => "network-sync-bursts",
            Self::NetworkSyncInterrupted => "network-sync-interrupted",
            Self::FixedInterrupted => "fixed-interrupted",
        }
    }

    /// The arms that the user named, or all.
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

    /// Whether a write waits for the notification that it is protected.
    pub fn waits_for_protection(self) -> bool {
        self.must_not_lose() || matches!(self, Self::TooLittleRepair | Self::FixedInterrupted)
    }

    /// Whether it must not lose anything; each other arm is a control.
    pub fn must_not_lose(self) -> bool {
        matches!(self, Self::NetworkSync | Self::NetworkSyncBursts | Self::NetworkSyncInterrupted)
    }

    /// What happens to the WAN.
    pub fn fault(self) -> Fault {
        match self {
            Self::NetworkSyncBursts => Fault::Loss(BURSTS.0),
            Self::NetworkSyncInterrupted | Self::FixedInterrupted => Fault::Interruption(INTERRUPTION),
            _ => Fault::SingleLosses,
        }
    }

    /// The chosen losses at which the arm is tried. Too little repair shows only at a high loss: the data must be lost
    /// in the last moment, before TCP has retransmitted it.
    pub fn losses(self, chosen: &[f64]) -> Vec<f64> {
        match self {
            Self::TooLittleRepair => vec![chosen.iter().copied().fold(MUCH_LOSS, f64::max)],
            Self::NetworkSyncBursts => vec![BURSTS.1],
            Self::NetworkSyncInterrupted | Self::FixedInterrupted => vec![0.0],
            _ => chosen.to_vec(),
        }
    }

    /// `repair` in the configuration.
    pub fn repair_text(self, loss: f64) -> String {
        match self.repair(loss) {
            _ if self.has_targets() => SURVIVING.to_owned(),
            0 => "none".to_owned(),
            symbols if loss == 0.0 => format!("{{ fixed: {symbols} }}"),
            symbols => format!("{{ fixed: {symbols}, assume_loss: {}% }}", loss * 100.0),
        }
    }

    /// Whether it has targets instead of a number of repair symbols.
    pub fn has_targets(self) -> bool {
        matches!(self, Self::NetworkSyncBursts | Self::NetworkSyncInterrupted)
    }

    /// Repair symbols of a full block at this loss; with targets, the fewest.
    pub fn repair(self, loss: f64) -> u32 {
        match self {
            Self::NetworkSyncBursts | Self::NetworkSyncInterrupted | Self::FixedInterrupted => 4,
            Self::NetworkSync | Self::LocalSyncFec => repair_for(loss),
            Self::TooLittleRepair => 1,
            Self::LocalSync | Self::NetworkSyncNoRepair => 0,
        }
    }
}

/// The smallest number of repair symbols that leaves at most [`RESIDUAL`].
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
    // The chance of exactly `lost` losses, computed from that of one fewer; the tail sums those above `repair`.
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
    fn the_residual_is_the_tail_of_the_binomial_distribution() {
        let near = |found: f64, wanted: f64| (found / wanted - 1.0).abs() < 1e-6;
        // Computed by hand: all of three lost; more than none of three; more than one of three.
        assert!(near(residual(1, 2, 0.1), 0.001));
        assert!(near(residual(3, 0, 0.1), 1.0 - 0.729));
        assert!(near(residual(2, 1, 0.1), 3.0 * 0.01 * 0.9 + 0.001));
        assert_eq!((residual(5, 1, 0.0), residual(5, 1, 1.0)), (0.0, 1.0));
    }

    #[test]
    fn the_repair_is_the_smallest_number_that_suffices() {
        for loss in [0.001, 0.005, 0.01, 0.05] {
            let repair = Arm::NetworkSync.repair(loss);
            assert!(residual(BLOCK_SYMBOLS, repair, loss) <= RESIDUAL);
            assert!(residual(BLOCK_SYMBOLS, repair - 1, loss) > RESIDUAL, "{repair} at {loss}");
        }
        assert_eq!(Arm::NetworkSync.losses(&[0.001, 0.01]), [0.001, 0.01]);
        assert_eq!(Arm::TooLittleRepair.losses(&[0.001, 0.01]), [MUCH_LOSS]);
        assert_eq!(Arm::TooLittleRepair.losses(&[0.1]), [0.1]);
        assert_eq!(Arm::NetworkSync.repair_text(0.01), "{ fixed: 8, assume_loss: 1% }");
        assert_eq!(Arm::FixedInterrupted.repair_text(0.0), "{ fixed: 4 }");
        assert!(Arm::NetworkSyncInterrupted.repair_text(0.0).contains("survive_burst: 2ms"));
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
