//! The configuration changes while the appliance runs.
//!
//! A file is read and checked whole before anything follows it. What cannot change while the appliance runs is named, and then nothing
//! changes. The lanes come first and the routes last: a packet that a new route brings finds its peer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::Registry;
use rand::Rng;
use rand::rngs::StdRng;

use super::confirmation::Confirmation;
use super::request::control_socket;
use super::{CONTROL, CONTROL_OWNER, Control, LaneHandle};
use crate::appliance::lane::channel::{Command, LaneReload};
use crate::appliance::notify::port::NotifyPortChanges;
use crate::appliance::notify::protection_driver::ProtectionChanges;
use crate::appliance::setup::{self, ProtectionSettings};
use crate::appliance::status::reload::{Outcome, ReloadStatus};
use crate::config::changes::{Change, Takes, changes};
use crate::config::{Config, LogLevel, Source};
use crate::flow::InstanceCounter;
use crate::io::request_socket::RequestSocket;
use crate::io::udp::StampState;

/// How long a lane may take to follow.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(1);

/// Where the configuration comes from, what follows it besides the appliance, and how reloads ended.
pub struct Reloading {
    pub(super) file: PathBuf,
    /// The text that is followed: `Control::written` is made of it.
    pub(super) text: String,
    set_log_level: fn(LogLevel),
    attempts: u64,
    last: Option<Outcome>,
    pub(super) confirmation: Confirmation<Followed>,
    /// `None` before the start.
    pub(super) requests: Option<RequestSocket>,
}

/// A configuration that was followed, and can be again without its files.
#[derive(Clone)]
pub(super) struct Followed {
    pub text: String,
    pub config: Config,
}

impl Reloading {
    /// The appliance follows `source`, and reloads read its file again; `set_log_level` sets what is logged.
    pub fn new(source: Source, set_log_level: fn(LogLevel)) -> Self {
        // For people in another directory, who ask for it. Where the working directory is gone, as it is.
        let file = std::path::absolute(&source.path).unwrap_or(source.path);
        let (confirmation, text) = (Confirmation::default(), source.text);
        Self { file, text, set_log_level, attempts: 0, last: None, confirmation, requests: None }
    }

    /// Opens the control socket beside the status socket.
    pub(super) fn listen(&mut self, status_socket: &Path, registry: &Registry) -> io::Result<()> {
        self.requests = Some(RequestSocket::open(&control_socket(status_socket), &CONTROL_OWNER, registry, CONTROL)?);
        Ok(())
    }

    /// For status.
    pub(super) fn status(&self) -> ReloadStatus {
        ReloadStatus { attempts: self.attempts, last: self.last.clone() }
    }
}

/// What the protection of further peers is made from.
pub(super) struct ProtectionSource {
    /// By lane.
    pub stamps: Vec<StampState>,
    pub instances: InstanceCounter,
    pub random: StdRng,
}

/// Why a reload failed, for people.
pub(super) enum Failure {
    /// It is not the time for it.
    Refused(String),
    /// All is as before.
    Unchanged(String),
    /// Neither the new configuration nor the one before could be followed by all lanes.
    HalfDone(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Unchanged(text)
    }
}

impl Control {
    /// Reads the file again and follows it, and logs how that ended.
    pub(super) fn reload_file(&mut self, now: Instant) {
        let file = self.reloading.file.clone();
        let outcome = self.reload_from(&file, now);
        let (is_good, text) = match outcome {
            Ok(changes) => (true, list(&changes)),
            Err(Failure::Refused(text)) => (false, format!("{text}\nnothing has changed")),
            Err(Failure::Unchanged(text)) => (
                false,
                format!("{}\nnothing has changed; `onwire check {}` checks the file", text.trim_end(), file.display()),
            ),
            Err(Failure::HalfDone(text)) => (
                false,
                format!("{text}\nsome lanes follow the new file and some the old one: reload again, or restart"),
            ),
        };
        match is_good {
            true => tracing::info!("{} reloaded: {text}", file.display()),
            false => {
                tracing::error!("{} was not reloaded", file.display());
                text.lines().for_each(|line| tracing::error!("{line}"));
            }
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.reloading.attempts += 1;
        self.reloading.last = Some(Outcome { is_good, at_s: at.as_secs_f64(), text });
    }

    fn reload_from(&mut self, file: &Path, now: Instant) -> Result<Vec<Change>, Failure> {
        self.reloading.confirmation.refusal(now).map_or(Ok(()), |text| Err(Failure::Refused(text)))?;
        let read = Source::open(file).and_then(|source| Ok((source.parse()?, source.text)));
        let (new, text) = read.map_err(|errors| Failure::Unchanged(errors.to_string()))?;
        let warnings = new.warnings.clone();
        let changes = self.follow(new, now)?;
        self.reloading.text = text;
        self.reloading.confirmation.on_reloaded();
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(changes)
    }

    /// Follows `new`: all of it, or nothing of it. Returns what has changed, or why nothing has.
    pub(super) fn follow(&mut self, new: Config, now: Instant) -> Result<Vec<Change>, Failure> {
        let changes = changes(&self.written, &new);
        let fixed: Vec<_> =
            changes.iter().filter(|change| change.takes == Takes::Restart).map(|change| &change.key[..]).collect();
        if !fixed.is_empty() {
            let keys = fixed.join(", ");
            let text = format!("cannot change while onwire runs: {keys}; restart onwire, or take the change back");
            return Err(Failure::Unchanged(text));
        }
        let next = new.clone().renumbered_after(&self.config)?;
        let followed = self.follow_lanes(&next).and_then(|()| {
            let routes = self.routes.as_mut().map_or(Ok(()), |routes| routes.reload(&next));
            routes.map_err(|error| error.to_string())
        });
        if let Err(error) = followed {
            // Lanes may know more peers now: those that are new are none again.
            let back = self.written.clone().renumbered_after(&next)?;
            self.config = next;
            let undone = self.follow_lanes(&back);
            self.config = back;
            return Err(match undone {
                Ok(()) => Failure::Unchanged(error),
                Err(more) => Failure::HalfDone(format!("{error}; and the way back: {more}")),
            });
        }
        let before = std::mem::replace(&mut self.config, next);
        self.written = new;
        self.uplinks.retain(|peer| self.config.peers.get(usize::from(peer.0)).is_some_and(|peer| !peer.is_removed));
        self.peering.reload(&before, &self.config, now);
        self.planning.reload(&before, &self.config, now);
        (self.reloading.set_log_level)(self.config.log.level);
        Ok(changes)
    }

    /// Lets all lanes follow, one after the other, and waits until each has. Lane 0 is the last: it has the notification port, and a
    /// barrier must not wait for a peer that another lane does not know yet.
    fn follow_lanes(&mut self, next: &Config) -> Result<(), String> {
        let endpoints = setup::endpoints(next);
        let (done, dones) = sync_channel(self.lanes.len());
        let changed_profiles: Vec<u8> = (0..=u8::MAX)
            .zip(&next.profiles)
            .filter(|(number, profile)| self.config.profiles.get(usize::from(*number)) != Some(profile))
            .map(|(number, _)| number)
            .collect();
        let deadline = Instant::now() + FOLLOWED_WITHIN;
        for (at, lane) in self.lanes.iter().enumerate().rev() {
            let number = at as u8;
            let reload = LaneReload {
                settings: setup::forwarder_settings(next, &endpoints, number),
                changed_profiles: changed_profiles.clone(),
                reports_links: setup::has_targets(next),
                protection: protection_changes(self.protection.as_mut(), next, number),
                done: done.clone(),
            };
            let is_sent = send(lane, Command::Reload(Box::new(reload)), deadline).is_ok();
            let left = deadline.saturating_duration_since(Instant::now());
            if !is_sent || dones.recv_timeout(left).is_err() {
                return Err(format!("lane {number} is too busy to follow, or stands still; try again"));
            }
        }
        Ok(())
    }
}

/// What has changed, for people.
pub(super) fn list(changes: &[Change]) -> String {
    match changes {
        [] => "nothing has changed".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Waits until there is room for the command.
fn send(lane: &LaneHandle, mut command: Command, deadline: Instant) -> Result<(), ()> {
    loop {
        command = match lane.commands.try_send(command) {
            Ok(()) => return lane.waker.wake().map_err(drop),
            Err(TrySendError::Full(command)) if Instant::now() < deadline => command,
            Err(_) => return Err(()),
        };
        std::thread::sleep(STEP);
    }
}

/// What changes of a lane's protection.
fn protection_changes(source: Option<&mut ProtectionSource>, next: &Config, lane: u8) -> Option<ProtectionChanges> {
    let (source, notify) = (source?, next.notify.as_ref()?);
    let stamps = *source.stamps.get(usize::from(lane))?;
    let seed = source.random.random();
    Some(ProtectionChanges {
        settings: ProtectionSettings::new(next, notify.level, stamps, &source.instances, seed),
        port: NotifyPortChanges {
            keys: setup::key_ring(notify),
            peers: next.peers.iter().map(|peer| (peer.name.clone(), peer.is_removed)).collect(),
        },
    })
}
