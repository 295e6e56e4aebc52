//! Messages: a program writes bursts of 4 KB records into one TCP connection, and each record is acknowledged by the
//! rule of its arm. This is the simplest program that waits for a notification.
//!
//! The mirror's program reads; the data it has read is what survives.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, rngs::SmallRng};

use super::{Outcome, arm::Arm, site::Site};
use crate::{
    io::tcp,
    lab::{
        error::LabError,
        scenario::stage::wait_up,
        subscriber,
        workload::stream::{Sink, Stream},
    },
    notify::{
        client::{Client, Waited, Wish},
        message::FlowKey,
    },
};

/// The content of a record.
pub const RECORD: [u8; 4096] = [7; 4096];
/// Records come in bursts with a pause between them: 35 Mbit/s in all, so that the arms do not merely measure how fast
/// a buffer fills.
const BURST: u64 = 16;
const PAUSE: Duration = Duration::from_millis(15);
/// How long the program works before the disaster begins.
const BEFORE: std::ops::Range<Duration> = Duration::from_millis(200)..Duration::from_millis(700);
/// After the cut, a silence of this length means that nothing more will arrive.
const QUIET: Duration = Duration::from_millis(300);

/// One trial.
pub fn trial(site: &mut Site<'_>, sink: &Sink, rng: &mut SmallRng) -> Result<Outcome, LabError> {
    site.mend()?;
    let (stream, writer) = begin(site, sink)?;
    site.stage.pause(rng.random_range(BEFORE))?;
    let strike = site.strike(|| writer.end())?;
    let told = writer.finish(&stream)?;
    let drained = site.drain()?;
    let acknowledged = told.iter().filter(|(at, _)| *at < strike.cut).count() as u64;
    let arrived = stream.drain(acknowledged * RECORD.len() as u64, QUIET) / RECORD.len() as u64;
    stream.abort();
    let waits = told.iter().map(|(_, wait)| *wait).collect();
    let lost = acknowledged.saturating_sub(arrived);
    let since = (lost > 0).then(|| strike.cut - told[arrived as usize].0);
    Ok(Outcome { acknowledged, lost, since, waits, ..Outcome::new(site, &strike, drained) })
}

/// Opens the connection and starts the program, once the link is up.
pub fn begin(site: &Site<'_>, sink: &Sink) -> Result<(Stream, Writer), LabError> {
    let stream = sink.open(None)?;
    let client = match site.publisher()? {
        Some(publisher) if site.arm.waits_for_protection() => {
            let mut client =
                subscriber::connect(site.network, "primary", publisher.address, publisher, Wish::default())?;
            wait_up(site.stage, &mut client)?;
            client.watch(stream.key());
            Some(client)
        }
        _ => None,
    };
    let writer = Writer::start(&stream, client, site.arm)?;
    Ok((stream, writer))
}

/// When each record was acknowledged, and how long it waited.
pub type Acknowledgements = Vec<(Instant, Duration)>;

/// The program that writes.
#[derive(Debug)]
pub struct Writer {
    is_over: Arc<AtomicBool>,
    writing: JoinHandle<io::Result<Acknowledgements>>,
}

impl Writer {
    /// Starts the program; without a client it counts each write as acknowledged.
    pub fn start(stream: &Stream, client: Option<Client>, arm: Arm) -> Result<Self, LabError> {
        let near = stream.near.try_clone().map_err(LabError::doing("keep a hold of the connection"))?;
        let (key, is_over) = (stream.key(), Arc::new(AtomicBool::new(false)));
        let over = is_over.clone();
        let writing = thread::spawn(move || write(near, key, client, arm, &over));
        Ok(Self { is_over, writing })
    }

    /// Ends the program: it writes nothing more, and later notifications no longer count.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Returns the acknowledgements. A write can block in a full socket; only the socket's shutdown wakes it.
    pub fn finish(self, stream: &Stream) -> Result<Acknowledgements, LabError> {
        let _ = stream.near.shutdown(std::net::Shutdown::Write);
        let written = self.writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.map_err(LabError::doing("write records"))
    }
}

fn write(
    mut near: std::net::TcpStream,
    key: FlowKey,
    mut client: Option<Client>,
    arm: Arm,
    is_over: &AtomicBool,
) -> io::Result<Acknowledgements> {
    let mut told = Acknowledgements::new();
    let mut offset = 0;
    let is_alive = || !is_over.load(Ordering::Relaxed);
    while is_alive() {
        let begin = Instant::now();
        let first = offset;
        for _ in 0..BURST {
            if let Err(error) = near.write_all(&RECORD) {
                return if is_alive() { Err(error) } else { Ok(told) };
            }
            offset += RECORD.len() as u64;
            if client.is_none() && arm != Arm::NetworkSyncNoRepair {
                told.push((Instant::now(), begin.elapsed()));
            }
        }
        if arm == Arm::NetworkSyncNoRepair && wait_sent(&near, &is_alive)? {
            told.extend((0..BURST).map(|_| (Instant::now(), begin.elapsed())));
        }
        if let Some(client) = &mut client {
            let ends = (1..=BURST).map(|number| first + number * RECORD.len() as u64);
            for end in ends {
                if !wait_protected(client, &key, end, &is_alive)? {
                    return Ok(told);
                }
                told.push((Instant::now(), begin.elapsed()));
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(told)
}

fn wait_protected(client: &mut Client, key: &FlowKey, offset: u64, is_alive: &dyn Fn() -> bool) -> io::Result<bool> {
    while is_alive() {
        match client.wait(key, offset, Instant::now() + Duration::from_millis(20))? {
            Waited::Protected { .. } => return Ok(true),
            // An immediate reason must not turn this into a busy loop.
            Waited::NotProtected { .. } => thread::sleep(Duration::from_micros(200)),
        }
    }
    Ok(false)
}

fn wait_sent(near: &std::net::TcpStream, is_alive: &dyn Fn() -> bool) -> io::Result<bool> {
    while is_alive() {
        if tcp::unsent(near)? == 0 {
            return Ok(true);
        }
        thread::sleep(Duration::from_micros(100));
    }
    Ok(false)
}
