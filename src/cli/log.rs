//! Sends log messages to standard error, for people or for programs. Logs nothing itself.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, reload};

use super::output_line;
use crate::config::{Log, LogFormat, LogLevel};
use crate::io::log::LogWriter;

/// Sends the log of this process to standard error, as configured, and also panic messages. No thread waits for the
/// reader of the log. Only the first call has an effect. Keep the result as long as anything is logged.
pub fn start(log: Log) -> LogWriter {
    let notice: fn(u64) -> String = match log.format {
        LogFormat::Text => |lost| format!("WARN {}\n", words(lost)),
        LogFormat::Json => |lost| format!("{{\"level\":\"WARN\",\"message\":\"{}\"}}\n", words(lost)),
    };
    let writer = LogWriter::open(io::stderr(), notice);
    let lines = writer.lines();
    // A log that was started before, by a test or an embedding program, stays.
    let (subscriber, set_filter) = subscriber(log, io::stderr().is_terminal(), move || lines.clone());
    if subscriber.try_init().is_ok() {
        let _ = SET_FILTER.set(set_filter);
    }
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        let trace = match trace.status() {
            BacktraceStatus::Captured => trace.to_string(),
            _ => String::new(),
        };
        // An event is one line.
        for line in panic.to_string().lines().chain(trace.lines()) {
            tracing::error!("{line}");
        }
    }));
    writer
}

/// Sets the level of the log that was started.
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

type SetFilter = Box<dyn Fn(LevelFilter) + Send + Sync>;

/// From now on the log of this process has this level.
pub fn set_level(level: LogLevel) {
    if let Some(set_filter) = SET_FILTER.get() {
        set_filter(filter(level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Turns events into lines, and sets which. Each event is one line, even if it contains text from other hosts.
pub(super) fn subscriber<W>(log: Log, ansi: bool, writer: W) -> (Box<dyn Subscriber + Send + Sync>, SetFilter)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = fmt::layer().with_ansi(ansi).with_writer(writer);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match log.format {
        LogFormat::Text => {
            let fields = fmt::format::debug_fn(output_line::write_field).delimited(" ");
            Box::new(Registry::default().with(filter).with(lines.with_target(false).fmt_fields(fields)))
        }
        LogFormat::Json => Box::new(Registry::default().with(filter).with(lines.json().flatten_event(true))),
    };
    (subscriber, Box::new(move |level| drop(handle.reload(level))))
}

fn words(lost: u64) -> String {
    format!("{lost} log lines are missing here: nobody read the log, or it could not be written")
}
