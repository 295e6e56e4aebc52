//! A second process that acts when this one stands still or has died: only another process can, when all threads of one are
//! stopped.
//!
//! The watched process sends a beat again and again. When one is late, or the channel ends without a goodbye, the watchdog
//! acts. What it does then is its caller's business.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::explain;

/// A beat: the time until the next one, at most, in milliseconds (u16, big-endian).
const BEAT: usize = 2;
/// In place of a beat: the process ends in good order.
const GOODBYE: [u8; BEAT] = [0; BEAT];
/// From the watchdog: it is about to act.
const ACTS: u8 = b'w';
/// From the watchdog: it has acted.
const ACTED: u8 = b'd';

/// What the watchdog tells the process that it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A beat was late, and it is about to act.
    Acts,
    /// It has acted.
    Acted,
    /// It has ended, and nobody watches any more. Told once.
    Gone,
}

/// The watched process's end.
#[derive(Debug)]
pub struct Watchdog {
    channel: Option<UnixStream>,
    child: Child,
}

impl Watchdog {
    /// Starts `program` with `arguments` and the other end of the channel as its standard input. It watches from the first
    /// beat on.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(program: &Path, arguments: &[&str]) -> io::Result<Self> {
        let remedy = "allow this process to start another, or do without (`bypass.when_down: drop`)";
        let failed = |error: io::Error| explain(&error, format_args!("cannot start the watchdog process; {remedy}"));
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let child = Command::new(program)
            .arg0("onwire")
            .args(arguments)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            // What a terminal sends to its foreground must not end it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self { channel: Some(ours), child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All is well: the next beat comes within `limit`, which counts in milliseconds up to 65 s. A beat that finds the
    /// channel full is not missed: the watchdog has enough to read.
    pub fn beat(&mut self, limit: Duration) {
        let limit = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX).max(1);
        self.send(limit.to_be_bytes());
    }

    fn send(&mut self, beat: [u8; BEAT]) {
        if let Some(channel) = &mut self.channel {
            let _ = channel.write(&beat);
        }
    }

    /// What it has told; ask until there is nothing.
    pub fn poll_news(&mut self) -> Option<News> {
        let channel = self.channel.as_mut()?;
        let mut byte = [0];
        match channel.read(&mut byte) {
            Ok(1) if byte[0] == ACTS => Some(News::Acts),
            Ok(1) => Some(News::Acted),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            _ => {
                self.channel = None;
                // No zombie of it is left behind.
                let _ = self.child.try_wait();
                Some(News::Gone)
            }
        }
    }

    /// It watches.
    pub fn is_there(&self) -> bool {
        self.channel.is_some()
    }

    /// For a poll: readable when there is news. `None` once it is gone.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.channel.as_ref().map(AsRawFd::as_raw_fd)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.send(GOODBYE);
    }
}

/// Why a watchdog ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The watched process has said goodbye.
    Goodbye,
    /// It has died.
    Died,
}

/// Watches the process at the other end of `channel`, and calls `act` each time that it stands still, and when it dies.
///
/// # Errors
/// The channel cannot be used.
pub fn watch(mut channel: UnixStream, mut act: impl FnMut()) -> io::Result<End> {
    channel.set_nonblocking(true)?;
    // None: nothing is expected. Before the first beat, and after a late one until the next.
    let mut due: Option<Instant> = None;
    let mut pending = Vec::new();
    loop {
        let mut buffer = [0; 256];
        match channel.read(&mut buffer) {
            Ok(0) => {
                act();
                return Ok(End::Died);
            }
            Ok(len) => {
                pending.extend_from_slice(&buffer[..len]);
                let whole = pending.len() - pending.len() % BEAT;
                let beats = pending.drain(..whole).collect::<Vec<u8>>();
                if beats.chunks(BEAT).any(|beat| beat == GOODBYE) {
                    return Ok(End::Goodbye);
                }
                if let Some(&[high, low]) = beats.last_chunk::<BEAT>() {
                    due = Some(Instant::now() + Duration::from_millis(u16::from_be_bytes([high, low]).into()));
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It died with bytes from us unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                act();
                return Ok(End::Died);
            }
            Err(error) => return Err(error),
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            due = None;
            // First the word, so that the other side does not take what it finds changed for somebody else's work.
            let _ = channel.write(&[ACTS]);
            act();
            let _ = channel.write(&[ACTED]);
            continue;
        }
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        // Rounded up: a poll that ends too early would spin.
        let left = left.map(|left| left + Duration::from_millis(1)).and_then(|left| left.try_into().ok());
        match poll(&mut [PollFd::new(&channel.as_fd(), PollFlags::IN)], left.as_ref()) {
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ignores requests to stop: the watchdog ends after the process that it watches, not with it.
///
/// # Errors
/// A handler cannot be installed.
pub fn outlive_signals() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::{JoinHandle, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    /// A watchdog on a thread; the receiver gets a value each time that it acts.
    fn watched() -> (UnixStream, Receiver<()>, JoinHandle<io::Result<End>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (acted, acts) = channel();
        let thread = std::thread::spawn(move || watch(theirs, move || acted.send(()).unwrap()));
        (ours, acts, thread)
    }

    fn beat(channel: &mut UnixStream, limit: Duration) {
        channel.write_all(&(limit.as_millis() as u16).to_be_bytes()).unwrap();
    }

    #[test]
    fn nothing_is_expected_before_the_first_beat_and_a_goodbye_ends_without_an_act() {
        let (mut channel, acts, thread) = watched();
        sleep(Duration::from_millis(50));
        channel.write_all(&GOODBYE).unwrap();
        assert_eq!(thread.join().unwrap().unwrap(), End::Goodbye);
        assert!(acts.try_recv().is_err());
    }

    #[test]
    fn a_late_beat_makes_it_act_once_and_the_next_beat_arms_it_again() {
        let (mut channel, acts, thread) = watched();
        for _ in 0..2 {
            let sent = Instant::now();
            // Half a beat is none; the whole one follows.
            let [high, low] = (LIMIT.as_millis() as u16).to_be_bytes();
            channel.write_all(&[high]).unwrap();
            channel.write_all(&[low]).unwrap();
            acts.recv().unwrap();
            assert!(sent.elapsed() >= LIMIT);
            assert!(acts.recv_timeout(LIMIT * 2).is_err(), "once");
            let mut words = [0; 2];
            channel.read_exact(&mut words).unwrap();
            assert_eq!(words, [ACTS, ACTED]);
        }
        channel.write_all(&GOODBYE).unwrap();
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn each_beat_gives_time_until_the_next() {
        let (mut channel, acts, thread) = watched();
        // The last of several counts.
        beat(&mut channel, LIMIT);
        beat(&mut channel, Duration::from_secs(60));
        assert!(acts.recv_timeout(LIMIT * 3).is_err());
        drop(channel);
        assert_eq!(thread.join().unwrap().unwrap(), End::Died);
        assert!(acts.try_recv().is_ok(), "also when it dies");
    }

    #[test]
    fn a_watched_process_hears_of_the_act_and_of_the_end() {
        // `sh` plays the watchdog: it reads a beat and a goodbye, says a word, and ends.
        let script = "head -c 2 > /dev/null; printf w >&0; printf d >&0; head -c 2 > /dev/null";
        let mut watchdog = Watchdog::start(Path::new("/bin/sh"), &["-c", script]).unwrap();
        let next = |watchdog: &mut Watchdog| {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                match watchdog.poll_news() {
                    None if Instant::now() < deadline => sleep(Duration::from_millis(5)),
                    news => return news,
                }
            }
        };
        assert!(watchdog.is_there() && watchdog.descriptor().is_some() && watchdog.poll_news().is_none());
        watchdog.beat(LIMIT);
        assert_eq!((next(&mut watchdog), next(&mut watchdog)), (Some(News::Acts), Some(News::Acted)));
        watchdog.send(GOODBYE);
        assert_eq!(next(&mut watchdog), Some(News::Gone));
        assert_eq!((watchdog.is_there(), watchdog.poll_news()), (false, None), "told once");
        watchdog.beat(LIMIT);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_words() {
        let error = Watchdog::start(Path::new("/nonexistent"), &[]).unwrap_err().to_string();
        assert!(error.starts_with("cannot start the watchdog process"), "{error}");
    }
}
