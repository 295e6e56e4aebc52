//! How far a lane is behind what has come to its socket, and for how much of the passed time it has listened.
//!
//! A hole is given up when nothing filled it while the lane listened. Time in which the lane was halted, starved or
//! busy does not count: what fills the hole may have lain unread. Two facts are needed for that:
//!
//! - **Up to when everything that came has been read.** Datagrams are read in the order in which they came. So this is
//!   the arrival of the last one read, or the moment before the socket was found empty. Without arrival times, it is a
//!   moment since which more was read than the socket can hold. So an endless flood delays nothing for longer than it
//!   takes to read one full socket.
//! - **When the lane stood still**: it notes by when it will be awake, and a later turn shows that it was not. What
//!   came meanwhile may not even have reached the socket (a paused virtual machine, a processor that was taken away),
//!   so it gets a moment more to arrive there. However slow a lane is, a part of each turn counts as listened.
//!
//! Reads no socket and no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A turn that is late by less is on time.
const LATE: Duration = Duration::from_millis(10);
/// After a halt, what is still below the socket has this long to get there.
const SETTLE: Duration = Duration::from_millis(10);
/// Halts that are remembered. When there are more, the two oldest become one.
const HALTS_MAX: usize = 32;
/// A datagram in the socket takes at least this much room beside its bytes.
const OVERHEAD: usize = 256;

/// A time in which the lane did not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halt {
    from: Instant,
    to: Instant,
}

/// The state of a lane's socket.
#[derive(Debug)]
pub struct ReceiveLag {
    /// How long a hole may hold back what follows.
    hold: Duration,
    /// Bytes that the socket can hold.
    room: usize,
    /// Everything that came before this has been read.
    read_until: Instant,
    /// Since when datagrams without an arrival time are read, and how many bytes of them.
    undated: Option<(Instant, usize)>,
    /// By when the lane was going to be awake again.
    awake_by: Option<Instant>,
    halts: VecDeque<Halt>,
}

impl ReceiveLag {
    /// Nothing has come before `now` to a socket of so much `room`.
    pub fn new(hold: Duration, room: usize, now: Instant) -> Self {
        Self { hold, room, read_until: now, undated: None, awake_by: None, halts: VecDeque::new() }
    }

    /// From now on a hole may hold back what follows for this long.
    pub fn set_hold(&mut self, hold: Duration) {
        self.hold = hold;
    }

    /// A turn ends. The next begins at `due` at the latest, if anything is due.
    pub fn on_sleep(&mut self, due: Option<Instant>, now: Instant) {
        self.awake_by = due.map(|due| due.max(now));
    }

    /// A turn begins. Returns whether it is so late that the lane stood still.
    pub fn on_turn(&mut self, now: Instant) -> bool {
        let Some(from) = self.awake_by.take().map(|by| by + LATE).filter(|from| *from < now) else { return false };
        // A halt gets time to settle only if the lane listened before it. Otherwise a lane that is late in each turn
        // would never listen.
        let last = self.halts.back_mut().filter(|last| from < last.to + SETTLE);
        let settle = if last.is_some() { Duration::ZERO } else { SETTLE };
        if let Some(last) = last {
            last.to = last.to.min(from);
        }
        self.halts.push_back(Halt { from, to: now + settle });
        if self.halts.len() > HALTS_MAX
            && let Some(oldest) = self.halts.pop_front()
            && let Some(next) = self.halts.front_mut()
        {
            next.from = oldest.from;
        }
        true
    }

    /// A train of `bytes` was read, which came at `arrived`, if that is known. Returns its time of arrival as it counts
    /// here: not before anything read earlier, and just now if unknown.
    pub fn on_train(&mut self, arrived: Option<Instant>, bytes: usize, now: Instant) -> Instant {
        if let Some(arrived) = arrived {
            self.undated = None;
            // One that came after the turn had begun belongs to this turn.
            self.read_until = self.read_until.max(arrived.min(now));
            return self.read_until;
        }
        let (since, read) = self.undated.get_or_insert((now, 0));
        *read += bytes + OVERHEAD;
        if *read > self.room {
            self.read_until = self.read_until.max(*since);
            self.undated = None;
        }
        now.max(self.read_until)
    }

    /// The socket was found empty in the turn that began at `now`.
    pub fn on_empty(&mut self, now: Instant) {
        self.read_until = self.read_until.max(now);
        self.undated = None;
    }

    /// Everything that came before this has been read.
    pub fn read_until(&self) -> Instant {
        self.read_until
    }

    /// The clock for everything that waits for symbols: what began to wait at `since` has waited in vain once `since`
    /// plus the hold is not later than this. It stays behind `read_until` by the halts in the last hold of listening.
    pub fn hold_clock(&self) -> Instant {
        let (mut end, mut left, mut missed) = (self.read_until, self.hold, Duration::ZERO);
        for halt in self.halts.iter().rev() {
            let (from, to) = (halt.from.min(end), halt.to.min(end));
            let listened = end.saturating_duration_since(to);
            if listened >= left {
                break;
            }
            left -= listened;
            missed += to.saturating_duration_since(from);
            end = from;
        }
        self.read_until.checked_sub(missed).unwrap_or(self.read_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_millis(20);
    const ROOM: usize = 1 << 20;

    struct Bench {
        receive_lag: ReceiveLag,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            Self { receive_lag: ReceiveLag::new(HOLD, ROOM, start), start }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn millis(&self, at: Instant) -> u64 {
            (at - self.start).as_millis() as u64
        }

        /// A turn that finds the socket empty, after which the lane is going to be awake again at `due`.
        fn turn(&mut self, now: u64, due: u64) -> u64 {
            let (now, due) = (self.at(now), self.at(due));
            self.receive_lag.on_turn(now);
            self.receive_lag.on_empty(now);
            self.receive_lag.on_sleep(Some(due), now);
            self.clock()
        }

        fn clock(&self) -> u64 {
            self.millis(self.receive_lag.hold_clock())
        }

        fn train(&mut self, arrived: Option<u64>, now: u64) -> u64 {
            let at = self.receive_lag.on_train(arrived.map(|at| self.at(at)), 1000, self.at(now));
            self.millis(at)
        }
    }

    #[test]
    fn a_lane_that_wakes_late_keeps_blocks_whose_symbols_lie_in_its_socket() {
        for halt in [130, 250, 3000] {
            let mut bench = Bench::new();
            assert_eq!(bench.turn(10, 15), 10);
            // It stood still, and finds what came in the whole time.
            let now = 10 + halt;
            assert!(bench.receive_lag.on_turn(bench.at(now)));
            for arrived in (11..now).step_by(40) {
                assert_eq!(bench.train(Some(arrived), now), arrived, "each came when it came");
                assert!(bench.clock() <= 25, "nothing that came is too late: {}", bench.clock());
            }
            assert_eq!(bench.turn(now, now + 5), 25);
            // From now on it listens: a moment for what has not reached the socket, and then the rest of the hold.
            assert_eq!(bench.turn(now + 10, now + 30), 25);
            assert_eq!(bench.turn(now + 24, now + 30), 39);
            assert_eq!(bench.turn(now + 30, now + 40), now + 30);
        }
    }

    #[test]
    fn a_turn_that_is_late_by_little_counts_by_arrivals_alone() {
        let mut bench = Bench::new();
        bench.turn(10, 12);
        assert!(!bench.receive_lag.on_turn(bench.at(21)));
        assert_eq!((bench.train(Some(11), 21), bench.clock()), (11, 11));
        assert_eq!((bench.train(Some(19), 21), bench.clock()), (19, 19));
        assert_eq!((bench.train(Some(18), 21), bench.clock()), (19, 19), "the clock never goes back");
        assert_eq!((bench.train(Some(40), 21), bench.clock()), (21, 21), "nothing comes later than now");
        assert_eq!(bench.turn(22, 23), 22);
        assert_eq!((bench.train(Some(3), 23), bench.clock()), (22, 22), "nor before the socket was empty");
    }

    #[test]
    fn repeated_halts_neither_give_up_what_came_nor_hold_for_ever() {
        let mut bench = Bench::new();
        let mut clock = bench.turn(0, 0);
        // 130 ms of standstill, 5 ms awake: a hole may hold for 20 ms of listening, and these pass.
        for round in 1..=100 {
            let begin = round * 135;
            for now in begin..begin + 5 {
                let next = bench.turn(now, now + 1);
                assert!(next >= clock, "the clock never goes back");
                clock = next;
            }
            let awake = begin + 5 - clock;
            assert!(awake >= 120, "round {round}: {clock} counts a halt as listened");
            assert!(awake <= 6 * 135, "round {round}: {clock} is no progress");
        }
        assert!(bench.receive_lag.halts.len() <= HALTS_MAX);
        // A lane whose every turn takes long still gives up.
        let mut bench = Bench::new();
        for turn in 0..100 {
            bench.turn(turn * 50, turn * 50);
        }
        assert!(bench.clock() > 4500, "{}", bench.clock());
    }

    #[test]
    fn an_endless_flood_delays_nothing_for_longer_than_a_full_socket() {
        // With arrival times: what is read is always a little late.
        let mut bench = Bench::new();
        for now in 1..1000u64 {
            bench.receive_lag.on_turn(bench.at(now));
            bench.train(Some(now.saturating_sub(80)), now);
            bench.receive_lag.on_sleep(Some(bench.at(now)), bench.at(now));
            assert_eq!(bench.clock(), now.saturating_sub(80));
        }
        // Without: the clock stands until a full socket was read, and then shows the beginning of that.
        let mut bench = Bench::new();
        let full = (ROOM / (1000 + OVERHEAD)) as u64 + 1;
        for number in 0..full {
            let now = 100 + number;
            assert_eq!((bench.clock(), bench.train(None, now)), (0, now), "it counts as having come just now");
        }
        assert_eq!(bench.clock(), 100);
        bench.train(None, 2000);
        bench.receive_lag.on_empty(bench.at(2001));
        assert_eq!(bench.clock(), 2001);
    }
}
