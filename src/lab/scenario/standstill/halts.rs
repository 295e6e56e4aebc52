//! Standstill: a process is halted and resumed at random while everything around it runs on.
//!
//! To others this looks like a paused virtual machine or a starved host. A halted process is always resumed in the end.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, rngs::SmallRng};
use rustix::process::{Pid, Signal, kill_process};

/// The length of a halt, in milliseconds.
const LENGTHS: Range<f64> = 10.0..3000.0;
/// The sum of the halts of a process is bounded, so that a trial is more than waiting.
const SUM_MAX: Duration = Duration::from_millis(3500);
/// Time between two halts, in milliseconds: often too short to read what has arrived meanwhile.
const BETWEEN: Range<f64> = 0.3..100.0;
/// Maximum number of halts of one process in a trial.
const MOST: u32 = 6;
const STEP: Duration = Duration::from_millis(2);
/// The share of trials with one halt; the others have several.
const ONCE: f64 = 0.3;

/// One halt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Time after the beginning, or after the end of the previous halt.
    pub after: Duration,
    /// The length of the halt.
    pub long: Duration,
}

/// Draws one or several halts, the first of them after a time in `first`; short and long ones are equally likely.
pub fn plan(first: Range<Duration>, rng: &mut SmallRng) -> Vec<Halt> {
    let count = if rng.random_bool(ONCE) { 1 } else { rng.random_range(2..=MOST) };
    let (mut halts, mut sum) = (Vec::new(), Duration::ZERO);
    for number in 0..count {
        let after = if number == 0 { rng.random_range(first.clone()) } else { of_any_size(BETWEEN, rng) };
        let long = of_any_size(LENGTHS, rng).min(SUM_MAX.saturating_sub(sum));
        if long.is_zero() {
            break;
        }
        sum += long;
        halts.push(Halt { after, long });
    }
    halts
}

/// A time in this range of milliseconds, uniform on a logarithmic scale.
fn of_any_size(range: Range<f64>, rng: &mut SmallRng) -> Duration {
    Duration::from_secs_f64(rng.random_range(range.start.ln()..range.end.ln()).exp() / 1e3)
}

/// A thread that halts and resumes a process.
pub struct Halter {
    is_over: Arc<AtomicBool>,
    halting: Option<JoinHandle<(u32, Duration)>>,
}

impl Halter {
    /// Starts to halt as planned; `signal` reaches all processes to be halted.
    pub fn start(plan: Vec<Halt>, mut signal: impl FnMut(Signal) + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let halting = thread::spawn(move || {
            let wait = |time: Duration| {
                let end = Instant::now() + time;
                while Instant::now() < end && !over.load(Ordering::Relaxed) {
                    thread::sleep(STEP.min(end.saturating_duration_since(Instant::now())));
                }
                !over.load(Ordering::Relaxed)
            };
            let (mut count, mut sum) = (0, Duration::ZERO);
            for halt in plan {
                if !wait(halt.after) {
                    break;
                }
                let begin = Instant::now();
                signal(Signal::STOP);
                wait(halt.long);
                signal(Signal::CONT);
                (count, sum) = (count + 1, sum + begin.elapsed());
            }
            (count, sum)
        });
        Self { is_over, halting: Some(halting) }
    }

    /// Halts a single process.
    pub fn of_process(plan: Vec<Halt>, id: u32) -> Self {
        let pid = Pid::from_raw(id as i32);
        Self::start(plan, move |signal| {
            if let Some(pid) = pid {
                // The process id stays valid: the process's owner waits for it only after the halter has ended.
                let _ = kill_process(pid, signal);
            }
        })
    }

    /// Resumes it for good; returns how often it was halted, and for how long in all.
    pub fn finish(mut self) -> (u32, Duration) {
        self.end()
    }

    fn end(&mut self) -> (u32, Duration) {
        self.is_over.store(true, Ordering::Relaxed);
        self.halting.take().and_then(|halting| halting.join().ok()).unwrap_or_default()
    }
}

impl Drop for Halter {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::sync::Mutex;

    #[test]
    fn halts_vary_in_number_and_length_and_their_sum_is_bounded() {
        let mut rng = SmallRng::seed_from_u64(1);
        let first = Duration::from_millis(5)..Duration::from_millis(9);
        let plans: Vec<_> = (0..300).map(|_| plan(first.clone(), &mut rng)).collect();
        for plan in &plans {
            assert!(!plan.is_empty() && first.contains(&plan[0].after));
            let sum: Duration = plan.iter().map(|halt| halt.long).sum();
            assert!(sum <= SUM_MAX && plan.len() <= MOST as usize, "{plan:?}");
        }
        let longest = |plan: &Vec<Halt>| plan.iter().map(|halt| halt.long).max();
        assert!(plans.iter().any(|plan| plan.len() == 1) && plans.iter().any(|plan| plan.len() > 3));
        assert!(plans.iter().filter_map(longest).any(|long| long > Duration::from_secs(2)));
        assert!(plans.iter().filter_map(longest).any(|long| long < Duration::from_millis(30)));
    }

    #[test]
    fn every_halt_is_followed_by_a_resume_also_after_an_early_end() {
        let ms = Duration::from_millis;
        let signals = Arc::<Mutex<Vec<Signal>>>::default();
        let halter = |plan| {
            let sent = signals.clone();
            Halter::start(plan, move |signal| sent.lock().unwrap().push(signal))
        };
        let short = Halt { after: ms(1), long: ms(3) };
        let planned = halter(vec![short, short]);
        while signals.lock().unwrap().len() < 4 {
            thread::sleep(ms(1));
        }
        let (count, sum) = planned.finish();
        assert!(count == 2 && sum >= ms(6), "{count} {sum:?}");
        let endless = halter(vec![Halt { after: ms(0), long: ms(3_600_000) }, short]);
        while signals.lock().unwrap().len() < 5 {
            thread::sleep(ms(1));
        }
        drop(endless);
        let sent = signals.lock().unwrap();
        assert_eq!(sent[..], [Signal::STOP, Signal::CONT].repeat(3)[..]);
    }
}
