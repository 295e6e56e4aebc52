//! Runs a program of the system for its output: for a bounded time, and keeping a bounded part of what it writes.
//!
//! For commands that an operator starts, and not for a running appliance: it waits.

use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// What a program has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// It ended by itself, and with success.
    pub is_success: bool,
    /// The beginning of its standard output.
    pub text: String,
    /// The beginning of its error output.
    pub errors: String,
    /// More came than was kept.
    pub is_cut: bool,
}

/// Why there is no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("{0} is not installed")]
    Missing(String),
    /// It cannot be started.
    #[error("{0} cannot be started: {1}")]
    NotStarted(String, String),
    /// It did not end in time, and was killed.
    #[error("{0} did not end within {1:?}")]
    TooLong(String, Duration),
}

/// Administrators' programs are there also where the user's path leaves them out.
const MORE_PATHS: &str = ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";
/// How long output that was written may take to be read after its program has ended.
const READ_WITHIN: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(5);

/// Runs `words`, with nothing to read, for at most `patience`. Keeps `most` bytes of each output.
///
/// # Errors
/// The program is missing, does not start, or does not end in time.
pub fn run(words: &[&str], patience: Duration, most: usize) -> Result<Output, CommandError> {
    let name = words.first().copied().unwrap_or_default();
    // An empty part would be the present directory.
    let mut path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| "/usr/bin".into());
    path.push(MORE_PATHS);
    let started = Command::new("env")
        .arg(name)
        .args(words.get(1..).unwrap_or_default())
        .env("PATH", path)
        // Output is for people who may not speak the language of this host, and is parsed too.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(CommandError::Missing("env".to_owned())),
        Err(error) => return Err(CommandError::NotStarted(name.to_owned(), error.to_string())),
    };
    let (send, receive) = channel();
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ];
    for (at, pipe) in outputs.into_iter().enumerate() {
        let (Some(pipe), send) = (pipe, send.clone()) else { continue };
        // If the reader cannot start, the pipe is closed, and the program ends.
        let _ = thread::Builder::new().spawn(move || {
            let _ = send.send((at, read_all(pipe, most)));
        });
    }
    drop(send);
    let deadline = Instant::now() + patience;
    let status = wait(&mut child, deadline).ok_or_else(|| CommandError::TooLong(name.to_owned(), patience))?;
    // `env` ends so where it finds no program of this name.
    if status.code() == Some(127) {
        return Err(CommandError::Missing(name.to_owned()));
    }
    let mut parts = [(String::new(), false), (String::new(), false)];
    // A program that was started in the background may keep the pipes open for ever.
    let deadline = Instant::now() + READ_WITHIN;
    while let Ok((at, part)) = receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        parts[at] = part;
    }
    let [(text, text_cut), (errors, errors_cut)] = parts;
    Ok(Output { is_success: status.success(), text, errors, is_cut: text_cut || errors_cut })
}

/// Waits for the end; kills what has not ended by the deadline.
fn wait(child: &mut Child, deadline: Instant) -> Option<std::process::ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(STEP),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// Reads to the end, so that the program is never held up, and keeps the first `most` bytes. True if there were more.
fn read_all(mut pipe: Box<dyn Read + Send>, most: usize) -> (String, bool) {
    let mut kept = Vec::new();
    let mut is_cut = false;
    let mut bytes = [0; 16 * 1024];
    while let Ok(count) = pipe.read(&mut bytes) {
        if count == 0 {
            break;
        }
        let taken = count.min(most - kept.len());
        kept.extend_from_slice(&bytes[..taken]);
        is_cut |= taken < count;
    }
    (String::from_utf8_lossy(&kept).into_owned(), is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn output_is_kept_up_to_its_bound_and_never_holds_the_program_up() {
        let found = run(&["sh", "-c", "echo good; echo bad >&2; exit 3"], LONG, 100).unwrap();
        let wanted = Output { is_success: false, text: "good\n".into(), errors: "bad\n".into(), is_cut: false };
        assert_eq!(found, wanted);
        let found = run(&["head", "-c", "1000000", "/dev/zero"], LONG, 10).unwrap();
        assert_eq!((found.is_success, found.text.len(), found.is_cut), (true, 10, true));
    }

    #[test]
    fn a_program_that_is_missing_or_does_not_end_is_an_error_in_time() {
        assert_eq!(run(&["no-such-program"], LONG, 10), Err(CommandError::Missing("no-such-program".into())));
        let begun = Instant::now();
        let patience = Duration::from_millis(100);
        assert_eq!(run(&["sleep", "60"], patience, 10), Err(CommandError::TooLong("sleep".into(), patience)));
        // What it has left in the background holds nothing up.
        assert!(run(&["sh", "-c", "sleep 3 & echo here"], LONG, 10).is_ok());
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    }
}
