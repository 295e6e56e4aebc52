//! What was found, and what must hold.

use std::time::Duration;

use serde_json::json;

use super::honest::Flows;
use crate::lab::report::Report;

/// What one peer can make an appliance hold: 64 MiB of blocks, the scratch of one decoding (128 MiB), what is kept of it, and
/// lists of 256 profiles (docs/wire.md).
const GROWTH_MOST: u64 = (64 + 128 + 32 + 32) << 20;
/// The time of the worst datagram, and that in units of an honest one.
const MICROS_MOST: f64 = 1000.0;
/// The share of the honest peer's packets that may be missing: a block in a thousand million cannot be rebuilt, but a
/// packet may find no room in a socket of a busy machine.
const MISSING_MOST: f64 = 0.01;
const CLAIMED_LEAST: f64 = 0.5;

/// What one behaviour cost.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub name: String,
    pub sent: u64,
    /// Datagrams that the appliance took and found authentic.
    pub received: u64,
    /// Processor time of each of them, in microseconds.
    pub micros: f64,
    /// The greatest size of the process, in bytes.
    pub size: u64,
    pub time: Duration,
    /// The honest peer's flows meanwhile.
    pub flows: Flows,
}

impl Row {
    /// A line for the user.
    pub fn to_text(&self) -> String {
        format!(
            "  {}: {} sent, {} received in {:.1} s, {:.1} us each, {:.1} MB; honest: {} of {} packets missing",
            self.name,
            self.sent,
            self.received,
            self.time.as_secs_f64(),
            self.micros,
            self.size as f64 / 1e6,
            self.flows.missing,
            self.flows.sent
        )
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The first is without the malicious peer, the second is its honest behaviour.
    pub rows: Vec<Row>,
    pub handshakes: Option<Row>,
    pub floor: u16,
    /// The least and the most repair symbols of a block to the malicious peer.
    pub repair_when_lost: Option<(u16, u16)>,
    pub repair_when_all: Option<(u16, u16)>,
    /// Bytes of a flow to the malicious peer that were called decoded.
    pub believed: u64,
    pub size_before: u64,
    pub size_most: u64,
    /// The honest peer: its flows, violations, and the datagrams that its link lost.
    pub flows: Flows,
    pub violations: u64,
    pub lost: u64,
    pub is_alive: bool,
}

/// The claims.
pub fn report(found: &Found, slack: f64) -> Report {
    let mut report = Report::default();
    let flows = found.flows;
    report.claim(
        "each packet to the honest peer that is called protected arrives, as it was sent",
        format!(
            "{} of {} called protected, {} of these missing; {} wrong; {} violations; its link lost {} datagrams",
            flows.claimed, flows.sent, flows.claimed_and_missing, flows.wrong, found.violations, found.lost
        ),
        flows.claimed_and_missing == 0 && flows.wrong == 0 && found.violations == 0,
    );
    report.claim(
        format!("control: the link loses, and {CLAIMED_LEAST} of the packets are called protected"),
        format!("{} lost, {} called protected", found.lost, flows.claimed),
        found.lost > 0 && flows.claimed as f64 >= CLAIMED_LEAST * flows.sent as f64 && flows.sent > 0,
    );
    report.claim(
        format!("the honest peer's packets arrive but for {:.0} %", 100.0 * MISSING_MOST),
        format!("{} of {} missing", flows.missing, flows.sent),
        flows.missing as f64 <= MISSING_MOST * flows.sent as f64 * slack,
    );
    let growth = found.size_most.saturating_sub(found.size_before);
    report.claim(
        format!("the process grows by {} MiB at most, and lives", GROWTH_MOST >> 20),
        format!("{:.1} MiB, from {:.1} MiB", mib(growth), mib(found.size_before)),
        growth <= GROWTH_MOST && found.is_alive && found.size_before > 0,
    );
    let honest = found.rows.get(1).map_or(0.0, |row| row.micros);
    let worst = found.rows.iter().skip(2).max_by(|a, b| a.micros.total_cmp(&b.micros));
    if let Some(worst) = worst {
        report.claim(
            format!("no datagram costs more than {MICROS_MOST} us of processor time in the mean"),
            format!(
                "the worst ({}): {:.0} us, {:.1} times an honest one",
                worst.name,
                worst.micros,
                worst.micros / honest.max(1e-9)
            ),
            worst.micros <= MICROS_MOST * slack && honest > 0.0,
        );
        let reached = found.rows.iter().skip(1).all(|row| row.received > 0);
        report.claim("control: each behaviour reaches the appliance's blocks", words(found), reached);
    }
    if let (Some(lost), Some(all)) = (found.repair_when_lost, found.repair_when_all) {
        report.claim(
            format!(
                "whatever its reports say, each block to the liar has {} repair symbols (`min`) at the least",
                found.floor
            ),
            format!("{} to {} when nothing is said to arrive, {} to {} when all is", lost.0, lost.1, all.0, all.1),
            lost.0 >= found.floor && all.0 >= found.floor,
        );
        report.claim(
            "control: the reports are believed about its own link: repair grows, and its flow is called decoded",
            format!("{} repair symbols, {} bytes decoded", lost.1, found.believed),
            lost.1 > all.0 && found.believed > 0,
        );
    }
    metrics(&mut report, found, honest);
    report
}

fn words(found: &Found) -> String {
    let least = found.rows.iter().skip(1).min_by_key(|row| row.received);
    least.map_or(String::new(), |row| format!("at the least {} datagrams ({})", row.received, row.name))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn metrics(report: &mut Report, found: &Found, honest: f64) {
    let rows = || found.rows.iter().chain(&found.handshakes);
    report.table(
        &["behaviour", "received", "us each", "of an honest one", "size in MB", "honest packets missing"],
        rows().skip(1).map(|row| {
            vec![
                row.name.clone(),
                row.received.to_string(),
                format!("{:.1}", row.micros),
                format!("{:.1}", row.micros / honest.max(1e-9)),
                format!("{:.1}", row.size as f64 / 1e6),
                format!("{} of {}", row.flows.missing, row.flows.sent),
            ]
        }),
    );
    let row = |row: &Row| {
        json!({ "name": row.name, "sent": row.sent, "received": row.received, "us": row.micros, "size": row.size,
            "seconds": row.time.as_secs_f64(), "honest_sent": row.flows.sent, "honest_missing": row.flows.missing })
    };
    report.metric("behaviours", rows().map(row).collect::<Vec<_>>());
    report.metric("memory", json!({ "before": found.size_before, "most": found.size_most }));
    let Flows { sent, missing, wrong, claimed, claimed_and_missing } = found.flows;
    report.metric(
        "honest",
        json!({ "sent": sent, "missing": missing, "wrong": wrong, "protected": claimed,
            "protected_and_missing": claimed_and_missing, "violations": found.violations, "lost": found.lost }),
    );
    let both = |repair: Option<(u16, u16)>| repair.map(|(least, most)| json!({ "least": least, "most": most }));
    report.metric(
        "repair",
        json!({ "floor": found.floor, "nothing_arrives": both(found.repair_when_lost),
            "all_arrives": both(found.repair_when_all), "decoded": found.believed }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes wrong, and how it shows.
    type Change = (&'static str, fn(&mut Found));

    fn good() -> Found {
        let row =
            |name: &str, micros| Row { name: name.to_owned(), received: 9, micros, size: 50 << 20, ..Row::default() };
        Found {
            rows: vec![row("nothing", 0.0), row("honest", 4.0), row("erasures", 400.0), row("reports", 5.0)],
            floor: 6,
            repair_when_lost: Some((6, 40)),
            repair_when_all: Some((6, 9)),
            believed: 1,
            size_before: 30 << 20,
            size_most: 80 << 20,
            flows: Flows { sent: 100, missing: 1, claimed: 90, ..Flows::default() },
            lost: 3,
            is_alive: true,
            ..Found::default()
        }
    }

    #[test]
    fn each_false_promise_and_each_cost_without_bound_fails_the_scenario() {
        assert!(report(&good(), 1.0).passes());
        let changes: [Change; 15] = [
            ("a false promise", |it| it.flows.claimed_and_missing = 1),
            ("a wrong packet", |it| it.flows.wrong = 1),
            ("a violation", |it| it.violations = 1),
            ("a link that loses nothing", |it| it.lost = 0),
            ("no promise", |it| it.flows.claimed = 49),
            ("no flow", |it| it.flows = Flows::default()),
            ("a flow that suffers", |it| it.flows.missing = 2),
            ("memory", |it| it.size_most = 300 << 20),
            ("no memory at all", |it| it.size_before = 0),
            ("a crash", |it| it.is_alive = false),
            ("time", |it| it.rows[2].micros = 1001.0),
            ("a behaviour that never arrives", |it| it.rows[3].received = 0),
            ("less repair than the floor", |it| it.repair_when_all = Some((5, 9))),
            ("repair that does not follow", |it| it.repair_when_lost = Some((6, 6))),
            ("a lie that nobody believes", |it| it.believed = 0),
        ];
        for (what, change) in changes {
            let mut found = good();
            change(&mut found);
            assert!(!report(&found, 1.0).passes(), "{what}");
        }
    }
}
