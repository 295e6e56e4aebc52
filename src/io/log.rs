//! Writes log lines to standard error without blocking: a log that is not read, or cannot be written, delays nothing.
//!
//! Its own thread writes the lines. A line that finds no room, or fails, is lost and counted; once lines can be written
//! again, a line reports how many are missing. The text of lines is not decided here.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::restriction::without_privileges;

/// Lines that may wait for the writing thread.
const LINES_MAX: usize = 4096;

/// Lines that could not be written.
static FAILED: AtomicU64 = AtomicU64::new(0);
/// Counts lines that found no room, once a log was opened.
static UNPLACED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines of this process's log that are lost.
pub fn lines_lost() -> u64 {
    let unplaced = UNPLACED.get().map_or(0, ErrorCounter::dropped_lines);
    FAILED.load(Ordering::Relaxed) + unplaced as u64
}

/// The input of a log. On drop it waits up to a second for the lines that are still to be written.
#[derive(Debug)]
pub struct LogWriter {
    lines: NonBlocking,
    _at_end: WorkerGuard,
}

impl LogWriter {
    /// A log that writes to `sink`. `notice` makes the line, with its newline, that reports how many lines were lost.
    pub fn open(sink: impl Write + Send + 'static, notice: fn(u64) -> String) -> Self {
        let unplaced = Arc::new(OnceLock::new());
        let sink = Counting { sink, notice, unplaced: Arc::clone(&unplaced), failed: 0, told: 0 };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("log");
        let (lines, at_end) = without_privileges(|| builder.finish(sink));
        // Only the losses of the first log of a process are reported by `lines_lost`.
        let _ = UNPLACED.set(lines.error_counter());
        let _ = unplaced.set(lines.error_counter());
        Self { lines, _at_end: at_end }
    }

    /// A writer that takes one line a call.
    pub fn lines(&self) -> NonBlocking {
        self.lines.clone()
    }

    /// Writes `text` after all earlier lines, if there is room.
    pub fn say(&self, text: &str) {
        let _ = self.lines().write_all(text.as_bytes());
    }
}

/// Writes lines, counts those that fail, and reports them as soon as it can.
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
        // A line that failed is not tried again: the next one may succeed.
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

    /// Takes a line for each `true` step, and fails for each `false`.
    struct Sink {
        steps: Receiver<bool>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Sink {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            match self.steps.recv() {
                Ok(false) => Err(io::Error::from_raw_os_error(28)),
                // Once no test sends steps, every line is taken.
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
    fn a_log_that_is_not_read_delays_nothing_and_reports_later_what_is_missing() {
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
        // On a busy machine the thread may find lines missing before all of them are.
        let notices: Vec<usize> = written.lines().filter_map(|line| line.strip_suffix(" lost")?.parse().ok()).collect();
        assert_eq!(notices.iter().sum::<usize>(), lost, "{notices:?}");
        assert_eq!(written.lines().count(), LINES_MAX + extra - lost + notices.len());
    }

    #[test]
    fn a_line_that_cannot_be_written_is_lost_alone_and_reported_with_the_next() {
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
