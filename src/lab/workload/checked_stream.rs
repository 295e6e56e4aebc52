//! A TCP transfer as fast as it goes, of which every byte is compared with what was sent.
//!
//! Both sides make the bytes from their place in the stream, so that nothing is kept. The sockets are made inside the
//! nodes; the threads belong to the lab's process.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rand::{RngCore, SeedableRng, rngs::SmallRng};

use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
};

/// The stream repeats after this many bytes: no multiple of a segment, a symbol or a block.
const PERIOD: usize = 1_000_003;
/// The most bytes of a read or a write.
const PIECE: usize = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(10);
/// A read or a write may wait so long before the thread looks whether it must end.
const STEP: Duration = Duration::from_millis(100);

/// A running transfer.
#[derive(Debug)]
pub struct CheckedStream {
    port: u16,
    counts: Arc<Counts>,
    writing: JoinHandle<()>,
    reading: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    wrong: AtomicU64,
    is_over: AtomicBool,
}

/// What became of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes that the kernel took.
    pub sent: u64,
    /// Bytes that arrived.
    pub received: u64,
    /// The bytes of them that were not sent like this.
    pub wrong: u64,
}

impl CheckedStream {
    /// Starts a transfer between two nodes and their addresses.
    pub fn start(network: &Network<'_>, from: (&str, IpAddr), to: (&str, IpAddr)) -> Result<Self, LabError> {
        let connect = || -> io::Result<_> {
            let [near, far] = [from.0, to.0].map(|node| NetworkNamespace::named(&network.namespace(node)));
            let listener = far?.run(|| TcpListener::bind(SocketAddr::new(to.1, 0)))??;
            let at = listener.local_addr()?;
            let near = near?.run(|| TcpStream::connect_timeout(&at, PATIENCE))??;
            let (far, _) = listener.accept()?;
            near.set_write_timeout(Some(STEP))?;
            far.set_read_timeout(Some(STEP))?;
            Ok((at.port(), near, far))
        };
        let doing = LabError::doing(format!("connect from {} to {}", from.0, to.0));
        let (port, near, far) = connect().map_err(doing)?;
        let counts = Arc::<Counts>::default();
        let (ours, theirs) = (counts.clone(), counts.clone());
        let writing = thread::spawn(move || write(near, &ours));
        let reading = thread::spawn(move || read(far, &theirs));
        Ok(Self { port, counts, writing, reading })
    }

    /// The port of its far end.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that have arrived.
    pub fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Relaxed)
    }

    /// Ends the writing, waits for what is on its way, and returns what became of it.
    pub fn finish(self) -> Transferred {
        self.counts.is_over.store(true, Ordering::Relaxed);
        for thread in [self.writing, self.reading] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Transferred {
            sent: count(&self.counts.sent),
            received: count(&self.counts.received),
            wrong: count(&self.counts.wrong),
        }
    }
}

fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; PERIOD];
    SmallRng::seed_from_u64(0x5eed).fill_bytes(&mut bytes);
    bytes.extend_from_within(..PIECE);
    bytes
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn write(mut socket: TcpStream, counts: &Counts) {
    let pattern = pattern();
    let mut place = 0;
    while !counts.is_over.load(Ordering::Relaxed) {
        match socket.write(&pattern[place..place + PIECE]) {
            Ok(taken) => {
                place = (place + taken) % PERIOD;
                counts.sent.fetch_add(taken as u64, Ordering::Relaxed);
            }
            Err(error) if is_pause(&error) => {}
            // What is missing then shows it.
            Err(_) => break,
        }
    }
    // The reader's end follows what the kernel still sends.
    let _ = socket.shutdown(Shutdown::Write);
}

fn read(mut socket: TcpStream, counts: &Counts) {
    let pattern = pattern();
    let mut buffer = vec![0; PIECE];
    let mut place = 0;
    let mut silent_steps = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                silent_steps = 0;
                counts
                    .wrong
                    .fetch_add(differences(&buffer[..length], &pattern[place..place + length]), Ordering::Relaxed);
                counts.received.fetch_add(length as u64, Ordering::Relaxed);
                place = (place + length) % PERIOD;
            }
            Err(error) if is_pause(&error) => {
                silent_steps += u32::from(counts.is_over.load(Ordering::Relaxed));
                if STEP * silent_steps > PATIENCE {
                    break;
                }
            }
            Err(_) => break,
        }
    }
}

fn differences(found: &[u8], sent: &[u8]) -> u64 {
    if found == sent { 0 } else { found.iter().zip(sent).filter(|(found, sent)| found != sent).count() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_goes_on_where_it_begins_again() {
        let pattern = pattern();
        assert_eq!(pattern[PERIOD..], pattern[..PIECE]);
        assert_eq!(differences(&pattern[7..900], &pattern[7..900]), 0);
        assert!(differences(&pattern[8..901], &pattern[7..900]) > 800, "a byte that is missing is noticed");
    }
}
