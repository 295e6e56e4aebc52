//! Stray packets, outside of the configured prefixes: each kind is logged once when it begins, with an example and the
//! remedy, and once when it ends.

use std::time::{Duration, Instant};

use crate::tunnel::drop_reason::DropReason;
use crate::tunnel::forwarder::Stray;

/// A kind has ended when none came for this long.
const QUIET: Duration = Duration::from_secs(60);

/// The kinds of stray packets that one lane has logged.
#[derive(Debug, Default)]
pub struct Strays {
    /// Kinds that were logged and have not ended, each with the time of its last packet.
    active: Vec<(DropReason, Instant)>,
}

impl Strays {
    /// Notes one packet; returns the line to log if its kind is new.
    pub fn note(&mut self, stray: Stray, now: Instant) -> Option<String> {
        if let Some((_, last)) = self.active.iter_mut().find(|(reason, _)| *reason == stray.reason) {
            *last = now;
            return None;
        }
        let remedy = match stray.reason {
            DropReason::ForeignAddress => {
                "came from the peer and is in neither our local_prefixes nor its prefixes here: the two configurations disagree"
            }
            DropReason::ForeignSource => {
                "has a source outside of node.local_prefixes: add its network there, and to this peer's prefixes at the other site"
            }
            DropReason::NoPeer => {
                "has a destination in no peers[].prefixes: a route of somebody else leads into the TUN; `ip route` shows it"
            }
            _ => return None,
        };
        self.active.push((stray.reason, now));
        let (source, destination, name) = (stray.source, stray.destination, stray.reason.name());
        Some(format!(
            "dropped, as {name}: a packet from {source} to {destination} {remedy}. `drops` in status counts them"
        ))
    }

    /// A kind that has ended.
    pub fn poll_ended(&mut self, now: Instant) -> Option<DropReason> {
        let at = self.active.iter().position(|(_, last)| *last + QUIET <= now)?;
        Some(self.active.swap_remove(at).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_stray_packet_is_logged_when_it_begins_and_when_it_ends() {
        let (mut strays, start) = (Strays::default(), Instant::now());
        let stray = |reason| Stray { reason, source: [10, 9, 0, 1].into(), destination: [10, 2, 0, 1].into() };
        let mut logged = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            logged.extend(strays.note(stray(DropReason::ForeignSource), now));
            logged.extend((second < 30).then(|| strays.note(stray(DropReason::ForeignAddress), now)).flatten());
            logged.extend(strays.note(stray(DropReason::Replayed), now));
            logged.extend(strays.poll_ended(now).map(|reason| format!("ended {second} {}", reason.name())));
        }
        assert_eq!(logged.len(), 3, "{logged:?}");
        assert!(logged[0].contains("10.9.0.1 to 10.2.0.1") && logged[0].contains("node.local_prefixes"), "{logged:?}");
        assert!(logged[1].contains("disagree"), "{logged:?}");
        assert_eq!(logged[2], "ended 89 foreign_address");
    }
}
