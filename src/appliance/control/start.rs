//! The start: everything is opened, in this order; then the process gives up what it does not need any more, and the lanes run.

use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token, Waker};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::detour::{self, Detour};
use super::hooks::ToldStates;
use super::monitoring::Monitoring;
use super::protection::set_protection;
use super::session_queue::SessionQueue;
use super::{Control, HANDSHAKES_MAX, LaneHandle, Reloading, RunError, service};
use crate::appliance::history::History;
use crate::appliance::hooks::Hooks;
use crate::appliance::host::lane_priority::LanePriority;
use crate::appliance::host::privileges;
use crate::appliance::host::routes::Routes;
use crate::appliance::host::uplinks::Uplinks;
use crate::appliance::lane::Lane;
use crate::appliance::lane::channel::{LaneChannel, LaneEvent};
use crate::appliance::lane::last_hop::LastHop;
use crate::appliance::peering::Peering;
use crate::appliance::planning::Planning;
use crate::appliance::pulse::Pulse;
use crate::appliance::setup;
use crate::appliance::status::TunStatus;
use crate::config::Config;
use crate::io::request_socket;
use crate::io::signal::PendingSignals;
use crate::io::status_socket::{CALLERS, Owner, StatusSocket};
use crate::io::tun::Tun;
use crate::io::udp::UdpSocket;
use crate::tunnel::forwarder::Forwarder;

const WAKER: Token = Token(0);
const ROUTES: Token = Token(1);
const WATCHDOG: Token = Token(2);
/// The first token of the status socket.
const STATUS: usize = 3;

/// The first token of the control socket.
pub(super) const CONTROL: usize = STATUS + CALLERS + 1;

/// The first token of the hooks.
const HOOKS: usize = CONTROL + request_socket::CALLERS + 1;

/// Root and the socket's group may connect.
const OWNER: Owner = Owner {
    mode: 0o660,
    on_denied: ": run as root, or choose another path in `status.socket`",
    on_in_use: ": another onwire with this status socket is running",
    option: "in `status.socket`",
};

/// Who may change what runs: those who may signal it.
pub(super) const CONTROL_OWNER: Owner = Owner { mode: 0o600, ..OWNER };

/// What fails when the system has no descriptor or no memory left for a poll.
const WATCH: &str = "watch sockets and signals (`ulimit -n` shows how many files may be open)";

/// Events that may wait for the control thread, of all lanes.
const EVENTS_MAX: usize = 256;
/// Commands that may wait for one lane.
const COMMANDS_MAX: usize = 64;

impl Control {
    /// Opens everything and starts the lanes. Nothing is left behind if a step fails.
    pub fn start(config: Config, mut reloading: Reloading) -> Result<Self, RunError> {
        let (started, mut random) = (Instant::now(), StdRng::from_os_rng());
        let (epoch, arrivals_seed) = (random.random(), random.random());
        let poll = Poll::new().map_err(RunError::doing(WATCH))?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(RunError::doing(WATCH))?);
        let on_signal = Arc::clone(&waker);
        let signals = PendingSignals::listen(move || drop(on_signal.wake()))?;
        let status_socket = StatusSocket::open(&config.status.socket, &OWNER, poll.registry(), STATUS)?;
        reloading.listen(&config.status.socket, poll.registry())?;
        let monitoring = Monitoring::start(&config, &waker)?;
        let endpoints = setup::endpoints(&config);
        let random_of_notify = StdRng::from_rng(&mut random);
        let handshakes = setup::handshakes(&config, &endpoints, epoch, random, started);
        let queues = Tun::open(&config.tun.name, setup::tun_options(&config))?;
        let tun = TunStatus::new(&config, &queues);
        let device = tun.name.clone();

        let (notify, events) = sync_channel(EVENTS_MAX);
        let (to_peering, of_lanes) = sync_channel(HANDSHAKES_MAX);
        let (mut prepared, mut turns) = (Vec::new(), Vec::new());
        for (number, queue) in (0..).zip(queues) {
            let udp = UdpSocket::bind(setup::lane_address(config.node.listen, number), setup::udp_options(&config))?;
            let forwarder = Forwarder::new(setup::forwarder_settings(&config, &endpoints, number), started);
            let (commands, to_lane) = sync_channel(COMMANDS_MAX);
            turns.push(Arc::new(AtomicU64::new(0)));
            let channel = LaneChannel {
                commands: to_lane,
                events: notify.clone(),
                handshakes: to_peering.clone(),
                control: Arc::clone(&waker),
                turns: Arc::clone(&turns[usize::from(number)]),
            };
            let last_hop = LastHop::new(arrivals_seed, config.delivery.last_hop);
            let lane = Lane::new(number, queue, udp, forwarder, channel, last_hop);
            let (mut lane, waker) = lane.map_err(RunError::doing(format_args!("set up lane {number}")))?;
            if setup::has_targets(&config) {
                lane.report_links(started);
            }
            prepared.push((lane, commands, waker));
        }
        let protection = match &config.notify {
            Some(notify) => Some(set_protection(&config, notify, &mut prepared, random_of_notify, started)?),
            None => None,
        };
        let hooks = Hooks::start(&config.node.name, &config.hooks)?;
        for (number, descriptor) in hooks.descriptors().enumerate() {
            let token = Token(HOOKS + number);
            let watched = poll.registry().register(&mut SourceFd(&descriptor), token, Interest::READABLE);
            watched.map_err(RunError::doing(WATCH))?;
        }
        let detour = Detour::start(&config, &device)?;
        let withdrawn = detour.as_ref().map(|detour| detour.withdrawn(&config)).unwrap_or_default();
        let routes = Routes::install(&config, &device, withdrawn, started)?;
        if let Some(descriptor) = detour.as_ref().and_then(Detour::descriptor) {
            let watched = poll.registry().register(&mut SourceFd(&descriptor), WATCHDOG, Interest::READABLE);
            watched.map_err(RunError::doing(WATCH))?;
        }
        let watched = poll.registry().register(&mut SourceFd(&routes.as_raw_fd()), ROUTES, Interest::READABLE);
        watched.map_err(RunError::doing(WATCH))?;
        let service = service::open(started);
        // Everything is open, and all threads that work come now: they inherit what is left, and lanes the priority.
        let priority = LanePriority::raise();
        let restrictions = privileges::give_up(&config, reloading.file());
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
            let thread =
                std::thread::Builder::new().name(format!("lane-{number}")).spawn(body).map_err(RunError::doing(
                    format_args!("start the thread of lane {number} (`ulimit -u`, or TasksMax of the unit)"),
                ))?;
            lanes.push(LaneHandle { commands, waker: lane_waker, thread });
        }
        priority.restore();
        let routes = Some(routes);
        let on_name = Arc::clone(&waker);
        let wake = Arc::new(move || drop(on_name.wake()));
        let peering = Peering::new(&config, handshakes, wake, started);
        let planning = Planning::new(&config, lanes.len(), started);
        let mut control = Self {
            planning,
            history: History::new(lanes.len(), started),
            written: config.clone(),
            pulse: Pulse::new(turns, detour::stuck_after(&config), started),
            config,
            protection,
            detour,
            reloading,
            monitoring,
            epoch,
            started,
            poll,
            signals,
            status_socket,
            peering,
            sessions: SessionQueue::new(),
            events,
            handshakes: of_lanes,
            lanes,
            routes,
            tun,
            uplinks: Uplinks::default(),
            hooks,
            told_states: ToldStates::default(),
            service,
            restrictions,
        };
        control.tell_withdrawn();
        control.announce();
        let line = control.service_line();
        control.service.ready(&line);
        Ok(control)
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
            tracing::info!(prefix = %route.prefix, source = route.preferred_source.map(display), "route installed");
        }
        if let Some(reason) = &self.tun.fallback {
            tracing::warn!("the simple TUN back-end is used, which is several times slower: {reason}");
        }
    }
}
