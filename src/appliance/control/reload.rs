//! The configuration changes while the appliance runs.
//!
//! A file is read and checked whole before anything follows it. What cannot change while the appliance runs is named, and then nothing
//! changes. The lanes come first and the routes last: a packet that a new route brings finds its peer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{TrySendError, sync_channel};
use std::time::{Duration, Instant};

use mio::Registry;

use super::confirmation::Confirmation;
use super::protection::protection_changes;
use super::request::control_socket;
use super::start::{CONTROL, CONTROL_OWNER};
use super::{Control, LaneHandle};
use crate::appliance::lane::channel::{Command, LaneReload};
use crate::appliance::planning::Planning;
use crate::appliance::setup;
use crate::config::changes::{Change, changes};
use crate::config::reload::{Failure, Outcome, ReloadStatus, Reloads, refuse_fixed, words};
use crate::config::{Config, ConfigErrors, LogLevel, Source};
use crate::io::request_socket::RequestSocket;
use crate::tunnel::PeerId;

/// How long a lane may take to follow.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(1);

/// Where the configuration comes from, what follows it besides the appliance, and how reloads ended.
pub struct Reloading {
    pub(super) file: PathBuf,
    /// The text that is followed: `Control::written` is made of it.
    pub(super) text: String,
    set_log_level: fn(LogLevel),
    reloads: Reloads,
    pub(super) confirmation: Confirmation<Followed>,
    /// `None` before the start.
    pub(super) requests: Option<RequestSocket>,
    /// Some lanes follow one configuration and some another: which profiles they have is not known.
    lanes_differ: bool,
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
        let (reloads, confirmation) = (Reloads::new(Some(file.clone())), Confirmation::default());
        Self { file, text: source.text, set_log_level, reloads, confirmation, requests: None, lanes_differ: false }
    }

    /// Opens the control socket beside the status socket.
    pub(super) fn listen(&mut self, status_socket: &Path, registry: &Registry) -> io::Result<()> {
        self.requests = Some(RequestSocket::open(&control_socket(status_socket), &CONTROL_OWNER, registry, CONTROL)?);
        Ok(())
    }

    /// The file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// How the last reload ended.
    pub(super) fn last(&self) -> Option<&Outcome> {
        self.reloads.last()
    }

    /// For status.
    pub(super) fn status(&self) -> ReloadStatus {
        self.reloads.status()
    }
}

impl Control {
    /// Reads the file again and follows it, and logs how that ended.
    pub(super) fn reload_file(&mut self, now: Instant) {
        let file = self.reloading.file.clone();
        self.service.reloading();
        let ended = self.reload_from(&file, now).map(|changes| words(&changes));
        self.reloading.reloads.on_end(ended);
        let line = self.service_line();
        self.service.ready(&line);
    }

    /// What is wrong with `file`, and whether that is because this process may not read everywhere any more.
    pub(super) fn explain(&self, errors: &ConfigErrors, file: &Path) -> String {
        let mut denied = [file].into_iter().chain(errors.denied());
        match denied.find_map(|denied| self.restrictions.advice(denied)) {
            Some(advice) => format!("{errors}{advice}\n"),
            None => errors.to_string(),
        }
    }

    fn reload_from(&mut self, file: &Path, now: Instant) -> Result<Vec<Change>, Failure> {
        self.reloading.confirmation.refusal(now).map_or(Ok(()), |text| Err(Failure::Refused(text)))?;
        let read = Source::open(file).and_then(|source| Ok((source.parse()?, source.text)));
        let (new, text) = read.map_err(|errors| Failure::Unchanged(self.explain(&errors, file)))?;
        let warnings = new.warnings.clone();
        let changes = self.follow(new, now)?;
        self.reloading.text = text;
        self.reloading.confirmation.on_reloaded();
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(changes)
    }

    /// Follows `new`: all of it, or nothing of it. Returns what has changed, or why nothing has.
    pub(super) fn follow(&mut self, new: Config, now: Instant) -> Result<Vec<Change>, Failure> {
        refuse_fixed(&changes(&self.written, &new))?;
        let metrics = self.monitoring.prepare(&new)?;
        let changes = self.change_to(new, now)?;
        self.monitoring.commit(metrics);
        Ok(changes)
    }

    /// As [`follow`](Self::follow), for what this process has followed before: it needs no restart.
    pub(super) fn change_to(&mut self, new: Config, now: Instant) -> Result<Vec<Change>, Failure> {
        let changes = changes(&self.written, &new);
        let next = new.clone().renumbered_after(&self.config)?;
        let followed = self.follow_lanes(&next).and_then(|()| {
            let withdrawn = self.detour.as_ref().map(|detour| detour.withdrawn_in(&next)).unwrap_or_default();
            let routes = self.routes.as_mut().map_or(Ok(()), |routes| routes.reload(&next, withdrawn));
            routes.map_err(|error| error.to_string())
        });
        if let Err(error) = followed {
            // Lanes may know more peers now: those that are new are none again.
            let back = self.written.clone().renumbered_after(&next)?;
            self.config = next.clone();
            let undone = self.follow_lanes(&back);
            // The lanes have ended the sessions of peers that are peers again, and forgotten what was planned.
            self.peering.call_again(&next, &back, now);
            self.planning.reload(&next, &back, now);
            self.config = back;
            return Err(match undone {
                Ok(()) => Failure::Unchanged(error),
                Err(more) => {
                    self.reloading.lanes_differ = true;
                    Failure::HalfDone(format!("{error}; and the way back: {more}"))
                }
            });
        }
        let before = std::mem::replace(&mut self.config, next);
        self.written = new;
        let peers = &self.config.peers;
        let is_peer = |peer: PeerId| peers.get(usize::from(peer.0)).is_some_and(|peer| !peer.is_removed);
        self.uplinks.retain(is_peer);
        self.sessions.retain(is_peer);
        self.peering.reload(&before, &self.config, now);
        match std::mem::take(&mut self.reloading.lanes_differ) {
            // Every plan has begun anew.
            true => self.planning = Planning::new(&self.config, self.lanes.len(), now),
            false => self.planning.reload(&before, &self.config, now),
        }
        self.reload_bypass();
        (self.reloading.set_log_level)(self.config.log.level);
        Ok(changes)
    }

    /// Lets all lanes follow, one after the other, and waits until each has. Lane 0 is the last: it has the notification port, and a
    /// barrier must not wait for a peer that another lane does not know yet.
    fn follow_lanes(&mut self, next: &Config) -> Result<(), String> {
        self.expect_wait(FOLLOWED_WITHIN);
        let endpoints = setup::endpoints(next);
        let (done, dones) = sync_channel(self.lanes.len());
        let changed_profiles: Vec<u8> = (0..=u8::MAX)
            .zip(&next.profiles)
            .filter(|(number, profile)| {
                let is_other = self.config.profiles.get(usize::from(*number)) != Some(profile);
                is_other || self.reloading.lanes_differ
            })
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

/// Waits until there is room for the command.
fn send(lane: &LaneHandle, mut command: Command, deadline: Instant) -> Result<(), ()> {
    loop {
        command = match lane.commands.try_send(command) {
            Ok(()) => {
                lane.wake();
                return Ok(());
            }
            Err(TrySendError::Full(command)) if Instant::now() < deadline => command,
            Err(_) => return Err(()),
        };
        std::thread::sleep(STEP);
    }
}
