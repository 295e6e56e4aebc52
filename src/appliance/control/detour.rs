//! `bypass: withdraw_routes` while the appliance runs: the order of its steps, the watchdog process, and lanes that stand
//! still.
//!
//! Subscribers are told before the first packet takes the plain route. When the peer can be trusted again is decided in
//! [`crate::appliance::bypass`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::{Control, LaneHandle};
use crate::appliance::bypass::{Bypass, Cause, Change, Reach};
use crate::appliance::lane::channel::Command;
use crate::appliance::pulse::News as PulseNews;
use crate::appliance::status::bypass::{BypassStatus, WatchdogStatus};
use crate::config::{Config, WhenDown};
use crate::io::watchdog::{News, Watchdog};
use crate::tunnel::PeerId;

/// How long lane 0 may take to tell subscribers. A lane that stands still tells nothing, and claims nothing either.
const TOLD_WITHIN: Duration = Duration::from_millis(50);

/// Where routes are not withdrawn, a lane that makes no turn for this long is logged.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// The subcommand that is the watchdog process.
const WATCHDOG: &str = "watchdog";

/// What `withdraw_routes` needs.
pub(super) struct Detour {
    bypass: Bypass,
    watchdog: Watchdog,
    stalls: u64,
    stalled_at: Option<Instant>,
    /// It acts, and has not said that it has.
    is_acting: bool,
    /// What lanes were too busy to take: by lane and peer, whether packets take the plain route.
    untold: BTreeMap<(usize, PeerId), bool>,
}

impl Detour {
    /// Starts the watchdog process; `None` where packets for a peer that is down are dropped.
    pub fn start(config: &Config, device: &str) -> io::Result<Option<Self>> {
        if config.bypass.when_down != WhenDown::WithdrawRoutes {
            return Ok(None);
        }
        let watchdog = Watchdog::start(Path::new("/proc/self/exe"), &[WATCHDOG, device])?;
        let lanes = usize::from(config.tun.queues);
        let mut bypass = Bypass::new(0, lanes, config.bypass.return_after);
        bypass.reload(&are_removed(config), config.bypass.return_after);
        let (stalled_at, untold) = (None, BTreeMap::new());
        Ok(Some(Self { bypass, watchdog, stalls: 0, stalled_at, is_acting: false, untold }))
    }

    /// Which peers are not carried.
    pub fn withdrawn(&self, config: &Config) -> BTreeSet<usize> {
        (0..config.peers.len()).filter(|number| self.cause(*number).is_some()).collect()
    }

    /// Which peers are not carried, with those that `next` adds.
    pub fn withdrawn_in(&self, next: &Config) -> BTreeSet<usize> {
        let is_carried = |number: &usize| self.bypass.state(*number).is_some_and(|(cause, _)| cause.is_none());
        (0..next.peers.len()).filter(|number| !is_carried(number)).collect()
    }

    /// For the poll.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.watchdog.descriptor()
    }

    fn cause(&self, number: usize) -> Option<Cause> {
        self.bypass.state(number).and_then(|(cause, _)| cause)
    }
}

/// When a lane counts as standing still. Where nothing follows from it but a log line, that may take a while.
pub(super) fn stuck_after(config: &Config) -> Duration {
    match config.bypass.when_down {
        WhenDown::WithdrawRoutes => config.bypass.stuck_after,
        WhenDown::Drop => STUCK_AFTER,
    }
}

fn are_removed(config: &Config) -> Vec<bool> {
    config.peers.iter().map(|peer| peer.is_removed).collect()
}

impl Control {
    /// First in a turn: what the watchdog process has done meanwhile, before anything else looks at the routes.
    pub(super) fn read_watchdog(&mut self, now: Instant) {
        while let Some(detour) = &mut self.detour
            && let Some(news) = detour.watchdog.poll_news()
        {
            let was_acting = std::mem::replace(&mut detour.is_acting, news == News::Acts);
            match news {
                News::Acts => {
                    tracing::error!(
                        "onwire stood still for longer than bypass.stuck_after: the watchdog process has set {} down, and packets \
                         take the plain route; a debugger, a freezer, a machine that is suspended or short of memory does that",
                        self.tun.name
                    );
                    self.on_stall(now);
                }
                News::Acted => {}
                News::Gone => tracing::warn!(
                    "the watchdog process has ended: if onwire stands still now, its routes stay and packets are lost; restart \
                     onwire"
                ),
            }
            if was_acting && let Some(routes) = &mut self.routes {
                routes.set_up_again();
            }
        }
    }

    fn on_stall(&mut self, now: Instant) {
        let Some(detour) = &mut self.detour else { return };
        if detour.stalled_at.is_none_or(|at| now > at + self.config.bypass.stuck_after) {
            detour.stalls += 1;
        }
        detour.stalled_at = Some(now);
        detour.bypass.on_stall(now);
    }

    /// A lane reaches a peer in another way than before.
    pub(super) fn on_reach(&mut self, lane: u8, peer: PeerId, reach: Reach, now: Instant) {
        if let Some(detour) = &mut self.detour {
            detour.bypass.on_reach(lane, peer, reach, now);
        }
    }

    /// Looks at the lanes if it is time, and gives the watchdog process its beat.
    pub(super) fn look_at_lanes(&mut self, now: Instant) {
        let lanes = &self.lanes;
        let wake = |number: usize| drop(lanes.get(number).map(|lane: &LaneHandle| lane.waker.wake()));
        let Some(news) = self.pulse.look(wake, now) else { return };
        for news in news {
            match news {
                PulseNews::Stuck(lane) => tracing::error!(
                    lane,
                    "the lane stands still: nothing that comes to it is carried; `onwire status` and the log may say why, a restart \
                     ends it"
                ),
                PulseNews::Again(lane, after) => tracing::info!(lane, "the lane turns again, after {after:.1?}"),
            }
        }
        if self.pulse.is_stuck() {
            self.on_stall(now);
        }
        if let Some(detour) = &mut self.detour {
            detour.watchdog.beat(self.config.bypass.stuck_after);
        }
    }

    /// The control thread may wait for its lanes for this long: that is no stall.
    pub(super) fn expect_wait(&mut self, longest: Duration) {
        if let Some(detour) = &mut self.detour {
            detour.watchdog.beat(self.config.bypass.stuck_after + longest);
        }
    }

    /// Withdraws and restores routes.
    pub(super) fn follow_bypass(&mut self, now: Instant) {
        self.tell_untold();
        let mut due = Vec::new();
        while let Some((peer, change)) = self.detour.as_mut().and_then(|detour| detour.bypass.poll_change(now)) {
            match change {
                Change::Withdraw(cause) => due.push((peer, cause)),
                Change::Restore => {
                    self.withdraw(&mut due);
                    self.restore(peer, now);
                }
            }
        }
        self.withdraw(&mut due);
    }

    /// All of them at once: a lane that stands still is waited for once.
    fn withdraw(&mut self, due: &mut Vec<(PeerId, Cause)>) {
        let peers: Vec<_> = due.iter().map(|(peer, _)| *peer).collect();
        self.tell_bypass(&peers, true, true);
        for (peer, cause) in due.drain(..) {
            if let Some(routes) = &mut self.routes {
                routes.withdraw(peer.0.into());
            }
            tracing::warn!(
                peer = self.peer_name(peer),
                "{}: its routes are withdrawn, and packets for it take the plain route, UNPROTECTED",
                cause.name()
            );
        }
    }

    fn restore(&mut self, peer: PeerId, now: Instant) {
        let (Some(routes), Some(detour)) = (&mut self.routes, &mut self.detour) else { return };
        match routes.restore(peer.0.into()) {
            Ok(()) => {
                self.tell_bypass(&[peer], false, false);
                tracing::info!(peer = self.peer_name(peer), "its routes are back: packets for it are protected again");
            }
            Err(error) => {
                if detour.bypass.on_unrestored(peer, now) {
                    let name = self.peer_name(peer);
                    tracing::warn!(peer = name, "{error}; packets for it go on by the plain route, UNPROTECTED");
                }
            }
        }
    }

    fn peer_name(&self, peer: PeerId) -> &str {
        self.config.peers.get(usize::from(peer.0)).map_or("?", |peer| &peer.name)
    }

    /// Tells the lanes that packets for peers are about to take the plain route, or no longer do. Where `waits`, waits until lane
    /// 0, which has the notification port, has told the subscribers. What a lane is too busy to take is told later.
    fn tell_bypass(&mut self, peers: &[PeerId], begins: bool, waits: bool) {
        let Some(detour) = &mut self.detour else { return };
        let (last_done, told) = sync_channel(1);
        let mut is_awaited = false;
        for (number, lane) in self.lanes.iter().enumerate().rev() {
            for (at, &peer) in peers.iter().enumerate() {
                // Lane 0 comes last, and answers the last command when it has followed all of them.
                is_awaited = number == 0 && at + 1 == peers.len();
                let done = if is_awaited { last_done.clone() } else { sync_channel(1).0 };
                match lane.send(Command::Bypass { peer, begins, done }) {
                    true => drop(detour.untold.remove(&(number, peer))),
                    false => drop(detour.untold.insert((number, peer), begins)),
                }
            }
        }
        drop(last_done);
        if waits && is_awaited {
            // Without an answer: it stands still, is too busy, or has no room for the command.
            let _ = told.recv_timeout(TOLD_WITHIN);
        }
    }

    fn tell_untold(&mut self) {
        let Some(detour) = &mut self.detour else { return };
        let lanes = &self.lanes;
        detour.untold.retain(|(number, peer), begins| {
            let command = Command::Bypass { peer: *peer, begins: *begins, done: sync_channel(1).0 };
            !lanes.get(*number).is_none_or(|lane| lane.send(command))
        });
    }

    /// Before the routes go for good: the plain route takes all packets from then on.
    pub(super) fn tell_of_the_end(&mut self) {
        let Some(detour) = &self.detour else { return };
        let numbers = (0..self.config.peers.len()).filter(|number| detour.cause(*number).is_none());
        let carried: Vec<_> = numbers.map(|number| PeerId(number as u16)).collect();
        self.tell_bypass(&carried, true, true);
    }

    /// At start and after a reload: lanes learn which peers are not carried.
    pub(super) fn tell_withdrawn(&mut self) {
        let Some(detour) = &self.detour else { return };
        let withdrawn: Vec<_> = detour.withdrawn(&self.config).iter().map(|number| PeerId(*number as u16)).collect();
        self.tell_bypass(&withdrawn, true, false);
    }

    /// Follows `config`, which the lanes follow already.
    pub(super) fn reload_bypass(&mut self) {
        self.pulse.set_stuck_after(stuck_after(&self.config));
        let bypass = self.config.bypass;
        if let Some(detour) = &mut self.detour {
            detour.bypass.reload(&are_removed(&self.config), bypass.return_after);
        }
        self.tell_withdrawn();
    }

    pub(super) fn bypass_due(&self) -> Option<Instant> {
        self.detour.as_ref().and_then(|detour| detour.bypass.poll_timeout())
    }

    pub(super) fn bypass_status(&self, number: usize) -> Option<BypassStatus> {
        let (cause, withdrawals) = self.detour.as_ref()?.bypass.state(number)?;
        let cause = cause.map(|cause| cause.name().to_owned());
        Some(BypassStatus { withdrawn: cause.is_some(), cause, withdrawals })
    }

    pub(super) fn watchdog_status(&self) -> Option<WatchdogStatus> {
        let Detour { watchdog, stalls, .. } = self.detour.as_ref()?;
        Some(WatchdogStatus { pid: watchdog.is_there().then(|| watchdog.pid()), stalls: *stalls })
    }
}
