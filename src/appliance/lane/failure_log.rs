//! Reads and writes that fail and are tried again: each kind logged once when it begins, with the remedy, and once when it
//! has ended.

use std::io;
use std::time::{Duration, Instant};

/// A kind has ended when none came for this long.
const QUIET: Duration = Duration::from_secs(60);

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// To read packets from the TUN.
    ReadTun,
    /// To write a packet to the TUN.
    WriteTun,
    /// To read datagrams.
    ReadSocket,
}

impl Failure {
    fn remedy(self) -> &'static str {
        match self {
            Self::ReadTun => {
                "packets cannot be read from the TUN; they wait there, and it is tried again every 10 ms; `ip link show` says \
                 whether the device is up, `free` whether this host has memory"
            }
            Self::WriteTun => {
                "the TUN refuses packets from the peer, which are lost unless they are sent again; `ip link show` says \
                 whether the device is up, `free` whether this host has memory; `drops` in status counts them as tun_refused"
            }
            Self::ReadSocket => {
                "datagrams cannot be read; they wait in the socket, and it is tried again every 10 ms; `free` says whether \
                 this host has memory"
            }
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::ReadTun => "packets are read from the TUN again",
            Self::WriteTun => "the TUN takes packets again",
            Self::ReadSocket => "datagrams are read again",
        }
    }
}

/// The failures of one lane.
#[derive(Debug, Default)]
pub struct FailureLog {
    /// Kinds that were logged and have not ended, each with the time of its last error and how often it was noted.
    active: Vec<(Failure, Instant, u64)>,
}

impl FailureLog {
    /// Notes a failure; returns the line to log if its kind is new.
    pub fn note(&mut self, what: Failure, error: &io::Error, now: Instant) -> Option<String> {
        if let Some((_, last, count)) = self.active.iter_mut().find(|(logged, ..)| *logged == what) {
            (*last, *count) = (now, *count + 1);
            return None;
        }
        self.active.push((what, now, 1));
        Some(format!("{} ({error})", what.remedy()))
    }

    /// The line to log for a kind that has ended.
    pub fn poll_ended(&mut self, now: Instant) -> Option<String> {
        let at = self.active.iter().position(|(_, last, _)| *last + QUIET <= now)?;
        let (what, _, count) = self.active.swap_remove(at);
        Some(format!("{}: for a minute it did not fail; it was noted in {count} turns before", what.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_failure_is_logged_when_it_begins_and_when_it_has_ended() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        let mut logged = Vec::new();
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            let error = io::Error::from_raw_os_error(libc::ENOMEM);
            let failed = [(Failure::ReadSocket, second < 100), (Failure::WriteTun, second == 5)];
            for (what, _) in failed.into_iter().filter(|(_, is_so)| *is_so) {
                logged.extend(log.note(what, &error, now).map(|words| format!("{second} {words}")));
            }
            logged.extend(log.poll_ended(now).map(|words| format!("{second} {words}")));
        }
        let begins = [
            "0 datagrams cannot be read; ",
            "5 the TUN refuses packets",
            "65 the TUN takes packets again: ",
            "159 datagrams are read again: ",
        ];
        assert_eq!(logged.len(), begins.len(), "{logged:?}");
        assert!(logged.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{logged:?}");
        assert!(logged[0].contains("`free`") && logged[0].contains("Cannot allocate memory"), "{logged:?}");
        assert!(logged[2].ends_with("in 1 turns before") && logged[3].ends_with("in 100 turns before"), "{logged:?}");
    }
}
