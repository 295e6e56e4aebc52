//! Admission: accepts callers up to the gate's limit, and connects to the server for those that are no probes. It moves
//! no bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Interest, Token};
use rustix::net::sockopt;

use super::{LEGS, Occupant, Proxy, Slot, numbered};
use crate::gate::arrival::{Arrival, ArrivalAction};
use crate::gate::connection::Connection;
use crate::gate::kinds;
use crate::gate::leg::Leg;
use crate::gate::listener::CAPPED_BUFFER;

/// How long accepting pauses after an error, which is usually a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted in one turn.
const ACCEPTS: usize = 64;
/// The events that the poll reports for a leg.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Proxy {
    /// Accepts the callers that wait. True when there may be more.
    pub(super) fn accept(&mut self, place: usize, now: Instant) -> bool {
        let Some(listener) = self.listeners.get_mut(place) else { return false };
        if listener.again.is_some_and(|again| now >= again) {
            (listener.again, listener.ready) = (None, true);
        }
        if !listener.ready || listener.again.is_some() {
            return false;
        }
        for _ in 0..ACCEPTS {
            let listener = &mut self.listeners[place];
            let Some(listening) = &listener.socket else { return false };
            match listening.socket.accept() {
                Ok((stream, client)) => {
                    let most = listener.settings.gate.connections;
                    if listener.connections >= most {
                        listener.totals.refused += 1;
                        listener.warn(now, &format!("{client} was turned away: there are {most} connections already"));
                        continue;
                    }
                    if let Err(error) = self.admit(place, client, Leg::accepted(stream), now) {
                        self.listeners[place].warn(now, &format!("cannot serve {client}: {error}"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    listener.ready = false;
                    return false;
                }
                // The caller left before it was accepted.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    listener.again = Some(now + PAUSE);
                    listener.warn(now, &format!("cannot accept connections: {error}; are there enough descriptors?"));
                    return false;
                }
            }
        }
        true
    }

    /// Gives a caller a slot.
    fn admit(&mut self, place: usize, client: SocketAddr, mut leg: Leg, now: Instant) -> io::Result<()> {
        let at = self.free.last().copied().unwrap_or(self.slots.len());
        if self.listeners[place].settings.gate.max_unprotected.is_some() {
            // It has the small buffer of the socket that listens, unless it has waited there since before the gate had a cap.
            sockopt::set_socket_recv_buffer_size(&*leg.stream(), CAPPED_BUFFER / 2)?;
        }
        self.poll.registry().register(leg.stream(), token(at, true), BOTH)?;
        if self.free.pop().is_none() {
            self.slots.push(None);
        }
        let listener = &mut self.listeners[place];
        listener.connections += 1;
        let settings = Arc::clone(&listener.settings);
        let (first, patience) = (kinds::first_sender(settings.gate.kind), settings.gate.start_timeout);
        let occupant = Occupant::Arrival(Arrival::new(self.next_number, (client, leg), first, patience, now));
        self.next_number += 1;
        self.slots[at] = Some(Slot { listener: listener.number, settings, occupant });
        self.run_queue.on_ready(at);
        Ok(())
    }

    /// Does what is due with a caller that has sent nothing.
    pub(super) fn look_at_arrival(&mut self, at: usize, now: Instant) {
        let Some(Some(Slot { listener, settings, occupant: Occupant::Arrival(arrival) })) = self.slots.get_mut(at)
        else {
            return;
        };
        let Some(listener) = numbered(&mut self.listeners, *listener) else { return };
        match arrival.intent(now) {
            ArrivalAction::Stays => return self.run_queue.on_state(at, false, Some(arrival.poll_timeout())),
            ArrivalAction::Enters => return self.connect_upstream(at, now),
            ArrivalAction::Left => {
                listener.totals.probes += 1;
                if let Some(message) = listener.probes.on_probe(arrival.client(), settings.gate.upstream, now) {
                    tracing::info!(gate = %settings.gate.name, "{message}");
                }
            }
            ArrivalAction::Overdue => {
                listener.totals.overdue += 1;
                let message = arrival.message();
                listener.warn(now, &message);
            }
        }
        self.drop_arrival(at);
    }

    /// Removes a caller that has sent nothing.
    pub(super) fn drop_arrival(&mut self, at: usize) {
        let slot = self.slots.get_mut(at).and_then(Option::take);
        let Some(Slot { listener, occupant: Occupant::Arrival(mut arrival), .. }) = slot else { return };
        // Closing the socket also removes it from the poll.
        let _ = self.poll.registry().deregister(arrival.leg().stream());
        self.forget(at, listener, &arrival.counts());
    }

    /// Connects to the server for a caller, with the settings that it came with.
    fn connect_upstream(&mut self, at: usize, now: Instant) {
        let Some(Some(Slot { listener, settings, occupant: Occupant::Arrival(arrival) })) = self.slots.get(at) else {
            return;
        };
        let (number, settings, client) = (*listener, Arc::clone(settings), arrival.client());
        let upstream = settings.gate.upstream;
        let called = Leg::connecting(upstream).and_then(|mut leg| {
            self.poll.registry().register(leg.stream(), token(at, false), BOTH)?;
            Ok(leg)
        });
        let leg = match called {
            Ok(leg) => leg,
            Err(error) => {
                if let Some(listener) = numbered(&mut self.listeners, number) {
                    listener.totals.connect_failures += 1;
                    listener.warn(now, &format!("cannot connect to {upstream} for {client}: {error}"));
                }
                return self.drop_arrival(at);
            }
        };
        let dialect = (settings.make)(&settings.gate, settings.tls.choice());
        let made = (dialect, settings.caller, settings.tls.clone());
        let gate = Arc::clone(&settings.gate);
        let Some(Slot { occupant: Occupant::Arrival(arrival), .. }) = self.slots[at].take() else { return };
        let (name, client, accepted_leg, accepted) = arrival.enter();
        let connection = Connection::new(name, gate, made, (client, accepted_leg, leg), now).accepted_at(accepted);
        let occupant = Occupant::Connection(Box::new(connection));
        self.slots[at] = Some(Slot { listener: number, settings, occupant });
        self.run_queue.on_state(at, false, None);
        self.run_queue.on_ready(at);
    }
}

/// The token of a leg.
fn token(at: usize, is_caller: bool) -> Token {
    Token(LEGS + 2 * at + usize::from(!is_caller))
}
