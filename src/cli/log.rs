//! Where log messages go: standard error, for people or for programs. Does not log anything itself.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat, LogLevel};
use crate::io::log::LogWriter;

/// Sends the log of this process to standard error, as configured, and what is said at a panic with it. No thread waits for
/// whoever reads it. The first call counts. Keep the result as long as anything is logged.
pub fn start(log: Log) -> LogWriter {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let notice: fn(u64) -> String = match log.format {
        LogFormat::Text => |lost| format!("WARN {}\n", words(lost)),
        LogFormat::Json => |lost| format!("{{\"level\":\"WARN\",\"message\":\"{}\"}}\n", words(lost)),
    };
    let writer = LogWriter::open(io::stderr(), notice);
    let lines = writer.lines();
    let subscriber = fmt().with_max_level(level).with_ansi(io::stderr().is_terminal());
    let subscriber = subscriber.with_writer(move || lines.clone());
    // A log that was started before, by a test or a program around us, stays.
    let _ = match log.format {
        LogFormat::Text => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
            _ => tracing::error!("{panic}"),
        }
    }));
    writer
}

fn words(lost: u64) -> String {
    format!("{lost} log lines are missing here: nobody read the log, or it could not be written")
}
