//! What happens during the run: the loss changes, configurations are read again, the mirror's appliance dies or is stopped.
//!
//! Everything has its time, so that a run of any length has some of each. Traffic is not known here.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::lab::{
    error::LabError,
    network::Network,
    pair::{Pair, RunningAppliance},
    servers::gate::Gate,
};

/// What the WAN does, one after the other.
const LOSSES: [&str; 7] = [
    "set loss 0.1%",
    "set loss 1%",
    "set loss bursts 0.0005 0.3",
    "set loss interruptions 5s 3ms",
    "set loss 0%",
    "set loss 3%",
    "set loss bursts 0.002 0.5",
];
/// What takes the place of the repair, and of the beginning of `path`, in the appliances' files.
const REPAIRS: [&str; 3] = ["{ fixed: 4 }", "{ fixed: 6 }", "{ residual: 1e-6, max_overhead: 100%, min: 2 }"];
const PATHS: [&str; 2] = ["{ mtu: 1500", "{ mtu: 1500, rate: 800mbit"];
/// The policies of the gate's file.
pub const POLICIES: [&str; 2] = ["auto", "strict"];
/// How long the loss stays, how long a configuration, and how long the mirror's appliance lives: this share of the run, but
/// neither shorter nor longer than these times.
const LOSS: (u32, [u64; 2]) = (24, [2, 60]);
const RELOAD: (u32, [u64; 2]) = (60, [1, 20]);
const RESTART: (u32, [u64; 2]) = (5, [3, 240]);

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Changes of the loss.
    pub losses: u32,
    /// Files that were read again.
    pub reloads: u32,
    /// Times that the mirror's appliance was killed.
    pub kills: u32,
    /// Times that it was stopped, and ended with code 0.
    pub stops: u32,
}

/// What comes next, and when.
#[derive(Debug)]
pub struct Disturbance {
    originals: [String; 2],
    begin: Instant,
    /// Nothing begins after this time.
    end: Duration,
    every: [Duration; 3],
    next: [Duration; 3],
    /// What has happened.
    pub counts: Counts,
}

impl Disturbance {
    /// A plan for a run of this length, which begins now.
    pub fn new(pair: &Pair<'_>, duration: Duration) -> Result<Self, LabError> {
        let read = |appliance: &RunningAppliance| {
            fs::read_to_string(appliance.config()).map_err(LabError::doing("read a configuration"))
        };
        let originals = [read(&pair.appliances[0])?, read(&pair.appliances[1])?];
        let every = [LOSS, RELOAD, RESTART].map(|(share, times)| every(duration, share, times));
        // The last life is as long as the others.
        let end = duration.saturating_sub(every[2] / 2);
        Ok(Self { originals, begin: Instant::now(), end, every, next: every, counts: Counts::default() })
    }

    /// Does what is due; returns whether the mirror's appliance has begun anew.
    pub fn turn(&mut self, network: &Network<'_>, pair: &mut Pair<'_>, gate: &Gate) -> Result<bool, LabError> {
        let now = self.begin.elapsed();
        let mut is_due = [false; 3];
        for ((is_due, next), every) in is_due.iter_mut().zip(&mut self.next).zip(self.every) {
            *is_due = now >= *next && now < self.end;
            if *is_due {
                *next = now + every;
            }
        }
        let [loss, reload, restart] = is_due;
        if loss {
            self.counts.losses += 1;
            network.tell_wan(LOSSES[self.counts.losses as usize % LOSSES.len()])?;
        }
        if reload {
            self.reload(network, pair, gate)?;
        }
        if restart {
            self.restart(network, &mut pair.appliances[1])?;
        }
        Ok(restart)
    }

    /// The files of both appliances and of the gate, in turn.
    fn reload(&mut self, network: &Network<'_>, pair: &Pair<'_>, gate: &Gate) -> Result<(), LabError> {
        let (which, turn) = ((self.counts.reloads % 3) as usize, (self.counts.reloads / 3 + 1) as usize);
        self.counts.reloads += 1;
        let Some(original) = self.originals.get(which) else {
            return gate.set_policy(network, POLICIES[turn % POLICIES.len()]);
        };
        let text =
            original.replace(REPAIRS[0], REPAIRS[turn % REPAIRS.len()]).replace(PATHS[0], PATHS[turn % PATHS.len()]);
        let appliance = &pair.appliances[which];
        fs::write(appliance.config(), text).map_err(LabError::doing("write a configuration"))?;
        // It may just have been started, and not listen yet.
        match appliance.socket().exists() {
            true => appliance.reload(network).map(drop),
            false => Ok(()),
        }
    }

    /// Kills it, or stops it, in turn.
    fn restart(&mut self, network: &Network<'_>, appliance: &mut RunningAppliance) -> Result<(), LabError> {
        if (self.counts.kills + self.counts.stops).is_multiple_of(2) {
            self.counts.kills += 1;
        } else {
            let exit = appliance.process.terminate()?;
            if !exit.success() {
                return Err(LabError::Sentence(format!("{} was stopped and ended with {exit}", appliance.node())));
            }
            self.counts.stops += 1;
        }
        appliance.restart(network)
    }
}

fn every(duration: Duration, share: u32, [least, most]: [u64; 2]) -> Duration {
    (duration / share).clamp(Duration::from_secs(least), Duration::from_secs(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_any_length_has_some_of_each() {
        for (seconds, expected) in [(8, [2, 1, 3]), (300, [12, 5, 60]), (1800, [60, 20, 240]), (36_000, [60, 20, 240])]
        {
            let found = [LOSS, RELOAD, RESTART]
                .map(|(share, times)| every(Duration::from_secs(seconds), share, times).as_secs());
            assert_eq!(found, expected, "{seconds}");
        }
    }
}
