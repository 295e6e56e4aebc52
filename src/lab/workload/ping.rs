//! `ping` beside other traffic.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::lab::{error::LabError, network::Network, process::Process, times::Times};

/// A running `ping`.
#[derive(Debug)]
pub struct Ping {
    process: Process,
    seconds: u64,
}

impl Ping {
    /// Sends a packet every 20 ms for so many seconds.
    pub fn start(network: &Network<'_>, name: &str, from: &str, to: &str, seconds: u64) -> Result<Self, LabError> {
        let deadline = seconds.to_string();
        let words = ["ping", "-n", "-i", "0.02", "-w", &deadline, to];
        Ok(Self { process: network.start(from, name, &words)?, seconds })
    }

    /// Waits for its end; returns the times of the answers. Its exit status is ignored, because it reports a lost answer as
    /// failure.
    pub fn finish(mut self) -> Result<Times, LabError> {
        let deadline = Instant::now() + Duration::from_secs(self.seconds + 10);
        while self.process.is_running() {
            if Instant::now() > deadline {
                return Err(LabError::Sentence("ping does not end".to_owned()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        let mut times = Times::default();
        answers(&self.process.output()).for_each(|millis| times.record(Duration::from_secs_f64(millis.max(0.0) / 1e3)));
        Ok(times)
    }
}

/// The times of the answers, in milliseconds; lost answers are left out.
pub fn answers(output: &str) -> impl Iterator<Item = f64> {
    let time = |line: &str| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok();
    output.lines().filter_map(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_answers_are_read() {
        let output = "64 bytes from 10.4.0.1: icmp_seq=1 ttl=62 time=0.25 ms\n\n--- 10.4.0.1 ping statistics ---\n\
                      64 bytes from 10.4.0.1: icmp_seq=2 ttl=62 time=1.5 ms\nrtt min/avg = 0.1/0.2 ms";
        assert_eq!(answers(output).collect::<Vec<_>>(), [0.25, 1.5]);
        assert_eq!(answers("").count(), 0);
    }
}
