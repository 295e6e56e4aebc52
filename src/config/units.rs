//! Durations, rates and fractions as people write them: `50us`, `950mbit`, `0.1%`. Knows no keys.

use std::fmt;
use std::time::Duration;

/// A rate in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    bits_per_second: u64,
}

impl Rate {
    /// A rate of `bits_per_second`.
    pub const fn from_bits_per_second(bits_per_second: u64) -> Self {
        Self { bits_per_second }
    }

    /// Bits per second.
    pub const fn bits_per_second(self) -> u64 {
        self.bits_per_second
    }

    /// Bytes per second, rounded down.
    pub const fn bytes_per_second(self) -> u64 {
        self.bits_per_second / 8
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)] {
            if self.bits_per_second >= size && self.bits_per_second.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.bits_per_second / size);
            }
        }
        write!(f, "{}bit", self.bits_per_second)
    }
}

/// Reads a duration with its unit: `50us`, `1.5ms`, `2s`, `2min`. The error is a hint.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 6] = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0)];
    let (number, unit) = split(text)?;
    let Some((_, seconds)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(if unit.is_empty() {
            format!("add the unit: {number}us, {number}ms or {number}s")
        } else {
            "the units are ns, us, ms, s and min".to_owned()
        });
    };
    // Convert to nanoseconds first: a number with few digits stays exact.
    let nanoseconds = number * (seconds * 1e9).round();
    if nanoseconds > 1e18 {
        return Err("that is more than 30 years".to_owned());
    }
    Ok(Duration::from_nanos(nanoseconds.round() as u64))
}

/// Reads a rate with its unit: `950mbit`, `2.5gbit`. The error is a hint.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    const UNITS: [(&str, f64); 4] = [("bit", 1.0), ("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)];
    let (number, unit) = split(text)?;
    let lower = unit.to_ascii_lowercase();
    let bare = lower.trim_end_matches("/s");
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == bare) else {
        return Err(if unit.is_empty() {
            format!("add the unit: {number}mbit or {number}gbit")
        } else {
            "the units are bit, kbit, mbit and gbit, in powers of 1000 bits per second".to_owned()
        });
    };
    Ok(Rate::from_bits_per_second((number * factor).round().min(1e18) as u64))
}

/// Reads `0.1%` or `0.001` as a fraction. The error is a hint.
pub fn parse_fraction(text: &str) -> Result<f64, String> {
    match split(text)? {
        (number, "%") => Ok(number / 100.0),
        (number, "") if number < 1.0 => Ok(number),
        (number, "") => Err(format!("add the sign: {number}%")),
        _ => Err("the only unit is %".to_owned()),
    }
}

/// Reads `50%` or `1000%`. The error is a hint.
pub fn parse_percent(text: &str) -> Result<f64, String> {
    match split(text)? {
        (number, "%") => Ok(number / 100.0),
        (number, _) => Err(format!("add the sign: {number}%")),
    }
}

/// A duration with the largest unit that leaves a whole number.
pub fn show_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    for (unit, size) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanoseconds.is_multiple_of(size) && (nanoseconds > 0 || unit == "us") {
            return format!("{}{unit}", nanoseconds / size);
        }
    }
    format!("{nanoseconds}ns")
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| "write a number and its unit".to_owned())?;
    Ok((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units() {
        for (text, nanoseconds) in [
            ("0us", 0),
            ("50us", 50_000),
            ("50 us", 50_000),
            ("50µs", 50_000),
            ("0.3ms", 300_000),
            ("1.5ms", 1_500_000),
            ("20ms", 20_000_000),
            ("2s", 2_000_000_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
        for text in ["", "50", "us", "-1ms", "1h", "1.2.3ms", "1e9s", "99999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("50"), Err("add the unit: 50us, 50ms or 50s".to_owned()));
    }

    #[test]
    fn durations_are_shown_as_they_were_written() {
        for text in ["0us", "7ns", "50us", "1500us", "20ms", "2s"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn rates_carry_units() {
        for (text, bits, shown) in [
            ("950mbit", 950_000_000, "950mbit"),
            ("950 Mbit/s", 950_000_000, "950mbit"),
            ("2.5gbit", 2_500_000_000, "2500mbit"),
            ("10Gbit", 10_000_000_000, "10gbit"),
            ("1234bit", 1_234, "1234bit"),
        ] {
            let rate = parse_rate(text).unwrap();
            assert_eq!((rate.bits_per_second(), rate.to_string().as_str()), (bits, shown), "{text}");
        }
        for text in ["", "950", "fast", "10MB", "10Mbps", "-1mbit"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(Rate::from_bits_per_second(80).bytes_per_second(), 10);
    }

    #[test]
    fn fractions_are_percent_or_below_one() {
        for (text, fraction) in [("0.1%", 0.001), ("1%", 0.01), ("0.001", 0.001), ("50 %", 0.5)] {
            assert_eq!(parse_fraction(text), Ok(fraction), "{text}");
        }
        for text in ["1", "x", "-1%", "1ms", "%"] {
            assert!(parse_fraction(text).is_err(), "{text}");
        }
    }
}
