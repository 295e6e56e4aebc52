//! Sends log messages to standard error, for people or for programs, or to systemd's journal if that reads standard error.
//! Logs nothing itself.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, reload};

use super::{
    journal::{self, JournalLayer},
    output_line,
};
use crate::config::{Log, LogFormat, LogLevel};
use crate::io::journal::{Journal, SOCKET};
use crate::io::log::LogWriter;

/// Who reads the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A terminal: levels have colours.
    Terminal,
    /// A file or another program.
    Text,
    /// A program that reads JSON, one object a line.
    Json,
    /// systemd's journal.
    Journal,
}

/// The log of this process. Keep it as long as anything is logged.
#[derive(Debug)]
pub struct RunningLog {
    writer: LogWriter,
    reader: Reader,
}

impl RunningLog {
    /// Writes the last status: `text` for people, `json` where programs read the log.
    pub fn say_status(&self, text: &str, json: impl FnOnce() -> serde_json::Result<String>) {
        match self.reader {
            Reader::Terminal | Reader::Text => self.writer.say(text),
            Reader::Journal => {
                text.lines().for_each(|line| self.writer.say(&journal::record(tracing::Level::INFO, line, "")))
            }
            Reader::Json => tracing::info!(status = json().unwrap_or_default(), "stopped"),
        }
    }
}

/// Sends the log of this process to standard error, as configured, and also panic messages. No thread waits for the
/// reader of the log. Only the first call has an effect. Keep the result as long as anything is logged.
pub fn start(log: Log) -> RunningLog {
    let variable = std::env::var_os("JOURNAL_STREAM");
    let journal = match log.format {
        LogFormat::Text => Journal::behind(io::stderr(), variable.as_deref(), Path::new(SOCKET)),
        LogFormat::Json => None,
    };
    let reader = match (log.format, &journal) {
        (_, Some(_)) => Reader::Journal,
        (LogFormat::Json, None) => Reader::Json,
        (LogFormat::Text, None) if io::stderr().is_terminal() => Reader::Terminal,
        (LogFormat::Text, None) => Reader::Text,
    };
    let notice: fn(u64) -> String = match reader {
        Reader::Terminal | Reader::Text => |lost| format!("WARN {}\n", words(lost)),
        Reader::Json => |lost| format!("{{\"level\":\"WARN\",\"message\":\"{}\"}}\n", words(lost)),
        Reader::Journal => |lost| journal::record(tracing::Level::WARN, &words(lost), ""),
    };
    let writer = match journal {
        Some(journal) => LogWriter::open(journal, notice),
        None => LogWriter::open(io::stderr(), notice),
    };
    let lines = writer.lines();
    // A log that was started before, by a test or an embedding program, stays.
    let (subscriber, set_filter) = subscriber(log.level, reader, move || lines.clone());
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
    RunningLog { writer, reader }
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
pub(super) fn subscriber<W>(
    level: LogLevel,
    reader: Reader,
    writer: W,
) -> (Box<dyn Subscriber + Send + Sync>, SetFilter)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(level));
    let subscriber = Registry::default().with(filter);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match reader {
        Reader::Terminal | Reader::Text => {
            let fields = fmt::format::debug_fn(output_line::write_field).delimited(" ");
            let lines = fmt::layer().with_ansi(reader == Reader::Terminal).with_writer(writer).with_target(false);
            Box::new(subscriber.with(lines.fmt_fields(fields)))
        }
        Reader::Json => {
            let lines = fmt::layer().with_ansi(false).with_writer(writer).json().flatten_event(true);
            // There are no spans, and a list of none in each line says nothing.
            Box::new(subscriber.with(lines.with_current_span(false).with_span_list(false)))
        }
        Reader::Journal => Box::new(subscriber.with(JournalLayer { writer })),
    };
    (subscriber, Box::new(move |level| drop(handle.reload(level))))
}

fn words(lost: u64) -> String {
    format!("{lost} log lines are missing here: nobody read the log, or it could not be written")
}
