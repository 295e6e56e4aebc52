//! `bypass: withdraw_routes` while the appliance runs: the order of its steps, the watchdog process, and lanes that stand
//! still.
//!
//! Subscribers are told before the first packet takes the plain route. When the peer can be trusted again is decided in
//! [`crate::appliance::bypass`].

use std::collections::BTreeSet;
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
        Ok(Some(Self { bypass, watchdog, stalls: 0, stalled_at: None }))
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
        while let Some(news) = self.detour.as_mut().and_then(|detour| detour.watchdog.poll_news()) {
            match news {
                News::Acts => {
                    tracing::error!(
                        "onwire stood still for longer than bypass.stuck_after: the watchdog process has set {} down, and packets \
                         take the plain route; a debugger, a freezer, a machine that is suspended or short of memory does that",
                        self.tun.name
                    );
                    self.on_stall(now);
                }
                News::Acted => {
                    if let Some(Err(error)) = self.routes.as_mut().map(|routes| routes.set_up()) {
                        tracing::warn!("{error}");
                    }
                }
                News::Gone => tracing::warn!(
                    "the watchdog process has ended: if onwire stands still now, its routes stay and packets are lost; restart \
                     onwire"
                ),
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

    /// Withdraws and restores routes.
    pub(super) fn follow_bypass(&mut self, now: Instant) {
        while let Some((peer, change)) = self.detour.as_mut().and_then(|detour| detour.bypass.poll_change(now)) {
            let number = usize::from(peer.0);
            let name = self.config.peers.get(number).map_or("?", |peer| &peer.name).to_owned();
            let Some(routes) = &mut self.routes else { return };
            match change {
                Change::Withdraw(cause) => {
                    self.tell_bypass(peer, true, true);
                    if let Some(routes) = &mut self.routes {
                        routes.withdraw(number);
                    }
                    tracing::warn!(
                        peer = name,
                        "{}: its routes are withdrawn, and packets for it take the plain route, UNPROTECTED",
                        cause.name()
                    );
                }
                Change::Restore => match routes.restore(number) {
                    Ok(()) => {
                        self.tell_bypass(peer, false, false);
                        tracing::info!(peer = name, "its routes are back: packets for it are protected again");
                    }
                    Err(error) => {
                        tracing::warn!(peer = name, "{error}; packets for it go on by the plain route");
                        if let Some(detour) = &mut self.detour {
                            detour.bypass.on_unrestored(peer, now);
                        }
                    }
                },
            }
        }
    }

    /// Tells the lanes that packets for a peer are about to take the plain route, or no longer do. Where `waits`, waits until lane
    /// 0, which has the notification port, has told the subscribers.
    fn tell_bypass(&self, peer: PeerId, begins: bool, waits: bool) {
        let (done, dones) = sync_channel(1);
        for (number, lane) in self.lanes.iter().enumerate().rev() {
            // The answers of other lanes find the channel full or gone.
            let done = if number == 0 { done.clone() } else { sync_channel(1).0 };
            if !lane.send(Command::Bypass { peer, begins, done }) {
                tracing::warn!("lane {number} is too busy to say that packets take the plain route");
            }
        }
        if waits {
            let _ = dones.recv_timeout(TOLD_WITHIN);
        }
    }

    /// Before the routes go for good: the plain route takes all packets from then on.
    pub(super) fn tell_of_the_end(&self) {
        let Some(detour) = &self.detour else { return };
        for (number, _) in (0..).zip(&self.config.peers).filter(|(number, _)| detour.cause(*number).is_none()) {
            self.tell_bypass(PeerId(number as u16), true, true);
        }
    }

    /// At start and after a reload: lanes learn which peers are not carried.
    pub(super) fn tell_withdrawn(&self) {
        let Some(detour) = &self.detour else { return };
        for number in detour.withdrawn(&self.config) {
            self.tell_bypass(PeerId(number as u16), true, false);
        }
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
