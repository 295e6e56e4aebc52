//! Which processor a thread runs on.

use std::io;

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
}
