//! What can go wrong in a lab, in words that say what to do next.

use std::io;

/// Why a lab or one of its steps could not be done. A scenario whose measurement fails is not an error but a result.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program that the lab runs is not installed.
    #[error("`{program}` is not installed; on Debian or Ubuntu: apt-get install {package}")]
    MissingProgram {
        /// The program.
        program: String,
        /// The package that has it.
        package: &'static str,
    },
    /// A command of the lab failed.
    #[error("`{command}` failed ({status}): {said}")]
    Command {
        /// The whole command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried, as a verb and its object.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The user asked to stop.
    #[error("stopped by a signal")]
    Stopped,
    /// Anything that is best said in a sentence.
    #[error("{0}")]
    Sentence(String),
}

impl LabError {
    /// For `map_err`: a failed system call and what it was for.
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
