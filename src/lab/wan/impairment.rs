//! The properties of one direction of the emulated WAN, and the syntax of their settings.
//!
//! Topology files (`wan: { delay: 25ms, loss: 1% }`), the command line and the control socket (`set loss 1%`) share one
//! grammar. [`super::link`] applies the properties.

use std::{path::Path, time::Duration};

use super::{interruptions::Timed, loss::Loss, loss_trace::LossTrace};
use crate::lab::units::{self, UnitError};

/// Whether anything passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// Datagrams enter and arrive.
    #[default]
    Open,
    /// Nothing enters any more, but what is in flight arrives: the cable was cut at the near end.
    Cut,
    /// Nothing enters and nothing in flight arrives.
    Blackhole,
}

/// The properties of one direction of the WAN.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairment {
    /// Time from entry (after the queue) to exit.
    pub delay: Duration,
    /// Upper bound of a uniform random addition to the delay; never changes the order.
    pub jitter: Duration,
    /// Which datagrams are lost.
    pub loss: Loss,
    /// Chance that a datagram is delayed so that later ones overtake it.
    pub reorder: f64,
    /// Upper bound of that uniform random delay.
    pub reorder_delay: Duration,
    /// Chance that a datagram arrives twice.
    pub duplicate: f64,
    /// Chance that bits of a datagram's payload flip.
    pub corrupt: f64,
    /// Bits per second of IP packets; `None`: unlimited.
    pub rate: Option<u64>,
    /// Bytes that may wait because of `rate`; more are lost.
    pub queue: u64,
    /// Longest IP packet that enters.
    pub mtu: usize,
    /// Whether anything passes.
    pub passage: Passage,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::Independent(0.0),
            reorder: 0.0,
            reorder_delay: Duration::from_millis(5),
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            queue: 1_000_000,
            mtu: 65_535,
            passage: Passage::Open,
        }
    }
}

/// Why a setting was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such key.
    #[error("unknown key \"{found}\"{hint}; allowed: {allowed}", allowed = Impairment::KEYS.join(", "))]
    Key {
        /// The key as given.
        found: String,
        /// A similar key, or empty.
        hint: String,
    },
    /// The value cannot be read.
    #[error("{key}: {source}")]
    Value {
        /// The key of the value.
        key: String,
        /// What is wrong with it.
        source: UnitError,
    },
    /// The file of a trace cannot be used.
    #[error("loss: {0}")]
    Trace(String),
}

impl Impairment {
    /// Every key that [`set`](Self::set) knows.
    pub const KEYS: [&'static str; 11] = [
        "delay",
        "jitter",
        "loss",
        "reorder",
        "reorder_delay",
        "duplicate",
        "corrupt",
        "rate",
        "queue",
        "mtu",
        "passage",
    ];

    /// Changes one property: a key of [`KEYS`](Self::KEYS) and its value with unit. An error changes nothing.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
        let wrong = |source| SettingError::Value { key: key.to_owned(), source };
        match key {
            "delay" => self.delay = units::parse_duration(value).map_err(wrong)?,
            "jitter" => self.jitter = units::parse_duration(value).map_err(wrong)?,
            "loss" => {
                self.loss = match value.split_once(char::is_whitespace) {
                    Some(("trace", file)) => {
                        let trace = LossTrace::read(Path::new(file.trim()));
                        Loss::Trace(trace.map_err(|error| SettingError::Trace(error.to_string()))?)
                    }
                    _ => parse_loss(value).map_err(wrong)?,
                }
            }
            "reorder" => self.reorder = units::parse_probability(value).map_err(wrong)?,
            "reorder_delay" => self.reorder_delay = units::parse_duration(value).map_err(wrong)?,
            "duplicate" => self.duplicate = units::parse_probability(value).map_err(wrong)?,
            "corrupt" => self.corrupt = units::parse_probability(value).map_err(wrong)?,
            "rate" => {
                self.rate = if value == "unlimited" { None } else { Some(units::parse_rate(value).map_err(wrong)?) };
            }
            "queue" => self.queue = units::parse_bytes(value).map_err(wrong)?,
            "mtu" => self.mtu = parse_mtu(value).map_err(wrong)?,
            "passage" => self.passage = parse_passage(value).map_err(wrong)?,
            _ => return Err(unknown_key(key)),
        }
        Ok(())
    }

    /// Describes in one line how it differs from a perfect link.
    pub fn describe(&self) -> String {
        let perfect = Self::default();
        let mut parts = vec![format!("delay {:?}", self.delay)];
        if self.jitter != perfect.jitter {
            parts.push(format!("jitter {:?}", self.jitter));
        }
        if self.loss != perfect.loss {
            let mean = self.loss.mean() * 100.0;
            parts.push(match &self.loss {
                Loss::Independent(_) => format!("loss {mean}%"),
                Loss::Bursts { stop, .. } => format!("loss {mean:.2}% in bursts of {:.1}", 1.0 / stop.max(1e-9)),
                Loss::Timed(Timed { good, bad, .. }) => {
                    format!("loss {mean:.2}% in interruptions of {bad:?} after {good:?}")
                }
                Loss::Trace(trace) => format!("loss {mean:.2}% from a trace of {} datagrams", trace.counts().0),
            });
        }
        for (name, probability) in [("reorder", self.reorder), ("duplicate", self.duplicate), ("corrupt", self.corrupt)]
        {
            if probability > 0.0 {
                parts.push(format!("{name} {}%", probability * 100.0));
            }
        }
        if let Some(rate) = self.rate {
            parts.push(format!("rate {} Mbit/s, queue {} kB", rate as f64 / 1e6, self.queue / 1000));
        }
        if self.mtu != perfect.mtu {
            parts.push(format!("MTU {}", self.mtu));
        }
        if self.passage != perfect.passage {
            parts.push(format!("{:?}", self.passage).to_lowercase());
        }
        parts.join(", ")
    }
}

fn unknown_key(key: &str) -> SettingError {
    let near = Impairment::KEYS.iter().max_by(|a, b| strsim::jaro(key, a).total_cmp(&strsim::jaro(key, b)));
    let hint = match near {
        Some(near) if strsim::jaro(key, near) > 0.7 => format!(" (did you mean \"{near}\"?)"),
        _ => String::new(),
    };
    SettingError::Key { found: key.to_owned(), hint }
}

/// Parses `1%`, `bursts START STOP [BAD [GOOD]]` or `interruptions GOOD BAD [BAD_LOSS [GOOD_LOSS]]`.
fn parse_loss(text: &str) -> Result<Loss, UnitError> {
    let mut words = text.split_whitespace();
    match words.next() {
        Some("bursts") => {}
        Some("interruptions") => return parse_timed(text, &words.collect::<Vec<_>>()).map(Loss::Timed),
        _ => return units::parse_probability(text).map(Loss::Independent),
    }
    let values = words.map(units::parse_probability).collect::<Result<Vec<_>, _>>()?;
    let (start, stop, bad, good) = match values[..] {
        [start, stop] => (start, stop, 1.0, 0.0),
        [start, stop, bad] => (start, stop, bad, 0.0),
        [start, stop, bad, good] => (start, stop, bad, good),
        _ => {
            return Err(UnitError {
                found: text.to_owned(),
                allowed: "a probability such as 1%, or `bursts START STOP [BAD [GOOD]]` such as `bursts 0.25% 25%`",
            });
        }
    };
    Ok(Loss::Bursts { start, stop, bad, good })
}

fn parse_timed(text: &str, words: &[&str]) -> Result<Timed, UnitError> {
    let wrong = UnitError {
        found: text.to_owned(),
        allowed: "`interruptions MEAN_GOOD MEAN_BAD [BAD_LOSS [GOOD_LOSS]]` such as `interruptions 5s 3ms`, no time zero",
    };
    let (good, bad, losses) = match words {
        [good, bad, losses @ ..] if losses.len() <= 2 => (good, bad, losses),
        _ => return Err(wrong),
    };
    let (good, bad) = (units::parse_duration(good)?, units::parse_duration(bad)?);
    let losses = losses.iter().map(|loss| units::parse_probability(loss)).collect::<Result<Vec<_>, _>>()?;
    let loss = |at: usize, default| losses.get(at).copied().unwrap_or(default);
    let timed = Timed { good, bad, bad_loss: loss(0, 1.0), good_loss: loss(1, 0.0) };
    if good.is_zero() || bad.is_zero() { Err(wrong) } else { Ok(timed) }
}

fn parse_mtu(text: &str) -> Result<usize, UnitError> {
    match text.trim().parse() {
        Ok(mtu @ 68..=65_535) => Ok(mtu),
        _ => Err(UnitError { found: text.to_owned(), allowed: "bytes of an IP packet, 68 to 65535" }),
    }
}

fn parse_passage(text: &str) -> Result<Passage, UnitError> {
    match text {
        "open" => Ok(Passage::Open),
        "cut" => Ok(Passage::Cut),
        "blackhole" => Ok(Passage::Blackhole),
        _ => Err(UnitError { found: text.to_owned(), allowed: "open, cut or blackhole" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_an_effect() {
        let examples = [
            ("delay", "25ms"),
            ("jitter", "2ms"),
            ("loss", "1%"),
            ("reorder", "1%"),
            ("reorder_delay", "1ms"),
            ("duplicate", "1%"),
            ("corrupt", "1%"),
            ("rate", "100mbit"),
            ("queue", "64KiB"),
            ("mtu", "1500"),
            ("passage", "cut"),
        ];
        assert_eq!(examples.map(|(key, _)| key), Impairment::KEYS);
        for (key, value) in examples {
            let mut impairment = Impairment::default();
            impairment.set(key, value).unwrap();
            assert_ne!(impairment, Impairment::default(), "{key}");
        }
    }

    #[test]
    fn a_burst_loss_is_parsed_and_described() {
        let mut impairment = Impairment::default();
        impairment.set("loss", "bursts 0.25% 25%").unwrap();
        assert_eq!(impairment.loss, Loss::Bursts { start: 0.0025, stop: 0.25, bad: 1.0, good: 0.0 });
        assert_eq!(impairment.describe(), "delay 0ns, loss 0.99% in bursts of 4.0");
    }

    #[test]
    fn a_loss_in_time_is_parsed_and_described() {
        let mut impairment = Impairment::default();
        impairment.set("loss", "interruptions 997ms 3ms").unwrap();
        let (good, bad) = (Duration::from_millis(997), Duration::from_millis(3));
        assert_eq!(impairment.loss, Loss::Timed(Timed { good, bad, bad_loss: 1.0, good_loss: 0.0 }));
        assert_eq!(impairment.describe(), "delay 0ns, loss 0.30% in interruptions of 3ms after 997ms");
        impairment.set("loss", "interruptions 1s 2ms 50% 0.1%").unwrap();
        let (good, bad) = (Duration::from_secs(1), Duration::from_millis(2));
        assert_eq!(impairment.loss, Loss::Timed(Timed { good, bad, bad_loss: 0.5, good_loss: 0.001 }));
    }

    #[test]
    fn a_trace_is_read_from_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "999 ok\nlost\n").unwrap();
        let mut impairment = Impairment::default();
        impairment.set("loss", &format!("trace {}", file.path().display())).unwrap();
        assert_eq!(impairment.describe(), "delay 0ns, loss 0.10% from a trace of 1000 datagrams");
        let before = impairment.clone();
        std::fs::write(file.path(), "999 ok\nmaybe\n").unwrap();
        let error = impairment.set("loss", &format!("trace {}", file.path().display())).unwrap_err().to_string();
        assert!(error.starts_with("loss: /") && error.contains(", line 2: found \"maybe\""), "{error}");
        assert_eq!(impairment, before);
    }

    #[test]
    fn an_error_names_what_is_allowed_and_changes_nothing() {
        let mut impairment = Impairment::default();
        let error = impairment.set("delai", "1ms").unwrap_err().to_string();
        assert!(
            error.starts_with("unknown key \"delai\" (did you mean \"delay\"?); allowed: delay, jitter,"),
            "{error}"
        );
        let error = impairment.set("passage", "ajar").unwrap_err().to_string();
        assert_eq!(error, "passage: found \"ajar\"; allowed: open, cut or blackhole");
        for (key, value) in [
            ("loss", "bursts"),
            ("loss", "bursts 1% 2% 3% 4% 5%"),
            ("loss", "interruptions 5s"),
            ("loss", "interruptions 5s 0ms"),
            ("loss", "interruptions 0ms 5s"),
            ("loss", "interruptions 5s 1ms 2"),
            ("loss", "interruptions 5s 1ms 1 0 0"),
            ("loss", "trace"),
            ("mtu", "10"),
            ("rate", "fast"),
        ] {
            assert!(impairment.set(key, value).is_err(), "{key} {value}");
        }
        assert_eq!(impairment, Impairment::default());
    }
}
