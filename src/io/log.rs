//! A way to standard error that nobody has to wait for: a log that is not read, or cannot be written, holds up nothing.
//!
//! Lines go to a thread of their own. What has no room there, or fails, is lost and counted; when lines can be written
//! again, one says how many are missing. What the lines say is not decided here.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that may wait for the thread that writes.
const LINES_MAX: usize = 4096;

/// Those that could not be written.
static FAILED: AtomicU64 = AtomicU64::new(0);
/// Counts those that found no room, once a log was opened.
static UNPLACED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines of this process's log that nobody will read.
pub fn lines_lost() -> u64 {
    let unplaced = UNPLACED.get().map_or(0, ErrorCounter::dropped_lines);
    FAILED.load(Ordering::Relaxed) + unplaced as u64
}

/// The way to a log; at its end it waits up to a second for what is still to be written.
#[derive(Debug)]
pub struct LogWriter {
    lines: NonBlocking,
    _at_end: WorkerGuard,
}

impl LogWriter {
    /// A way to `sink`. `notice` makes the line, with its end, that says how many were lost.
    pub fn open(sink: impl Write + Send + 'static, notice: fn(u64) -> String) -> Self {
        let unplaced = Arc::new(OnceLock::new());
        let sink = Counting { sink, notice, unplaced: Arc::clone(&unplaced), failed: 0, told: 0 };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("log");
        let (lines, at_end) = builder.finish(sink);
        // The first log of a process is the one whose losses are told of.
        let _ = UNPLACED.set(lines.error_counter());
        let _ = unplaced.set(lines.error_counter());
        Self { lines, _at_end: at_end }
    }

    /// For whoever writes lines, one a call.
    pub fn lines(&self) -> NonBlocking {
        self.lines.clone()
    }

    /// Writes `text` behind all lines, if there is room.
    pub fn say(&self, text: &str) {
        let _ = self.lines().write_all(text.as_bytes());
    }
}

/// Writes, counts what it cannot, and says so as soon as it can.
struct Counting<W> {
    sink: W,
    notice: fn(u64) -> String,
    unplaced: Arc<OnceLock<ErrorCounter>>,
    failed: u64,
    told: u64,
}

impl<W: Write> Counting<W> {
    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        let lost = self.failed + self.unplaced.get().map_or(0, ErrorCounter::dropped_lines) as u64;
        if lost > self.told {
            self.sink.write_all((self.notice)(lost - self.told).as_bytes())?;
            self.told = lost;
        }
        self.sink.write_all(line)
    }
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.try_write(line).is_err() {
            self.failed += 1;
            FAILED.fetch_add(1, Ordering::Relaxed);
        }
        // A line that failed is not tried again: the next one may find room.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::{Duration, Instant};

    use super::*;

    /// Takes a line when told to, or fails.
    struct Sink {
        steps: Receiver<bool>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Sink {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            match self.steps.recv() {
                Ok(false) => Err(io::Error::from_raw_os_error(28)),
                // Without anybody who tells, everything is taken.
                Ok(true) | Err(_) => {
                    self.written.lock().unwrap().push_str(std::str::from_utf8(line).unwrap());
                    Ok(line.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn open() -> (LogWriter, Sender<bool>, Arc<Mutex<String>>) {
        let ((step, steps), written) = (channel(), Arc::<Mutex<String>>::default());
        let sink = Sink { steps, written: Arc::clone(&written) };
        (LogWriter::open(sink, |lost| format!("{lost} lost\n")), step, written)
    }

    #[test]
    fn a_log_that_nobody_reads_holds_up_nothing_and_says_later_what_is_missing() {
        let (log, step, written) = open();
        let (began, extra) = (Instant::now(), 1000);
        for number in 0..LINES_MAX + extra {
            log.say(&format!("{number}\n"));
        }
        assert!(began.elapsed() < Duration::from_secs(10), "it waited");
        let lost = log.lines().error_counter().dropped_lines();
        assert!((extra - 1..=extra).contains(&lost), "{lost}: one line may be with the thread");
        drop((step, log));
        let written = written.lock().unwrap();
        assert!(written.contains(&format!("{lost} lost\n")), "{lost} of {}", written.lines().count());
        assert_eq!(written.lines().count(), LINES_MAX + extra - lost + 1);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_lost_alone_and_said_with_the_next() {
        let (log, step, written) = open();
        for (line, is_taken) in [("first\n", true), ("second\n", false), ("third\n", false)] {
            log.say(line);
            step.send(is_taken).unwrap();
        }
        log.say("fourth\n");
        drop((step, log));
        assert_eq!(*written.lock().unwrap(), "first\n2 lost\nfourth\n");
    }
}
