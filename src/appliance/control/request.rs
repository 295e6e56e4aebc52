//! What callers of the control socket ask, and what they are answered: one line of JSON each.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::appliance::status::candidate::ConfigurationStatus;
use crate::appliance::status::drain::Verdict;

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is followed, and the last candidate.
    Show,
    /// Follow this text, which counts as if it lay at the configuration file.
    Apply {
        /// The text.
        text: String,
        /// SHA-256 of the text that it replaces: nobody may have changed it in between.
        replaces: String,
        /// It goes back after this time unless it is confirmed.
        confirm_within_ms: u64,
    },
    /// Keep the candidate with this digest.
    Confirm {
        /// SHA-256 of its text.
        sha256: String,
    },
    /// The file has the candidate with this digest.
    Saved {
        /// SHA-256 of its text.
        sha256: String,
    },
    /// Go back to what was followed before the candidate, now.
    Reject,
    /// A drain has ended: let the hooks hear of it.
    Drained {
        /// What was found of each peer.
        peers: Vec<Drained>,
        /// How long the drain took, in seconds.
        waited_s: f64,
    },
}

/// What a drain has found of a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drained {
    /// Its name.
    pub peer: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in sentences.
    pub reasons: Vec<String>,
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// It is no request of this version.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| {
            let version = env!("CARGO_PKG_VERSION");
            format!("not a request that the appliance knows ({error}); it is onwire {version}: use the same version of onwire")
        })
    }

    /// The line, without its end.
    pub fn emit(&self) -> String {
        serde_json::to_string(self).expect("a request is plain values")
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// It was done.
    pub is_good: bool,
    /// What was done, or why not: lines for people.
    pub text: String,
    /// What is followed now, and the last candidate.
    pub configuration: ConfigurationStatus,
    /// The text that is followed; only for [`Request::Show`].
    #[serde(default)]
    pub followed: String,
}

/// The control socket that belongs to a status socket: `.ctl` in place of `.sock`, or behind another name.
pub fn control_socket(status_socket: &Path) -> PathBuf {
    match status_socket.extension() {
        Some(extension) if extension == "sock" => status_socket.with_extension("ctl"),
        _ => {
            let mut path = OsString::from(status_socket);
            path.push(".ctl");
            path.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_a_line_and_nothing_else_is_one() {
        let text = "node:\n  name: \"\u{e9}\u{1}\"\r\n".to_owned();
        let apply = Request::Apply { text, replaces: "0a".into(), confirm_within_ms: 60_000 };
        let sha256 = "0b".to_owned();
        for request in [
            Request::Show,
            apply,
            Request::Confirm { sha256: sha256.clone() },
            Request::Saved { sha256 },
            Request::Reject,
            Request::Drained {
                peers: vec![Drained {
                    peer: "ithaca".into(),
                    verdict: Verdict::Unfinished,
                    reasons: vec!["a\nb".into()],
                }],
                waited_s: 0.25,
            },
        ] {
            let line = request.emit();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(Request::parse(line.as_bytes()), Ok(request));
        }
        for line in [
            "",
            "{}",
            "status",
            "{\"request\":\"stop\"}",
            "{\"request\":\"confirm\"}",
            "{\"request\":\"reject\"} x",
            "[]",
        ] {
            let refused = Request::parse(line.as_bytes()).unwrap_err();
            assert!(refused.contains("use the same version"), "{refused}");
        }
        let more = b"{\"request\":\"confirm\",\"sha256\":\"0b\",\"force\":true}";
        assert!(Request::parse(more).is_err(), "a key of a later version must not be ignored");
        assert!(Request::parse(b"{\"request\":\"confirm\",\"sha256\":\"\xff\"}").is_err());
    }

    #[test]
    fn the_control_socket_lies_beside_the_status_socket() {
        for (status, control) in [("/run/a.sock", "/run/a.ctl"), ("/run/a", "/run/a.ctl"), ("/run/a.b", "/run/a.b.ctl")]
        {
            assert_eq!(control_socket(Path::new(status)), Path::new(control));
        }
    }
}
