//! Interactive traffic: small requests over TCP, each answered before the next, and the time that takes.
//!
//! The sockets are made inside the nodes' namespaces; the threads belong to the lab's process.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
};

/// What is asked and answered, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// Bytes of a request.
    pub request: usize,
    /// Bytes of its answer.
    pub answer: usize,
    /// From an answer to the next request.
    pub pause: Duration,
}

impl Talk {
    /// A person's or a program's small requests, beside other traffic.
    pub const INTERACTIVE: Self = Self { request: 100, answer: 1000, pause: Duration::from_millis(20) };
    /// One request of 200 bytes after the other: what a single packet takes there and back.
    pub const LONE: Self = Self { request: 200, answer: 200, pause: Duration::ZERO };
}

/// An answer that takes longer than this is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests and answers until [`finish`](Self::finish).
#[derive(Debug)]
pub struct RequestResponse {
    is_over: Arc<AtomicBool>,
    asking: JoinHandle<io::Result<Vec<Duration>>>,
    answering: JoinHandle<io::Result<()>>,
}

/// The times of the answers, sorted.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl RequestResponse {
    /// Starts requests from node `from` to `address` of node `to`.
    pub fn start(network: &Network<'_>, from: &str, to: &str, address: IpAddr, talk: Talk) -> Result<Self, LabError> {
        let enter = |node: &str| NetworkNamespace::named(&network.namespace(node));
        let open = || -> io::Result<_> {
            let listener = enter(to)?.run(|| TcpListener::bind(SocketAddr::new(address, 0)))??;
            let at = listener.local_addr()?;
            let asker = enter(from)?.run(|| TcpStream::connect_timeout(&at, PATIENCE))??;
            let (answerer, _) = listener.accept()?;
            for stream in [&asker, &answerer] {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
            }
            Ok((asker, answerer))
        };
        let (asker, answerer) = open().map_err(LabError::doing(format!("talk from {from} to {address} in {to}")))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        Ok(Self {
            is_over,
            asking: thread::spawn(move || ask(asker, talk, &over)),
            answering: thread::spawn(move || answer(answerer, talk)),
        })
    }

    /// Ends the traffic and returns the time of each answer.
    pub fn finish(self) -> Result<Latencies, LabError> {
        self.is_over.store(true, Ordering::Relaxed);
        let asked = self.asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let answered = self.answering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut latencies = asked.map_err(LabError::doing("keep up the interactive traffic"))?;
        answered.map_err(LabError::doing("answer the interactive traffic"))?;
        latencies.sort();
        Ok(Latencies(latencies))
    }
}

impl Latencies {
    /// The number of answers.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that `percent` of the answers did not exceed, in milliseconds.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }
}

fn ask(mut stream: TcpStream, talk: Talk, is_over: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let (request, mut answer) = (vec![7; talk.request], vec![0; talk.answer]);
    while !is_over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        stream.write_all(&request)?;
        stream.read_exact(&mut answer)?;
        latencies.push(asked.elapsed());
        if !talk.pause.is_zero() {
            thread::sleep(talk.pause);
        }
    }
    Ok(latencies)
}

fn answer(mut stream: TcpStream, talk: Talk) -> io::Result<()> {
    let (mut request, answer) = (vec![0; talk.request], vec![7; talk.answer]);
    loop {
        match stream.read_exact(&mut request) {
            Ok(()) => stream.write_all(&answer)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_use_the_nearest_rank() {
        let latencies = Latencies((1..=200).map(Duration::from_millis).collect());
        assert_eq!(latencies.percentile_ms(50.0), 100.0);
        assert_eq!(latencies.percentile_ms(99.0), 198.0);
        assert_eq!(latencies.percentile_ms(100.0), 200.0);
        assert_eq!(Latencies::default().percentile_ms(50.0), 0.0);
    }
}
