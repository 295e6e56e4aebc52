//! What the control thread remembers of the last ten seconds: counts by second, for rates; and since when each peer is
//! reached as it is.
//!
//! It asks a lane for counts once a second, and never waits: the answer is an event like others. A lane that has not
//! answered is not asked again, so that questions cannot fill the channel of one that stands still. A state that begins
//! and ends between two samples leaves no trace here. It has no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::appliance::lane::counts::{Contact, PeerCounts};
use crate::appliance::lane::snapshot::LaneSnapshot;
use crate::appliance::status::rates::RatesStatus;
use crate::io::since::Since;

/// How often a lane is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// Rates are means over this time, with the count before it.
const WINDOW: Duration = Duration::from_secs(10);
/// A lane that has not answered for this long is asked again: its answer may have found no room.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// The counts of a lane at one moment, by the number of the peer.
#[derive(Debug)]
struct Sample {
    at: Instant,
    peers: Vec<PeerCounts>,
}

#[derive(Debug, Default)]
struct LaneHistory {
    /// When it was asked, if it has not answered.
    asked_at: Option<Instant>,
    /// The oldest first.
    samples: VecDeque<Sample>,
}

/// The last seconds of all lanes.
#[derive(Debug)]
pub struct History {
    lanes: Vec<LaneHistory>,
    /// How each peer was reached when that was seen last, and since when.
    contacts: Vec<(Contact, Instant)>,
    started: Instant,
    due: Instant,
}

impl History {
    /// Nothing has happened yet on `lanes` lanes.
    pub fn new(lanes: usize, started: Instant) -> Self {
        let lanes = (0..lanes).map(|_| LaneHistory::default()).collect();
        Self { lanes, contacts: Vec::new(), started, due: started }
    }

    /// When to ask next.
    pub fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// The lanes to ask now, by number.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<usize> {
        if now < self.due {
            return Vec::new();
        }
        // A thread that stood still does not catch up.
        self.due = (self.due + INTERVAL).max(now);
        let mut wanted = Vec::new();
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            if lane.asked_at.is_none_or(|at| now >= at + LOST_AFTER) {
                lane.asked_at = Some(now);
                wanted.push(number);
            }
        }
        wanted
    }

    /// A lane has answered.
    pub fn on_sample(&mut self, lane: usize, peers: Vec<PeerCounts>, now: Instant) {
        let Some(history) = self.lanes.get_mut(lane) else { return };
        history.asked_at = None;
        let known = peers.len();
        history.samples.push_back(Sample { at: now, peers });
        while history.samples.get(1).is_some_and(|second| second.at + WINDOW <= now) {
            history.samples.pop_front();
        }
        for peer in 0..known {
            let newest = |lane: &LaneHistory| lane.samples.back().and_then(|sample| sample.peers.get(peer).copied());
            // Before all lanes have answered nothing is known.
            let lanes: Option<Vec<PeerCounts>> = self.lanes.iter().map(newest).collect();
            if let Some(lanes) = lanes {
                self.observe(peer, Contact::of(lanes.iter().map(|lane| (lane.up, lane.silent))), now);
            }
        }
    }

    /// A peer is seen to be reached so. Returns since when.
    fn observe(&mut self, peer: usize, contact: Contact, now: Instant) -> Instant {
        if self.contacts.len() <= peer {
            // What is called from the start on has that state since then; a peer of a later reload since it was seen.
            let is_new = now > self.started + INTERVAL;
            self.contacts.resize(peer + 1, (Contact::Connecting, if is_new { now } else { self.started }));
        }
        let seen = &mut self.contacts[peer];
        if seen.0 != contact {
            *seen = (contact, now);
        }
        seen.1
    }

    /// Since when a peer is reached as the lanes have just said, and its rates; `None` before the second count.
    pub fn of_peer(
        &mut self,
        peer: usize,
        lanes: &[LaneSnapshot],
        now: Instant,
    ) -> (Option<Since>, Option<RatesStatus>) {
        let counts = lanes.iter().filter_map(|lane| Some((usize::from(lane.lane), lane.peers.get(peer)?.into())));
        let counts: Vec<(usize, PeerCounts)> = counts.collect();
        let contact = Contact::of(counts.iter().map(|(_, lane)| (lane.up, lane.silent)));
        let since = Since::of(self.observe(peer, contact, now), now);
        (Some(since), self.rates(peer, counts.iter().map(|(lane, counts)| (*lane, counts)), now))
    }

    /// The rates of a peer up to `now`, when the lanes with these numbers had these counts; `None` before the second
    /// count.
    fn rates<'a>(
        &self,
        peer: usize,
        present: impl Iterator<Item = (usize, &'a PeerCounts)>,
        now: Instant,
    ) -> Option<RatesStatus> {
        let mut rates = RatesStatus::default();
        for (lane, present) in present {
            let samples = self.lanes.get(lane).map(|lane| &lane.samples).into_iter().flatten();
            // Counts that are higher than at present are those of a peer that was removed, and is another one now.
            let before = samples.filter_map(|sample| Some((sample.at, sample.peers.get(peer)?)));
            let mut before =
                before.filter(|(at, counts)| *at + INTERVAL / 2 <= now && counts.may_precede(present)).peekable();
            if let Some((at, before)) = before.peek() {
                rates.add(before, present, now.saturating_duration_since(*at));
            }
            // The first count of a new session is older than the peer's first report.
            let mut reported = before.filter_map(|(at, counts)| Some((at, counts.reported.as_ref()?)));
            if let (Some((at, before)), Some(present)) = (reported.next(), &present.reported) {
                rates.add_report(before, present, now.saturating_duration_since(at));
            }
        }
        rates.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::lane::counts::Received;

    fn counts(number: u64) -> PeerCounts {
        let received = Received { datagrams: 90 * number, lost: 10 * number, ..Received::default() };
        PeerCounts {
            up: true,
            adus: 100 * number,
            adu_bytes: 1000 * number,
            bytes: 1500 * number,
            received,
            ..PeerCounts::default()
        }
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut history = History::new(2, start);
        for second in 0..60 {
            assert_eq!(history.handle_timeout(at(second)), [0, 1]);
            // One lane rests in the last ten seconds.
            history.on_sample(0, vec![counts(second.min(49))], at(second));
            history.on_sample(1, vec![counts(second)], at(second));
        }
        let present = [counts(49), counts(59)];
        let rates = history.rates(0, present.iter().enumerate(), at(59)).unwrap();
        assert_eq!((rates.over_s, rates.sent.adus_per_second, rates.sent.bytes_per_second), (10.0, 100.0, 1500.0));
        assert_eq!((rates.sent.overhead, rates.received.raw_loss), (Some(0.5), Some(0.1)));
        assert_eq!((rates.peer_report, rates.received.residual_loss), (None, None), "a share of nothing is no number");
        assert_eq!(history.lanes[0].samples.len(), 11, "older counts are forgotten");
    }

    #[test]
    fn what_the_peer_reports_is_compared_with_its_first_report() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut history = History::new(1, start);
        for second in 0..4 {
            // It has counted since long before our start.
            let received = Received { datagrams: 5_000_000 + 90 * second, ..Received::default() };
            let reported = (second > 0).then_some(received);
            history.on_sample(0, vec![PeerCounts { reported, ..counts(second) }], at(second));
        }
        let present =
            PeerCounts { reported: Some(Received { datagrams: 5_000_360, ..Received::default() }), ..counts(4) };
        let rates = history.rates(0, [(0, &present)].into_iter(), at(4)).unwrap();
        assert_eq!((rates.over_s, rates.peer_report.unwrap().datagrams_per_second), (4.0, 90.0));
    }

    #[test]
    fn there_are_no_rates_before_two_counts_and_none_across_a_return_of_a_peer() {
        let start = Instant::now();
        let mut history = History::new(1, start);
        assert_eq!(history.rates(0, [(0, &counts(5))].into_iter(), start), None);
        history.on_sample(0, vec![counts(100)], start);
        let later = start + Duration::from_secs(1);
        assert_eq!(history.rates(0, [(0, &counts(5))].into_iter(), later), None);
        assert_eq!(history.rates(1, [(0, &counts(5))].into_iter(), later), None);
        assert!(history.rates(0, [(0, &counts(101))].into_iter(), later).is_some());
    }

    #[test]
    fn a_lane_that_does_not_answer_is_not_asked_again_and_again() {
        let start = Instant::now();
        let mut history = History::new(1, start);
        let asked = (0..31).filter(|second| !history.handle_timeout(start + Duration::from_secs(*second)).is_empty());
        assert_eq!(asked.collect::<Vec<_>>(), [0, 10, 20, 30]);
        assert_eq!(history.handle_timeout(start + Duration::from_secs(30)), [0; 0], "not before it is due");
    }

    #[test]
    fn a_peer_is_reached_as_it_is_since_the_first_count_that_said_so() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let silent = PeerCounts { silent: true, ..counts(1) };
        let mut history = History::new(2, start);
        assert_eq!(history.observe(0, Contact::Connecting, at(0)), start);
        for (second, lanes) in [(1, [counts(0), counts(0)]), (2, [counts(1), silent]), (3, [silent, silent])] {
            lanes.into_iter().enumerate().for_each(|(lane, it)| history.on_sample(lane, vec![it], at(second)));
        }
        assert_eq!(history.observe(0, Contact::Silent, at(9)), at(2));
        assert_eq!(history.observe(0, Contact::Up, at(10)), at(10));
        assert_eq!(history.observe(4, Contact::Connecting, at(20)), at(20), "it came with a reload");
    }
}
