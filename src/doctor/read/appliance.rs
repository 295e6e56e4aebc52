//! Asks the running appliance, and finds out which service it is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::appliance::status::Status;
use crate::config;
use crate::doctor::facts::{Appliance, Subject};
use crate::io::{socket_owner, status_socket};

/// It answers within milliseconds, unless it stands still.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks at the status socket of the subject.
pub fn read(subject: &Subject) -> Appliance {
    let Some(socket) = subject.socket.clone() else {
        let status = Err("its status socket is not known".to_owned());
        return Appliance { socket: None, status, user: None, other_file: None, is_file_newer: false, service: None };
    };
    let status = ask(&socket);
    let (mut other_file, mut is_file_newer) = (None, false);
    if let (Ok(status), Some(file)) = (&status, &subject.file) {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let followed = PathBuf::from(&status.configuration.file);
        match real(&followed) == real(file) {
            true => {
                let text = fs::read_to_string(file).ok();
                is_file_newer = text.is_some_and(|text| config::sha256(&text) != status.configuration.sha256);
            }
            false => other_file = Some((status.configuration.file.clone(), file.clone())),
        }
    }
    Appliance {
        user: fs::metadata(&socket).ok().map(|metadata| metadata.uid()),
        service: status.is_ok().then(|| service(&socket)).flatten(),
        socket: Some(socket),
        status,
        other_file,
        is_file_newer,
    }
}

fn ask(socket: &Path) -> Result<Status, String> {
    let text = status_socket::ask_within(socket, PATIENCE).map_err(|error| error.to_string())?;
    let status: Status = serde_json::from_str(&text).map_err(|error| {
        format!(
            "{} gives no status that this version knows ({error}): is it of another version, or of gates?",
            socket.display()
        )
    })?;
    match status.unfit() {
        Some(why) => Err(format!("{}: nothing can be concluded from its status: {why}", socket.display())),
        None => Ok(status),
    }
}

/// The systemd service of the process behind a socket.
fn service(socket: &Path) -> Option<String> {
    let owner = socket_owner::owner(&UnixStream::connect(socket).ok()?).ok()??;
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", owner.as_raw_nonzero())).ok()?;
    service_of(&cgroups)
}

/// The last service in the text of `/proc/PID/cgroup`.
fn service_of(cgroups: &str) -> Option<String> {
    let parts = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    let name = parts.filter_map(|part| part.strip_suffix(".service")).next_back()?;
    // A session or a container is not the appliance's own service.
    name.starts_with("onwire").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_named_as_systemctl_takes_it() {
        for (text, name) in [
            ("0::/system.slice/system-onwire.slice/onwire@ithaca.service\n", Some("onwire@ithaca")),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("0::/system.slice/containerd.service\n", None),
            ("", None),
        ] {
            assert_eq!(service_of(text).as_deref(), name, "{text}");
        }
    }
}
