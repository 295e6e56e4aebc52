//! `redundancy`: named profiles for how traffic is cut into blocks and protected. Does not plan repair for short
//! blocks; the code's planner does.

use std::time::Duration;

use super::name::{NAME, parse_name};
use super::problem::did_you_mean;
use super::schema;
use super::table::{Field, Reading, Table};
use super::units::{parse_duration, parse_fraction, parse_percent, show_duration};
use crate::plan;

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
    /// A fixed number for a full block; a short block gets enough symbols that its residual loss is no worse.
    Fixed {
        /// Repair symbols (m) of a full block, 1 to 4096.
        symbols: u16,
        /// The loss, as a fraction, at which short and full blocks are compared.
        ///
        /// The default of 0.1 % is small on purpose: a short block that is no worse than a full one at a small loss is
        /// no worse at any greater loss either, and the reverse does not hold.
        assume_loss: f64,
    },
    /// What must hold; the appliance chooses the numbers for the link as it is.
    Targets(Targets),
}

/// What must hold on the link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets {
    /// The chance that a block is lost is at most this on the measured link; none: no such promise.
    pub residual: Option<f64>,
    /// An interruption of the link of this length, at any moment, loses nothing that is called protected.
    pub survive_burst: Duration,
    /// Repair bytes are at most this share of the source bytes, over a second.
    pub max_overhead: f64,
    /// Each block gets at least this many repair symbols.
    pub min: u16,
    /// The loss that is assumed until enough has been measured.
    pub assume_loss: f64,
}

/// The profile that exists when the file has none, and that a peer has unless it names another.
pub(super) const DEFAULT_NAME: &str = "steady";

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: DEFAULT_NAME.to_owned(),
            block_symbols: 32,
            close_when_idle: Duration::from_micros(50),
            close_after: Duration::from_micros(500),
            repair: Repair::Fixed { symbols: 4, assume_loss: DEFAULT_LOSS },
        }
    }
}

const DEFAULT_LOSS: f64 = 0.001;
/// With targets: the longest block, which a stream needs to survive an interruption cheaply, and how long it may take.
const PLANNED_SYMBOLS: u16 = 512;
const PLANNED_AFTER: Duration = Duration::from_millis(20);

impl Default for Targets {
    fn default() -> Self {
        Self { residual: None, survive_burst: Duration::ZERO, max_overhead: 1.0, min: 2, assume_loss: 0.01 }
    }
}

impl Profile {
    /// What must hold, if this profile has targets.
    pub fn targets(&self) -> Option<Targets> {
        match self.repair {
            Repair::Targets(targets) => Some(targets),
            Repair::None | Repair::Fixed { .. } => None,
        }
    }

    /// How long after the early repair symbols of a block the late ones leave; zero without any.
    pub fn survive_burst(&self) -> Duration {
        self.targets().map_or(Duration::ZERO, |targets| targets.survive_burst)
    }

    /// Within what a plan for this profile must stay, on a path with symbols of so many bytes.
    pub fn limits(&self, symbol_bytes: u16) -> plan::Limits {
        plan::Limits {
            block_symbols: self.block_symbols.into(),
            close_after: self.close_after,
            base_close_when_idle: self.close_when_idle,
            base_close_after: plan::CLOSE_AFTER,
            symbol_bytes: symbol_bytes.into(),
        }
    }

    pub(super) fn read_all(root: &Table<'_>, reading: &mut Reading<'_>) -> Vec<Self> {
        let field = root.field("redundancy");
        if !field.is_present() {
            return vec![Self::default()];
        }
        let table = field.names(reading);
        let profiles: Vec<_> = table.named().map(|(name, field)| Self::read(name, &field, reading)).collect();
        let allowed = "1 to 256 profiles";
        match profiles.len() {
            0 if field.is_table() => reading.error(&field.key, "found no profile", allowed, ""),
            257.. => reading.error(&field.key, &format!("found {} profiles", profiles.len()), allowed, ""),
            _ => {}
        }
        profiles
    }

    fn read(name: &str, field: &Field<'_>, reading: &mut Reading<'_>) -> Self {
        let default = Self::default();
        if parse_name(name).is_err() {
            reading.error(&field.key, "found a bad profile name", NAME, "");
        }
        let table = field.table(&schema::PROFILE, reading);
        let repair = Repair::read(&table.field("repair"), reading).unwrap_or(default.repair);
        let default = match repair {
            Repair::Targets(_) => Self { block_symbols: PLANNED_SYMBOLS, close_after: PLANNED_AFTER, ..default },
            Repair::None | Repair::Fixed { .. } => default,
        };
        let block_symbols = table.field("block_symbols").number(1..=4096, reading);
        let longest = Duration::from_secs(1);
        let idle = duration(&table.field("close_when_idle"), Duration::ZERO..=longest, reading);
        let shortest = Duration::from_micros(10);
        let after_field = table.field("close_after");
        let after = duration(&after_field, shortest..=longest, reading).unwrap_or(default.close_after);
        let close_when_idle = match idle {
            Some(idle) if idle > after => {
                let found = format!("found {}, longer than close_after", show_duration(idle));
                let allowed = format!("0us to {}", show_duration(after));
                let hint = "a block always closes after close_after: shorten this, or lengthen that";
                reading.error(&table.field("close_when_idle").key, &found, &allowed, hint);
                idle
            }
            Some(idle) => idle,
            None => default.close_when_idle.min(after),
        };
        Self {
            name: name.to_owned(),
            block_symbols: block_symbols.map_or(default.block_symbols, |symbols| symbols as u16),
            close_when_idle,
            close_after: after,
            repair,
        }
    }
}

impl Repair {
    fn read(field: &Field<'_>, reading: &mut Reading<'_>) -> Option<Self> {
        if !field.is_table() {
            let word = |text: &str| match text {
                "none" => Ok(Self::None),
                _ if text.parse::<u16>().is_ok() => Err(format!("write {{ fixed: {text} }}")),
                _ => Err(String::new()),
            };
            return field.read("none, or a table such as { fixed: 4 }", word, reading);
        }
        let table = field.table(&schema::REPAIR, reading);
        let targets = TARGETS.iter().filter(|key| table.field(key).is_present()).copied().collect::<Vec<_>>();
        if targets.is_empty() {
            let symbols = table.required("fixed", "a whole number from 1 to 4096, or a target", reading);
            let symbols = symbols.number(1..=4096, reading);
            let assume_loss = loss(&table.field("assume_loss"), reading).unwrap_or(DEFAULT_LOSS);
            return Some(Self::Fixed { symbols: symbols? as u16, assume_loss });
        }
        let fixed = table.field("fixed");
        if fixed.is_present() {
            let found = format!("found beside {}", targets.join(", "));
            let hint = "with `fixed` nothing is planned: remove it, or the targets";
            reading.error(&fixed.key, &found, "either `fixed` or targets", hint);
        }
        Some(Self::Targets(Targets::read(&table, reading)))
    }
}

/// The keys of targets.
const TARGETS: [&str; 4] = ["residual", "survive_burst", "max_overhead", "min"];

impl From<Targets> for plan::Targets {
    fn from(targets: Targets) -> Self {
        let Targets { residual, survive_burst, max_overhead, min, .. } = targets;
        Self { residual, survive_burst, max_overhead, min: min.into() }
    }
}

impl Targets {
    /// The link that is assumed until enough has been measured, at a rate in source symbols a second.
    pub fn assumed_link(&self, symbols_per_second: f64) -> plan::Link {
        let loss = self.assume_loss;
        plan::Link { loss, bursts: None, symbols_per_second, congested: false, peer_knows_late: true }
    }

    fn read(table: &Table<'_>, reading: &mut Reading<'_>) -> Self {
        let default = Self::default();
        let chance = |text: &str| match text.parse().or_else(|_| parse_fraction(text))? {
            chance if (1e-30..=0.1).contains(&chance) => Ok(chance),
            _ => Err(String::new()),
        };
        let share = |text: &str| match parse_fraction(text).or_else(|_| parse_percent(text))? {
            share if (0.01..=10.0).contains(&share) => Ok(share),
            _ => Err(String::new()),
        };
        let longest = Duration::from_millis(250);
        let residual = table.field("residual").read("a chance from 1e-30 to 0.1, such as 1e-9", chance, reading);
        let survive_burst = duration(&table.field("survive_burst"), Duration::ZERO..=longest, reading);
        let max_overhead = table.field("max_overhead").read("a share from 1% to 1000%, such as 50%", share, reading);
        let min = table.field("min").number(0..=4096, reading);
        let assume_loss = loss(&table.field("assume_loss"), reading);
        Self {
            residual,
            survive_burst: survive_burst.unwrap_or(default.survive_burst),
            max_overhead: max_overhead.unwrap_or(default.max_overhead),
            min: min.map_or(default.min, |min| min as u16),
            assume_loss: assume_loss.unwrap_or(default.assume_loss),
        }
    }
}

/// Reads a loss above 0.
fn loss(field: &Field<'_>, reading: &mut Reading<'_>) -> Option<f64> {
    let parse = |text: &str| match parse_fraction(text)? {
        loss if loss > 0.0 && loss <= 0.5 => Ok(loss),
        _ => Err(String::new()),
    };
    field.read("a loss above 0 and up to 50%, such as 0.1%", parse, reading)
}

/// Reads a duration within a range.
pub(super) fn duration(
    field: &Field<'_>,
    range: std::ops::RangeInclusive<Duration>,
    reading: &mut Reading<'_>,
) -> Option<Duration> {
    let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
    let parse = |text: &str| match parse_duration(text)? {
        duration if range.contains(&duration) => Ok(duration),
        _ => Err(String::new()),
    };
    field.read(&format!("a duration from {least} to {most}"), parse, reading)
}

/// Reads the name of a profile and returns its number; without a value, the number of the default.
pub(super) fn read_reference(field: &Field<'_>, profiles: &[Profile], reading: &mut Reading<'_>) -> Option<u8> {
    let number = |name: &str| {
        let at = profiles.iter().position(|profile| profile.name == name);
        at.and_then(|at| u8::try_from(at).ok())
    };
    if !field.is_present() {
        return number(DEFAULT_NAME);
    }
    let near = |name: &str| {
        let near = did_you_mean(name, profiles.iter().map(|profile| profile.name.as_str()));
        near.unwrap_or_else(|| "profiles are made under `redundancy`".to_owned())
    };
    field.read(&names(profiles), |name| number(name).ok_or_else(|| near(name)), reading)
}

/// The profiles' names, as an error lists what is allowed.
pub(super) fn names(profiles: &[Profile]) -> String {
    let names: Vec<_> = profiles.iter().take(16).map(|profile| profile.name.as_str()).collect();
    format!("the name of a profile: {}", names.join(", "))
}
