//! What is claimed of a run, its numbers and its plot.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    Findings,
    memory::{Growth, Life, SLOPE_MAX, warm},
};
use crate::lab::{
    plot::{Plot, PlotLine, Scale},
    report::Report,
    workload::pgbench::Benchmark,
};

/// Descriptors that may be open more at the end than after the warm-up: somebody asks for the status just then.
const DESCRIPTORS: u64 = 2;
/// Points of a line in the plot.
const POINTS: u32 = 12;
/// Lives of the mirror's appliance are compared when they are at least so old.
const LEAST_AGE: Duration = Duration::from_secs(2);

/// Makes the report.
pub fn report(found: &Findings) -> Report {
    let mut report = Report::default();
    claim_transactions(&mut report, found);
    let lasting = [("gate", "the gate", &found.gate), ("near", "the primary's appliance", &found.near)];
    for (_, described, life) in lasting {
        claim_life(&mut report, described, life);
    }
    claim_lives(&mut report, &found.far);
    let claim = "control: the gate acknowledged before the mirror did";
    report.claim(claim, format!("{} times", found.early), found.early > 0);
    report.claim("control: the WAN lost something", format!("{} datagrams", found.lost), found.lost > 0);
    let counts = &found.counts;
    report.claim(
        "control: files were read again, the mirror's appliance was killed, the loss changed, a session was made anew",
        format!(
            "{} reloads, {} kills, {} stops, {} changes of the loss, {} sessions",
            counts.reloads, counts.kills, counts.stops, counts.losses, found.sessions
        ),
        counts.reloads > 0 && counts.kills > 0 && counts.losses > 0 && found.sessions > 1,
    );
    let rows = lasting.iter().map(|(_, described, life)| row(described, life));
    let far = found
        .far
        .iter()
        .enumerate()
        .map(|(number, life)| row(&format!("the mirror's appliance, life {}", number + 1), life));
    report.table(
        &["memory of", "at first, MB", "when warm", "at the end", "MB an hour, 95 % between", "descriptors", "threads"],
        rows.chain(far).flatten(),
    );
    metrics(&mut report, found);
    report.draw(plot(found));
    report
}

fn claim_transactions(report: &mut Report, found: &Findings) {
    let Benchmark { transactions, failed, errors, .. } = &found.benchmark;
    let mut said = format!("{transactions} transactions, {failed} failed, {} complaints", errors.len());
    if let Some(first) = errors.first() {
        said += &format!(": {first}");
    }
    let holds = *transactions > 0 && *failed == 0 && errors.is_empty();
    report.claim("pgbench ends without a failed transaction and without an error", said, holds);
    let [primary, mirror] = found.history;
    let said = format!("{mirror} of {transactions}, {primary} at the primary");
    report.claim("the mirror has every transaction", said, mirror >= *transactions && mirror == primary && mirror > 0);
    let said = if found.is_equal { "they are" } else { "they are not" };
    report.claim("the checksums of its four tables are those of the primary", said, found.is_equal);
}

/// A process that lives through the run.
fn claim_life(report: &mut Report, described: &str, life: &Life) {
    let growth = life.growth();
    let said = growth.map_or("nothing was seen".to_owned(), |it| {
        format!("{} MB when warm, {} MB at the end", megabytes(it.warm), megabytes(it.last))
    });
    report.claim(format!("the memory of {described} does not grow"), said, growth.is_some_and(|it| it.is_level()));
    let limit = SLOPE_MAX / 1e6;
    let after = life.length().saturating_sub(warm(life.length())).as_secs();
    // A shorter run cannot tell, and claims nothing: the table has its slope.
    if life.is_telling() {
        let said = life.slope().map_or("not known".to_owned(), |slope| {
            format!("{}, in {after} s of warm life", slope_text(slope.per_hour, slope.bounds))
        });
        report.claim(format!("it grows by less than {limit:.0} MB an hour"), said, life.is_level());
    }
    let used = [life.warm_and_last(|look| look.descriptors), life.warm_and_last(|look| look.threads)];
    let holds =
        used.iter().zip([DESCRIPTORS, 0]).all(|(used, room)| used.is_some_and(|[warm, last]| last <= warm + room));
    report.claim(
        format!("{described} has the same descriptors and threads as when it was warm"),
        format!("{} descriptors, {} threads", change(used[0]), change(used[1])),
        holds,
    );
}

/// The lives of a process that dies now and then.
fn claim_lives(report: &mut Report, lives: &[Life]) {
    let described = "the mirror's appliance";
    let old: Vec<_> = lives.iter().filter(|life| life.length() >= LEAST_AGE).collect();
    let age = old.iter().map(|life| life.length()).min().unwrap_or_default();
    let uses = |life: &&Life| {
        let of = |what: fn(&super::Look) -> u64| life.median(age / 2, age, what).unwrap_or_default();
        [of(|look| look.bytes), of(|look| look.descriptors), of(|look| look.threads)]
    };
    let used: Vec<_> = old.iter().map(uses).collect();
    let Some(first) = used.first() else {
        report.claim(format!("no life of {described} uses more than the first"), "nothing was seen", false);
        return;
    };
    let most: [u64; 3] = std::array::from_fn(|at| used.iter().map(|used| used[at]).max().unwrap_or_default());
    let room = [Growth::limit(first[0]), first[1] + DESCRIPTORS, first[2]];
    report.claim(
        format!("at the same age no life of {described} uses more than the first"),
        format!(
            "{} lives at {} s: {} MB, at most {} MB; {} descriptors, at most {}; {} threads, at most {}",
            used.len(),
            age.as_secs(),
            megabytes(first[0]),
            megabytes(most[0]),
            first[1],
            most[1],
            first[2],
            most[2]
        ),
        used.len() > 1 && most.iter().zip(room).all(|(most, room)| *most <= room),
    );
}

fn row(described: &str, life: &Life) -> Option<Vec<String>> {
    let Growth { first, warm, last } = life.growth()?;
    let slope = life.slope().map_or("-".to_owned(), |slope| slope_text(slope.per_hour, slope.bounds));
    let used = [life.warm_and_last(|look| look.descriptors), life.warm_and_last(|look| look.threads)].map(change);
    let sizes = [first, warm, last].map(megabytes);
    Some([described.to_owned()].into_iter().chain(sizes).chain([slope]).chain(used).collect())
}

fn metrics(report: &mut Report, found: &Findings) {
    let Benchmark { transactions, failed, latency_ms, speed, errors } = &found.benchmark;
    let [primary, mirror] = found.history;
    report.metric("seconds", found.duration.as_secs());
    report.metric("transactions", *transactions);
    report.metric("failed", *failed);
    report.metric("complaints", errors.clone());
    report.metric("transactions_per_second", *speed);
    report.metric("latency_ms", *latency_ms);
    report.metric("acknowledged_early", found.early);
    report.metric("datagrams_lost", found.lost);
    report.metric("rows", json!({ "primary": primary, "mirror": mirror }));
    let counts = &found.counts;
    report.metric(
        "disturbances",
        json!({
            "loss_changes": counts.losses, "reloads": counts.reloads, "kills": counts.kills, "stops": counts.stops,
            "sessions": found.sessions,
        }),
    );
    let first_far = found.far.first();
    let lives = [("gate", Some(&found.gate)), ("near", Some(&found.near)), ("far", first_far)];
    let of = |what: fn(&Life) -> Value| -> Map<String, Value> {
        lives.iter().map(|(name, life)| ((*name).to_owned(), life.map_or(Value::Null, what))).collect()
    };
    report.metric("memory", of(|life| json!(life.growth().map(Growth::to_json))));
    report.metric("slope", of(|life| json!(life.slope().map(|slope| slope.to_json()))));
    report.metric("memory_series", found.near.looks.iter().enumerate().map(|(at, look)| {
        let gate = found.gate.looks.get(at).map(|look| look.bytes);
        json!({ "at_s": (look.at.as_secs_f64() * 10.0).round() / 10.0, "gate": gate, "near": look.bytes, "far": far_at(&found.far, look.at) })
    }).collect::<Vec<_>>());
    report.metric(
        "lives",
        json!({
            "gate": found.gate.to_json(), "near": found.near.to_json(),
            "far": found.far.iter().map(Life::to_json).collect::<Vec<_>>(),
        }),
    );
}

/// The memory of the mirror's appliance at a time of the run; none while there was no process.
fn far_at(lives: &[Life], at: Duration) -> Option<u64> {
    let life = lives.iter().rev().find(|life| life.begin <= at)?;
    let age = at - life.begin;
    life.looks.iter().find(|look| look.at >= age).map(|look| look.bytes)
}

fn plot(found: &Findings) -> Plot {
    let step = found.duration / POINTS;
    let line = |name: &str, is_dashed: bool, at: &dyn Fn(Duration, Duration) -> Option<u64>| PlotLine {
        name: name.to_owned(),
        is_dashed,
        points: (0..POINTS)
            .filter_map(|number| {
                let minutes = (step * (number + 1)).as_secs_f64() / 60.0;
                Some(((minutes * 10.0).round() / 10.0, at(step * number, step * (number + 1))? as f64 / 1e6))
            })
            .collect(),
    };
    let size = |life: &Life, from, to| life.median(from, to, |look| look.bytes);
    Plot {
        title: "Memory under load, loss, reloads and restarts".to_owned(),
        across: "minutes".to_owned(),
        upwards: "resident MB (medians)".to_owned(),
        scale: Scale::Linear,
        lines: vec![
            line("the gate", false, &|from, to| size(&found.gate, from, to)),
            line("primary's appliance", false, &|from, to| size(&found.near, from, to)),
            line("mirror's appliance", true, &|_, to| far_at(&found.far, to.saturating_sub(Duration::from_secs(1)))),
        ],
    }
}

/// Bytes as megabytes.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}

fn slope_text(per_hour: f64, bounds: [f64; 2]) -> String {
    let [slope, least, most] = [per_hour, bounds[0], bounds[1]].map(|bytes| format!("{:+.2}", bytes / 1e6));
    format!("{slope}, {least} and {most}")
}

fn change(used: Option<[u64; 2]>) -> String {
    used.map_or("?".to_owned(), |[warm, last]| format!("{warm} to {last}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Counts, Look};
    use super::*;

    const MB: u64 = 1 << 20;

    fn life(seconds: u64) -> Life {
        let look = |second| Look { at: Duration::from_secs(second), bytes: 8 * MB, descriptors: 12, threads: 4 };
        Life { begin: Duration::ZERO, looks: (0..=seconds).map(look).collect() }
    }

    fn findings() -> Findings {
        let second = Life { begin: Duration::from_secs(50), ..life(49) };
        Findings {
            benchmark: Benchmark { transactions: 1000, ..Benchmark::default() },
            early: 900,
            lost: 3,
            history: [1000; 2],
            is_equal: true,
            duration: Duration::from_secs(100),
            sessions: 2,
            counts: Counts { losses: 5, reloads: 9, kills: 1, stops: 0 },
            gate: life(100),
            near: life(100),
            far: vec![life(50), second],
        }
    }

    #[test]
    fn each_soak_claim_can_fail() {
        let with = |change: &dyn Fn(&mut Findings)| {
            let mut findings = findings();
            change(&mut findings);
            report(&findings).passes()
        };
        let late = |life: &mut Life, change: fn(&mut Look)| life.looks.iter_mut().skip(20).for_each(change);
        assert!(with(&|_| {}));
        assert!(!with(&|it| it.benchmark.failed = 1));
        assert!(!with(&|it| it.benchmark.errors.push("error".to_owned())));
        assert!(!with(&|it| it.benchmark.transactions = 0), "nothing was done");
        assert!(!with(&|it| it.history = [1000, 999]) && !with(&|it| it.history = [999; 2]), "one is missing");
        assert!(!with(&|it| it.is_equal = false));
        assert!(!with(&|it| it.early = 0), "it was remote-sync");
        assert!(!with(&|it| it.lost = 0), "the WAN was perfect");
        assert!(!with(&|it| it.gate.looks.clear()), "nobody looked");
        assert!(!with(&|it| it.counts.kills = 0) && !with(&|it| it.counts.reloads = 0) && !with(&|it| it.sessions = 1));
        for change in [
            (|look| look.bytes += look.at.as_secs() * MB / 10) as fn(&mut Look),
            |look| look.descriptors += look.at.as_secs() / 10,
            |look| look.threads += look.at.as_secs() / 40,
        ] {
            assert!(!with(&|it| late(&mut it.near, change)), "the appliance that lives");
            assert!(!with(&|it| late(&mut it.gate, change)), "the gate");
        }
        for change in
            [(|look| look.bytes += 2 * MB) as fn(&mut Look), |look| look.descriptors += 3, |look| look.threads += 1]
        {
            assert!(!with(&|it| late(&mut it.far[1], change)), "the second life");
        }
        assert!(!with(&|it| it.far.truncate(1)), "it never died");
    }

    #[test]
    fn the_memory_of_a_process_that_died_is_that_of_its_life_at_the_time() {
        let mut findings = findings();
        findings.far[1].looks.iter_mut().for_each(|look| look.bytes = MB);
        let at = |seconds| far_at(&findings.far, Duration::from_secs(seconds));
        assert_eq!([at(0), at(49), at(50), at(99), at(100)], [Some(8 * MB), Some(8 * MB), Some(MB), Some(MB), None]);
        assert!(!plot(&findings).to_svg().contains("NaN"));
    }
}
