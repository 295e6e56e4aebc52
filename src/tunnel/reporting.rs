//! When to report to a peer, what its reports show about the link, and when its silence means that it has lost the
//! session.
//!
//! Both sides report every [`WHILE_ACTIVE`] while data flows in either direction or either of them claims protection,
//! and every [`WHILE_IDLE`] otherwise: that is the keepalive. Each report echoes the newest one received. The echo
//! gives the round trip, and proves that both directions worked. No sender ever waits for a report. What reports mean
//! for blocks, and what follows from an old proof, is not decided here.

use std::time::{Duration, Instant};

use super::round_trips::RoundTrips;
use crate::wire::report::{Extension, Reception, Report};

/// Interval of reports while data flows.
pub const WHILE_ACTIVE: Duration = Duration::from_millis(20);
/// Interval of reports otherwise.
pub const WHILE_IDLE: Duration = Duration::from_secs(1);
/// No datagram for this long after data was sent, or for three round trips if that is more: the peer has lost the
/// session.
const SILENT_FLOOR: Duration = Duration::from_millis(250);
/// No datagram for this long although no data was sent: as above.
const SILENT_IDLE: Duration = Duration::from_millis(3500);
/// What a report says of the peer's queue counts for so long: some reports may be lost.
const WAIT_COUNTS: Duration = Duration::from_millis(100);
/// The least time between two requests for a new session.
const REQUEST_INTERVAL: Duration = Duration::from_millis(250);

/// The state of reports to and from one peer on one lane.
#[derive(Debug)]
pub struct Reporting {
    start: Instant,
    /// Our side claims protection on the evidence of reports.
    claims: bool,
    /// The peer does so, as its reports state.
    peer_claims: bool,
    reported_at: Option<Instant>,
    /// `sent_at` of our newest report; no two reports have the same.
    sent_at: u64,
    /// `sent_at` of our newest report that the peer's present run has echoed; 0 for none.
    acknowledged: u64,
    /// `sent_at` of our newest report when the path changed: reports up to this one may have taken the old path.
    path_from: u64,
    /// `sent_at` of our newest report when late repair began to come later: reports up to this one do not say so.
    spread_from: u64,
    /// When data was first sent or received since the last report.
    active_since: Option<Instant>,
    /// The newest `sent_at` of the peer's reports, and when it came.
    remote_clock: Option<(u64, Instant)>,
    /// The smoothed round trip; any node on the path can make it long.
    rtt: Option<Duration>,
    latest_rtt: Option<Duration>,
    round_trips: RoundTrips,
    heard_at: Option<Instant>,
    /// When we sent the first data after the peer's last datagram.
    unanswered_since: Option<Instant>,
    requested_at: Option<Instant>,
    peer_reception: Option<(Reception, Instant)>,
    late_spread: Duration,
    congested: bool,
    receive_wait: Duration,
    peer_late_spread: Option<Duration>,
    peer_congested: bool,
    peer_receive_wait: Duration,
}

impl Reporting {
    /// No reports yet in either direction; `start` is the zero of our clock in reports.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            claims: false,
            peer_claims: false,
            reported_at: None,
            sent_at: 0,
            acknowledged: 0,
            path_from: 0,
            spread_from: 0,
            active_since: None,
            remote_clock: None,
            rtt: None,
            latest_rtt: None,
            round_trips: RoundTrips::new(start),
            heard_at: None,
            unanswered_since: None,
            requested_at: None,
            peer_reception: None,
            late_spread: Duration::ZERO,
            congested: false,
            receive_wait: Duration::ZERO,
            peer_late_spread: None,
            peer_congested: false,
            peer_receive_wait: Duration::ZERO,
        }
    }

    /// Sets whether our side claims protection: then both sides report often also when idle.
    pub fn set_claims(&mut self, claims: bool) {
        self.claims = claims;
    }

    /// Sets how long after the other symbols of a block our late repair symbols may follow, at most.
    pub fn set_late_spread(&mut self, late_spread: Duration) {
        self.late_spread = late_spread;
    }

    /// The same, but never less than before: late repair of earlier blocks is on its way.
    pub fn extend_late_spread(&mut self, late_spread: Duration) {
        if late_spread > self.late_spread {
            (self.late_spread, self.spread_from) = (late_spread, self.sent_at);
        }
    }

    /// The peer knows late repair, and has answered a report that says how long to wait for it: it gives no block up before.
    pub fn peer_waits_for_late(&self) -> bool {
        self.peer_late_spread.is_some() && self.acknowledged > self.spread_from
    }

    /// Sets whether losses on the way to the peer are taken for those of a full queue.
    pub fn set_congested(&mut self, congested: bool) {
        self.congested = congested;
    }

    /// Sets how long the peer's datagrams wait in our socket.
    pub fn set_receive_wait(&mut self, receive_wait: Duration) {
        self.receive_wait = receive_wait;
    }

    /// There is something to report that should not wait for [`WHILE_IDLE`].
    pub fn on_news(&mut self, now: Instant) {
        self.active_since.get_or_insert(now);
    }

    /// Data was sent.
    pub fn on_data_sent(&mut self, now: Instant) {
        self.active_since.get_or_insert(now);
        self.unanswered_since.get_or_insert(now);
    }

    /// An authentic datagram came; `is_data` if it was a symbol.
    pub fn on_authentic(&mut self, is_data: bool, now: Instant) {
        if is_data {
            self.active_since.get_or_insert(now);
        }
        self.heard_at = Some(now);
        self.unanswered_since = None;
    }

    /// A new session is in use: report at once and often, until the peer answers.
    pub fn on_session(&mut self, now: Instant) {
        self.active_since = Some(now);
        self.reported_at = None;
        self.heard_at = Some(now);
        self.unanswered_since = None;
    }

    /// Takes a report. Returns whether it is the newest; the caller ignores older ones.
    pub fn handle_report(&mut self, report: &Report, now: Instant) -> bool {
        if self.remote_clock.is_some_and(|(newest, _)| report.sent_at <= newest) {
            return false;
        }
        self.remote_clock = Some((report.sent_at, now));
        self.peer_claims = report.wants_reports;
        self.peer_late_spread = report.extension.as_ref().map(|extension| extension.late_spread);
        self.peer_congested = report.extension.as_ref().is_some_and(|extension| extension.congested);
        self.peer_receive_wait = report.extension.as_ref().map(|it| it.receive_wait).unwrap_or_default();
        if report.wants_reply {
            self.active_since.get_or_insert(now);
        }
        self.peer_reception = Some((report.reception, now));
        if report.echo > 0 && report.echo <= self.sent_at {
            self.acknowledged = self.acknowledged.max(report.echo);
            let away = self.micros(now).saturating_sub(report.echo);
            let sample = Duration::from_micros(away.saturating_sub(u64::from(report.echo_delay)));
            // Smoothing as in RFC 6298; the first sample counts in full.
            self.latest_rtt = Some(sample);
            self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            if report.echo > self.path_from {
                self.round_trips.on_sample(sample, now);
            }
        }
        true
    }

    /// `sent_at` of our newest report; 0 for none.
    pub fn sent_at(&self) -> u64 {
        self.sent_at
    }

    /// `sent_at` of our newest report that the peer's present run is known to have received; 0 for none.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// When that report was written, if it took the present path: both directions worked at that moment.
    pub fn proven_at(&self) -> Option<Instant> {
        let since_start = Some(self.acknowledged).filter(|sent_at| *sent_at > self.path_from)?.checked_sub(1)?;
        Some(self.start + Duration::from_micros(since_start))
    }

    /// When the next report is due.
    pub fn due_at(&self) -> Option<Instant> {
        // Not at the first data: a short burst ends before `WHILE_ACTIVE` has passed, and the report then covers all of
        // it.
        let reported_at = self.reported_at?;
        if self.claims || self.peer_claims {
            return Some(reported_at + WHILE_ACTIVE);
        }
        Some(self.active_since.map_or(reported_at + WHILE_IDLE, |since| since + WHILE_ACTIVE))
    }

    /// A report is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_none_or(|due| due <= now)
    }

    /// Begins a report that is sent now; `confirmed` if a datagram of the peer came under the present session.
    pub fn begin(&mut self, confirmed: bool, now: Instant) -> Report {
        self.reported_at = Some(now);
        self.sent_at = self.micros(now).max(self.sent_at + 1);
        self.active_since = (!confirmed).then_some(now);
        let (echo, held) = match self.remote_clock {
            Some((sent_at, heard)) => (sent_at, now.saturating_duration_since(heard)),
            None => (0, Duration::ZERO),
        };
        Report {
            sent_at: self.sent_at,
            echo,
            echo_delay: u32::try_from(held.as_micros()).unwrap_or(u32::MAX),
            wants_reply: !confirmed,
            wants_reports: self.claims,
            extension: Some(Extension {
                late_spread: self.late_spread,
                congested: self.congested,
                receive_wait: self.receive_wait,
                runs: Vec::new(),
            }),
            ..Report::default()
        }
    }

    /// When to request a new session if no datagram comes until then: at once if the session is `worn`, else when the
    /// peer has been silent for too long.
    pub fn request_at(&self, worn: bool, now: Instant) -> Option<Instant> {
        let wanted = if worn { Some(now) } else { self.silent_at() };
        let allowed = self.requested_at.map(|at| at + REQUEST_INTERVAL);
        wanted.map(|at| allowed.map_or(at, |allowed| at.max(allowed)))
    }

    /// A new session is wanted now; true once per interval.
    pub fn wants_session(&mut self, worn: bool, now: Instant) -> bool {
        let wanted = self.request_at(worn, now).is_some_and(|at| at <= now);
        if wanted {
            self.requested_at = Some(now);
        }
        wanted
    }

    /// The peer has been silent for longer than a live peer with this session would be.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.silent_at().is_some_and(|at| at <= now)
    }

    fn silent_at(&self) -> Option<Instant> {
        let limit = SILENT_FLOOR.max(self.rtt.unwrap_or_default() * 3 + WHILE_ACTIVE);
        let unanswered = self.unanswered_since.map(|since| since + limit);
        let silent = self.heard_at.map(|since| since + SILENT_IDLE);
        unanswered.into_iter().chain(silent).min()
    }

    /// The peer claims protection, as its reports state.
    pub fn peer_claims(&self) -> bool {
        self.peer_claims
    }

    /// The longest interval between two reports of a live peer.
    pub fn peer_interval(&self) -> Duration {
        if self.claims || self.peer_claims { WHILE_ACTIVE } else { WHILE_IDLE }
    }

    /// The smoothed round trip.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The last round trip alone.
    pub fn latest_rtt(&self) -> Option<Duration> {
        self.latest_rtt
    }

    /// The least round trip of the last ten seconds with the peer's present run and over the present path.
    pub fn least_rtt(&self) -> Option<Duration> {
        self.round_trips.least()
    }

    /// What the peer reported about our datagrams, and when that report came.
    pub fn peer_reception(&self) -> Option<(Reception, Instant)> {
        self.peer_reception
    }

    /// How long the peer's late repair symbols may follow the other symbols of their block, at most. `None`: the peer has
    /// not said so, or is of an earlier release, which sends none.
    pub fn peer_late_spread(&self) -> Option<Duration> {
        self.peer_late_spread
    }

    /// The peer takes the losses of its datagrams to us for those of a full queue.
    pub fn peer_congested(&self) -> bool {
        self.peer_congested
    }

    /// How long our datagrams wait at the peer until it reads them, by its last report; zero if that is old.
    pub fn peer_receive_wait(&self, now: Instant) -> Duration {
        let is_recent = |heard: Instant| now.saturating_duration_since(heard) < WAIT_COUNTS;
        let recent = self.remote_clock.is_some_and(|(_, heard)| is_recent(heard));
        if recent { self.peer_receive_wait } else { Duration::ZERO }
    }

    /// Forgets the clock of the peer's earlier run, and what that run has received.
    pub fn on_new_epoch(&mut self, now: Instant) {
        self.remote_clock = None;
        self.peer_reception = None;
        self.peer_claims = false;
        self.peer_late_spread = None;
        self.peer_congested = false;
        self.peer_receive_wait = Duration::ZERO;
        self.acknowledged = 0;
        self.round_trips = RoundTrips::new(now);
    }

    /// Datagrams take another path from now on. Echoes so far do not prove the new path.
    pub fn on_new_path(&mut self, now: Instant) {
        self.path_from = self.sent_at;
        self.round_trips = RoundTrips::new(now);
    }

    /// Our clock in reports; never 0, which means "none".
    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_micros() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_excludes_the_time_that_the_peer_held_the_report() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let (mut near, mut far) = (Reporting::new(at(0)), Reporting::new(at(0)));
        let out = near.begin(true, at(100));
        far.handle_report(&out, at(125));
        let back = far.begin(true, at(141));
        near.handle_report(&back, at(166));
        assert_eq!(near.rtt(), Some(Duration::from_millis(50)));
    }

    #[test]
    fn reports_are_frequent_only_while_data_flows() {
        let now = Instant::now();
        let mut reporting = Reporting::new(now);
        assert!(reporting.is_due(now));
        reporting.begin(true, now);
        assert_eq!(reporting.due_at(), Some(now + WHILE_IDLE));
        reporting.on_data_sent(now);
        assert_eq!(reporting.due_at(), Some(now + WHILE_ACTIVE));
    }

    #[test]
    fn while_either_side_claims_protection_both_report_often() {
        let start = Instant::now();
        let (mut near, mut far) = (Reporting::new(start), Reporting::new(start));
        near.set_claims(true);
        let report = near.begin(true, start);
        assert!(far.handle_report(&report, start));
        far.begin(true, start);
        for side in [&mut near, &mut far] {
            assert_eq!(side.due_at(), Some(start + WHILE_ACTIVE));
            side.on_data_sent(start + WHILE_ACTIVE / 2);
            assert_eq!(side.due_at(), Some(start + WHILE_ACTIVE));
        }
        far.on_new_epoch(start);
        far.begin(true, start);
        assert_eq!(far.due_at(), Some(start + WHILE_IDLE));
    }

    #[test]
    fn each_side_tells_its_late_spread_and_whether_it_is_congested() {
        let start = Instant::now();
        let (mut near, mut far) = (Reporting::new(start), Reporting::new(start));
        far.handle_report(&near.begin(true, start), start);
        assert_eq!((far.peer_late_spread(), far.peer_congested()), (Some(Duration::ZERO), false));
        near.set_late_spread(Duration::from_millis(3));
        near.set_congested(true);
        let report = near.begin(true, start);
        far.handle_report(&report, start);
        assert_eq!((far.peer_late_spread(), far.peer_congested()), (Some(Duration::from_millis(3)), true));
        let rows = [
            (Report { sent_at: report.sent_at - 1, ..Report::default() }, Some(Duration::from_millis(3)), true),
            (Report { sent_at: report.sent_at + 1, ..Report::default() }, None, false),
            (near.begin(true, start + WHILE_ACTIVE), Some(Duration::from_millis(3)), true),
        ];
        for (report, late_spread, congested) in rows {
            far.handle_report(&report, start);
            assert_eq!((far.peer_late_spread(), far.peer_congested()), (late_spread, congested), "{report:?}");
        }
        far.on_new_epoch(start);
        assert_eq!((far.peer_late_spread(), far.peer_congested()), (None, false));
    }

    #[test]
    fn an_echo_by_the_present_run_of_the_peer_proves_the_round_trip() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut near = Reporting::new(start);
        let first = near.begin(true, at(10)).sent_at;
        let second = near.begin(true, at(10)).sent_at;
        near.begin(true, at(30));
        assert!(second > first, "an echo must identify one report");
        let rows = [
            (1, 0, true, None),
            (2, first, true, Some(at(10))),
            (3, second, true, Some(at(10) + Duration::from_micros(1))),
            (3, second + 1, false, Some(at(10) + Duration::from_micros(1))),
            (4, first, true, Some(at(10) + Duration::from_micros(1))),
            (5, u64::MAX, true, Some(at(10) + Duration::from_micros(1))),
        ];
        for (sent_at, echo, news, proven_at) in rows {
            let report = Report { sent_at, echo, ..Report::default() };
            assert_eq!((near.handle_report(&report, at(40)), near.proven_at()), (news, proven_at), "echo {echo}");
        }
        near.on_new_epoch(at(40));
        assert_eq!((near.acknowledged(), near.proven_at(), near.least_rtt()), (0, None, None));
        assert!(near.handle_report(&Report { sent_at: 1, ..Report::default() }, at(50)));
    }

    #[test]
    fn a_report_written_before_the_address_changed_does_not_prove_the_new_path() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut near = Reporting::new(start);
        let mut sent_at = 0;
        let mut echo = |near: &mut Reporting, echo, now| {
            sent_at += 1;
            near.handle_report(&Report { sent_at, echo, ..Report::default() }, now);
            (near.proven_at(), near.least_rtt())
        };
        let first = near.begin(true, at(10)).sent_at;
        assert_eq!(echo(&mut near, first, at(40)), (Some(at(10)), Some(Duration::from_millis(30))));
        let second = near.begin(true, at(40)).sent_at;
        near.on_new_path(at(50));
        assert_eq!((near.proven_at(), near.least_rtt()), (None, None));
        assert_eq!(
            echo(&mut near, second, at(60)),
            (None, None),
            "it waited in the outbox, or went to the old address"
        );
        assert_eq!(near.acknowledged(), second, "the peer still has it");
        let third = near.begin(true, at(60)).sent_at;
        assert_eq!(echo(&mut near, second, at(70)), (None, None));
        assert_eq!(echo(&mut near, third, at(140)), (Some(at(60)), Some(Duration::from_millis(80))));
    }

    #[test]
    fn silence_is_noticed_sooner_when_data_waits_for_an_answer() {
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        let mut reporting = Reporting::new(now);
        reporting.on_session(now);
        assert!(!reporting.wants_session(false, after(3400)));
        assert!(reporting.wants_session(false, after(3600)));
        reporting.on_authentic(false, after(3600));
        reporting.on_data_sent(after(4000));
        assert!(!reporting.wants_session(false, after(4200)));
        assert!(reporting.wants_session(false, after(4300)));
        assert!(!reporting.wants_session(false, after(4400)), "requested a moment ago");
        assert!(reporting.wants_session(false, after(4600)));
    }
}
