//! `status` and `log`: what the appliance says about itself.

use std::path::PathBuf;

/// The status socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Path of the Unix socket.
    pub socket: PathBuf,
}

/// The log on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe messages that are still written.
    pub level: LogLevel,
    /// For people or for programs.
    pub format: LogFormat,
}

/// Severity of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Starts, stops, peers up and down.
    Info,
    /// What one needs to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// Form of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}
