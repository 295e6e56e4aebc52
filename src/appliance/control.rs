//! The control thread: handshakes, keys, the status socket, signals, start and stop.
//!
//! It reaches the lanes through bounded channels, with a waker in each direction: nothing that an unauthenticated
//! sender sends to it can delay a packet. It owns no packet and no block.

mod apply;
mod confirmation;
mod detour;
mod hooks;
mod monitoring;
mod protection;
mod reload;
pub mod request;
mod service;
mod session_queue;
mod start;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Waker};

use detour::Detour;
use hooks::ToldStates;
use monitoring::Monitoring;
use protection::ProtectionSource;
pub use reload::Reloading;
use session_queue::SessionQueue;

use crate::appliance::history::History;
use crate::appliance::hooks::Hooks;
use crate::appliance::host::routes::Routes;
use crate::appliance::host::uplinks::Uplinks;
use crate::appliance::lane::channel::{Command, HandshakeDatagram, LaneEvent};
use crate::appliance::lane::snapshot::LaneSnapshot;
use crate::appliance::peering::Peering;
use crate::appliance::planning::{NewPlan, Planning};
use crate::appliance::pulse::Pulse;
use crate::appliance::setup;
use crate::appliance::status::lane::LaneStatus;
use crate::appliance::status::{PeerStatus, ROLE, Status, TunStatus, named};
use crate::config::Config;
use crate::io::log;
use crate::io::restriction::Restrictions;
use crate::io::sd_notify::SdNotify;
use crate::io::signal::{PendingSignals, Signal};
use crate::io::status_socket::{SCHEMA_VERSION, StatusSocket};
use crate::tunnel::PeerId;
use crate::tunnel::drop_reason::{DropReason, Drops};
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::handshake::Established;

/// Handshake datagrams that may wait for it. It takes no more at once, so that a flood keeps it from nothing else.
const HANDSHAKES_MAX: usize = 256;
/// How long a lane may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// How long the end may take: lanes send what they have, and wait for its timestamps.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

/// Why an appliance could not start or go on, as a sentence for its user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(String);

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl RunError {
    /// For `map_err`: an error of the system with what was tried.
    fn doing(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self(format!("cannot {what}: {error}"))
    }
}

/// The control thread's handle of a lane.
struct LaneHandle {
    commands: SyncSender<Command>,
    waker: Arc<Waker>,
    thread: JoinHandle<LaneSnapshot>,
}

impl LaneHandle {
    /// `false` if the lane is too busy to take a command, or gone.
    fn send(&self, command: Command) -> bool {
        let is_sent = self.commands.try_send(command).is_ok();
        if is_sent {
            self.wake();
        }
        is_sent
    }

    /// Where it cannot be woken, the lane takes the command in its next turn: it has been sent, and must not be sent again.
    fn wake(&self) {
        let _ = self.waker.wake();
    }
}

/// The control thread's state.
pub struct Control {
    config: Config,
    epoch: u64,
    started: Instant,
    poll: Poll,
    signals: Arc<PendingSignals>,
    status_socket: StatusSocket,
    peering: Peering,
    sessions: SessionQueue<Box<Established>>,
    events: Receiver<LaneEvent>,
    handshakes: Receiver<HandshakeDatagram>,
    lanes: Vec<LaneHandle>,
    routes: Option<Routes>,
    tun: TunStatus,
    uplinks: Uplinks,
    planning: Planning,
    /// The last seconds, for status.
    history: History,
    /// What was read last: `config` also holds what reloads have removed.
    written: Config,
    /// `None` without notifications.
    protection: Option<ProtectionSource>,
    /// Whether the lanes turn.
    pulse: Pulse,
    /// `None` where packets for a peer that is down are dropped.
    detour: Option<Detour>,
    reloading: Reloading,
    monitoring: Monitoring,
    hooks: Hooks,
    told_states: ToldStates,
    service: SdNotify,
    restrictions: Restrictions,
}

impl Control {
    /// Runs until a signal stops it or a lane fails; returns the last status.
    pub fn run(mut self) -> Result<Status, RunError> {
        let mut events = Events::with_capacity(8);
        let outcome = loop {
            let now = Instant::now();
            let has_more = match self.turn(now) {
                Ok(has_more) => has_more,
                Err(error) => break Err(error),
            };
            if self.signals.take(Signal::Interrupt) || self.signals.take(Signal::Terminate) {
                tracing::info!("stopping");
                self.service.stopping(STOPPED_WITHIN);
                self.reloading.on_stop();
                break Ok(());
            }
            let routes = self.routes.as_ref().map(Routes::poll_timeout);
            let callers = self.status_socket.poll_timeout();
            let due = [
                self.peering.poll_timeout(),
                self.uplinks.poll_timeout(),
                routes,
                callers,
                self.reloading.poll_timeout(),
                self.bypass_due(),
                Some(self.pulse.poll_timeout()),
                Some(self.history.poll_timeout()),
                self.service.poll_timeout(now),
                self.hooks.poll_timeout(now),
            ];
            let due = due.into_iter().flatten().min();
            let timeout = due.map(|due| due.saturating_duration_since(now));
            match self.poll.poll(&mut events, if has_more { Some(Duration::ZERO) } else { timeout }) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break Err(error.into()),
                _ => {}
            }
        };
        let status = self.stop();
        outcome.map(|()| status)
    }

    /// Does what there is to do. True if handshake datagrams are left.
    fn turn(&mut self, now: Instant) -> Result<bool, RunError> {
        self.read_watchdog(now);
        if self.signals.take(Signal::User1) {
            let status = self.status("running");
            tracing::info!(status = %serde_json::to_string(&status).unwrap_or_default(), "status");
        }
        if self.signals.take(Signal::HangUp) {
            self.reload_file(now);
        }
        self.handle_requests();
        while let Ok(event) = self.events.try_recv() {
            self.handle_event(event, now)?;
        }
        self.look_at_lanes(now);
        self.follow_bypass(now);
        let come: Vec<_> = self.handshakes.try_iter().take(HANDSHAKES_MAX).collect();
        come.iter().for_each(|(from, datagram)| self.peering.handle_datagram(datagram, *from, now));
        self.peering.handle_timeout(now);
        self.send_handshakes(now);
        self.send_plans();
        for lane in self.history.handle_timeout(now) {
            // A lane that is too busy for it is asked again later, as one that does not answer.
            self.lanes[lane].send(Command::Counts);
        }
        for uplink in self.uplinks.look(now) {
            let sent = |lane: &LaneHandle| lane.send(Command::Uplink(uplink));
            if !self.lanes.iter().map(sent).fold(true, |all, sent| all & sent) {
                // A lane that is too busy gets it at the next look.
                self.uplinks.on_unsent(uplink);
            }
        }
        if let Some(routes) = &mut self.routes {
            routes.look(now);
        }
        self.turn_hooks();
        self.answer_callers(now);
        self.answer_metrics();
        self.tell_service(now);
        Ok(come.len() == HANDSHAKES_MAX)
    }

    fn handle_event(&mut self, event: LaneEvent, now: Instant) -> Result<(), RunError> {
        match event {
            LaneEvent::SessionConfirmed { local_index } => self.peering.on_confirmed(local_index, now),
            LaneEvent::Link { lane, peer, link } => self.planning.on_link(lane, peer, *link, now),
            LaneEvent::Counts { lane, peers } => self.history.on_sample(lane.into(), peers, now),
            LaneEvent::SessionWanted(peer) => self.peering.on_wanted(peer, now),
            LaneEvent::Reach { lane, peer, reach } => self.on_reach(lane, peer, reach, now),
            LaneEvent::Port { peer, news } => self.on_port_news(peer, *news),
            LaneEvent::Ended { lane, cause } => {
                let cause = cause.map_or("it ended without being asked to".to_owned(), |cause| cause.to_string());
                return Err(RunError(format!("lane {lane} cannot go on: {cause}")));
            }
        }
        Ok(())
    }

    /// Sends the status to callers of the status socket.
    fn answer_callers(&mut self, now: Instant) {
        while self.status_socket.handle_ready(self.poll.registry(), now) {
            let mut document = serde_json::to_vec(&self.status("running")).expect("a status is plain values");
            document.push(b'\n');
            self.status_socket.answer(&document);
        }
    }

    /// Sends new sessions to the lanes, and handshake datagrams to lane 0. A lane that is too busy gets its session in a later
    /// turn.
    fn send_handshakes(&mut self, now: Instant) {
        while let Some(established) = self.peering.poll_established() {
            if self.config.notify.is_some() {
                let Endpoint { remote, local } = established.endpoint;
                self.uplinks.add(established.peer, remote.ip(), local.or(setup::bound_address(&self.config)), now);
            }
            self.sessions.push(self.lanes.len(), established.peer, &Box::new(established));
        }
        let lanes = &self.lanes;
        self.sessions.send(|lane, session| lanes[lane].send(Command::Install(session.clone())));
        let datagrams: Vec<_> = std::iter::from_fn(|| self.peering.poll_transmit()).collect();
        if let (Some(lane), false) = (self.lanes.first(), datagrams.is_empty()) {
            // A handshake that is not sent is repeated by its timer.
            lane.send(Command::Handshakes(datagrams));
        }
    }

    /// Sends new plans to the lanes. A lane that is too busy gets its plan in a later turn.
    fn send_plans(&mut self) {
        let mut unsent = Vec::new();
        while let Some(plan) = self.planning.poll_plan() {
            let NewPlan { lane, peer, profile, reason } = &plan;
            let command = Command::Plan { peer: *peer, profile: profile.clone(), reason: *reason };
            if !self.lanes[*lane].send(command) {
                unsent.push(plan);
            }
        }
        unsent.into_iter().for_each(|plan| self.planning.on_unsent(plan));
    }

    /// Removes the routes first, so that nothing more comes in; then stops the lanes, which send what they have.
    fn stop(&mut self) -> Status {
        self.tun.tx_dropped = self.dropped();
        self.tell_of_the_end();
        self.routes = None;
        // A stop may take longer than a beat, and nothing is left to watch: a device made by hand stays up.
        self.detour = None;
        // Nothing reads events any more. Dropping the receiver frees a lane that waits because a flood has filled the
        // channel.
        self.events = sync_channel(0).1;
        self.handshakes = sync_channel(0).1;
        for lane in &self.lanes {
            // A full channel empties while the lane runs; when the lane has ended, `send` fails.
            let _ = lane.commands.send(Command::Stop);
            let _ = lane.waker.wake();
        }
        let snapshots: Vec<LaneSnapshot> = self.lanes.drain(..).filter_map(|lane| lane.thread.join().ok()).collect();
        self.compose("stopped", &snapshots)
    }

    fn status(&mut self, state: &str) -> Status {
        self.tun.tx_dropped = self.dropped();
        self.tun.route_troubles = self.routes.as_ref().map(Routes::troubles).unwrap_or_default();
        self.expect_wait(ANSWER_WITHIN);
        let (reply, answers) = sync_channel(self.lanes.len());
        let asked = self.lanes.iter().filter(|lane| lane.send(Command::Snapshot(reply.clone()))).count();
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut snapshots: Vec<LaneSnapshot> = (0..asked)
            .map_while(|_| answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok())
            .collect();
        self.expect_wait(Duration::ZERO);
        snapshots.sort_by_key(|snapshot| snapshot.lane);
        self.compose(state, &snapshots)
    }

    fn compose(&mut self, state: &str, snapshots: &[LaneSnapshot]) -> Status {
        let now = Instant::now();
        let lately: Vec<_> =
            (0..self.config.peers.len()).map(|peer| self.history.of_peer(peer, snapshots, now)).collect();
        let mut drops = Drops::default();
        snapshots.iter().for_each(|snapshot| drops.merge(&snapshot.drops));
        drops.add(DropReason::Handshake, self.peering.drops().map(|(_, count)| count).sum());
        let mut by_name = named(&drops);
        by_name.extend(self.peering.drops().map(|(why, count)| (why.to_string(), count)));
        let peers = self.config.peers.iter().enumerate().filter(|(_, peer)| !peer.is_removed).map(|(number, peer)| {
            let lanes = snapshots.iter().filter_map(|lane| lane.peers.get(number));
            let mut status = PeerStatus::gather(&peer.name, lanes, self.started, now);
            (status.since, status.rates) = lately[number];
            status.plans = self.planning.status(number);
            status.bypass = self.bypass_status(number);
            (status.key, status.public_key) = self.peering.key_in_use(PeerId(number as u16)).unzip();
            status
        });
        Status {
            role: ROLE.to_owned(),
            schema_version: SCHEMA_VERSION,
            node: self.config.node.name.clone(),
            public_key: self.config.node.private_key().public_key().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            epoch: format!("{:016x}", self.epoch),
            state: state.to_owned(),
            log_lines_lost: log::lines_lost(),
            tun: self.tun.clone(),
            lanes: snapshots.iter().map(LaneStatus::from).collect(),
            peers: peers.collect(),
            notify: snapshots.iter().find_map(|lane| lane.notify.clone()),
            drops: by_name,
            reload: self.reloading.status(),
            watchdog: self.watchdog_status(),
            hooks: self.hooks.status(),
            restrictions: self.restrictions.clone(),
            configuration: self.reloading.configuration(Instant::now()),
        }
    }

    fn dropped(&mut self) -> Option<u64> {
        self.routes.as_mut()?.dropped().ok()
    }
}
