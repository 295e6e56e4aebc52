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

const REQUEST: usize = 100;
const ANSWER: usize = 1000;
const PAUSE: Duration = Duration::from_millis(20);
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
    pub fn start(network: &Network<'_>, from: &str, to: &str, address: IpAddr) -> Result<Self, LabError> {
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
            asking: thread::spawn(move || ask(asker, &over)),
            answering: thread::spawn(move || answer(answerer)),
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

fn ask(mut stream: TcpStream, is_over: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut answer = [0; ANSWER];
    while !is_over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        stream.write_all(&[7; REQUEST])?;
        stream.read_exact(&mut answer)?;
        latencies.push(asked.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(latencies)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; REQUEST];
    loop {
        match stream.read_exact(&mut request) {
            Ok(()) => stream.write_all(&[7; ANSWER])?,
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
