//! The load of the machine before a measurement begins.
//!
//! This module only reports the load; the scenario decides what it means for the result.

use std::{fmt, thread};

use serde_json::{Value, json};

use super::error::LabError;

/// The number of processes that ran or were ready to run, on average over the last minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    average: f64,
    processors: usize,
}

impl Load {
    /// The current load.
    pub fn now() -> Result<Self, LabError> {
        let path = "/proc/loadavg";
        let text = std::fs::read_to_string(path).map_err(LabError::doing(format!("read {path}")))?;
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::parse(&text, processors).ok_or_else(|| LabError::Sentence(format!("{path} says {text:?}, not numbers")))
    }

    /// Parses the first number of `/proc/loadavg`, for this many processors.
    pub fn parse(text: &str, processors: usize) -> Option<Self> {
        Some(Self { average: text.split_whitespace().next()?.parse().ok()?, processors })
    }

    /// Whether other programs use so much of the processors that a measured speed is too low.
    pub fn is_busy(&self) -> bool {
        self.average >= self.processors as f64 / 2.0
    }

    /// For a scenario's result.
    pub fn to_json(&self) -> Value {
        json!({ "average": self.average, "processors": self.processors, "busy": self.is_busy() })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { average, processors } = self;
        write!(f, "load average {average:.2} on {processors} processors")?;
        if self.is_busy() {
            write!(f, ": the machine is BUSY with other work, all speeds will be too low")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_of_half_the_processors_is_busy() {
        for (text, processors, is_busy) in
            [("0.99 1 1 2/3 4", 2, false), ("1.00 0 0 2/3 4", 2, true), ("3 0", 8, false)]
        {
            let load = Load::parse(text, processors).unwrap();
            assert_eq!(load.is_busy(), is_busy, "{load}");
            assert_eq!(load.to_string().contains("BUSY"), is_busy, "{load}");
        }
        assert_eq!(Load::parse("", 1), None);
        assert!(Load::now().is_ok());
    }
}
