//! Quantities with units, as a person types them: `25ms`, `1%`, `100mbit`, `256MB`.
//!
//! Topology files, the command line and the emulator's control socket share this syntax. The caller decides what a
//! value is for and whether it is sensible there.

use std::time::Duration;

use crate::config::units::{self, Rate};

/// Why a text is not a quantity: the text and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\"; allowed: {allowed}")]
pub struct UnitError {
    /// The text as it was given.
    pub found: String,
    /// What is allowed.
    pub allowed: &'static str,
}

/// Parses a duration of at most a day, as the configuration has it; a bare `0` needs no unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let duration = if text.trim() == "0" { Ok(Duration::ZERO) } else { units::parse_duration(text.trim()) };
    let allowed = "a duration such as 50us, 25ms, 1.5s or 2min";
    duration.ok().filter(|duration| duration.as_secs() <= 86_400).ok_or_else(|| error(text, allowed))
}

/// Parses a probability: `1%` or a fraction such as `0.01`; between 0 and 1.
pub fn parse_probability(text: &str) -> Result<f64, UnitError> {
    let allowed = "a probability such as 1%, 0.1% or 0.01, from 0 to 100%";
    let value = match text.trim().strip_suffix('%') {
        Some(percent) => parse_number(percent, text, allowed)? / 100.0,
        None => parse_number(text, text, allowed)?,
    };
    (0.0..=1.0).contains(&value).then_some(value).ok_or_else(|| error(text, allowed))
}

/// Parses a rate as the configuration has it, from 1 kbit/s to 1 Tbit/s; returns bits per second.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let rate = units::parse_rate(text.trim()).map(Rate::bits_per_second);
    let allowed = "a rate such as 512kbit, 100mbit or 2.5gbit";
    rate.ok().filter(|rate| (1_000..=1_000_000_000_000).contains(rate)).ok_or_else(|| error(text, allowed))
}

/// Parses an amount of bytes: a number and `B`, `kB`, `MB` or `GB` (powers of 1000) or `KiB`, `MiB`, `GiB`.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let allowed = "an amount such as 1500B, 64KiB, 256MB or 1GB";
    let scale = |unit: &str| match unit {
        "B" => Some(1.0),
        "kB" => Some(1e3),
        "MB" => Some(1e6),
        "GB" => Some(1e9),
        "KiB" => Some(1024.0),
        "MiB" => Some(1024.0 * 1024.0),
        "GiB" => Some(1024.0 * 1024.0 * 1024.0),
        _ => None,
    };
    let bytes = parse_scaled(text, allowed, scale)?;
    (0.0..=1e15).contains(&bytes).then_some(bytes as u64).ok_or_else(|| error(text, allowed))
}

fn parse_scaled(text: &str, allowed: &'static str, scale: impl Fn(&str) -> Option<f64>) -> Result<f64, UnitError> {
    let text = text.trim();
    if text == "0" {
        return Ok(0.0);
    }
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(|| error(text, allowed))?;
    let (number, unit) = text.split_at(unit_at);
    let scale = scale(unit).ok_or_else(|| error(text, allowed))?;
    Ok(parse_number(number, text, allowed)? * scale)
}

fn parse_number(number: &str, text: &str, allowed: &'static str) -> Result<f64, UnitError> {
    match number.trim().parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err(error(text, allowed)),
    }
}

fn error(found: &str, allowed: &'static str) -> UnitError {
    UnitError { found: found.to_owned(), allowed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_with_units_are_parsed() {
        assert_eq!(parse_duration("25ms").unwrap(), Duration::from_millis(25));
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(parse_duration("0").unwrap(), Duration::ZERO);
        assert_eq!(parse_probability("1%").unwrap(), 0.01);
        assert_eq!(parse_probability("0.25").unwrap(), 0.25);
        assert_eq!(parse_rate("100mbit").unwrap(), 100_000_000);
        assert_eq!(parse_bytes("64KiB").unwrap(), 65_536);
        assert_eq!(parse_bytes("256 MB").unwrap(), 256_000_000);
    }

    #[test]
    fn a_wrong_quantity_is_refused_with_the_allowed_form() {
        for text in ["", "ms", "-1ms", "1", "1 parsec", "1e400s", "NaNs", "inf", "99999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "%", "101%", "-1%", "1.1", "nan", "one"] {
            assert!(parse_probability(text).is_err(), "{text}");
        }
        for text in ["10", "1mbits", "1bit", "1e9gbit"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_bytes("12 apples").unwrap_err().to_string(),
            "found \"12 apples\"; allowed: an amount such as 1500B, 64KiB, 256MB or 1GB"
        );
    }
}
