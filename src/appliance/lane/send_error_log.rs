//! Errors of sending: counted, and each kind logged once when it begins, with the remedy, and once when it has ended.

use std::time::{Duration, Instant};

use crate::io::udp::ErrorCounts;

/// A kind has ended when none came for this long.
const QUIET: Duration = Duration::from_secs(60);

/// What went wrong with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    TooBig,
    QueueFull,
    Unreachable,
    Forbidden,
    Other,
}

impl Kind {
    const ALL: [Self; 5] = [Self::TooBig, Self::QueueFull, Self::Unreachable, Self::Forbidden, Self::Other];

    fn count(self, counts: &ErrorCounts) -> u64 {
        match self {
            Self::TooBig => counts.too_big,
            Self::QueueFull => counts.queue_full,
            Self::Unreachable => counts.unreachable,
            Self::Forbidden => counts.forbidden,
            Self::Other => counts.other,
        }
    }

    fn message(self, counts: &ErrorCounts) -> String {
        let words = match self {
            Self::TooBig => {
                let mtu = counts.path_mtu.map_or("unknown".to_owned(), |mtu| mtu.to_string());
                return format!("datagrams are too big for the path, whose MTU is {mtu}; lower `path.mtu`");
            }
            Self::QueueFull => {
                "a queue of this host is full and drops datagrams; set `path.rate` a little below the slowest hop"
            }
            Self::Unreachable => {
                "datagrams do not reach the peer: there is no route or nobody listens; `ip route get` and the peer's log say more"
            }
            Self::Forbidden => {
                "a firewall of this host forbids datagrams to the peer; let UDP from and to node.listen pass"
            }
            Self::Other => "datagrams could not be sent; `lanes[]` in status counts them",
        };
        words.to_owned()
    }
}

/// The send errors of one lane.
#[derive(Debug, Default)]
pub struct SendErrorLog {
    total: ErrorCounts,
    /// Kinds that were logged and have not ended, each with the time of its last error and the count before it began.
    active: Vec<(Kind, Instant, u64)>,
}

impl SendErrorLog {
    /// Counts what was found since the last call; returns a line to log for each kind that is new.
    pub fn note(&mut self, found: ErrorCounts, now: Instant) -> Vec<String> {
        let before = self.total;
        self.total += found;
        if found.total() == 0 {
            return Vec::new();
        }
        let mut words = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.count(&found) > 0) {
            match self.active.iter_mut().find(|(logged, ..)| *logged == kind) {
                Some((_, last, _)) => *last = now,
                None => {
                    self.active.push((kind, now, kind.count(&before)));
                    words.push(kind.message(&found));
                }
            }
        }
        words
    }

    /// The line to log for a kind that has ended.
    pub fn poll_ended(&mut self, now: Instant) -> Option<String> {
        let at = self.active.iter().position(|(_, last, _)| *last + QUIET <= now)?;
        let (kind, _, before) = self.active.swap_remove(at);
        let count = kind.count(&self.total) - before;
        if kind == Kind::TooBig {
            // The path may carry more by now.
            self.total.path_mtu = None;
        }
        Some(format!("no datagram failed as {} for a minute; {count} did since that began", kind.name()))
    }

    /// Counts since the start.
    pub fn total(&self) -> ErrorCounts {
        self.total
    }
}

impl Kind {
    /// Its name in status.
    fn name(self) -> &'static str {
        match self {
            Self::TooBig => "too_big",
            Self::QueueFull => "queue_full",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_error_is_logged_when_it_begins_and_when_it_ends() {
        let (mut send_error_log, start) = (SendErrorLog::default(), Instant::now());
        let too_big = ErrorCounts { too_big: 2, path_mtu: Some(1400), ..ErrorCounts::default() };
        let mut logged = Vec::new();
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            logged.extend(send_error_log.note(if second < 100 { too_big } else { ErrorCounts::default() }, now));
            logged.extend(
                send_error_log.note(ErrorCounts { queue_full: u64::from(second == 5), ..Default::default() }, now),
            );
            logged.extend(send_error_log.poll_ended(now).map(|words| format!("{second} {words}")));
        }
        assert_eq!(logged.len(), 4, "{logged:?}");
        assert!(logged[0].contains("1400; lower `path.mtu`") && logged[1].contains("path.rate"), "{logged:?}");
        assert_eq!(logged[2], "65 no datagram failed as queue_full for a minute; 1 did since that began");
        assert_eq!(logged[3], "159 no datagram failed as too_big for a minute; 200 did since that began");
        assert_eq!((send_error_log.total().too_big, send_error_log.total().path_mtu), (200, None));
    }
}
