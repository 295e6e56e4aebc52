//! The configuration changes while the appliance runs.
//!
//! A file is read and checked whole before anything follows it. What cannot change while the appliance runs is named, and then nothing
//! changes. The lanes come first and the routes last: a packet that a new route brings finds its peer.

use std::path::PathBuf;
use std::sync::mpsc::{TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::{Control, LaneHandle};
use crate::appliance::lane::channel::{Command, LaneReload};
use crate::appliance::notify::port::NotifyPortChanges;
use crate::appliance::notify::protection_driver::ProtectionChanges;
use crate::appliance::setup::{self, ProtectionSettings};
use crate::config::changes::{Change, changes};
use crate::config::reload::{Failure, ReloadStatus, Reloads, refuse_fixed, words};
use crate::config::{self, Config, LogLevel};
use crate::flow::InstanceCounter;
use crate::io::udp::StampState;

/// How long a lane may take to follow.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(1);

/// Where the configuration comes from, what follows it besides the appliance, and how reloads ended.
pub struct Reloading {
    file: PathBuf,
    set_log_level: fn(LogLevel),
    reloads: Reloads,
}

impl Reloading {
    /// Reloads read `file` again; `set_log_level` sets what is logged.
    pub fn new(file: PathBuf, set_log_level: fn(LogLevel)) -> Self {
        Self { reloads: Reloads::new(Some(file.clone())), file, set_log_level }
    }

    /// For status.
    pub(super) fn status(&self) -> ReloadStatus {
        self.reloads.status()
    }
}

/// What the protection of further peers is made from.
pub(super) struct ProtectionSource {
    /// By lane.
    pub stamps: Vec<StampState>,
    pub instances: InstanceCounter,
    pub random: StdRng,
}

impl Control {
    /// Reads the file again and follows it, and logs how that ended.
    pub(super) fn reload_file(&mut self, now: Instant) {
        let file = self.reloading.file.clone();
        let read = config::load(&file).map_err(|errors| Failure::Unchanged(errors.to_string()));
        let ended = read.and_then(|new| {
            let warnings = new.warnings.clone();
            let changes = self.reload(new, now)?;
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            Ok(words(&changes))
        });
        self.reloading.reloads.on_end(ended);
    }

    /// Follows `new`: all of it, or nothing of it. Returns what has changed, or why nothing has.
    fn reload(&mut self, new: Config, now: Instant) -> Result<Vec<Change>, Failure> {
        let changes = changes(&self.written, &new);
        refuse_fixed(&changes)?;
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
