//! Packets that belong to nobody here: each kind is said once when it begins, with an example and the remedy, and its end.

use std::time::{Duration, Instant};

use crate::tunnel::drop_reason::DropReason;
use crate::tunnel::forwarder::Stray;

/// It has ended when there was none for so long.
const QUIET: Duration = Duration::from_secs(60);

/// What was said of one lane's strays.
#[derive(Debug, Default)]
pub struct Strays {
    /// Kinds that were said and have not ended, with when one last came.
    active: Vec<(DropReason, Instant)>,
}

impl Strays {
    /// One came: the words to say, the first time.
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

    /// Kinds of which none has come for a while.
    pub fn poll_ended(&mut self, now: Instant) -> Option<DropReason> {
        let at = self.active.iter().position(|(_, last)| *last + QUIET <= now)?;
        Some(self.active.swap_remove(at).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_that_disagree_were_silent_for_ever() {
        let (mut strays, start) = (Strays::default(), Instant::now());
        let stray = |reason| Stray { reason, source: [10, 9, 0, 1].into(), destination: [10, 2, 0, 1].into() };
        let mut said = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            said.extend(strays.note(stray(DropReason::ForeignSource), now));
            said.extend((second < 30).then(|| strays.note(stray(DropReason::ForeignAddress), now)).flatten());
            said.extend(strays.note(stray(DropReason::Replayed), now));
            said.extend(strays.poll_ended(now).map(|reason| format!("ended {second} {}", reason.name())));
        }
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].contains("10.9.0.1 to 10.2.0.1") && said[0].contains("node.local_prefixes"), "{said:?}");
        assert!(said[1].contains("disagree"), "{said:?}");
        assert_eq!(said[2], "ended 89 foreign_address");
    }
}
