//! When something began, as status shows it: by the clock on the wall, and as a time that has passed.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a state began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Since {
    /// By this host's clock, in seconds since 1970. A clock that is set moves it.
    pub at_s: f64,
    /// How long ago, in seconds: not by that clock.
    pub for_s: f64,
}

impl Since {
    /// It began at `began`; the status is of `now`.
    pub fn of(began: Instant, now: Instant) -> Self {
        let passed = now.saturating_duration_since(began);
        let at = (SystemTime::now() - passed).duration_since(UNIX_EPOCH).unwrap_or_default();
        // Milliseconds: the two clocks are not read at the same moment.
        Self { at_s: at.as_millis() as f64 / 1e3, for_s: passed.as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_began_a_while_ago_has_its_time_of_day() {
        let now = Instant::now();
        let since = Since::of(now, now + Duration::from_secs(90));
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert_eq!(since.for_s, 90.0);
        assert!((clock - since.at_s - 90.0).abs() < 5.0, "{since:?}, and it is {clock}");
        assert_eq!(Since::of(now + Duration::from_secs(1), now).for_s, 0.0, "what begins later has not lasted yet");
    }
}
