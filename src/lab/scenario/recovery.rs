//! E6: how much later a packet arrives that had to be recovered.
//!
//! Lone UDP datagrams from primary to mirror carry the time of their `send`, on one clock. Without loss the measured
//! time is that of the path. With loss the source symbol of some datagrams is lost, and they arrive with a repair
//! symbol, which is sent when the block is closed. This does not cover bursts of packets, which wait for the block for
//! up to `close_after`.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use super::{Stage, stage::ends};
use crate::{
    io::namespace::NetworkNamespace,
    lab::{
        error::LabError,
        load::Load,
        network::Network,
        pair::{Pair, PairOptions},
        report::Report,
        status::Received,
        times::Times,
    },
};

const WRITES: u32 = 2000;
const BYTES: usize = 200;
/// Time between datagrams: by then the block of the previous one is closed.
const GAP: std::ops::Range<Duration> = Duration::from_millis(3)..Duration::from_millis(5);
const ONE_WAY: Duration = Duration::from_millis(10);
/// High, so that the slowest hundredth of all datagrams were recovered.
const LOSS: &str = "10%";
/// A smaller share of recovered datagrams would prove nothing.
const REBUILT: f64 = 0.05;
/// The default of the appliances' profile.
const CLOSE_AFTER: Duration = Duration::from_micros(500);
/// Allowance for the recovery and for two more processes that wake.
const ALLOWANCE: Duration = Duration::from_micros(300);
/// A larger missing share is not chance: a lone datagram travels as four, and one is enough.
const MISSING: f64 = 0.002;

struct Row {
    loss: &'static str,
    written: u32,
    times: Times,
    received: Received,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let writes = stage.options.trials.unwrap_or(WRITES);
    stage.say(&format!(
        "recovery: {writes} lone UDP datagrams of {BYTES} bytes, 3 to 5 ms apart, over {ONE_WAY:?} one way; without loss, then with\n\
         {LOSS}, where one in ten has to be rebuilt from its repair symbols.\n"
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let mut network = stage.build()?;
    stage.part_sites(&mut network)?;
    let pair = Pair::start(&network, &PairOptions::default())?;
    network.tell_wan(&format!("set delay {}us", ONE_WAY.as_micros()))?;
    let mut rows = Vec::new();
    for loss in ["0%", LOSS] {
        network.tell_wan(&format!("set forth loss {loss}"))?;
        let before = pair.appliances[1].status(&network)?.peer().received;
        let times = measure(stage, &network, ends(&network)?[1], writes)?;
        let received = pair.appliances[1].status(&network)?.peer().received.since(&before);
        let [p50, p99] = [0.5, 0.99].map(|share| times.quantile(share));
        stage.say(&format!("  loss {loss}: p50 {p50:?}, p99 {p99:?}"));
        rows.push(Row { loss, written: writes, times, received });
    }
    pair.stop()?;
    let mut report = report(&rows, stage.options.slack);
    report.metric("load", load.to_json());
    Ok(report)
}

fn measure(stage: &Stage<'_>, network: &Network<'_>, mirror: IpAddr, writes: u32) -> Result<Times, LabError> {
    let open = |node: &str, address: SocketAddr| -> io::Result<UdpSocket> {
        NetworkNamespace::named(&network.namespace(node))?.run(|| UdpSocket::bind(address))?
    };
    let doing = |node: &str| LabError::doing(format!("open a UDP socket in {node}"));
    let sink = open("mirror", (mirror, 0).into()).map_err(doing("mirror"))?;
    let source = open("primary", ([0; 4], 0).into()).map_err(doing("primary"))?;
    let connect = || -> io::Result<()> {
        sink.set_read_timeout(Some(Duration::from_millis(50)))?;
        source.connect(sink.local_addr()?)
    };
    connect().map_err(LabError::doing("connect a UDP socket"))?;
    let (begin, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let (seed, ended) = (stage.options.seed, over.clone());
    let reader = thread::spawn(move || read(&sink, begin, &ended));
    let writer = thread::spawn(move || write(&source, begin, writes, seed));
    while !writer.is_finished() {
        stage.pause(Duration::from_millis(50))?;
    }
    stage.pause(Duration::from_millis(300))?;
    over.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    written.map_err(LabError::doing("write to the mirror"))?;
    let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    read.map_err(LabError::doing("read at the mirror"))
}

/// Each datagram carries the nanosecond at which it was sent.
fn write(socket: &UdpSocket, begin: Instant, writes: u32, seed: u64) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut datagram = [7; BYTES];
    for _ in 0..writes {
        thread::sleep(rng.random_range(GAP));
        let now = begin.elapsed().as_nanos() as u64;
        datagram[..8].copy_from_slice(&now.to_le_bytes());
        socket.send(&datagram)?;
    }
    Ok(())
}

fn read(socket: &UdpSocket, begin: Instant, over: &AtomicBool) -> io::Result<Times> {
    let mut times = Times::default();
    let mut datagram = [0; BYTES];
    while !over.load(Ordering::Relaxed) {
        match socket.recv(&mut datagram) {
            Ok(BYTES) => {
                let mut sent = [0; 8];
                sent.copy_from_slice(&datagram[..8]);
                times.record(begin.elapsed().saturating_sub(Duration::from_nanos(u64::from_le_bytes(sent))));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(times)
}

fn report(rows: &[Row], slack: f64) -> Report {
    let mut report = Report::default();
    let [free, lossy] = rows else {
        report.claim("both series were measured", format!("{}", rows.len()), false);
        return report;
    };
    let (way, slowest) = (free.times.quantile(0.5), lossy.times.quantile(0.99));
    let (later, limit) = (slowest.saturating_sub(way), (CLOSE_AFTER + ALLOWANCE).mul_f64(slack));
    let found = format!("{later:?} ({slowest:?} less {way:?})");
    report.claim(
        format!("99 of 100 arrive at most {limit:?} later than half do without loss"),
        found,
        later <= limit && lossy.times.count() > 0 && free.times.count() > 0,
    );
    for row in rows {
        let missing = u64::from(row.written).saturating_sub(row.times.count());
        let most = (f64::from(row.written) * MISSING).ceil() as u64;
        report.claim(format!("at {} loss at most {most} are missing", row.loss), missing.to_string(), missing <= most);
    }
    let rebuilt = lossy.received.recovered_symbols;
    report.claim(
        "control: enough had to be rebuilt",
        format!("{rebuilt} of {}", lossy.written),
        rebuilt as f64 >= f64::from(lossy.written) * REBUILT && free.received.recovered_symbols < rebuilt,
    );
    let us = |row: &Row, share| format!("{} us", row.times.micros(share));
    report.table(
        &["loss", "written", "arrived", "rebuilt", "p50", "p90", "p99", "longest"],
        rows.iter().map(|row| {
            let counts = [row.written.to_string(), row.times.count().to_string()];
            let mut line = vec![row.loss.to_owned()];
            line.extend(counts);
            line.push(row.received.recovered_symbols.to_string());
            line.extend([0.5, 0.9, 0.99, 1.0].map(|share| us(row, share)));
            line
        }),
    );
    report.metric("series", rows.iter().map(to_json).collect::<Vec<_>>());
    report
}

fn to_json(row: &Row) -> Value {
    json!({
        "loss": row.loss,
        "written": row.written,
        "arrived": row.times.count(),
        "recovered_symbols": row.received.recovered_symbols,
        "unrecoverable_blocks": row.received.unrecoverable_blocks,
        "p50_us": row.times.micros(0.5),
        "p90_us": row.times.micros(0.9),
        "p99_us": row.times.micros(0.99),
        "max_us": row.times.micros(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a thousand datagrams, `rebuilt` took `later` microseconds longer, and `missing` never arrived.
    fn row(loss: &'static str, rebuilt: u64, later: u64, missing: u64) -> Row {
        let mut times = Times::default();
        (rebuilt..1000 - missing).for_each(|_| times.record(Duration::from_micros(10_100)));
        (0..rebuilt).for_each(|_| times.record(Duration::from_micros(10_100 + later)));
        let received = Received { recovered_symbols: rebuilt, ..Received::default() };
        Row { loss, written: 1000, times, received }
    }

    #[test]
    fn each_recovery_claim_can_fail() {
        let passes = |lossy| report(&[row("0%", 0, 0, 0), lossy], 1.0).passes();
        assert!(passes(row(LOSS, 100, 700, 1)));
        assert!(!passes(row(LOSS, 100, 900, 0)), "too late");
        assert!(!passes(row(LOSS, 10, 100, 0)), "hardly any was rebuilt");
        assert!(!passes(row(LOSS, 100, 100, 3)), "too many are missing");
        assert!(!report(&[row("0%", 0, 0, 50), row(LOSS, 100, 100, 0)], 1.0).passes());
        assert!(!report(&[], 1.0).passes());
    }
}
