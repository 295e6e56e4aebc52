//! The queues that may drop a datagram which they have taken: asked each time before timestamps are believed.
//!
//! A block is whole on the link only if nothing of it was dropped between its first datagram and the timestamp of its
//! last, so the counter is read after the timestamp. Which queues are to be suspected is found out elsewhere.

use std::io;
use std::net::IpAddr;

use crate::io::qdisc::DropCounter;

/// A suspected way to a peer.
#[derive(Debug)]
struct Way {
    peer: IpAddr,
    /// None while it cannot be asked: then it has dropped.
    counter: Option<DropCounter>,
    drops: Option<u64>,
}

/// The suspected ways of one lane.
#[derive(Debug, Default)]
pub struct Suspects(Vec<Way>);

impl Suspects {
    /// The way to `peer` is to be suspected from now on, or no longer.
    pub fn on_uplink(&mut self, peer: IpAddr, is_suspect: bool) {
        self.0.retain(|way| way.peer != peer);
        if is_suspect {
            let mut way = Way { peer, counter: None, drops: None };
            // What it has dropped before is the past; where it cannot be asked now, it is tried again each time.
            let _ = way.ask();
            self.0.push(way);
        }
    }

    /// Whether any has dropped something since the last time, as far as can be known.
    pub fn have_dropped(&mut self) -> bool {
        // All are asked: each remembers what it was told last.
        self.0.iter_mut().filter_map(|way| way.ask().unwrap_or(true).then_some(())).count() > 0
    }
}

impl Way {
    fn ask(&mut self) -> io::Result<bool> {
        if self.counter.is_none() {
            self.counter = Some(DropCounter::open(self.peer)?);
        }
        let Some(counter) = &mut self.counter else { return Ok(true) };
        let drops = counter.read().inspect_err(|_| self.counter = None)?;
        let before = std::mem::replace(&mut self.drops, drops);
        // A queue that does not count cannot be believed.
        Ok(drops.is_none() || before != drops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_cannot_be_asked_has_dropped_and_one_without_suspicion_has_not() {
        let mut suspects = Suspects::default();
        assert!(!suspects.have_dropped());
        // Loopback counts, and drops nothing by itself.
        let here = IpAddr::from([127, 0, 0, 1]);
        suspects.on_uplink(here, true);
        assert!(!suspects.have_dropped());
        suspects.0[0].drops = Some(u64::MAX);
        assert!(suspects.have_dropped(), "its count has changed");
        assert!(!suspects.have_dropped(), "and is known now");
        // No route leads there.
        let nowhere = IpAddr::from([255, 255, 255, 255]);
        suspects.on_uplink(nowhere, true);
        suspects.0[1].counter = None;
        let reachable = DropCounter::open(nowhere).is_ok();
        assert_eq!(suspects.have_dropped(), !reachable);
        suspects.on_uplink(nowhere, false);
        suspects.on_uplink(here, false);
        assert!(!suspects.have_dropped());
    }
}
