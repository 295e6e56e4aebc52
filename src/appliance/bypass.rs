//! When packets for a peer take the plain route instead of the tunnel: `bypass: withdraw_routes`.
//!
//! A peer is carried while every lane hears from it. Otherwise its routes are withdrawn at
//! once, and come back only after the peer has been fit for a while: twice as long each time that it fails again soon
//! after its return. This file has no clock, and does nothing itself.

use std::time::{Duration, Instant};

use crate::tunnel::PeerId;

/// A peer that fails within this time after its return must be fit for longer the next time.
const RELAPSE: Duration = Duration::from_secs(60);
/// The wait for a return is doubled this many times at most.
const DOUBLINGS_MAX: u32 = 5;

/// Why packets for a peer take the plain route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing has come from the peer yet.
    Unheard,
    /// Nothing comes from the peer.
    Silent,
    /// The peer's host has said that nobody listens there.
    Refused,
    /// A lane, or all of this appliance, stood still.
    Stall,
    /// The kernel refuses its routes.
    Routes,
}

impl Cause {
    /// As it is written in status and log.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Unheard => "no session",
            Cause::Silent => "the peer is silent",
            Cause::Refused => "nobody listens at the peer's address",
            Cause::Stall => "this appliance stood still",
            Cause::Routes => "its routes cannot be added",
        }
    }
}

/// How a lane reaches a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Nothing has come from it yet.
    #[default]
    Unheard,
    /// It answers, as far as is known.
    Fit,
    /// Nothing comes from it.
    Silent,
    /// Its host refuses our datagrams.
    Refused,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Withdraw the routes.
    Withdraw(Cause),
    /// Add them again.
    Restore,
}

#[derive(Clone, Debug)]
struct Entry {
    /// None: the peer is carried.
    cause: Option<Cause>,
    /// The change to this state was handed out.
    is_told: bool,
    /// By lane.
    reaches: Vec<Reach>,
    /// Since when nothing has been wrong; none while something is.
    fit_since: Option<Instant>,
    restored_at: Option<Instant>,
    doublings: u32,
    withdrawals: u64,
    /// Its routes could not be added since they were last there.
    is_unrestored: bool,
    is_removed: bool,
}

impl Entry {
    /// Its routes are not there yet.
    fn new(lanes: usize) -> Self {
        Self {
            cause: Some(Cause::Unheard),
            is_told: true,
            reaches: vec![Reach::Unheard; lanes],
            fit_since: None,
            restored_at: None,
            doublings: 0,
            withdrawals: 0,
            is_unrestored: false,
            is_removed: false,
        }
    }

    fn fault(&self) -> Option<Cause> {
        let causes =
            [(Reach::Unheard, Cause::Unheard), (Reach::Refused, Cause::Refused), (Reach::Silent, Cause::Silent)];
        causes.into_iter().find(|(reach, _)| self.reaches.contains(reach)).map(|(_, cause)| cause)
    }

    fn look(&mut self, now: Instant) {
        match self.fault() {
            Some(cause) => self.withdraw(cause, now),
            None => drop(self.fit_since.get_or_insert(now)),
        }
    }

    fn withdraw(&mut self, cause: Cause, now: Instant) {
        self.fit_since = None;
        if self.cause.is_some() {
            return;
        }
        let is_relapse = self.restored_at.is_some_and(|at| now < at + RELAPSE);
        self.doublings = if is_relapse { (self.doublings + 1).min(DOUBLINGS_MAX) } else { 0 };
        (self.cause, self.is_told, self.is_unrestored) = (Some(cause), false, false);
        self.withdrawals += 1;
    }
}

/// All peers.
#[derive(Debug)]
pub struct Bypass {
    return_after: Duration,
    lanes: usize,
    peers: Vec<Entry>,
}

impl Bypass {
    /// No peer is carried yet.
    pub fn new(peers: usize, lanes: usize, return_after: Duration) -> Self {
        Self { return_after, lanes, peers: vec![Entry::new(lanes); peers] }
    }

    /// Follows another configuration: which peers there are now, by number. New ones are not carried yet.
    pub fn reload(&mut self, are_removed: &[bool], return_after: Duration) {
        self.return_after = return_after;
        for (number, &is_removed) in are_removed.iter().enumerate() {
            let fresh = Entry { is_removed, ..Entry::new(self.lanes) };
            match self.peers.get_mut(number) {
                None => self.peers.push(fresh),
                Some(entry) if entry.is_removed != is_removed => *entry = fresh,
                Some(_) => {}
            }
        }
    }

    /// How a lane reaches a peer from now on.
    pub fn on_reach(&mut self, lane: u8, peer: PeerId, reach: Reach, now: Instant) {
        let Some(entry) = self.peers.get_mut(usize::from(peer.0)).filter(|entry| !entry.is_removed) else { return };
        if let Some(of_lane) = entry.reaches.get_mut(usize::from(lane)) {
            *of_lane = reach;
        }
        entry.look(now);
    }

    /// A lane, or all of the appliance, stands still or stood still until now: no peer was carried.
    pub fn on_stall(&mut self, now: Instant) {
        for entry in self.peers.iter_mut().filter(|entry| !entry.is_removed) {
            entry.withdraw(Cause::Stall, now);
            entry.look(now);
        }
    }

    /// When a peer may return.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|entry| self.returns_at(entry)).min()
    }

    /// What is to be done next; ask until there is nothing.
    pub fn poll_change(&mut self, now: Instant) -> Option<(PeerId, Change)> {
        for number in 0..self.peers.len() {
            let returns = self.returns_at(&self.peers[number]).is_some_and(|at| at <= now);
            let entry = &mut self.peers[number];
            let id = PeerId(number as u16);
            if !std::mem::replace(&mut entry.is_told, true)
                && let Some(cause) = entry.cause
            {
                return Some((id, Change::Withdraw(cause)));
            }
            if returns {
                entry.cause = None;
                entry.restored_at = Some(now);
                return Some((id, Change::Restore));
            }
        }
        None
    }

    /// The routes could not be added again: the peer must be fit for as long once more. True the first time since they were
    /// there.
    pub fn on_unrestored(&mut self, peer: PeerId, now: Instant) -> bool {
        let Some(entry) = self.peers.get_mut(usize::from(peer.0)) else { return false };
        (entry.cause, entry.fit_since, entry.restored_at) = (Some(Cause::Routes), Some(now), None);
        !std::mem::replace(&mut entry.is_unrestored, true)
    }

    /// Why packets for a peer take the plain route; none if they do not. And how often that began.
    pub fn state(&self, number: usize) -> Option<(Option<Cause>, u64)> {
        self.peers.get(number).map(|entry| (entry.cause, entry.withdrawals))
    }

    fn returns_at(&self, entry: &Entry) -> Option<Instant> {
        entry.cause.filter(|_| !entry.is_removed)?;
        Some(entry.fit_since? + self.return_after * 2u32.pow(entry.doublings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PEER: PeerId = PeerId(0);

    fn changes(bypass: &mut Bypass, now: Instant) -> Vec<Change> {
        std::iter::from_fn(|| bypass.poll_change(now)).map(|(_, change)| change).collect()
    }

    fn hear(bypass: &mut Bypass, peer: PeerId, now: Instant) {
        (0..2).for_each(|lane| bypass.on_reach(lane, peer, Reach::Fit, now));
    }

    /// One peer on two lanes that is carried since `now`.
    fn carried(now: Instant) -> Bypass {
        let mut bypass = Bypass::new(1, 2, SECOND);
        hear(&mut bypass, PEER, now - SECOND);
        assert_eq!(changes(&mut bypass, now), [Change::Restore]);
        bypass
    }

    #[test]
    fn a_peer_is_carried_once_it_has_been_fit_for_long_enough() {
        let start = Instant::now();
        let mut bypass = Bypass::new(1, 2, SECOND);
        assert_eq!((bypass.poll_timeout(), bypass.state(0)), (None, Some((Some(Cause::Unheard), 0))));
        bypass.on_reach(0, PEER, Reach::Fit, start - SECOND);
        assert_eq!(bypass.poll_timeout(), None, "the other lane hears nothing");
        bypass.on_reach(1, PEER, Reach::Fit, start);
        bypass.on_reach(2, PEER, Reach::Silent, start);
        assert_eq!(bypass.poll_timeout(), Some(start + SECOND));
        assert_eq!(changes(&mut bypass, start + SECOND / 2), []);
        // Silence begins the wait again.
        bypass.on_reach(1, PEER, Reach::Silent, start + SECOND / 2);
        assert_eq!((bypass.poll_timeout(), changes(&mut bypass, start + SECOND)), (None, vec![]));
        bypass.on_reach(1, PEER, Reach::Fit, start + SECOND);
        assert_eq!(changes(&mut bypass, start + SECOND * 2), [Change::Restore]);
        assert_eq!((bypass.poll_timeout(), bypass.state(0)), (None, Some((None, 0))));
    }

    #[test]
    fn one_lane_that_does_not_reach_the_peer_is_enough_and_all_must_reach_it_again() {
        let now = Instant::now();
        for (reach, cause) in [(Reach::Silent, Cause::Silent), (Reach::Refused, Cause::Refused)] {
            let mut bypass = carried(now);
            bypass.on_reach(1, PEER, reach, now);
            assert_eq!(changes(&mut bypass, now), [Change::Withdraw(cause)]);
            bypass.on_reach(0, PEER, Reach::Silent, now);
            bypass.on_reach(1, PEER, Reach::Fit, now);
            assert_eq!((changes(&mut bypass, now + SECOND * 9), bypass.poll_timeout()), (vec![], None));
            bypass.on_reach(0, PEER, Reach::Fit, now);
            // The first failure came soon after the return.
            assert_eq!(bypass.poll_timeout(), Some(now + SECOND * 2));
        }
    }

    #[test]
    fn each_relapse_doubles_the_wait_up_to_a_bound_and_a_long_good_time_ends_that() {
        let mut now = Instant::now();
        let mut bypass = carried(now);
        for expected in [2, 4, 8, 16, 32, 32] {
            bypass.on_reach(0, PEER, Reach::Silent, now);
            assert_eq!(changes(&mut bypass, now), [Change::Withdraw(Cause::Silent)]);
            bypass.on_reach(0, PEER, Reach::Fit, now);
            assert_eq!(bypass.poll_timeout(), Some(now + SECOND * expected));
            now += SECOND * expected;
            assert_eq!(changes(&mut bypass, now), [Change::Restore]);
        }
        now += RELAPSE;
        bypass.on_reach(0, PEER, Reach::Silent, now);
        bypass.on_reach(0, PEER, Reach::Fit, now);
        assert_eq!(bypass.poll_timeout(), Some(now + SECOND));
        assert_eq!(bypass.state(0), Some((Some(Cause::Silent), 7)));
    }

    #[test]
    fn a_failure_that_is_over_before_it_was_handed_out_is_handed_out() {
        let now = Instant::now();
        let mut bypass = carried(now);
        bypass.on_reach(0, PEER, Reach::Silent, now);
        bypass.on_reach(0, PEER, Reach::Fit, now);
        assert_eq!(changes(&mut bypass, now + SECOND * 2), [Change::Withdraw(Cause::Silent), Change::Restore]);
    }

    #[test]
    fn a_stall_withdraws_all_peers_and_they_return_by_themselves() {
        let now = Instant::now();
        let mut bypass = carried(now);
        bypass.on_stall(now);
        assert_eq!(changes(&mut bypass, now), [Change::Withdraw(Cause::Stall)]);
        // It goes on standing still.
        bypass.on_stall(now + SECOND);
        assert_eq!(bypass.poll_timeout(), Some(now + SECOND * 3));
        assert_eq!(changes(&mut bypass, now + SECOND * 3), [Change::Restore]);
    }

    #[test]
    fn peers_come_and_go() {
        let now = Instant::now();
        let mut bypass = carried(now);
        bypass.reload(&[true, false], SECOND * 3);
        [0, 1, 9].into_iter().for_each(|peer| hear(&mut bypass, PeerId(peer), now));
        bypass.on_stall(now);
        assert_eq!(bypass.poll_timeout(), Some(now + SECOND * 3));
        assert_eq!(bypass.poll_change(now + SECOND * 3), Some((PeerId(1), Change::Restore)));
        bypass.reload(&[false, false], SECOND);
        assert_eq!(bypass.state(0), Some((Some(Cause::Unheard), 0)), "as new");
        assert_eq!(bypass.state(1), Some((None, 0)), "goes on");
    }

    #[test]
    fn routes_that_could_not_be_restored_are_tried_again() {
        let now = Instant::now();
        let mut bypass = carried(now);
        for round in 0..3 {
            let now = now + SECOND * round;
            assert_eq!(bypass.on_unrestored(PEER, now), round == 0, "said once");
            assert_eq!((changes(&mut bypass, now), bypass.state(0)), (vec![], Some((Some(Cause::Routes), 0))));
            assert_eq!(changes(&mut bypass, now + SECOND), [Change::Restore]);
        }
        bypass.on_reach(0, PEER, Reach::Silent, now + SECOND * 3);
        assert!(bypass.on_unrestored(PEER, now + SECOND * 4), "after they were there again");
    }
}
