//! The list of all scenarios.

use super::{
    Stage, blackhole, burst, bypass, cap, changing, commit_latency, congestion, crash_matrix, disaster, forged,
    goodput, held_link, honest, inject, last_hop, latency, loss, malicious, notify_faults, peers, quickstart, recovery,
    redis_mariadb, reload, residual, scale_out, shell, slot, slow_peer, soak, standstill, throughput, uplink, watch,
};
use crate::lab::{error::LabError, report::Report};

/// A named scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The name on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The default topology.
    pub topology: &'static str,
    /// The programs it needs.
    pub(super) programs: &'static [&'static str],
    pub(super) run: fn(&Stage<'_>) -> Result<Report, LabError>,
}

/// Every scenario; the first is the default.
pub const SCENARIOS: [Scenario; 35] = [
    Scenario {
        name: "quickstart",
        summary: "rsync of 256 MB over 50 ms and 1 % loss, with the appliances and without, in about a minute",
        topology: "pair",
        programs: &["ip", "sysctl", "ss", "rsync"],
        run: quickstart::run,
    },
    Scenario {
        name: "loss",
        summary: "raw loss, rebuilt, left over and goodput at 0 to 5 % loss, single and in bursts",
        topology: "pair",
        programs: &["ip", "sysctl", "iperf3"],
        run: loss::run,
    },
    Scenario {
        name: "residual",
        summary: "a million blocks through the code for each of eight links: is the formula for what cannot be rebuilt true?",
        topology: "pair",
        programs: &[],
        run: residual::run,
    },
    Scenario {
        name: "goodput",
        summary: "one TCP flow over 0 to 5 % loss at 50 and 100 ms, cubic and bbr, through the appliances and without them",
        topology: "pair",
        programs: &["ip", "sysctl", "iperf3"],
        run: goodput::run,
    },
    Scenario {
        name: "congestion",
        summary: "repaired flows and a plain one share a full bottleneck: what is left to the plain one, and how long are queues?",
        topology: "pair",
        programs: &["ip", "sysctl", "iperf3", "ping"],
        run: congestion::run,
    },
    Scenario {
        name: "changing",
        summary: "a link that is clean, loses single datagrams, then bursts, then is clean: does the repair follow, at what cost?",
        topology: "pair",
        programs: &["ip", "sysctl", "iperf3"],
        run: changing::run,
    },
    Scenario {
        name: "throughput",
        summary: "how fast: plain route, bare tunnel, 4 repair symbols for 32, with a subscriber, simple back-end; 13 minutes",
        topology: "pair-veth",
        programs: &["ip", "sysctl", "iperf3"],
        run: throughput::run,
    },
    Scenario {
        name: "watch",
        summary: "what the notifications look like: traffic, a link that fails, and `onwire watch` beside it",
        topology: "pair",
        programs: &["ip", "sysctl"],
        run: watch::run,
    },
    Scenario {
        name: "honest",
        summary: "a slow queue on the uplink, the link cut the moment \"protected\" arrives: was it? And at level queued?",
        topology: "pair",
        programs: &["ip", "sysctl", "tc"],
        run: honest::run,
    },
    Scenario {
        name: "latency",
        summary: "from a write to the notification that it is protected: lone writes, idle and beside bulk traffic",
        topology: "pair-veth",
        programs: &["taskset", "ip", "sysctl", "iperf3"],
        run: latency::run,
    },
    Scenario {
        name: "recovery",
        summary: "how much later a packet arrives that had to be rebuilt: lone datagrams, without loss and with 10 %",
        topology: "pair",
        programs: &["taskset", "ip", "sysctl"],
        run: recovery::run,
    },
    Scenario {
        name: "blackhole",
        summary: "the WAN swallows both directions or one: how soon \"protected\" stops, and how soon it comes back",
        topology: "pair",
        programs: &["ip", "sysctl"],
        run: blackhole::run,
    },
    Scenario {
        name: "held-link",
        summary: "a man on the path delays, holds, reorders, then swallows: for how long does \"protected\" go on?",
        topology: "pair-held",
        programs: &["ip", "sysctl"],
        run: held_link::run,
    },
    Scenario {
        name: "forged",
        summary: "ten million forged datagrams and a hundred thousand initiations beside a transfer: what do they change? ten minutes",
        topology: "pair-wan",
        programs: &["ip", "sysctl", "nft"],
        run: forged::run,
    },
    Scenario {
        name: "malicious",
        summary: "a peer with its key seals the worst symbols and lies in its reports: what does it cost, is any promise false?",
        topology: "star",
        programs: &["ip", "sysctl", "nft"],
        run: malicious::run,
    },
    Scenario {
        name: "notify-faults",
        summary: "notifications lost, doubled, overtaken, replayed and forged: is any \"protected\" false, how late are they?",
        topology: "pair",
        programs: &["ip", "sysctl"],
        run: notify_faults::run,
    },
    Scenario {
        name: "slow-peer",
        summary: "one peer of three has 1 Mbit/s and is offered ten times as much: what does it cost the other two?",
        topology: "star",
        programs: &["ip", "sysctl", "iperf3", "ping"],
        run: slow_peer::run,
    },
    Scenario {
        name: "peers",
        summary: "one appliance with 64 peers: how soon are all up, and what does a peer take of memory, processor and speed?",
        topology: "star",
        programs: &["ip", "sysctl", "iperf3", "ping"],
        run: peers::run,
    },
    Scenario {
        name: "uplink",
        summary: "carrier, device, neighbour, address, queue and route of the uplink come and go: is any \"protected\" false?",
        topology: "pair-uplink",
        programs: &["ip", "sysctl", "tc"],
        run: uplink::run,
    },
    Scenario {
        name: "inject",
        summary: "each system call fails with each error it can have: is any \"protected\" false, does it live, is it said?",
        topology: "pair",
        programs: &["ip", "sysctl", "strace"],
        run: inject::run,
    },
    Scenario {
        name: "burst",
        summary: "bursts of as many datagrams as repair symbols and one more; interruptions of 1, 2 and 4 ms: what do they take?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: burst::run,
    },
    Scenario {
        name: "disaster",
        summary: "loss, half a second later the cut, then the death of the primary site: what was acknowledged and is lost?",
        topology: "pair",
        programs: &["ip", "sysctl", "tc", "unshare", "setpriv"],
        run: disaster::run,
    },
    Scenario {
        name: "last-hop",
        summary: "3 % loss between the mirror's appliance and the mirror when the primary site is lost: is what is kept enough?",
        topology: "pair-lan",
        programs: &["ip", "sysctl", "nft", "ethtool"],
        run: last_hop::run,
    },
    Scenario {
        name: "commit-latency",
        summary: "how long a PostgreSQL commit takes: local, network-sync and the remote ways, over the round trip",
        topology: "pair",
        programs: &["taskset", "ip", "sysctl", "unshare", "setpriv"],
        run: commit_latency::run,
    },
    Scenario {
        name: "redis",
        summary: "SET and WAIT through the gate and without it, and what a disaster takes of what was acknowledged",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv", "redis-server"],
        run: redis_mariadb::run_redis,
    },
    Scenario {
        name: "mariadb",
        summary: "semi-synchronous commits through the gate and without it, and what a disaster takes of them",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv", "mariadbd", "mariadb-install-db"],
        run: redis_mariadb::run_mariadb,
    },
    Scenario {
        name: "crash-matrix",
        summary: "gate, appliances and mirror killed and halted under load: do commits go on, and is anything lost?",
        topology: "pair",
        programs: &["ip", "sysctl", "nft", "unshare", "setpriv"],
        run: crash_matrix::run,
    },
    Scenario {
        name: "standstill",
        summary: "appliances, gate and mirror stand still around a disaster and while drain is asked: what is missing?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: standstill::run,
    },
    Scenario {
        name: "slot",
        summary: "the standby is halted while commits go on: does its replication slot stay where its disk is?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: slot::run,
    },
    Scenario {
        name: "reload",
        summary: "a thousand changes of the configuration under load: is a packet lost, does a connection of a gate end?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: reload::run,
    },
    Scenario {
        name: "bypass",
        summary: "a hundred times an appliance dies, is stopped or hangs under load: how soon is the plain route taken, what is lost?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: bypass::run,
    },
    Scenario {
        name: "scale-out",
        summary: "two pairs side by side, routed by BIRD: appliances die and stand still: how soon do flows move, what is lost?",
        topology: "scale-out",
        programs: &["ip", "sysctl", "bird", "unshare", "setpriv"],
        run: scale_out::run,
    },
    Scenario {
        name: "soak",
        summary: "pgbench through the gate for minutes or hours under changing loss, reloads, restarts: errors, missing rows, growth?",
        topology: "pair",
        programs: &["ip", "sysctl", "unshare", "setpriv"],
        run: soak::run,
    },
    Scenario {
        name: "cap",
        summary: "a program writes all it can through `gate tcp --max-unprotected`: how much can a disaster take of it?",
        topology: "pair",
        programs: &["ip", "sysctl", "tc"],
        run: cap::run,
    },
    Scenario {
        name: "shell",
        summary: "builds the lab with PostgreSQL behind a gate and stays up; prints how to enter and ask each part",
        topology: "pair",
        programs: &["ip", "sysctl"],
        run: shell::run,
    },
];

/// Finds a scenario by its name; the error lists all.
pub fn find(name: &str) -> Result<Scenario, LabError> {
    SCENARIOS.into_iter().find(|scenario| scenario.name == name).ok_or_else(|| {
        let names = SCENARIOS.map(|scenario| scenario.name).join(", ");
        LabError::Sentence(format!("there is no scenario \"{name}\"; allowed: {names}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::topology::Topology;

    #[test]
    fn every_scenario_is_found_and_its_topology_loads() {
        for scenario in SCENARIOS {
            assert!(Topology::load(scenario.topology).is_ok(), "{}", scenario.name);
            assert_eq!(find(scenario.name).unwrap().name, scenario.name);
        }
        let error = find("quick").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no scenario \"quick\"; allowed: quickstart, loss, residual, goodput, congestion, changing, throughput, watch, honest, latency, recovery, blackhole, held-link, forged, malicious, notify-faults, slow-peer, peers, uplink, inject, burst, disaster, last-hop, commit-latency, redis, mariadb, crash-matrix, standstill, slot, reload, bypass, scale-out, soak, cap, shell"
        );
    }
}
