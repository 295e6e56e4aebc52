//! What the appliances of a pair say about themselves while a scenario runs: loss, repair, memory and the state of the link
//! over time. A thread asks them now and then; scenarios that measure short times do without it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    pair::Pair,
    plot::{Plot, PlotLine, Scale},
    process,
    status::Status,
};
use crate::{io::status_socket, wire::report::BURST_CLASSES};

/// The shortest run of each class.
const SHORTEST: [f64; BURST_CLASSES] = [1.0, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0];

/// One answer.
#[derive(Clone, Debug)]
struct Sample {
    at: Duration,
    /// Received and lost datagrams, rebuilt symbols and blocks that could not be rebuilt, since the appliance's start.
    received: u64,
    lost: u64,
    rebuilt: u64,
    unrecoverable: u64,
    /// Runs of lost datagrams, by class of their length.
    runs: [u64; BURST_CLASSES],
    /// 2 when it protects, 1 when it carries, 0 when it does not.
    state: u8,
    memory: Option<u64>,
}

/// The appliances of a pair, asked until this is stopped or dropped.
#[derive(Debug)]
pub struct Timeline {
    names: Vec<String>,
    samples: Arc<Mutex<Vec<Vec<Sample>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Timeline {
    /// Begins, with this time between two questions.
    pub fn start(pair: &Pair<'_>, interval: Duration) -> Self {
        let asked: Vec<(PathBuf, u32)> =
            pair.appliances.iter().map(|it| (it.socket().to_owned(), it.process.id())).collect();
        let names = pair.appliances.iter().map(|it| it.node().to_owned()).collect();
        let samples = Arc::new(Mutex::new(vec![Vec::new(); asked.len()]));
        let stop = Arc::<AtomicBool>::default();
        let (keeping, stopping, begin) = (samples.clone(), stop.clone(), Instant::now());
        let thread = thread::spawn(move || {
            while !stopping.load(Relaxed) {
                for (number, (socket, id)) in asked.iter().enumerate() {
                    // One that is being restarted has no answer.
                    let answer = status_socket::ask(socket).ok().and_then(|text| Status::parse(&text).ok());
                    if let Some(status) = answer {
                        let sample = Sample::of(&status, begin.elapsed(), process::memory(*id));
                        keeping.lock().unwrap_or_else(PoisonError::into_inner)[number].push(sample);
                    }
                }
                thread::park_timeout(interval);
            }
        });
        Self { names, samples, stop, thread: Some(thread) }
    }

    /// Ends, and draws what was seen.
    pub fn finish(mut self) -> Vec<Plot> {
        self.end();
        let samples = std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        let appliances: Vec<_> = self.names.iter().map(String::as_str).zip(samples).collect();
        plots(&appliances)
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.end();
    }
}

impl Sample {
    fn of(status: &Status, at: Duration, memory: Option<u64>) -> Self {
        let peer = status.peer();
        let protects = peer.protection.as_ref().is_some_and(|protection| protection.state == "up");
        Self {
            at,
            received: peer.received.datagrams,
            lost: peer.received.lost,
            rebuilt: peer.received.recovered_symbols,
            unrecoverable: peer.received.unrecoverable_blocks,
            runs: peer.received.burst_lengths,
            state: u8::from(peer.state == "up") + u8::from(peer.state == "up" && protects),
            memory,
        }
    }
}

/// The lines of an appliance: its name, its number, and what it has answered.
type LinesOf<'a> = &'a dyn Fn(&str, usize, &[Sample]) -> Vec<PlotLine>;

fn plots(appliances: &[(&str, Vec<Sample>)]) -> Vec<Plot> {
    let seconds = |sample: &Sample| (sample.at.as_secs_f64() * 10.0).round() / 10.0;
    // Between two answers, where the counters have not begun again.
    let over_time = |samples: &[Sample], of: &dyn Fn(&Sample, &Sample) -> Option<f64>| -> Vec<(f64, f64)> {
        let pairs = samples.windows(2).filter(|pair| pair[1].received >= pair[0].received);
        pairs.filter_map(|pair| Some((seconds(&pair[1]), of(&pair[0], &pair[1])?))).collect()
    };
    let lost = |before: &Sample, after: &Sample| {
        let (lost, received) = (after.lost.saturating_sub(before.lost), after.received - before.received);
        (lost + received > 0).then(|| 100.0 * lost as f64 / (lost + received) as f64)
    };
    let per_second = |before: &Sample, after: &Sample, of: fn(&Sample) -> u64| {
        let span = (after.at - before.at).as_secs_f64();
        (span > 0.0).then(|| of(after).saturating_sub(of(before)) as f64 / span)
    };
    let plot = |title: &str, upwards: &str, lines: Vec<PlotLine>| Plot {
        title: title.to_owned(),
        across: "seconds".to_owned(),
        upwards: upwards.to_owned(),
        scale: Scale::Linear,
        lines,
    };
    let line = |name: String, number: usize, points| PlotLine { name, is_dashed: number > 0, points };
    let each = |of: LinesOf<'_>| -> Vec<PlotLine> {
        appliances.iter().enumerate().flat_map(|(number, (name, samples))| of(name, number, samples)).collect()
    };
    let protects = appliances.iter().flat_map(|(_, samples)| samples).any(|sample| sample.state > 1);
    let mut all = vec![
        plot(
            "Loss on the way to each appliance",
            "% of datagrams",
            each(&|name, number, samples| vec![line(format!("to {name}"), number, over_time(samples, &lost))]),
        ),
        plot(
            "Repair",
            "a second",
            each(&|name, number, samples| {
                let rebuilt = over_time(samples, &|before, after| per_second(before, after, |it| it.rebuilt));
                let lost = over_time(samples, &|before, after| per_second(before, after, |it| it.unrecoverable));
                vec![
                    line(format!("{name}: symbols rebuilt"), number, rebuilt),
                    line(format!("{name}: blocks lost"), number, lost),
                ]
            }),
        ),
        plot(
            "Memory",
            "resident MB",
            each(&|name, number, samples| {
                let points = samples.iter().filter_map(|it| Some((seconds(it), it.memory? as f64 / 1e6))).collect();
                vec![line(name.to_owned(), number, points)]
            }),
        ),
    ];
    // Without notifications nobody is told what is protected, and the state says nothing.
    if protects {
        let state = plot(
            "State of the link (0 no session, 1 carries, 2 protects)",
            "state",
            each(&|name, number, samples| {
                let points = samples.iter().map(|sample| (seconds(sample), f64::from(sample.state))).collect();
                vec![line(format!("at {name}"), number, points)]
            }),
        );
        all.insert(2, state);
    }
    // Of the last run of each appliance: a restart counts anew.
    let runs = each(&|name, number, samples| {
        let counts = samples.last().map_or([0; BURST_CLASSES], |sample| sample.runs);
        let points = SHORTEST.into_iter().zip(counts.map(|count| count as f64)).filter(|(_, count)| *count > 0.0);
        vec![line(format!("to {name}"), number, points.collect())]
    });
    if runs.iter().any(|line| !line.points.is_empty()) {
        let across = "datagrams lost in a row: 1, 2, 3 to 4, 5 to 8 and so on, from 65".to_owned();
        let scale = Scale::Logarithmic;
        all.push(Plot { across, scale, ..plot("Runs of lost datagrams, by length", "runs", runs) });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::report::burst_class;

    fn sample(seconds: f64, received: u64, lost: u64) -> Sample {
        let at = Duration::from_secs_f64(seconds);
        let (runs, memory) = ([lost, 0, 0, 0, 0, 0, 0, lost / 10], Some(20_000_000));
        Sample { at, received, lost, rebuilt: lost, unrecoverable: 0, runs, state: 2, memory }
    }

    #[test]
    fn rates_are_of_the_time_between_two_answers_and_a_restart_is_none() {
        let samples =
            vec![sample(0.0, 0, 0), sample(0.5, 99, 1), sample(1.0, 5, 0), sample(1.5, 5, 0), sample(2.0, 15, 0)];
        let drawn = plots(&[("ithaca", samples)]);
        let points = |plot: usize, line: usize| drawn[plot].lines[line].points.clone();
        assert_eq!(points(0, 0), [(0.5, 1.0), (2.0, 0.0)], "nothing was received in between");
        assert_eq!(points(1, 0), [(0.5, 2.0), (1.5, 0.0), (2.0, 0.0)]);
        assert_eq!(points(2, 0)[0], (0.0, 2.0));
        assert_eq!(points(3, 0)[4], (2.0, 20.0));
        let unprotected = plots(&[("ithaca", vec![Sample { state: 1, ..sample(0.0, 0, 0) }])]);
        assert!(unprotected.len() == 3 && unprotected[2].title == "Memory");
    }

    #[test]
    fn runs_of_lost_datagrams_are_drawn_by_their_length_where_there_are_any() {
        let drawn = plots(&[("ithaca", vec![sample(0.0, 0, 0), sample(1.0, 900, 50)]), ("syracuse", Vec::new())]);
        let runs = drawn.last().unwrap();
        assert_eq!(runs.lines[0].points, [(1.0, 50.0), (65.0, 5.0)]);
        assert_eq!(SHORTEST.map(|length| burst_class(length as u64)), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(
            SHORTEST[1..].iter().map(|length| burst_class(*length as u64 - 1)).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6]
        );
    }

    #[test]
    fn the_state_of_a_link_is_a_step() {
        let state = |text: &str| Sample::of(&Status::parse(text).unwrap(), Duration::ZERO, None).state;
        assert_eq!(state("{}"), 0);
        assert_eq!(state(r#"{"peers":[{"state":"up"}]}"#), 1);
        assert_eq!(state(r#"{"peers":[{"state":"up","protection":{"state":"up"}}]}"#), 2);
        assert_eq!(state(r#"{"peers":[{"state":"connecting","protection":{"state":"up"}}]}"#), 0);
    }
}
