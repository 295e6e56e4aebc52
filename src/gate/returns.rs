//! What was acknowledged early for mirrors, kept beyond their connections. If a mirror comes back with less, it has
//! lost data that the primary's clients count as safe, until the primary sends it again.
//!
//! Each dialect proves in its own way how much a mirror has when it comes back; this module keeps the positions,
//! compares them and writes the log message. Memory is bounded: the mirror that was looked up longest ago is forgotten,
//! which can suppress a warning but never cause one.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Mirrors remembered.
const MOST: usize = 1024;
/// Bytes of a name that are kept; servers allow only shorter names.
const MOST_NAME: usize = 128;
/// Minimum time between two log lines about one mirror. The next line counts what was left out.
const INTERVAL: Duration = Duration::from_secs(60);

/// A position in what a primary sends, in its protocol's own numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// PostgreSQL: a position in the WAL.
    Wal(u64),
    /// Redis: an offset of the replication stream.
    Offset(u64),
    /// MariaDB: a position in a binary log.
    Binlog {
        /// The binary log.
        file: Arc<[u8]>,
        /// The end of a transaction in it.
        position: u64,
    },
}

impl Place {
    /// Bytes from an earlier place to this one; none if the two cannot be subtracted.
    pub fn bytes_since(&self, earlier: &Place) -> Option<u64> {
        match (earlier, self) {
            (Place::Wal(from), Place::Wal(to)) | (Place::Offset(from), Place::Offset(to)) => to.checked_sub(*from),
            (Place::Binlog { file: one, position: from }, Place::Binlog { file: other, position: to })
                if one == other =>
            {
                to.checked_sub(*from)
            }
            _ => None,
        }
    }
}

impl PartialOrd for Place {
    /// None for places of different protocols, and for binary logs with different base names.
    fn partial_cmp(&self, other: &Place) -> Option<Ordering> {
        match (self, other) {
            (Place::Wal(one), Place::Wal(two)) | (Place::Offset(one), Place::Offset(two)) => Some(one.cmp(two)),
            (Place::Binlog { file: one, position: at }, Place::Binlog { file: two, position: to }) => {
                let ((base, one), (row, two)) = (numbered(one)?, numbered(two)?);
                (base == row).then(|| (one, at).cmp(&(two, to)))
            }
            _ => None,
        }
    }
}

/// A binary log's name without its number, and the number.
fn numbered(file: &[u8]) -> Option<(&[u8], u64)> {
    let dot = file.iter().rposition(|&byte| byte == b'.')?;
    let number = std::str::from_utf8(&file[dot + 1..]).ok()?;
    Some((&file[..dot], number.parse().ok()?))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Wal(at) => write!(f, "{:X}/{:X}", at >> 32, at & 0xffff_ffff),
            Place::Offset(at) => write!(f, "offset {at}"),
            Place::Binlog { file, position } => write!(f, "{}:{position}", file.escape_ascii()),
        }
    }
}

/// The mirror of a connection, and the history of the primary that it replicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// As the protocol names it: "slot mirror".
    pub name: String,
    /// Whether no other mirror has this name. If not, the address it comes from is part of its identity.
    pub is_unique: bool,
    /// For example "system 7, timeline 1". Places of different histories are not compared. `None`: the protocol names none,
    /// and places mean something only at the server that the gate connects to.
    pub history: Option<String>,
}

/// Everything up to this place was acknowledged to the primary before the mirror acknowledged it itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlyPosition {
    /// The place.
    pub place: Place,
    /// The newest time in what was sent up to there, if positions can start again under the same names; otherwise 0.
    pub stamp: u64,
}

/// A mirror of a gate, in one history.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    gate: String,
    mirror: String,
    history: String,
}

impl Key {
    /// The key of a mirror of this gate that comes from `address` for the server `upstream`.
    pub fn new(gate: &str, mirror: &Mirror, address: impl fmt::Display, upstream: impl fmt::Display) -> Key {
        let name = |text: &str| text.chars().take(MOST_NAME).flat_map(char::escape_debug).collect::<String>();
        let whom = match mirror.is_unique {
            true => name(&mirror.name),
            false => format!("{} at {address}", name(&mirror.name)),
        };
        let history = match &mirror.history {
            Some(history) => name(history),
            None => format!("positions at {upstream}"),
        };
        Key { gate: gate.to_owned(), mirror: whom, history }
    }
}

#[derive(Debug)]
struct Known {
    early_position: EarlyPosition,
    /// The number of the look-up that used it last.
    used: u64,
    logged: Option<Instant>,
    unlogged: u64,
}

/// A mirror has come back with less than was acknowledged early for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// How many bytes are missing, if the two places can be subtracted; otherwise 0.
    pub bytes: u64,
    /// The log message, unless one was logged shortly before.
    pub message: Option<String>,
}

/// What was acknowledged early for all mirrors of a process.
#[derive(Debug, Default)]
pub struct EarlyPositions {
    known: HashMap<Key, Known>,
    used: u64,
}

impl EarlyPositions {
    /// What was acknowledged early for this mirror.
    pub fn recall(&mut self, key: &Key) -> Option<EarlyPosition> {
        self.used += 1;
        let known = self.known.get_mut(key)?;
        known.used = self.used;
        Some(known.early_position.clone())
    }

    /// Everything up to `early_position` was acknowledged early for this mirror.
    pub fn on_early_position(&mut self, key: &Key, early_position: &EarlyPosition) {
        if let Some(known) = self.known.get_mut(key) {
            // The positions have started again if the two places cannot be compared, or if the newer one is lower.
            let is_new_row = early_position.stamp > known.early_position.stamp;
            if is_new_row || known.early_position.place.partial_cmp(&early_position.place) != Some(Ordering::Greater) {
                known.early_position.clone_from(early_position);
            }
            return;
        }
        if self.known.len() >= MOST
            && let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| key.clone())
        {
            self.known.remove(&oldest);
        }
        self.used += 1;
        let known = Known { early_position: early_position.clone(), used: self.used, logged: None, unlogged: 0 };
        self.known.insert(key.clone(), known);
    }

    /// The mirror has come back with everything up to `has` and no more, which is less than was acknowledged early.
    /// From now on `since` counts, what was acknowledged early on the new connection, or else `has`.
    pub fn on_shortfall(
        &mut self,
        key: &Key,
        has: &Place,
        since: Option<&EarlyPosition>,
        now: Instant,
    ) -> Option<Shortfall> {
        let known = self.known.get_mut(key)?;
        let early_position = known.early_position.place.clone();
        let bytes = early_position.bytes_since(has).unwrap_or(0);
        let has_alone = EarlyPosition { place: has.clone(), stamp: known.early_position.stamp };
        known.early_position = since.cloned().unwrap_or(has_alone);
        if known.logged.is_some_and(|logged| now < logged + INTERVAL) {
            known.unlogged += 1;
            return Some(Shortfall { bytes, message: None });
        }
        let more = match std::mem::take(&mut known.unlogged) {
            0 => String::new(),
            count => format!(" It did so {count} times more since this was said last."),
        };
        known.logged = Some(now);
        let size = if bytes > 0 { format!(", {bytes} bytes further") } else { String::new() };
        let Key { mirror, history, .. } = key;
        let message = format!(
            "{mirror} came back with less than was acknowledged early for it: it has everything up to {has} and no more, and \
             the primary was told {early_position}{size} ({history}).{more} Until the primary has sent it again, what was acknowledged \
             behind {has} is at the primary alone. The mirror ended before it had written it (a full disk, a crash, a restart \
             under load), or lost what it had (written and not flushed, restored from a backup): look at its log and at the \
             space on its disk. Do not promote it before it has caught up"
        );
        Some(Shortfall { bytes, message: Some(message) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        let mirror = Mirror { name: name.into(), is_unique: true, history: Some("timeline 1".into()) };
        Key::new("pg", &mirror, "10.2.0.1", "10.1.0.1:5432")
    }

    fn wal(at: u64) -> EarlyPosition {
        EarlyPosition { place: Place::Wal(at), stamp: 0 }
    }

    fn binlog(file: &str, position: u64) -> Place {
        Place::Binlog { file: file.as_bytes().into(), position }
    }

    #[test]
    fn only_places_of_one_sequence_are_compared() {
        for (one, two, wanted) in [
            (Place::Wal(7), Place::Wal(8), Some(Ordering::Less)),
            (Place::Wal(7), Place::Offset(8), None),
            (Place::Offset(9), Place::Offset(8), Some(Ordering::Greater)),
            (binlog("bin.000009", 500), binlog("bin.000010", 4), Some(Ordering::Less)),
            (binlog("bin.999999", 4), binlog("bin.1000000", 4), Some(Ordering::Less)),
            (binlog("bin.000009", 500), binlog("bin.000009", 500), Some(Ordering::Equal)),
            (binlog("bin.000009", 500), binlog("other.000010", 4), None),
            (binlog("bin", 500), binlog("bin", 4), None),
        ] {
            assert_eq!(one.partial_cmp(&two), wanted, "{one} {two}");
        }
        assert_eq!(Place::Wal(0x16_b374_d848).to_string(), "16/B374D848");
        assert_eq!(binlog("bin.000009", 500).to_string(), "bin.000009:500");
        assert_eq!(binlog("bin.000010", 4).bytes_since(&binlog("bin.000009", 500)), None);
    }

    #[test]
    fn the_early_position_never_falls_and_restarts_after_a_shortfall() {
        let (mut returns, now) = (EarlyPositions::default(), Instant::now());
        let mirror = key("slot mirror");
        assert_eq!(returns.recall(&mirror), None);
        assert_eq!(returns.on_shortfall(&mirror, &Place::Wal(5), None, now), None, "nothing was acknowledged early");
        returns.on_early_position(&mirror, &wal(900));
        returns.on_early_position(&mirror, &wal(800));
        assert_eq!(returns.recall(&mirror), Some(wal(900)));
        assert_eq!(returns.recall(&key("slot other")), None);
        // As after RESET MASTER.
        let other = key("server 2");
        returns.on_early_position(&other, &EarlyPosition { place: binlog("bin.000009", 500), stamp: 70 });
        returns.on_early_position(&other, &EarlyPosition { place: binlog("bin.000001", 500), stamp: 69 });
        assert_eq!(returns.recall(&other).map(|early_position| early_position.stamp), Some(70));
        returns.on_early_position(&other, &EarlyPosition { place: binlog("bin.000001", 600), stamp: 71 });
        assert_eq!(returns.recall(&other).map(|early_position| early_position.stamp), Some(71));
        let told = returns.on_shortfall(&mirror, &Place::Wal(0x100), None, now).unwrap();
        assert_eq!(told.bytes, 900 - 0x100);
        let message = told.message.unwrap();
        assert!(message.starts_with("slot mirror came back with less"), "{message}");
        assert!(
            message.contains("up to 0/100 and no more, and the primary was told 0/384, 644 bytes further"),
            "{message}"
        );
        assert_eq!(returns.recall(&mirror), Some(wal(0x100)), "it is reported only once");
        returns.on_early_position(&mirror, &wal(1000));
        let told = returns.on_shortfall(&mirror, &Place::Wal(0x100), Some(&wal(950)), now).unwrap();
        assert_eq!(told, Shortfall { bytes: 1000 - 0x100, message: None }, "logged shortly before");
        assert_eq!(returns.recall(&mirror), Some(wal(950)), "what was acknowledged early on the new connection stays");
    }

    /// A mirror with a full disk comes back every few seconds.
    #[test]
    fn two_hundred_returns_are_logged_in_a_few_lines_and_all_are_counted() {
        let (mut returns, start) = (EarlyPositions::default(), Instant::now());
        let mirror = key("slot mirror");
        let mut lines = vec![];
        for at in 0..200 {
            returns.on_early_position(&mirror, &wal(1000 + at));
            let now = start + Duration::from_secs(at);
            lines.extend(returns.on_shortfall(&mirror, &Place::Wal(500), None, now).unwrap().message);
        }
        assert_eq!(lines.len(), 4, "at 0, 60, 120 and 180 s");
        assert!(lines[1].contains("It did so 59 times more since"), "{}", lines[1]);
    }

    #[test]
    fn mirrors_with_the_same_name_differ_by_address_and_memory_is_bounded() {
        let shared = Mirror { name: "walreceiver\n".into(), is_unique: false, history: Some("timeline 1".into()) };
        let of = |mirror: &Mirror, address, upstream| Key::new("pg", mirror, address, upstream);
        let (one, two) = (of(&shared, "10.2.0.1", "10.1.0.1:1"), of(&shared, "10.2.0.2", "10.1.0.1:1"));
        assert_ne!(one, two);
        assert_eq!(one.mirror, "walreceiver\\n at 10.2.0.1");
        // A history that has a name is the same at another server; without one, places mean nothing there.
        assert_eq!(one, of(&shared, "10.2.0.1", "10.1.0.2:1"));
        let unnamed = Mirror { history: None, ..shared.clone() };
        assert_ne!(of(&unnamed, "10.2.0.1", "10.1.0.1:1"), of(&unnamed, "10.2.0.1", "10.1.0.2:1"));
        let mut returns = EarlyPositions::default();
        for at in 0..MOST + 10 {
            returns.on_early_position(&key(&format!("slot {at}")), &wal(1));
            returns.recall(&key("slot 0"));
        }
        assert_eq!(returns.known.len(), MOST);
        assert!(returns.recall(&key("slot 0")).is_some(), "looked up all the time");
        assert!(returns.recall(&key("slot 5")).is_none());
        let long = Mirror { name: "x".repeat(10_000), ..shared };
        assert!(of(&long, "10.2.0.1", "10.1.0.1:1").mirror.len() < 200);
    }
}
