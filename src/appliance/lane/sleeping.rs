//! What a lane does between two turns: it sleeps, spins before a very near deadline, or pauses under load.

use std::io;
use std::time::{Duration, Instant};

use mio::Events;

use super::{Lane, NOTIFY, TIMER, TUN, UDP};
use crate::appliance::notify::protection_driver::ProtectionDriver;

/// While a stop waits for what was sent to leave, the lane checks this often.
const STOP_STEP: Duration = Duration::from_millis(1);

/// How often to check a hole that still holds after its time.
const HELD_STEP: Duration = Duration::from_millis(1);

impl Lane {
    /// Returns when there is something to do, and notes which descriptors may have more.
    pub(super) fn sleep(&mut self, events: &mut Events, now: Instant) -> io::Result<()> {
        let busy = self.ready.udp
            || self.listening.has_questions()
            || (self.ready.tun && self.forwarder.wants_packets())
            || self.ready.errors
            || self.udp.errors_left()
            || self.driver.as_ref().is_some_and(ProtectionDriver::is_busy);
        let mut is_awake = busy;
        if !busy {
            let protection_due = self.driver.as_mut().and_then(|driver| driver.deadline(now));
            // No event reports that another lane has ended.
            let look = self.stopping.map(|latest| latest.min(now + STOP_STEP));
            let mut due = self.forwarder.poll_timeout(now);
            if self.forwarder.held_until().is_some_and(|held| held <= now) {
                // The hole still holds because the lane has not listened for long enough; all else that was due is
                // done.
                due = due.map(|due| due.max(now + HELD_STEP));
            }
            let due = [due, protection_due, look, self.last_hop.deadline(), self.ready.deadline()];
            let due = due.into_iter().flatten().min();
            let is_soon = self.driver.is_some() && due.is_some_and(|due| self.busy_poll.should_spin(due, now));
            let pause = if is_soon || self.stopping.is_some() { None } else { self.coalescing.pause(due, now) };
            is_awake = is_soon || pause.is_some();
            self.listening.receive_lag.on_sleep(pause.map(|pause| now + pause).or(due), now);
            if let Some(pause) = pause {
                self.coalescing.on_paused(self.timer.pause_until(now + pause));
            } else if !is_soon {
                self.timer.set(due.map(|due| self.busy_poll.wakes_at(due, now)), now)?;
            }
        } else {
            self.listening.receive_lag.on_sleep(Some(now), now);
        }
        match self.poll.poll(events, is_awake.then_some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in events.iter() {
            match event.token() {
                TUN => self.ready.tun = true,
                UDP => {
                    self.ready.udp |= event.is_readable();
                    self.ready.errors |= event.is_error();
                    self.ready.sendable |= event.is_writable();
                }
                NOTIFY => {
                    if let Some(port) = self.driver.as_mut().and_then(|driver| driver.publish_path().port_mut()) {
                        port.on_readable();
                    }
                }
                TIMER => drop(self.timer.acknowledge()?),
                _ => self.ready.commands = true,
            }
        }
        Ok(())
    }
}
