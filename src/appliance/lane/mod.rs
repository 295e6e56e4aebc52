//! A lane: one TUN queue, one UDP socket, one thread that runs to completion.
//!
//! The steps of a turn (`Lane::turns`). Each step that reads the TUN or a socket has a budget, so that no side starves:
//!
//! 1. note whether the lane stood still since the last turn;
//! 2. run the commands of the control thread;
//! 3. read the TUN: each packet goes into its block, and a train leaves as soon as it is full. When the TUN is empty,
//!    the open symbol is finished short: no packet waits for the next one;
//! 4. close blocks and write reports that are due;
//! 5. send what waits, as much as the socket takes;
//! 6. read UDP: handshakes go to the control thread, all other datagrams are opened. Packets go to the TUN after each
//!    train;
//! 7. deliver to the TUN once more: the hold of a hole may have ended although nothing came;
//! 8. answer snapshot requests, each once everything that came before it is read;
//! 9. hand on again what was lost on the last hop, if its peer is silent;
//! 10. update protection: block events, feedback from reports, timestamps, deadlines, requests of subscribers,
//!     notifications;
//! 11. empty the error queue if it may still hold entries: step 10 stops at a bound, and does nothing without
//!     notifications;
//! 12. log a new kind of stray packet or of failed reads and writes, and each kind of these or of send errors that has
//!     ended. Steps 10 and 11 log new kinds of send errors;
//! 13. send events to the control thread: which sessions are confirmed, which are wanted, and how peers are reached;
//! 14. log changes: segmentation, timestamps, offloads of the TUN, the arrival of trains. Where profiles have targets,
//!     report what is known of the links;
//! 15. after a stop command: close all blocks, send, repeat step 10, and end once nothing waits or the time is up;
//! 16. sleep until a descriptor is ready or the next deadline. Before a very near deadline the lane may spin instead;
//!     under load it pauses, and nothing wakes it meanwhile.
//!
//! The clock is read at the start of a turn and passed down. Steps 8, 10 and 15 read it again: a timestamp counts only
//! while the link is healthy. What the bytes mean is decided in [`crate::tunnel`].

mod answer;
mod busy_poll;
pub mod channel;
mod coalescing;
mod commands;
pub mod counts;
mod events;
mod failure_log;
pub mod last_hop;
mod link_news;
pub(super) mod listening;
mod problem_log;
mod reach_news;
mod readiness;
mod receive_lag;
mod send_error_log;
mod sending;
mod sleeping;
pub mod snapshot;
mod strays;
pub(super) mod tun_writer;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use self::sending::PeerTarget;
use crate::appliance::lane::busy_poll::BusyPoll;
use crate::appliance::lane::channel::{LaneChannel, LaneEvent};
use crate::appliance::lane::coalescing::Coalescing;
use crate::appliance::lane::failure_log::{Failure, FailureLog};
use crate::appliance::lane::last_hop::LastHop;
use crate::appliance::lane::link_news::LinkNews;
use crate::appliance::lane::listening::Listening;
use crate::appliance::lane::reach_news::ReachNews;
use crate::appliance::lane::readiness::Readiness;
use crate::appliance::lane::receive_lag::ReceiveLag;
use crate::appliance::lane::send_error_log::SendErrorLog;
use crate::appliance::lane::snapshot::LaneSnapshot;
use crate::appliance::lane::strays::Strays;
use crate::appliance::lane::tun_writer::TunWriter;
use crate::appliance::notify::protection_driver::ProtectionDriver;
use crate::io::timer::Timer;
use crate::io::tun::Tun;
use crate::io::udp::{StampState, UdpSocket};
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::forwarder::Forwarder;
use crate::tunnel::outbox::Trains;
use crate::tunnel::peer::Peer;
use crate::wire::adu::PACKET_MAX;
use crate::wire::datagram::DatagramType;
use crate::wire::handshake::MAX_LEN as HANDSHAKE_MAX;
use crate::wire::traffic_class::TrafficClass;
use crate::wire::virtio::VirtioHeader;

const TUN: Token = Token(0);
const UDP: Token = Token(1);
const TIMER: Token = Token(2);
const WAKER: Token = Token(3);
const NOTIFY: Token = Token(4);

/// Packets or super-packets read from the TUN in one turn.
const TUN_BUDGET: usize = 16;
/// Trains read from UDP in one turn.
const UDP_BUDGET: usize = 8;

/// After a stop command, a lane waits at most this long for what it has sent to leave this host.
const DRAIN: Duration = Duration::from_millis(500);

/// One lane, before and while it runs.
pub struct Lane {
    number: u8,
    tun_writer: TunWriter,
    udp: UdpSocket,
    timer: Timer,
    poll: Poll,
    forwarder: Forwarder,
    /// `Some` where notifications are configured.
    driver: Option<ProtectionDriver>,
    channel: LaneChannel,
    buffer: Box<[u8]>,
    ready: Readiness,
    notices_lost: u64,
    send_error_log: SendErrorLog,
    failure_log: FailureLog,
    strays: Strays,
    busy_poll: BusyPoll,
    coalescing: Coalescing,
    listening: Listening<SyncSender<LaneSnapshot>>,
    /// What was handed on to the mirror.
    last_hop: LastHop,
    link_news: LinkNews,
    reach_news: ReachNews,
    /// Who waits until a bypass is published.
    untold: Vec<SyncSender<()>>,
    /// How datagrams leave for each peer.
    targets: Vec<PeerTarget>,
    /// Set by a stop command: the lane ends by then.
    stopping: Option<Instant>,
}

impl Lane {
    /// Puts all descriptors into one poll. The returned waker wakes this lane for commands.
    pub fn new(
        number: u8,
        tun: Tun,
        udp: UdpSocket,
        forwarder: Forwarder,
        channel: LaneChannel,
        last_hop: LastHop,
    ) -> io::Result<(Self, Arc<Waker>)> {
        let (poll, timer) = (Poll::new()?, Timer::new()?);
        let (hold, peers) = (forwarder.hold(), forwarder.peers().len());
        let (room, now) = (udp.buffer_sizes()?.1, Instant::now());
        let registry = poll.registry();
        registry.register(&mut SourceFd(&tun.as_raw_fd()), TUN, Interest::READABLE)?;
        registry.register(&mut SourceFd(&udp.as_raw_fd()), UDP, Interest::READABLE | Interest::WRITABLE)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(registry, WAKER)?);
        let lane = Self {
            number,
            tun_writer: TunWriter::new(tun),
            udp,
            timer,
            poll,
            forwarder,
            channel,
            buffer: vec![0; 1 << 16].into_boxed_slice(),
            ready: Readiness::at_start(),
            notices_lost: 0,
            send_error_log: SendErrorLog::default(),
            failure_log: FailureLog::default(),
            strays: Strays::default(),
            busy_poll: BusyPoll::default(),
            coalescing: Coalescing::new(now),
            listening: Listening::new(ReceiveLag::new(hold, room, now), peers, now),
            last_hop,
            link_news: LinkNews::default(),
            reach_news: ReachNews::default(),
            untold: Vec::new(),
            targets: Vec::new(),
            stopping: None,
            driver: None,
        };
        Ok((lane, waker))
    }

    /// From now on this lane publishes what is protected.
    pub fn set_protection(&mut self, mut driver: ProtectionDriver) -> io::Result<()> {
        if let Some(port) = driver.publish_path().port() {
            let watched = self.poll.registry().register(&mut SourceFd(&port.as_raw_fd()), NOTIFY, Interest::READABLE);
            watched.map_err(|error| {
                io::Error::new(error.kind(), format!("cannot watch the notification port: {error}"))
            })?;
        }
        self.forwarder.set_shows_departures(driver.shows_departures());
        self.driver = Some(driver);
        Ok(())
    }

    /// From now on this lane reports what it knows of its links: there are profiles with targets.
    pub fn report_links(&mut self, now: Instant) {
        self.link_news.set(true, now);
    }

    /// Which kind of transmit timestamps this lane's socket uses.
    pub fn stamps(&self) -> StampState {
        self.udp.stamps()
    }

    /// Runs until a stop command or an error; returns the last counts.
    pub fn run(mut self) -> LaneSnapshot {
        let cause = self.turns().err();
        let snapshot = self.snapshot(false);
        // Without a control thread nothing receives the event.
        let _ = self.channel.events.send(LaneEvent::Ended { lane: self.number, cause });
        let _ = self.channel.control.wake();
        snapshot
    }

    fn turns(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        loop {
            let now = Instant::now();
            self.listening.receive_lag.on_turn(now);
            self.channel.turns.fetch_add(1, Ordering::Relaxed);
            self.ready.on_turn(now);
            if self.ready.commands {
                self.run_commands(now);
            }
            self.read_tun(now)?;
            self.forwarder.handle_timeout(now);
            self.send(Trains::All, now);
            self.read_udp(now)?;
            self.deliver(now);
            while let Some((reply, is_read)) = self.listening.poll_question() {
                self.answer(&reply, is_read);
            }
            self.listening.on_turn_end();
            self.last_hop.resend(self.forwarder.peers(), &mut self.tun_writer, !self.ready.udp, now);
            self.follow_protection();
            // Whoever asked may be gone.
            for done in self.untold.drain(..) {
                let _ = done.try_send(());
            }
            // Entries that a drain left keep the lane from sleeping, and the poll may not report them again: read them
            // now.
            if std::mem::take(&mut self.ready.errors) | self.udp.errors_left() {
                self.note_errors(now);
            }
            self.log_problems(now);
            while let Some(local_index) = self.forwarder.poll_confirmed() {
                self.send_event(LaneEvent::SessionConfirmed { local_index });
            }
            while let Some(peer) = self.forwarder.poll_request(now) {
                self.send_event(LaneEvent::SessionWanted(peer));
            }
            self.tell_reach(now);
            self.tell_port_news();
            self.log_changes();
            for (peer, link) in self.link_news.take(self.forwarder.peers(), now) {
                self.send_event(LaneEvent::Link { lane: self.number, peer, link: Box::new(link) });
            }
            if self.stopping.is_some_and(|latest| self.has_drained(latest, now)) {
                return Ok(());
            }
            self.sleep(&mut events, now)?;
        }
    }

    /// Closes all blocks and sends. True once everything that was read has left this host or never will, or at
    /// `latest`.
    fn has_drained(&mut self, latest: Instant, now: Instant) -> bool {
        self.forwarder.flush(now);
        self.send(Trains::All, now);
        self.follow_protection();
        let is_sent = self.forwarder.peers().iter().all(|peer| !peer.has_unsent());
        now >= latest || (is_sent && self.driver.as_mut().is_none_or(ProtectionDriver::is_settled))
    }

    /// Updates protection and publishes what changed. Reads the clock again: a timestamp counts only if the link is
    /// healthy now, and this turn may have begun long ago.
    fn follow_protection(&mut self) {
        let Some(driver) = &mut self.driver else { return };
        let now = Instant::now();
        driver.on_progress(&mut self.forwarder, now);
        if std::mem::take(&mut self.ready.errors) | driver.awaits_departures() {
            let forwarder = &self.forwarder;
            let is_own = |quoted: &[u8]| forwarder.is_own(quoted);
            let errors = self.udp.drain_own_errors(&is_own, &mut |number| driver.on_stamp(number));
            while let Some(to) = self.udp.poll_late_error() {
                driver.on_late_error(to, &self.forwarder, now);
            }
            while let Some(address) = self.udp.poll_refused() {
                self.reach_news.on_refused(address, self.forwarder.peers(), now);
            }
            problem_log::log_send_errors(&mut self.send_error_log, self.number, errors, now);
        }
        driver.publish(&mut self.forwarder, now);
    }

    fn read_tun(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..TUN_BUDGET {
            if !self.ready.tun || !self.forwarder.wants_packets() {
                break;
            }
            let mut header = [0; VirtioHeader::LEN];
            match self.tun_writer.tun().read(&mut header, self.forwarder.room()) {
                Ok(len) => {
                    self.busy_poll.on_packet();
                    self.coalescing.on_read(len);
                    let (driver, last_hop) = (&mut self.driver, &mut self.last_hop);
                    let header = VirtioHeader::from_native(header);
                    last_hop.on_read(&self.forwarder.room()[..len], header, now);
                    self.forwarder.handle_packet(header, len, now, |outgoing| {
                        if outgoing.block.is_some() {
                            last_hop.on_outgoing(outgoing.view, outgoing.packet, outgoing.header, now);
                        }
                        if let Some(driver) = driver {
                            driver.on_outgoing(&outgoing, now);
                        }
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready.tun = false,
                // The descriptor stays ready: the next try may find more.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.on_unread_tun(&error, now)?;
                    self.ready.tun = false;
                }
            }
            if self.forwarder.has_full_train() {
                self.send(Trains::Full, now);
            }
        }
        if !self.ready.tun {
            self.forwarder.handle_idle(now);
        }
        Ok(())
    }

    fn read_udp(&mut self, now: Instant) -> io::Result<()> {
        // What came while this lane stood still may not be in a poll event yet.
        self.ready.udp |= self.listening.wants_look(self.forwarder.held_until(), now);
        for _ in 0..UDP_BUDGET {
            if !self.ready.udp {
                break;
            }
            let Some(received) = self.udp.recv_train(&mut self.buffer)? else {
                self.ready.udp = false;
                if self.udp.is_unread() {
                    self.ready.on_failed_read(now);
                    break;
                }
                self.listening.on_empty(self.forwarder.peers().iter().map(Peer::last_heard), now);
                self.forwarder.on_receive_wait(Duration::ZERO, now);
                break;
            };
            self.coalescing.on_read(received.len);
            if let Some(arrived) = received.arrived {
                self.forwarder.on_receive_wait(now.saturating_duration_since(arrived), now);
            }
            let arrived = self.listening.receive_lag.on_train(received.arrived, received.len, now);
            self.listening.on_overflows(self.udp.receive_overflows(), arrived);
            // An empty datagram is handled and counted too.
            for start in (0..received.len.max(1)).step_by(received.segment) {
                let end = received.len.min(start + received.segment);
                let datagram = &mut self.buffer[start..end];
                if DatagramType::of(datagram).is_some_and(DatagramType::is_handshake) {
                    // One byte more than the longest handshake marks it as too long. An unauthenticated sender cannot
                    // make us copy more.
                    let datagram = &datagram[..datagram.len().min(HANDSHAKE_MAX + 1)];
                    let from = Endpoint { remote: received.from, local: received.to };
                    let is_sent = self.channel.handshakes.try_send((from, datagram.to_vec())).is_ok();
                    self.on_sent_to_control(is_sent);
                } else {
                    let marked = TrafficClass(received.class).is_ce();
                    self.forwarder.handle_arrival(datagram, received.from, marked, arrived);
                }
            }
            self.deliver(now);
        }
        Ok(())
    }

    fn deliver(&mut self, now: Instant) {
        self.listening.receive_lag.set_hold(self.forwarder.hold());
        let until = self.listening.receive_lag.hold_clock();
        let mut refused = 0;
        while let Some(deliverable) = self.forwarder.poll_delivery(until) {
            if let Some(driver) = &mut self.driver {
                driver.on_incoming(&deliverable, now);
            }
            let is_written = self.tun_writer.write(deliverable.header, deliverable.packet);
            refused += u64::from(!is_written);
            self.last_hop.on_incoming(&deliverable, is_written, until);
        }
        self.forwarder.on_refused(refused);
    }
}

const _: () = assert!(PACKET_MAX <= 1 << 17, "a packet's length fits the ADU header's 24 bits");
