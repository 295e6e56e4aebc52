//! Finds out whether trains arrive. Some drivers and kernels lose or damage what they segment, without an error.
//!
//! If the peer's reports continue and echo ours, while hardly any full-sized datagram arrives, there are two causes:
//! the segmentation loses them, or the path does not carry their size. Reports are shorter, so they arrive in both
//! cases. A trial separates the causes, and no finding is final:
//!
//! ```text
//!   trains ── hardly any arrive, twice ─▶ trial, each alone ── they arrive ─▶ trains once more ── hardly any ─▶ alone
//!     ▲                                          │ nor do they                      │ they arrive        for a while │
//!     ├──────────────────── it is the path ◀─────┘                                  │                               │
//!     ├─────────────────────────────────── it was an outage ◀───────────────────────┘                               │
//!     └────────────── they arrive again ◀── trains for another try, else alone for twice as long ◀──────────────────┘
//! ```
//!
//! It neither sends nor logs: [`TrainNews`] reports what has changed.

use std::time::{Duration, Instant};

use super::sent::Sent;
use crate::wire::report::Report;

/// The length of a window. Datagrams must be missing in two windows in a row: an outage of the path is shorter, or
/// stops reports too.
const WINDOW: Duration = Duration::from_millis(500);
/// The fewest full-sized datagrams that decide a window; few, because a starving TCP sends no more.
const DATAGRAMS: u64 = 8;
/// The same, if neither most nor few of them were lost.
const DECISIVE: u64 = 32;

/// The wait before trains are tried again, and before a path that loses full-sized datagrams gets another trial: at
/// first and at most.
const WAIT_MIN: Duration = Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// How full-sized datagrams leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// In trains.
    Trains,
    /// Each alone, to see whether they arrive this way.
    Trial,
    /// In trains again, to confirm that trains are the cause.
    Reversal,
    /// Each alone until then, because trains do not arrive.
    Alone(Instant),
    /// In trains, to see whether they arrive again.
    Retry,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainNews {
    /// Hardly any full-sized datagram arrives, though reports do: each is sent alone to see whether trains are the
    /// cause.
    Trial,
    /// They arrive alone and not in trains: each is sent alone, and trains are tried again after this time.
    Alone(Duration),
    /// They arrive neither way: the path does not carry their size.
    PathLoses,
    /// They arrive again, in trains.
    Arrive,
}

/// Compares the full-sized datagrams that were sent, in trains or alone, with what the peer reports as received.
#[derive(Debug)]
pub struct TrainWatch {
    mode: Mode,
    mark: Option<Mark>,
    /// `sent_at` of our newest report when the mode began. Only a report that echoes a later one shows the effect of
    /// the mode.
    from: u64,
    /// The window before this one was bad.
    bad_before: bool,
    /// The path was found to lose them; no trial before this time.
    path_until: Option<Instant>,
    wait: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    full: u64,
    symbols: u64,
    lost: u64,
    echo: u64,
}

/// The result of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    /// Hardly any arrive.
    Bad,
    /// Some are lost, as on a bad path.
    Mixed,
    /// Nearly all arrive.
    Good,
}

impl Default for TrainWatch {
    fn default() -> Self {
        Self { mode: Mode::Trains, mark: None, from: 0, bad_before: false, path_until: None, wait: WAIT_MIN }
    }
}

impl TrainWatch {
    /// Full-sized datagrams are sent one per system call.
    pub fn sends_alone(&self) -> bool {
        matches!(self.mode, Mode::Trial | Mode::Alone(_))
    }

    /// They are sent alone because trains do not arrive, and not only for a trial.
    pub fn is_settled(&self) -> bool {
        matches!(self.mode, Mode::Alone(_))
    }

    /// Full-sized datagrams arrive neither in trains nor alone.
    pub fn path_loses(&self) -> bool {
        self.path_until.is_some()
    }

    /// Takes a report of the peer; `sent` is what was sent to it so far, `sent_at` that of our newest report.
    pub fn handle_report(&mut self, report: &Report, sent: &Sent, sent_at: u64, now: Instant) -> Option<TrainNews> {
        if let Mode::Alone(until) = self.mode {
            if now >= until {
                self.go(Mode::Retry, sent_at);
            }
            return None;
        }
        let window = self.look(report, sent, now)?;
        match (self.mode, window) {
            (Mode::Trains, Window::Bad) if self.path_until.is_some_and(|until| now < until) => None,
            (Mode::Trains, Window::Bad) if std::mem::replace(&mut self.bad_before, true) => {
                self.go(Mode::Trial, sent_at);
                Some(TrainNews::Trial)
            }
            (Mode::Trains, Window::Good) if self.path_until.take().is_some() => {
                self.wait = WAIT_MIN;
                self.bad_before = false;
                Some(TrainNews::Arrive)
            }
            (Mode::Trains, window) => {
                self.bad_before = window == Window::Bad;
                None
            }
            (Mode::Trial, Window::Good) => {
                self.go(Mode::Reversal, sent_at);
                None
            }
            (Mode::Trial, _) => {
                let is_news = self.path_until.is_none();
                self.path_until = Some(now + self.lengthen());
                self.go(Mode::Trains, sent_at);
                is_news.then_some(TrainNews::PathLoses)
            }
            (Mode::Reversal | Mode::Retry, Window::Bad) => {
                self.path_until = None;
                let wait = self.lengthen();
                self.go(Mode::Alone(now + wait), sent_at);
                Some(TrainNews::Alone(wait))
            }
            (Mode::Reversal | Mode::Retry, _) => {
                self.path_until = None;
                self.wait = WAIT_MIN;
                self.go(Mode::Trains, sent_at);
                Some(TrainNews::Arrive)
            }
            // Unreachable: this mode returned above.
            (Mode::Alone(_), _) => None,
        }
    }

    /// A new run of the peer counts from 0. Findings about the path stay.
    pub fn on_new_epoch(&mut self) {
        (self.mark, self.bad_before, self.from) = (None, false, 0);
    }

    /// Returns the present wait, and doubles it for the next time.
    fn lengthen(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (2 * wait).min(WAIT_MAX);
        wait
    }

    fn go(&mut self, mode: Mode, sent_at: u64) {
        (self.mode, self.mark, self.from, self.bad_before) = (mode, None, sent_at, false);
    }

    /// The result since the mark, once there is enough to decide; then another window begins.
    fn look(&mut self, report: &Report, sent: &Sent, now: Instant) -> Option<Window> {
        if report.echo <= self.from {
            return None;
        }
        let (lost, symbols) = (report.reception.lost, sent.source_symbols + sent.repair_symbols);
        let fresh = Mark { at: now, full: sent.full_symbols, symbols, lost, echo: report.echo };
        let mark = *self.mark.get_or_insert(fresh);
        let full = fresh.full.saturating_sub(mark.full);
        if now.saturating_duration_since(mark.at) < WINDOW || full < DATAGRAMS {
            return None;
        }
        // Reports share the counter with data, so a report that arrives shows at once which datagrams before it are
        // lost.
        let (lost, symbols) = (lost.saturating_sub(mark.lost), symbols.saturating_sub(mark.symbols));
        let echoes = report.echo > mark.echo;
        // The peer does not report which datagrams were lost. A small part of many short ones may be as many as all
        // long ones. If more than the symbols were lost, reports were lost too, which travel alone.
        let is_of_long_ones = lost > symbols / 3 && lost <= symbols + symbols / 4;
        let window = match () {
            // Our reports do not arrive either: the path is dead, which shows nothing about trains.
            () if !echoes => Some(Window::Mixed),
            () if lost > full / 4 * 3 => is_of_long_ones.then_some(Window::Bad),
            () if lost > full / 4 => Some(Window::Mixed),
            () => Some(Window::Good),
        };
        // The last of so few may have been sent after the peer wrote the report: wait for more.
        if echoes && window == Some(Window::Mixed) && full < DECISIVE {
            return None;
        }
        self.mark = Some(fresh);
        // In a trial, a dead path shows nothing either way.
        window.filter(|_| echoes || self.mode == Mode::Trains)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::report::Reception;

    /// How many of ten full-sized datagrams a path loses, in trains and alone.
    #[derive(Clone, Copy)]
    struct Path {
        in_trains: u64,
        alone: u64,
        echoes: bool,
        /// Short datagrams sent besides, and how many of those are lost.
        short: (u64, u64),
    }

    /// A sender with ten full-sized datagrams and one report each 100 ms. Its news come with the tenth of a second.
    struct Bench {
        watch: TrainWatch,
        start: Instant,
        tenth: u64,
        sent: Sent,
        lost: u64,
        echo: u64,
    }

    impl Bench {
        fn new() -> Self {
            let (watch, start, sent) = (TrainWatch::default(), Instant::now(), Sent::default());
            Self { watch, start, tenth: 0, sent, lost: 0, echo: 0 }
        }

        fn step(&mut self, path: Path) -> Option<TrainNews> {
            self.tenth += 1;
            self.sent.full_symbols += 10;
            self.sent.source_symbols += 10 + path.short.0;
            self.lost += path.short.1 + if self.watch.sends_alone() { path.alone } else { path.in_trains };
            self.echo += u64::from(path.echoes);
            self.report(self.echo)
        }

        fn report(&mut self, echo: u64) -> Option<TrainNews> {
            let reception = Reception { lost: self.lost, ..Reception::default() };
            let report = Report { echo, reception, ..Report::default() };
            let now = self.start + Duration::from_millis(100) * self.tenth as u32;
            self.watch.handle_report(&report, &self.sent, self.echo, now)
        }

        fn run(&mut self, seconds: u64, path: Path) -> Vec<(u64, TrainNews)> {
            let mut news = Vec::new();
            for _ in 0..seconds * 10 {
                let found = self.step(path);
                news.extend(found.map(|found| (self.tenth, found)));
            }
            news
        }
    }

    const fn path(in_trains: u64, alone: u64) -> Path {
        Path { in_trains, alone, echoes: true, short: (0, 0) }
    }

    fn kinds(news: &[(u64, TrainNews)]) -> Vec<TrainNews> {
        news.iter().map(|(_, found)| *found).collect()
    }

    #[test]
    fn trains_are_given_up_only_if_single_datagrams_arrive_and_trains_fail_again() {
        let alone = TrainNews::Alone(WAIT_MIN);
        let rows = [
            ("trains are lost", path(10, 0), vec![TrainNews::Trial, alone], true),
            ("large datagrams are lost", path(10, 10), vec![TrainNews::Trial, TrainNews::PathLoses], false),
            ("a bad path, but data arrives", path(3, 3), vec![], false),
            ("half of the single datagrams are lost", path(10, 5), vec![TrainNews::Trial, TrainNews::PathLoses], false),
            ("our reports do not arrive either", Path { echoes: false, ..path(10, 10) }, vec![], false),
            ("one of a hundred short ones is lost", Path { short: (900, 9), ..path(0, 0) }, vec![], false),
            ("a tenth of everything is lost", Path { short: (300, 30), ..path(1, 1) }, vec![], false),
            ("a tenth of everything and many reports are lost", Path { short: (0, 20), ..path(1, 1) }, vec![], false),
            (
                "trains are lost, short datagrams arrive",
                Path { short: (10, 0), ..path(10, 0) },
                vec![TrainNews::Trial, alone],
                true,
            ),
        ];
        for (name, path, expected, is_settled) in rows {
            let mut bench = Bench::new();
            let news = bench.run(10, path);
            assert_eq!((kinds(&news), bench.watch.is_settled()), (expected, is_settled), "{name}");
            assert_eq!(bench.watch.sends_alone(), is_settled, "{name}");
        }
    }

    #[test]
    fn after_an_outage_of_large_datagrams_trains_are_used_again() {
        // For each length of the outage, so also if it ends within a trial: trains are in use soon after it.
        for tenths in 1..80 {
            let mut bench = Bench::new();
            bench.run(2, path(0, 0));
            let before = bench.tenth;
            while bench.tenth < before + tenths {
                bench.step(path(10, 10));
            }
            bench.run(3, path(0, 0));
            assert!(!bench.watch.sends_alone(), "after {tenths} tenths of a second");
        }
    }

    #[test]
    fn a_finding_is_tried_again_after_growing_waits_and_its_end_is_reported() {
        let mut bench = Bench::new();
        let news = bench.run(1000, path(10, 0));
        let waits: Vec<u64> = news
            .iter()
            .filter_map(|(_, found)| match found {
                TrainNews::Alone(wait) => Some(wait.as_secs()),
                _ => None,
            })
            .collect();
        assert_eq!(waits, [60, 120, 240, 480, 960]);
        let news = bench.run(1000, path(0, 0));
        assert_eq!((kinds(&news), bench.watch.sends_alone()), (vec![TrainNews::Arrive], false));
        let news = bench.run(10, path(10, 0));
        assert_eq!(kinds(&news), [TrainNews::Trial, TrainNews::Alone(WAIT_MIN)], "the waits begin again");

        let mut bench = Bench::new();
        let news = bench.run(300, path(10, 10));
        let trials = kinds(&news).iter().filter(|found| **found == TrainNews::Trial).count();
        let reported = kinds(&news).iter().filter(|found| **found == TrainNews::PathLoses).count();
        assert_eq!((trials, reported, bench.watch.path_loses()), (3, 1, true), "at 1, 61 and 181 s, reported once");
        assert_eq!(kinds(&bench.run(2, path(0, 0))), [TrainNews::Arrive]);
        assert!(!bench.watch.path_loses());
    }

    #[test]
    fn losses_from_before_a_trial_do_not_decide_it() {
        let mut bench = Bench::new();
        while bench.step(path(10, 10)) != Some(TrainNews::Trial) {}
        let sent_at = bench.echo;
        // Reports that echo one from before the trial still count losses.
        for _ in 0..100 {
            bench.tenth += 1;
            bench.sent.full_symbols += 10;
            bench.sent.source_symbols += 10;
            bench.lost += 10;
            assert_eq!(bench.report(sent_at), None);
        }
        assert!(bench.watch.sends_alone());
    }

    #[test]
    fn a_last_burst_that_no_report_covers_does_not_count_as_arrived() {
        let (mut watch, start) = (TrainWatch::default(), Instant::now());
        // Seconds, datagrams sent by then, and how many of them the peer counts as lost.
        let reports = [(0, 0, 0), (1, 12, 12), (3, 24, 18), (6, 30, 30), (12, 42, 36)];
        let has_news = reports.map(|(second, sent, lost)| {
            let report =
                Report { echo: 1 + second, reception: Reception { lost, ..Reception::default() }, ..Report::default() };
            let sent = Sent { full_symbols: sent, source_symbols: sent, ..Sent::default() };
            watch.handle_report(&report, &sent, 1 + second, start + Duration::from_secs(second)).is_some()
        });
        assert_eq!(has_news, [false, false, false, true, false]);
    }
}
