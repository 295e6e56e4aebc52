//! Logs programs that send more requests to the notification port than their share: once when it begins, with the
//! program's address, and once when it ends. What is dropped is decided in [`crate::notify::publisher`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// It has ended when nothing was dropped for this long.
const QUIET: Duration = Duration::from_secs(60);

/// Since when requests are dropped.
#[derive(Debug, Default)]
pub struct ExcessLog {
    /// When the last request was dropped, and how many were dropped before the first.
    active: Option<(Instant, u64)>,
    /// Dropped since the start, as of the last call.
    total: u64,
}

impl ExcessLog {
    /// Requests were dropped, `total` since the start, the last one from `from`. Returns the line to log if this has
    /// begun.
    pub fn note(&mut self, from: SocketAddr, key: u16, total: u64, now: Instant) -> Option<String> {
        let before = std::mem::replace(&mut self.total, total);
        if let Some((last, _)) = &mut self.active {
            *last = now;
            return None;
        }
        self.active = Some((now, before));
        Some(format!(
            "the program at {from} with notification key {key} asks for more than its share: what is beyond it is dropped \
             until it is asked for again, and counted (`notify.excess` in status). Nobody else is kept waiting. Look at what \
             that program does; if it is not yours, change the key"
        ))
    }

    /// When it may have ended.
    pub fn deadline(&self) -> Option<Instant> {
        self.active.map(|(last, _)| last + QUIET)
    }

    /// The line to log if it has ended.
    pub fn poll_ended(&mut self, now: Instant) -> Option<String> {
        let (_, before) = self.active.take_if(|(last, _)| *last + QUIET <= now)?;
        let count = self.total - before;
        Some(format!(
            "no program asked for more than its share for a minute; {count} requests were dropped since that began"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excess_is_logged_when_it_begins_and_when_it_ends() {
        let (mut excess, start) = (ExcessLog::default(), Instant::now());
        let mut logged = Vec::new();
        for second in 0..400 {
            let now = start + Duration::from_secs(second);
            if second < 200 {
                logged.extend(excess.note(([10, 1, 0, 1], 4000).into(), 2, 3 * (second + 1), now));
            }
            assert_eq!(excess.deadline().is_some(), second < 260, "{second}");
            logged.extend(excess.poll_ended(now).map(|words| format!("{second} {words}")));
        }
        assert_eq!(logged.len(), 2, "{logged:?}");
        assert!(logged[0].contains("10.1.0.1:4000 with notification key 2"), "{logged:?}");
        assert!(logged[1].starts_with("259 ") && logged[1].contains("; 600 requests"), "{logged:?}");
        assert!(excess.note(([10, 1, 0, 1], 4000).into(), 2, 601, start + Duration::from_secs(500)).is_some());
    }
}
