//! How far a lane is behind what has come to its socket, and how much of the time that passed it has listened.
//!
//! A hole is given up when nothing filled it in a time in which the lane listened, not in a time in which it was halted,
//! starved or busy and what fills the hole lay unread. Two things are known for that:
//!
//! - **Up to when everything that came has been read.** Datagrams are read in the order in which they came, so that is the
//!   arrival of the one read last, or the moment before the socket was found empty. Where no arrival is told, it is a moment
//!   since which more was read than the socket can hold. So a flood that never ends holds up nothing for longer than it
//!   takes to read one full socket.
//! - **When the lane stood still**: it says by when it will be awake, and a later turn shows that it was not. What came
//!   meanwhile may not even have reached the socket (a virtual machine that was paused, a processor that was taken away),
//!   so it has a moment more to get there. However slow a lane is, some of each turn counts as listened.
//!
//! It reads nothing and no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A turn that is late by less is an ordinary one.
const LATE: Duration = Duration::from_millis(10);
/// What lies below the socket after a halt has this long to get there.
const SETTLE: Duration = Duration::from_millis(10);
/// Halts that are remembered; beyond, the two oldest are taken for one.
const HALTS_MAX: usize = 32;
/// A datagram in the socket takes at least so much room beside its bytes.
const OVERHEAD: usize = 256;

/// A time in which the lane did not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halt {
    from: Instant,
    to: Instant,
}

/// What is known of the socket.
#[derive(Debug)]
pub struct ReceiveLag {
    /// How long a hole may hold.
    hold: Duration,
    /// Bytes that the socket can hold.
    room: usize,
    /// Everything that came before this has been read.
    read_until: Instant,
    /// Since when datagrams are read that do not say when they came, and how many bytes of them.
    undated: Option<(Instant, usize)>,
    /// By when the lane was to be awake again.
    awake_by: Option<Instant>,
    halts: VecDeque<Halt>,
}

impl ReceiveLag {
    /// Nothing has come before `now` to a socket of so much `room`.
    pub fn new(hold: Duration, room: usize, now: Instant) -> Self {
        Self { hold, room, read_until: now, undated: None, awake_by: None, halts: VecDeque::new() }
    }

    /// A hole holds for so long from now on.
    pub fn set_hold(&mut self, hold: Duration) {
        self.hold = hold;
    }

    /// A turn ends: the next begins at `due` at the latest, if anything is due.
    pub fn on_sleep(&mut self, due: Option<Instant>, now: Instant) {
        self.awake_by = due.map(|due| due.max(now));
    }

    /// A turn begins. Tells whether it is so late that the lane stood still.
    pub fn on_turn(&mut self, now: Instant) -> bool {
        let Some(from) = self.awake_by.take().map(|by| by + LATE).filter(|from| *from < now) else { return false };
        // The moment after a halt is granted to one that follows on time in which the lane listened, or a lane that is late in
        // each turn would never listen.
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

    /// Datagrams of so many bytes were read, which came then, if that is known. Returns when they are taken to have come:
    /// after all that was read before, and in doubt just now.
    pub fn on_train(&mut self, arrived: Option<Instant>, bytes: usize, now: Instant) -> Instant {
        if let Some(arrived) = arrived {
            self.undated = None;
            // One that came after the turn had begun belongs to it.
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

    /// The time for whoever waits for symbols: what began to wait at `since` has waited in vain once `since` and the time
    /// that a hole may hold are not later than this.
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

        /// A turn that finds the socket empty, and after which the lane wants to be awake again then.
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
    fn a_lane_that_woke_late_gave_up_blocks_whose_symbols_lay_in_its_socket() {
        for halt in [130, 250, 3000] {
            let mut bench = Bench::new();
            assert_eq!(bench.turn(10, 15), 10);
            // It stood still, and finds what came meanwhile, over the whole time.
            let now = 10 + halt;
            assert!(bench.receive_lag.on_turn(bench.at(now)));
            for arrived in (11..now).step_by(40) {
                assert_eq!(bench.train(Some(arrived), now), arrived, "each came when it came");
                assert!(bench.clock() <= 25, "nothing that came is late for that: {}", bench.clock());
            }
            assert_eq!(bench.turn(now, now + 5), 25);
            // From then on it listens: a moment for what has not reached the socket, and then the rest of the hold.
            assert_eq!(bench.turn(now + 10, now + 30), 25);
            assert_eq!(bench.turn(now + 24, now + 30), 39);
            assert_eq!(bench.turn(now + 30, now + 40), now + 30);
        }
    }

    #[test]
    fn a_turn_that_is_late_by_little_is_judged_by_arrivals_alone() {
        let mut bench = Bench::new();
        bench.turn(10, 12);
        assert!(!bench.receive_lag.on_turn(bench.at(21)));
        assert_eq!((bench.train(Some(11), 21), bench.clock()), (11, 11));
        assert_eq!((bench.train(Some(19), 21), bench.clock()), (19, 19));
        assert_eq!((bench.train(Some(18), 21), bench.clock()), (19, 19), "the clock goes forward");
        assert_eq!((bench.train(Some(40), 21), bench.clock()), (21, 21), "nothing comes later than now");
        assert_eq!(bench.turn(22, 23), 22);
        assert_eq!((bench.train(Some(3), 23), bench.clock()), (22, 22), "nor before the socket was empty");
    }

    #[test]
    fn halts_again_and_again_neither_give_up_what_came_nor_hold_for_ever() {
        let mut bench = Bench::new();
        let mut clock = bench.turn(0, 0);
        // 130 ms of standstill, 5 ms awake: a hole may hold 20 ms of what it listens, and that comes.
        for round in 1..=100 {
            let begin = round * 135;
            for now in begin..begin + 5 {
                let next = bench.turn(now, now + 1);
                assert!(next >= clock, "time goes forward");
                clock = next;
            }
            let awake = begin + 5 - clock;
            assert!(awake >= 120, "round {round}: {clock} is as if it had listened");
            assert!(awake <= 6 * 135, "round {round}: {clock} is no progress");
        }
        assert!(bench.receive_lag.halts.len() <= HALTS_MAX);
        // A lane of which every turn takes long still gives up.
        let mut bench = Bench::new();
        for turn in 0..100 {
            bench.turn(turn * 50, turn * 50);
        }
        assert!(bench.clock() > 4500, "{}", bench.clock());
    }

    #[test]
    fn a_flood_that_never_ends_holds_up_nothing_for_longer_than_a_full_socket() {
        // With arrivals: what is read is always a little late.
        let mut bench = Bench::new();
        for now in 1..1000u64 {
            bench.receive_lag.on_turn(bench.at(now));
            bench.train(Some(now.saturating_sub(80)), now);
            bench.receive_lag.on_sleep(Some(bench.at(now)), bench.at(now));
            assert_eq!(bench.clock(), now.saturating_sub(80));
        }
        // Without: whatever the clock says, until a full socket was read, and then as of its beginning.
        let mut bench = Bench::new();
        let full = (ROOM / (1000 + OVERHEAD)) as u64 + 1;
        for number in 0..full {
            let now = 100 + number;
            assert_eq!((bench.clock(), bench.train(None, now)), (0, now), "in doubt it came just now");
        }
        assert_eq!(bench.clock(), 100);
        bench.train(None, 2000);
        bench.receive_lag.on_empty(bench.at(2001));
        assert_eq!(bench.clock(), 2001);
    }
}
