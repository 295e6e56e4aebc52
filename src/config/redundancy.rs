//! `redundancy`: named profiles for how traffic is cut into blocks and protected. Does not plan repair for short
//! blocks; the code's planner does.

use std::time::Duration;

use super::name::{NAME, parse_name};
use super::problem::did_you_mean;
use super::schema;
use super::table::{Field, Reading, Table};
use super::units::{parse_duration, parse_fraction, show_duration};

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

impl Profile {
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
            repair: Repair::read(&table.field("repair"), reading).unwrap_or(default.repair),
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
        let later = schema::REPAIR.later.iter().any(|(name, _)| table.field(name).is_present());
        let fixed = if later {
            table.field("fixed")
        } else {
            table.required("fixed", "a whole number from 1 to 4096", reading)
        };
        let symbols = fixed.number(1..=4096, reading);
        let loss = |text: &str| match parse_fraction(text)? {
            loss if loss > 0.0 && loss <= 0.5 => Ok(loss),
            _ => Err(String::new()),
        };
        let allowed = "a loss above 0 and up to 50%, such as 0.1%";
        let assume_loss = table.field("assume_loss").read(allowed, loss, reading);
        Some(Self::Fixed { symbols: symbols? as u16, assume_loss: assume_loss.unwrap_or(DEFAULT_LOSS) })
    }
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
