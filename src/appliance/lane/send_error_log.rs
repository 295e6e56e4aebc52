//! Errors of sending: counted, and each kind said once when it begins, with the remedy, and once when it has ended.

use std::time::{Duration, Instant};

use crate::io::udp::ErrorCounts;

/// It has ended when there was none for so long.
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

/// The errors of one lane.
#[derive(Debug, Default)]
pub struct SendErrorLog {
    total: ErrorCounts,
    /// Kinds that were said and have not ended, with when one last came and how many there had been before.
    active: Vec<(Kind, Instant, u64)>,
}

impl SendErrorLog {
    /// Counts what was found since the last time: the words to say of each kind that has begun.
    pub fn note(&mut self, found: ErrorCounts, now: Instant) -> Vec<String> {
        let before = self.total;
        self.total += found;
        if found.total() == 0 {
            return Vec::new();
        }
        let mut words = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.count(&found) > 0) {
            match self.active.iter_mut().find(|(said, ..)| *said == kind) {
                Some((_, last, _)) => *last = now,
                None => {
                    self.active.push((kind, now, kind.count(&before)));
                    words.push(kind.message(&found));
                }
            }
        }
        words
    }

    /// The words to say of a kind of which none has come for a while.
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
    /// As in status.
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
    fn warnings_of_a_lasting_error_had_no_end() {
        let (mut send_error_log, start) = (SendErrorLog::default(), Instant::now());
        let too_big = ErrorCounts { too_big: 2, path_mtu: Some(1400), ..ErrorCounts::default() };
        let mut said = Vec::new();
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            said.extend(send_error_log.note(if second < 100 { too_big } else { ErrorCounts::default() }, now));
            said.extend(
                send_error_log.note(ErrorCounts { queue_full: u64::from(second == 5), ..Default::default() }, now),
            );
            said.extend(send_error_log.poll_ended(now).map(|words| format!("{second} {words}")));
        }
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].contains("1400; lower `path.mtu`") && said[1].contains("path.rate"), "{said:?}");
        assert_eq!(said[2], "65 no datagram failed as queue_full for a minute; 1 did since that began");
        assert_eq!(said[3], "159 no datagram failed as too_big for a minute; 200 did since that began");
        assert_eq!((send_error_log.total().too_big, send_error_log.total().path_mtu), (200, None));
    }
}
