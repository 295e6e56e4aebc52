//! Rows: several clients insert into a database, one row per transaction, and record the acknowledged rows.
//!
//! An id is unique over all clients. A client stops when its server does. Replication is not known here.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, distr::Alphanumeric, rngs::SmallRng};

use crate::lab::{error::LabError, servers::postgres::Postgres};

/// The table of the rows.
pub const TABLE: &str = "CREATE TABLE items (id bigint PRIMARY KEY, words text NOT NULL)";
/// Selects every id that a server has.
pub const IDS: &str = "SELECT id FROM items";
/// Number of ids reserved for each client.
const EACH: u64 = 1 << 32;

/// Writes the row of an id; returns when the server has acknowledged it at the requested level.
pub type Write = Box<dyn FnMut(u64) -> io::Result<()> + Send>;

/// A row that was acknowledged as committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its id.
    pub id: u64,
    /// When the client received the acknowledgement.
    pub at: Instant,
    /// How long the client waited.
    pub wait: Duration,
}

/// The settings of the clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientPlan<'p> {
    /// The number of clients, each with a session of its own.
    pub clients: u64,
    /// The first id of the first client, to separate the ids of several groups of clients.
    pub from: u64,
    /// Bytes of a row, without its id.
    pub bytes: usize,
    /// SQL that each session runs first, for its settings.
    pub before: &'p str,
    /// When each client writes.
    pub rhythm: Rhythm,
}

/// When a client writes: some rows, each as soon as the previous one is acknowledged, then a pause.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rhythm {
    /// Rows between two pauses; 0 counts as 1.
    pub burst: u64,
    /// The pause between two bursts.
    pub pause: Duration,
}

impl Rhythm {
    /// A pause after each row.
    pub const fn steady(pause: Duration) -> Self {
        Self { burst: 1, pause }
    }

    /// Whether a client pauses after `written` rows.
    fn pauses_after(&self, written: u64) -> bool {
        written.is_multiple_of(self.burst.max(1))
    }
}

impl Committed {
    /// The first id that a client may write.
    pub fn first_id(client: u64) -> u64 {
        client * EACH
    }

    /// The number of the client that wrote it.
    pub fn client(&self) -> u64 {
        self.id / EACH
    }
}

/// Clients that insert until [`finish`](Self::finish) or the end of their server.
#[derive(Debug)]
pub struct Clients {
    is_over: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    inserting: Vec<JoinHandle<Vec<Committed>>>,
}

impl Clients {
    /// Starts clients of a PostgreSQL server.
    pub fn start(server: &Postgres, plan: ClientPlan<'_>) -> Result<Self, LabError> {
        let words = words(plan.bytes);
        let writers = (0..plan.clients).map(|_| {
            let mut session = server.session()?;
            if !plan.before.is_empty() {
                session.query(plan.before).map_err(LabError::doing(format!("run `{}`", plan.before)))?;
            }
            let words = words.clone();
            let write = move |id| session.query(&format!("INSERT INTO items VALUES ({id}, '{words}')")).map(drop);
            Ok(Box::new(write) as Write)
        });
        Ok(Self::start_with(writers.collect::<Result<_, LabError>>()?, plan.from, plan.rhythm))
    }

    /// Starts one client for each of `writers`.
    pub fn start_with(writers: Vec<Write>, from: u64, rhythm: Rhythm) -> Self {
        let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |(client, write): (u64, Write)| {
            let (over, count) = (is_over.clone(), count.clone());
            thread::spawn(move || insert(write, Committed::first_id(client) + from, rhythm, &over, &count))
        };
        let inserting = (0..).zip(writers).map(start).collect();
        Self { is_over, count, inserting }
    }

    /// Rows committed so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Asks the clients to end and waits until each has its outstanding answer; `false` if one has none within `limit`.
    pub fn wait_idle(&self, limit: Duration) -> bool {
        self.is_over.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + limit;
        while self.inserting.iter().any(|client| !client.is_finished()) {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Ends the clients after their outstanding rows, and returns the acknowledged rows.
    pub fn finish(self) -> Vec<Committed> {
        self.is_over.store(true, Ordering::Relaxed);
        let told =
            self.inserting.into_iter().map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        told.flatten().collect()
    }
}

/// Text that does not compress, so that the size of a row is also the size on the wire. PostgreSQL compresses a value
/// of more than 2 KB, and equal letters to almost nothing.
fn words(bytes: usize) -> String {
    SmallRng::seed_from_u64(1).sample_iter(Alphanumeric).take(bytes).map(char::from).collect()
}

fn insert(mut write: Write, first: u64, rhythm: Rhythm, is_over: &AtomicBool, count: &AtomicU64) -> Vec<Committed> {
    let mut told = Vec::new();
    for id in first.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let begin = Instant::now();
        // An error means the end of the server; an unanswered row was not acknowledged.
        if write(id).is_err() {
            break;
        }
        let at = Instant::now();
        told.push(Committed { id, at, wait: at - begin });
        count.fetch_add(1, Ordering::Relaxed);
        if rhythm.pauses_after(id + 1 - first) {
            thread::sleep(rhythm.pause);
        }
    }
    told
}

/// The ids that a server has, sorted.
pub fn ids(server: &Postgres) -> Result<Vec<u64>, LabError> {
    let read = || -> io::Result<Vec<u64>> {
        let rows = server.attempt()?.query(IDS)?;
        let parse = |row: Vec<Option<String>>| row.first().cloned().flatten().and_then(|id| id.parse().ok());
        rows.into_iter().map(|row| parse(row).ok_or_else(|| io::Error::other("an id is no number"))).collect()
    };
    let mut ids = read().map_err(LabError::doing("read the rows of a server"))?;
    ids.sort_unstable();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_pauses_after_each_burst_and_stops_with_its_server() {
        for (burst, pauses) in [(0, 5), (1, 5), (2, 2), (6, 0)] {
            let rhythm = Rhythm { burst, pause: Duration::from_millis(20) };
            assert_eq!((1..=5).filter(|written| rhythm.pauses_after(*written)).count(), pauses as usize, "{burst}");
            let mut left = 5;
            let write = move |_| {
                left -= 1;
                if left < 0 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
            };
            let begin = Instant::now();
            let clients = Clients::start_with(vec![Box::new(write)], 7, rhythm);
            while clients.inserting.iter().any(|client| !client.is_finished()) {
                thread::sleep(Duration::from_millis(1));
            }
            assert!(begin.elapsed() >= pauses * rhythm.pause, "{burst}");
            assert_eq!(clients.count(), 5);
            let ids: Vec<u64> = clients.finish().iter().map(|row| row.id).collect();
            assert_eq!(ids, [7, 8, 9, 10, 11]);
        }
    }

    #[test]
    fn the_text_of_a_row_does_not_compress() {
        let words = words(4096);
        assert_eq!(words.len(), 4096);
        // Text with equal or repeated parts would compress to almost nothing.
        let mut parts: Vec<&str> = (0..4092).map(|at| &words[at..at + 4]).collect();
        parts.sort_unstable();
        parts.dedup();
        assert!(parts.len() > 4000, "{}", parts.len());
    }
}
