//! Finds the configuration to examine: the one that was named, that of the only running appliance, or the only one in
//! `/etc/onwire`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::appliance::status::Status;
use crate::config::Source;
use crate::doctor::facts::{Configuration, Subject};
use crate::io::status_socket;

/// Where configurations lie.
const DIRECTORY: &str = "/etc/onwire";
/// How long a running appliance may take to name its file.
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads the configuration `file`. Without one, looks at the appliances behind `sockets`, and then in `/etc/onwire`.
///
/// # Errors
/// The file is not there, or is one of gates; the text says what to do.
pub fn find(file: Option<&Path>, sockets: &[PathBuf]) -> Result<Subject, String> {
    if let Some(file) = file {
        return named(file);
    }
    let mut running = sockets.iter().filter_map(|socket| Some((file_of(socket)?, socket)));
    if let (Some((file, socket)), None) = (running.next(), running.next()) {
        let subject = named(&file).unwrap_or_else(|error| nothing(error, None));
        // The socket is known, also where the file has another one by now.
        return Ok(Subject { socket: Some(socket.clone()), ..subject });
    }
    let mut files = configurations(Path::new(DIRECTORY));
    let only_socket = match sockets {
        [socket] => Some(socket.clone()),
        _ => None,
    };
    match (files.pop(), files.len()) {
        (Some(file), 0) => named(&file),
        (None, _) => {
            Ok(nothing(format!("no running appliance says which is its file, and {DIRECTORY} has none"), only_socket))
        }
        (Some(_), more) => Ok(nothing(
            format!("{DIRECTORY} has {} files of appliances: name one with --config", more + 1),
            only_socket,
        )),
    }
}

fn nothing(cause: String, socket: Option<PathBuf>) -> Subject {
    Subject { file: None, configuration: Configuration::None(cause), socket }
}

/// The file that a running appliance follows.
fn file_of(socket: &Path) -> Option<PathBuf> {
    let text = status_socket::ask_within(socket, PATIENCE).ok()?;
    let status: Status = serde_json::from_str(&text).ok()?;
    let file = status.configuration.file;
    (!file.is_empty()).then(|| PathBuf::from(file))
}

/// The files of appliances in a directory.
pub fn configurations(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let is_of_an_appliance = |path: &PathBuf| match Source::open(path) {
        Ok(source) => !source.is_of_gates(),
        // One that this user may not read counts: it is there.
        Err(_) => File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied),
    };
    let mut files: Vec<PathBuf> = entries.filter(is_yaml).filter(is_of_an_appliance).collect();
    files.sort();
    files
}

fn named(file: &Path) -> Result<Subject, String> {
    let shown = file.display();
    let subject = |configuration, socket| Subject { file: Some(file.to_owned()), configuration, socket };
    if let Err(error) = File::open(file) {
        return match error.kind() {
            ErrorKind::PermissionDenied => {
                Ok(subject(Configuration::Denied(format!("{shown} cannot be read by this user")), None))
            }
            _ => Err(format!("{shown} cannot be read: {error}")),
        };
    }
    let source = Source::open(file).map_err(|errors| errors.to_string())?;
    if source.is_of_gates() {
        return Err(format!(
            "{shown} is a file of gates: name the file of the appliance; of gates see `onwire check {shown}` and `onwire \
             status --config {shown}`"
        ));
    }
    Ok(match source.parse() {
        Ok(config) => {
            let socket = config.status.socket.clone();
            subject(Configuration::Good(Box::new(config)), Some(socket))
        }
        Err(errors) if errors.denied().count() == errors.errors() => {
            let files: Vec<_> = errors.denied().map(|file| file.display().to_string()).collect();
            subject(Configuration::Denied(format!("{} cannot be read by this user", files.join(", "))), None)
        }
        Err(errors) => subject(Configuration::Bad(errors.to_string()), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_appliances_are_found_and_those_of_gates_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("b.yaml", "node: {}\n");
        write("gate.yaml", "gates: []\n");
        write("a.yml", "peers: []\n");
        write("a.key", "node: {}\n");
        let found = configurations(directory.path());
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["a.yml", "b.yaml"]);
        assert!(configurations(Path::new("/nowhere/at/all")).is_empty());
    }

    #[test]
    fn a_file_that_is_missing_or_of_gates_is_an_error_and_a_bad_one_is_a_finding() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        assert!(find(Some(&path), &[]).unwrap_err().contains("cannot be read"));
        fs::write(&path, "gates: []\n").unwrap();
        assert!(find(Some(&path), &[]).unwrap_err().contains("is a file of gates"));
        fs::write(&path, "node: {}\n").unwrap();
        let subject = find(Some(&path), &[]).unwrap();
        assert!(matches!(subject.configuration, Configuration::Bad(text) if text.contains("peers")));
    }
}
