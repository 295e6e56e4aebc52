//! The control thread: handshakes, keys, the status socket, signals, start and stop.
//!
//! It reaches the lanes through bounded channels, with a waker in each direction: nothing that an unauthenticated
//! sender sends to it can delay a packet. It owns no packet and no block.

mod apply;
mod confirmation;
mod protection;
mod reload;
pub mod request;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use protection::set_protection;
use reload::ProtectionSource;
pub use reload::Reloading;

use crate::appliance::host::routes::Routes;
use crate::appliance::host::uplinks::Uplinks;
use crate::appliance::lane::Lane;
use crate::appliance::lane::channel::{Command, LaneChannel, LaneEvent};
use crate::appliance::lane::last_hop::LastHop;
use crate::appliance::lane::snapshot::LaneSnapshot;
use crate::appliance::peering::Peering;
use crate::appliance::planning::{NewPlan, Planning};
use crate::appliance::setup;
use crate::appliance::status::{LaneStatus, PeerStatus, Status, TunStatus, named};
use crate::config::Config;
use crate::io::log;
use crate::io::signal::{PendingSignals, Signal};
use crate::io::status_socket::{CALLERS, Owner, StatusSocket};
use crate::io::tun::Tun;
use crate::io::udp::UdpSocket;
use crate::tunnel::drop_reason::{DropReason, Drops};
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::forwarder::Forwarder;

const WAKER: Token = Token(0);
const ROUTES: Token = Token(1);
/// The first token of the status socket.
const STATUS: usize = 2;

/// The first token of the control socket.
const CONTROL: usize = STATUS + CALLERS + 1;

/// Root and the socket's group may connect.
const OWNER: Owner = Owner {
    mode: 0o660,
    on_denied: ": run as root, or choose another path in `status.socket`",
    on_in_use: ": another onwire with this status socket is running",
    option: "in `status.socket`",
};

/// Who may change what runs: those who may signal it.
const CONTROL_OWNER: Owner = Owner { mode: 0o600, ..OWNER };

/// Events that may wait for the control thread, of all lanes.
const EVENTS_MAX: usize = 256;
/// Commands that may wait for one lane.
const COMMANDS_MAX: usize = 64;
/// How long a lane may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Why an appliance could not start or go on, as a sentence for its user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(String);

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
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
        self.commands.try_send(command).is_ok() && self.waker.wake().is_ok()
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
    events: Receiver<LaneEvent>,
    lanes: Vec<LaneHandle>,
    routes: Option<Routes>,
    tun: TunStatus,
    uplinks: Uplinks,
    planning: Planning,
    /// What was read last: `config` also holds what reloads have removed.
    written: Config,
    /// `None` without notifications.
    protection: Option<ProtectionSource>,
    reloading: Reloading,
}

impl Control {
    /// Opens everything and starts the lanes. Nothing is left behind if a step fails.
    pub fn start(config: Config, mut reloading: Reloading) -> Result<Self, RunError> {
        let (started, mut random) = (Instant::now(), StdRng::from_os_rng());
        let (epoch, arrivals_seed) = (random.random(), random.random());
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let on_signal = Arc::clone(&waker);
        let signals = PendingSignals::listen(move || drop(on_signal.wake()))?;
        let status_socket = StatusSocket::open(&config.status.socket, &OWNER, poll.registry(), STATUS)?;
        reloading.listen(&config.status.socket, poll.registry())?;

        let endpoints = setup::endpoints(&config);
        let random_of_notify = StdRng::from_rng(&mut random);
        let handshakes = setup::handshakes(&config, &endpoints, epoch, random, started);
        let queues = Tun::open(&config.tun.name, setup::tun_options(&config))?;
        let tun = describe(&config, &queues);
        let device = tun.name.clone();

        let (notify, events) = sync_channel(EVENTS_MAX);
        let mut prepared = Vec::new();
        for (number, queue) in (0..).zip(queues) {
            let udp = UdpSocket::bind(setup::lane_address(config.node.listen, number), setup::udp_options(&config))?;
            let forwarder = Forwarder::new(setup::forwarder_settings(&config, &endpoints, number), started);
            let (commands, to_lane) = sync_channel(COMMANDS_MAX);
            let channel = LaneChannel { commands: to_lane, events: notify.clone(), control: Arc::clone(&waker) };
            let last_hop = LastHop::new(arrivals_seed, config.delivery.last_hop);
            let (mut lane, waker) = Lane::new(number, queue, udp, forwarder, channel, last_hop)?;
            if setup::has_targets(&config) {
                lane.report_links(started);
            }
            prepared.push((lane, commands, waker));
        }
        let protection = match &config.notify {
            Some(notify) => Some(set_protection(&config, notify, &mut prepared, random_of_notify, started)?),
            None => None,
        };
        let routes = Routes::install(&config, &device, started)?;
        poll.registry().register(&mut SourceFd(&routes.as_raw_fd()), ROUTES, Interest::READABLE)?;
        let mut lanes = Vec::new();
        for (number, (lane, commands, lane_waker)) in (0..).zip(prepared) {
            let (ended, control) = (notify.clone(), Arc::clone(&waker));
            let body = move || {
                catch_unwind(AssertUnwindSafe(|| lane.run())).unwrap_or_else(|panic| {
                    // An appliance that has lost a lane must not seem to run.
                    let cause = Some(io::Error::other("it panicked, which is a bug; the message is above"));
                    let _ = ended.send(LaneEvent::Ended { lane: number, cause });
                    let _ = control.wake();
                    resume_unwind(panic)
                })
            };
            let thread = std::thread::Builder::new().name(format!("lane-{number}")).spawn(body)?;
            lanes.push(LaneHandle { commands, waker: lane_waker, thread });
        }
        let routes = Some(routes);
        let on_name = Arc::clone(&waker);
        let wake = Arc::new(move || drop(on_name.wake()));
        let peering = Peering::new(&config, handshakes, wake, started);
        let planning = Planning::new(&config, lanes.len(), started);
        let control = Self {
            planning,
            written: config.clone(),
            config,
            protection,
            reloading,
            epoch,
            started,
            poll,
            signals,
            status_socket,
            peering,
            events,
            lanes,
            routes,
            tun,
            uplinks: Uplinks::default(),
        };
        control.announce();
        Ok(control)
    }

    /// Runs until a signal stops it or a lane fails; returns the last status.
    pub fn run(mut self) -> Result<Status, RunError> {
        let mut events = Events::with_capacity(8);
        let outcome = loop {
            let now = Instant::now();
            if let Err(error) = self.turn(now) {
                break Err(error);
            }
            if self.signals.take(Signal::Interrupt) || self.signals.take(Signal::Terminate) {
                tracing::info!("stopping");
                self.reloading.on_stop();
                break Ok(());
            }
            let routes = self.routes.as_ref().map(Routes::poll_timeout);
            let callers = self.status_socket.poll_timeout().into_iter().chain(self.reloading.poll_timeout()).min();
            let due =
                [self.peering.poll_timeout(), self.uplinks.poll_timeout(), routes, callers].into_iter().flatten().min();
            let timeout = due.map(|due| due.saturating_duration_since(now));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break Err(error.into()),
                _ => {}
            }
        };
        let status = self.stop();
        outcome.map(|()| status)
    }

    fn turn(&mut self, now: Instant) -> Result<(), RunError> {
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
        self.peering.handle_timeout(now);
        self.send_handshakes(now);
        self.send_plans();
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
        self.answer_callers(now);
        Ok(())
    }

    fn handle_event(&mut self, event: LaneEvent, now: Instant) -> Result<(), RunError> {
        match event {
            LaneEvent::Handshake { from, datagram } => self.peering.handle_datagram(&datagram, from, now),
            LaneEvent::SessionConfirmed { local_index } => self.peering.on_confirmed(local_index, now),
            LaneEvent::Link { lane, peer, link } => self.planning.on_link(lane, peer, *link, now),
            LaneEvent::SessionWanted(peer) => self.peering.on_wanted(peer, now),
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

    /// Sends new sessions to the lanes, and handshake datagrams to lane 0.
    fn send_handshakes(&mut self, now: Instant) {
        while let Some(established) = self.peering.poll_established() {
            if self.config.notify.is_some() {
                let Endpoint { remote, local } = established.endpoint;
                self.uplinks.add(established.peer, remote.ip(), local.or(setup::bound_address(&self.config)), now);
            }
            for (number, lane) in self.lanes.iter().enumerate() {
                if !lane.send(Command::Install(Box::new(established.clone()))) {
                    tracing::warn!("lane {number} is too busy for a new session; it will ask for another");
                }
            }
        }
        while let Some((to, datagram)) = self.peering.poll_transmit() {
            if let Some(lane) = self.lanes.first() {
                // A handshake that is not sent is repeated by its timer.
                lane.send(Command::Handshake { to, datagram });
            }
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
        self.routes = None;
        // Nothing reads events any more. Dropping the receiver frees a lane that waits because a flood has filled the
        // channel.
        self.events = sync_channel(0).1;
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
        let (reply, answers) = sync_channel(self.lanes.len());
        let asked = self.lanes.iter().filter(|lane| lane.send(Command::Snapshot(reply.clone()))).count();
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut snapshots: Vec<LaneSnapshot> = (0..asked)
            .map_while(|_| answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok())
            .collect();
        snapshots.sort_by_key(|snapshot| snapshot.lane);
        self.compose(state, &snapshots)
    }

    fn compose(&self, state: &str, snapshots: &[LaneSnapshot]) -> Status {
        let mut drops = Drops::default();
        snapshots.iter().for_each(|snapshot| drops.merge(&snapshot.drops));
        drops.add(DropReason::Handshake, self.peering.drops().map(|(_, count)| count).sum());
        let mut by_name = named(&drops);
        by_name.extend(self.peering.drops().map(|(why, count)| (why.to_string(), count)));
        let peers = self.config.peers.iter().enumerate().filter(|(_, peer)| !peer.is_removed).map(|(number, peer)| {
            let mut status = PeerStatus::gather(&peer.name, snapshots.iter().filter_map(|lane| lane.peers.get(number)));
            status.plans = self.planning.status(number);
            status
        });
        Status {
            node: self.config.node.name.clone(),
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
            configuration: self.reloading.configuration(Instant::now()),
        }
    }

    fn dropped(&mut self) -> Option<u64> {
        self.routes.as_mut()?.dropped().ok()
    }

    fn announce(&self) {
        let config = &self.config;
        tracing::info!(
            node = config.node.name,
            listen = %config.node.listen,
            lanes = self.lanes.len(),
            tun = self.tun.name,
            backend = self.tun.backend,
            epoch = format_args!("{:016x}", self.epoch),
            "onwire {} is running",
            env!("CARGO_PKG_VERSION")
        );
        for route in self.routes.iter().flat_map(Routes::added) {
            tracing::info!(prefix = %route.prefix, source = ?route.preferred_source, "route installed");
        }
        if let Some(reason) = &self.tun.fallback {
            tracing::warn!("the simple TUN back-end is used, which is several times slower: {reason}");
        }
    }
}

fn describe(config: &Config, queues: &[Tun]) -> TunStatus {
    let first = &queues[0];
    let offloads = first.offloads();
    TunStatus {
        name: first.name().to_owned(),
        mtu: u32::from(config.tun.mtu),
        backend: if offloads.vnet_header { "fast" } else { "simple" }.to_owned(),
        fallback: first.fallback().map(str::to_owned),
        tcp_offload: offloads.tcp,
        udp_offload: offloads.udp,
        queues: queues.len(),
        tx_dropped: None,
        route_troubles: BTreeMap::new(),
    }
}
