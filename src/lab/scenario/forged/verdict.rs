//! What was found, and what must hold.

use std::time::Duration;

use serde_json::json;

use super::replies::Replies;
use crate::lab::{median::median, pair::Pair, report::Report, workload::checked_stream::Transferred};

/// Memory may differ by this much: the allocator keeps pages that it had for a moment.
const MEMORY_MOST: u64 = 1 << 20;
/// The transfer keeps this share of its goodput.
const GOODPUT_LEAST: f64 = 0.9;
const SESSION_WITHIN: Duration = Duration::from_secs(1);
/// The appliances have looked at this share of what was sent: the rest found no room in their sockets.
const SEEN_LEAST: f64 = 0.5;

/// Packets of the UDP flows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packets {
    pub sent: u64,
    pub missing: u64,
    pub twice: u64,
    pub wrong: u64,
}

/// The memory of both appliances under the same load, before the forged datagrams and after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub before: [u64; 2],
    pub after: [u64; 2],
}

impl Memory {
    /// Before.
    pub fn of(pair: &Pair<'_>) -> Self {
        Self { before: now(pair), after: [0; 2] }
    }

    /// After.
    pub fn grow(&mut self, pair: &Pair<'_>) {
        self.after = now(pair);
    }

    fn difference(&self) -> u64 {
        self.before.iter().zip(self.after).map(|(before, after)| before.abs_diff(after)).max().unwrap_or(u64::MAX)
    }
}

fn now(pair: &Pair<'_>) -> [u64; 2] {
    pair.appliances.each_ref().map(|appliance| appliance.process.memory().unwrap_or_default())
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub planned: u64,
    pub per_second: f64,
    /// Sent to the appliances, and the initiations among them.
    pub datagrams: u64,
    pub initiations: u64,
    /// Goodput in bits per second beside the steady flood and its control, and the rates of both.
    pub flooded: Vec<f64>,
    pub calm: Vec<f64>,
    pub flooded_rates: Vec<f64>,
    pub calm_rates: Vec<f64>,
    /// The rate of what was sent as fast as it went, and the goodput meanwhile.
    pub unpaced: f64,
    pub unpaced_goodput: f64,
    /// Datagrams that the appliances say they have refused, and those that found no room in their sockets.
    pub counted: u64,
    pub overflows: u64,
    pub stream: Transferred,
    pub packets: Packets,
    /// Packets at the end hosts that nobody had sent.
    pub strangers: u64,
    pub memory: Memory,
    pub restarts: Vec<Duration>,
    pub replies: Replies,
    /// Responses to strangers while no appliance had just started.
    pub early_responses: u64,
}

/// The claims.
pub fn report(found: &Found, slack: f64) -> Report {
    let mut report = Report::default();
    let (stream, packets, replies) = (found.stream, found.packets, found.replies);
    let wrong = stream.wrong + packets.wrong + packets.twice + found.strangers;
    let is_whole = stream.sent > 0 && stream.received == stream.sent && packets.sent > packets.missing;
    report.claim(
        "nothing is delivered that was not sent, nothing twice, and TCP loses nothing",
        format!(
            "{} of {} bytes of TCP, {} differ; {} of {} packets of UDP, {} differ, {} came twice; {} packets of nobody",
            stream.received,
            stream.sent,
            stream.wrong,
            packets.sent - packets.missing.min(packets.sent),
            packets.sent,
            packets.wrong,
            packets.twice,
            found.strangers
        ),
        wrong == 0 && is_whole,
    );
    let others = replies.others();
    report.claim(
        "the only reply is a cookie, 60 bytes to an initiation of at least 116; one that has just started also answers copies",
        format!(
            "{} cookies; {} responses after a restart, {} before; {others} others",
            replies.cookies + replies.peer_cookies,
            replies.responses - found.early_responses,
            found.early_responses
        ),
        others == 0
            && found.early_responses == 0
            && replies.cookies + replies.peer_cookies <= found.initiations + replies.peer_initiations,
    );
    report.claim(
        "each response to a peer's address is one to the peer's own initiation",
        format!("{} responses, {} initiations", replies.peer_responses, replies.peer_initiations),
        replies.peer_responses <= replies.peer_initiations,
    );
    let share = |part: u64| part as f64 / found.datagrams.max(1) as f64;
    report.claim(
        "control: the forged datagrams reached the appliances",
        format!(
            "{} sent, {} of them initiations; {:.1} % refused and counted, {:.1} % without room in a socket",
            found.datagrams,
            found.initiations,
            100.0 * share(found.counted),
            100.0 * share(found.overflows)
        ),
        share(found.counted) >= SEEN_LEAST && replies.cookies > 0,
    );
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    let [near, far] = [0, 1].map(|at| (mb(found.memory.before[at]), mb(found.memory.after[at])));
    report.claim(
        format!("the memory of each appliance is the same within {} MB", mb(MEMORY_MOST)),
        format!("{} to {} MB, {} to {} MB", near.0, near.1, far.0, far.1),
        found.memory.before.iter().all(|bytes| *bytes > 0) && found.memory.difference() as f64 <= MEMORY_MOST as f64,
    );
    let ratios: Vec<f64> =
        found.flooded.iter().zip(&found.calm).map(|(flooded, calm)| flooded / calm.max(1.0)).collect();
    let ratio = median(ratios.clone());
    let words = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", ");
    let rates = [median(found.flooded_rates.clone()), median(found.calm_rates.clone())];
    report.claim(
        format!("beside {:.0} forged datagrams a second TCP keeps {GOODPUT_LEAST} of its goodput", found.per_second),
        format!("{ratio:.2} ({words})"),
        ratio * slack >= GOODPUT_LEAST,
    );
    report.claim(
        "control: both were sent at the same rate",
        format!("{:.0} and {:.0} a second", rates[0], rates[1]),
        rates.iter().all(|rate| *rate > 0.0) && (rates[0] / rates[1] - 1.0).abs() < 0.1 * slack,
    );
    let longest = found.restarts.iter().max().copied().unwrap_or(Duration::MAX);
    let times: Vec<String> = found.restarts.iter().map(|took| took.as_millis().to_string()).collect();
    report.claim(
        format!("in the flood an appliance that starts has its session within {SESSION_WITHIN:?}"),
        format!("{} ms", times.join(", ")),
        longest <= SESSION_WITHIN.mul_f64(slack),
    );
    metrics(&mut report, found, ratio, &times);
    report
}

fn metrics(report: &mut Report, found: &Found, ratio: f64, restarts: &[String]) {
    let Found { stream, packets, replies, memory, .. } = found;
    report.metric(
        "datagrams",
        json!({ "sent": found.datagrams, "initiations": found.initiations,
        "refused": found.counted, "without_room": found.overflows }),
    );
    report.metric(
        "replies",
        json!({ "cookies": replies.cookies, "cookies_to_peers": replies.peer_cookies,
        "responses": replies.responses,
        "others": replies.others(),
        "other": { "length": replies.larger, "without_cause": replies.without_cause, "port": replies.to_other_port,
                   "errors": replies.errors },
        "responses_to_peers": replies.peer_responses, "initiations_of_peers": replies.peer_initiations }),
    );
    report.metric("stream", json!({ "sent": stream.sent, "received": stream.received, "wrong": stream.wrong }));
    report.metric(
        "packets",
        json!({ "sent": packets.sent, "missing": packets.missing, "twice": packets.twice,
        "wrong": packets.wrong, "of_nobody": found.strangers }),
    );
    report.metric("memory", json!({ "before": memory.before, "after": memory.after }));
    report.metric(
        "goodput",
        json!({ "ratio": ratio, "flooded": found.flooded, "calm": found.calm,
        "per_second": found.per_second }),
    );
    report.metric("unpaced", json!({ "per_second": found.unpaced, "goodput": found.unpaced_goodput }));
    let restarts: Vec<u64> = restarts.iter().filter_map(|took| took.parse().ok()).collect();
    report.metric("restarts_ms", restarts);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes wrong, and how it shows.
    type Change = (&'static str, fn(&mut Found));

    fn good() -> Found {
        Found {
            planned: 1000,
            per_second: 100.0,
            datagrams: 1000,
            initiations: 10,
            flooded: vec![95.0, 96.0, 97.0],
            calm: vec![100.0; 3],
            flooded_rates: vec![99.0],
            calm_rates: vec![100.0],
            counted: 900,
            stream: Transferred { sent: 9, received: 9, wrong: 0 },
            packets: Packets { sent: 100, missing: 2, ..Packets::default() },
            memory: Memory { before: [50 << 20, 60 << 20], after: [51 << 20, 59 << 20] },
            restarts: vec![Duration::from_millis(900), Duration::from_millis(300)],
            replies: Replies {
                cookies: 5,
                peer_cookies: 1,
                peer_responses: 2,
                peer_initiations: 3,
                ..Replies::default()
            },
            ..Found::default()
        }
    }

    #[test]
    fn each_thing_that_an_attack_could_change_fails_the_scenario() {
        assert!(report(&good(), 1.0).passes());
        let changes: [Change; 21] = [
            ("a wrong byte", |it| it.stream.wrong = 1),
            ("a missing byte", |it| it.stream.received = 8),
            ("no transfer", |it| it.stream = Transferred::default()),
            ("a wrong packet", |it| it.packets.wrong = 1),
            ("a packet twice", |it| it.packets.twice = 1),
            ("no packet", |it| it.packets.missing = 100),
            ("a packet of nobody", |it| it.strangers = 1),
            ("a larger reply", |it| it.replies.larger = 1),
            ("a reply to something else", |it| it.replies.without_cause = 1),
            ("a reply to anybody", |it| it.replies.to_other_port = 1),
            ("an error of ICMP", |it| it.replies.errors = 1),
            ("more cookies than initiations", |it| it.replies.cookies = 13),
            ("a response without an initiation", |it| it.replies.peer_responses = 4),
            ("no cookie at all", |it| it.replies.cookies = 0),
            ("an attack that never arrived", |it| it.counted = 400),
            ("memory that grew", |it| it.memory.after[1] = 62 << 20),
            ("memory that is not known", |it| it.memory = Memory::default()),
            ("less goodput", |it| it.flooded = vec![95.0, 89.0, 80.0]),
            ("a control at another rate", |it| it.calm_rates = vec![80.0]),
            ("a late session", |it| it.restarts[1] = Duration::from_millis(1001)),
            ("no restart", |it| it.restarts.clear()),
        ];
        for (what, change) in changes {
            let mut found = good();
            change(&mut found);
            assert!(!report(&found, 1.0).passes(), "{what}");
        }
    }
}
