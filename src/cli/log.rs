//! Sends log messages to standard error, for people or for programs. Logs nothing itself.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::prelude::*;

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
    let _ = subscriber(log, io::stderr().is_terminal(), move || lines.clone()).try_init();
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

/// Turns events into lines. Each event is one line, even if it contains text from other hosts.
pub(super) fn subscriber<W>(log: Log, ansi: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = fmt::fmt().with_max_level(level).with_ansi(ansi).with_writer(writer);
    match log.format {
        LogFormat::Text => {
            let fields = fmt::format::debug_fn(output_line::write_field).delimited(" ");
            Box::new(subscriber.with_target(false).fmt_fields(fields).finish())
        }
        LogFormat::Json => Box::new(subscriber.json().flatten_event(true).finish()),
    }
}

fn words(lost: u64) -> String {
    format!("{lost} log lines are missing here: nobody read the log, or it could not be written")
}
