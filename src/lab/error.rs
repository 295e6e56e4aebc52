//! The errors of a lab, with texts that tell the user what to do next.

use std::io;

/// Why the lab or one of its steps failed. A scenario whose measurement fails is not an error but a result.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program that the lab runs is not installed.
    #[error("`{program}` is not installed; on Debian or Ubuntu: apt-get install {package}")]
    MissingProgram {
        /// The program.
        program: String,
        /// The Debian package that contains it.
        package: &'static str,
    },
    /// A command of the lab failed.
    #[error("`{command}` failed ({status}): {said}")]
    Command {
        /// The whole command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The last lines of its standard error.
        said: String,
    },
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried, as a verb and its object.
        doing: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// A signal asked the lab to stop.
    #[error("stopped by a signal")]
    Stopped,
    /// Any other error, as a sentence.
    #[error("{0}")]
    Sentence(String),
}

impl LabError {
    /// For `map_err`: wraps a failed system call with what it was for.
    pub fn doing(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source }
    }
}

/// The last lines of a text, for an error message.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}
