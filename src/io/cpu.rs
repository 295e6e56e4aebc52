//! Which processor a thread runs on, before which others, and how long the process ran on all of them.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Keeps this thread on one of the processors that it may use: the one at index `preference`, modulo their number.
/// Returns which.
///
/// A device with several transmit queues selects one by the sending processor. The datagrams of one thread keep their
/// order only while it stays on one processor.
pub fn stay(preference: usize) -> io::Result<usize> {
    let usable = usable()?;
    let chosen = usable.get(preference % usable.len().max(1)).copied().unwrap_or_else(sched_getcpu);
    stay_on(&[chosen])?;
    Ok(chosen)
}

/// The processors that this thread may use.
pub fn usable() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect())
}

/// Keeps this thread, and threads that it starts from now on, on these processors.
pub fn stay_on(processors: &[usize]) -> io::Result<()> {
    let mut only = CpuSet::new();
    processors.iter().for_each(|&cpu| only.set(cpu));
    Ok(sched_setaffinity(None, &only)?)
}

/// Lets this thread run before all ordinary ones (`SCHED_FIFO`), or as an ordinary one again. Only for moments: a thread
/// that runs first and never sleeps leaves its processor to nobody. Needs `CAP_SYS_NICE`.
pub fn run_first(first: bool) -> io::Result<()> {
    let (policy, sched_priority) = if first { (libc::SCHED_FIFO, 1) } else { (libc::SCHED_OTHER, 0) };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: 0 is this thread, and `parameters` lives until the call ends, which keeps no pointer to it.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets this thread run behind the others of the process, as far as it may: for work that no packet waits for.
pub fn give_way() {
    // Where a filter of system calls refuses it, it runs beside them.
    let _ = rustix::process::nice(10);
}

/// The nice value of this thread, from -20 (before all others) to 19. Threads that it starts inherit it.
pub fn nice() -> io::Result<i32> {
    Ok(rustix::process::getpriority_process(None)?)
}

/// Sets the nice value of this thread alone. A lower one needs `CAP_SYS_NICE` or `RLIMIT_NICE`; see setpriority(2).
pub fn set_nice(value: i32) -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, value)?)
}

/// The processor time of all threads of the process since it started.
pub fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_on_its_processor() {
        let thread = std::thread::spawn(|| {
            let before = sched_getaffinity(None).unwrap();
            let chosen = stay(1).unwrap();
            let after = sched_getaffinity(None).unwrap();
            assert!(before.is_set(chosen));
            assert_eq!((after.count(), sched_getcpu()), (1, chosen));
        });
        thread.join().unwrap();
    }

    /// The 19th field of proc_pid_stat(5).
    fn nice_in_proc() -> i32 {
        let text = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        text.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn a_thread_changes_its_nice_value_alone_and_those_it_starts_inherit_it() {
        let before = nice().unwrap();
        assert_eq!(before, nice_in_proc());
        let higher = (before + 3).min(19);
        let thread = std::thread::spawn(move || {
            set_nice(higher).unwrap();
            (nice().unwrap(), std::thread::spawn(nice_in_proc).join().unwrap())
        });
        assert_eq!(thread.join().unwrap(), (higher, higher));
        assert_eq!(nice_in_proc(), before);
    }

    #[test]
    fn a_thread_gives_way_alone_and_its_time_is_that_of_the_process() {
        let nice = nice_in_proc;
        let (before, start) = (nice(), process_time());
        let other = std::thread::spawn(move || {
            give_way();
            while process_time() < start + Duration::from_millis(20) {}
            nice()
        });
        assert_eq!(other.join().unwrap(), (before + 10).min(19));
        assert_eq!(nice(), before);
        assert!(process_time() >= start + Duration::from_millis(20));
    }

    #[test]
    fn a_thread_runs_first_and_then_as_others_do() {
        let thread = std::thread::spawn(|| {
            for (first, policy) in [(true, libc::SCHED_FIFO), (false, libc::SCHED_OTHER)] {
                run_first(first).unwrap();
                // The 41st field of proc_pid_stat(5); the name in brackets is the second and has no blank here.
                let text = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
                let found = text.rsplit_once(") ").unwrap().1.split(' ').nth(38).unwrap();
                assert_eq!(found, policy.to_string());
            }
        });
        thread.join().unwrap();
    }
}
