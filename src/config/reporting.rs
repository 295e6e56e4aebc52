//! `status` and `log`: where the appliance reports its state.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use schemars::JsonSchema;

use super::schema;
use super::table::{Reading, Table};

/// The status socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Path of the Unix socket.
    pub socket: PathBuf,
}

/// The log on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The lowest severity that is written.
    pub level: LogLevel,
    /// For people or for programs.
    pub format: LogFormat,
}

/// Severity of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Starts, stops, peers up and down.
    Info,
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

/// Form of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Status {
    pub(super) fn read(root: &Table<'_>, node_name: &str, reading: &mut Reading<'_>) -> Self {
        let table = root.field("status").table(&schema::STATUS, reading);
        let field = table.field("socket");
        let socket = match field.read("a path", |text| Ok(text.to_owned()), reading) {
            Some(text) => reading.resolve(&text),
            None => PathBuf::from(format!("/run/onwire/{node_name}.sock")),
        };
        // unix(7): sun_path has 108 bytes, including the zero byte at the end.
        let length = socket.as_os_str().as_bytes().len();
        if length > 107 {
            let found = format!("found a path of {length} bytes");
            reading.error(&field.key, &found, "a path of at most 107 bytes, directory included", "");
        }
        Self { socket }
    }
}

impl Log {
    pub(super) fn read(root: &Table<'_>, reading: &mut Reading<'_>) -> Self {
        let table = root.field("log").table(&schema::LOG, reading);
        let levels = [
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        let level = table.field("level").choose(&levels, reading);
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = table.field("format").choose(&formats, reading);
        Self { level: level.unwrap_or(LogLevel::Info), format: format.unwrap_or(LogFormat::Text) }
    }
}
