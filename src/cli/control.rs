//! Asks the control socket of an appliance, and keeps a candidate: for `onwire apply` and `onwire confirm`.

use std::path::{Path, PathBuf};

use super::{FAILURE, NO_CONTACT};
use crate::appliance::control::request::{Answer, Request, control_socket};
use crate::config::replacement::Replacement;
use crate::io::request_socket;

/// The control socket of an appliance.
pub(super) struct ControlSocket {
    path: PathBuf,
    status_socket: PathBuf,
}

impl ControlSocket {
    /// The one beside this status socket.
    pub(super) fn beside(status_socket: &Path) -> Self {
        Self { path: control_socket(status_socket), status_socket: status_socket.to_owned() }
    }

    /// The answer. One that is not good is an error with its text.
    pub(super) fn ask(&self, request: &Request) -> Result<Answer, String> {
        self.ask_first(request).map_err(|(_, text)| text)
    }

    /// As [`ask`](Self::ask), for the first question of a command: the error has its exit code.
    pub(super) fn ask_first(&self, request: &Request) -> Result<Answer, (u8, String)> {
        let text = request_socket::ask(&self.path, &request.emit()).map_err(|error| (NO_CONTACT, error.to_string()))?;
        let answer = self.read(&text).map_err(|text| (FAILURE, text))?;
        if answer.is_good { Ok(answer) } else { Err((FAILURE, answer.text)) }
    }

    /// The answer, good or not. Without one it is not known what the appliance has done.
    pub(super) fn ask_for_any(&self, request: &Request) -> Result<Answer, String> {
        let text = request_socket::ask(&self.path, &request.emit()).map_err(|error| error.to_string())?;
        self.read(&text)
    }

    fn read(&self, text: &str) -> Result<Answer, String> {
        serde_json::from_str(text).map_err(|error| {
            format!(
                "{}: not an answer that this version knows ({error}); are both programs of the same version?",
                self.path.display()
            )
        })
    }

    /// Writes a candidate beside the appliance's configuration file, which has the text with the digest `before`.
    pub(super) fn prepare(&self, file: &str, text: &str, before: &str) -> Result<Replacement, String> {
        Replacement::prepare(Path::new(file), &self.status_socket, text, before)
    }

    /// Confirms the candidate with this digest, and replaces the file with it. In this order: a candidate that was too late must not
    /// be in the file.
    pub(super) fn keep(&self, digest: &str, replacement: Replacement) -> Result<String, String> {
        let sha256 = digest.to_owned();
        self.ask(&Request::Confirm { sha256: sha256.clone() })?;
        let saved = replacement.commit().and_then(|()| self.ask(&Request::Saved { sha256 }));
        let answer = saved.map_err(|error| {
            format!(
                "confirmed, and the appliance goes on with it; but a restart runs the one before: {error}\nmend that, and run \
                 `onwire confirm` again"
            )
        })?;
        Ok(format!("confirmed: {}", answer.text))
    }
}
