//! `delivery` and `bypass`: how the receiver delivers packets, and what happens while a peer is down.

use std::time::Duration;

use schemars::JsonSchema;

use super::redundancy::{Profile, duration};
use super::schema;
use super::table::{Reading, Table};

/// How recovered packets are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whether a hole holds later packets back.
    pub ordering: Ordering,
    /// The minimum time for which a hole holds them.
    pub hold: Duration,
    /// The maximum time, if the path reorders that much.
    pub hold_max: Duration,
    /// Whether delivered packets are kept until they are acknowledged, and delivered again while the peer is silent.
    pub last_hop: bool,
}

/// Delivery order within a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Ordering {
    /// In order; a hole holds later packets until its block is rebuilt or expires.
    Strict,
    /// As soon as they are complete.
    None,
}

/// What happens to packets while a peer is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// The action.
    pub when_down: WhenDown,
    /// For how long a peer must be fit before its routes come back.
    pub return_after: Duration,
    /// A lane that makes no turn for this long stands still.
    pub stuck_after: Duration,
}

/// The action while a peer is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum WhenDown {
    /// Packets for the peer are dropped and counted.
    Drop,
    /// The routes to the peer's prefixes are withdrawn: packets take whatever other route there is.
    WithdrawRoutes,
}

/// The default of `hold_max`: paths that reorder more are broken in other ways too.
const HOLD_MAX: Duration = Duration::from_millis(250);
/// The default of `return_after`: a restarted peer is not trusted before it has stayed for a second.
const RETURN_AFTER: Duration = Duration::from_secs(1);
/// The default of `stuck_after`: a busy machine does not hold up a lane for so long.
const STUCK_AFTER: Duration = Duration::from_millis(400);

impl Delivery {
    pub(super) fn read(root: &Table<'_>, profiles: &[Profile], reading: &mut Reading<'_>) -> Self {
        let table = root.field("delivery").table(&schema::DELIVERY, reading);
        let ordering = [("strict", Ordering::Strict), ("none", Ordering::None)];
        let ordering = table.field("ordering").choose(&ordering, reading);
        let longest = Duration::from_secs(10);
        let hold = duration(&table.field("hold"), Duration::from_millis(1)..=longest, reading);
        let slowest = profiles.iter().map(|profile| profile.close_after).max().unwrap_or_default();
        let latest = profiles.iter().map(Profile::survive_burst).max().unwrap_or_default();
        let last_hop = table.field("last_hop").choose(&[("on", true), ("off", false)], reading);
        let default = (slowest * 4).max(slowest + latest * 2).max(Duration::from_millis(20));
        let hold = hold.unwrap_or(default.min(longest));
        let hold_max = duration(&table.field("hold_max"), hold..=longest, reading);
        Self {
            ordering: ordering.unwrap_or(Ordering::Strict),
            hold,
            hold_max: hold_max.unwrap_or(HOLD_MAX.max(hold)),
            last_hop: last_hop.unwrap_or(true),
        }
    }
}

impl Bypass {
    pub(super) fn read(root: &Table<'_>, reading: &mut Reading<'_>) -> Self {
        let table = root.field("bypass").table(&schema::BYPASS, reading);
        let words = [("drop", WhenDown::Drop), ("withdraw_routes", WhenDown::WithdrawRoutes)];
        let when_down = table.field("when_down").choose(&words, reading);
        let return_after = table.field("return_after");
        let return_after = duration(&return_after, Duration::from_millis(100)..=Duration::from_secs(600), reading);
        let stuck_after = table.field("stuck_after");
        let stuck_after = duration(&stuck_after, Duration::from_millis(200)..=Duration::from_secs(60), reading);
        Self {
            when_down: when_down.unwrap_or(WhenDown::Drop),
            return_after: return_after.unwrap_or(RETURN_AFTER),
            stuck_after: stuck_after.unwrap_or(STUCK_AFTER),
        }
    }
}
