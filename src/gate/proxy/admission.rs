//! Admission: accepts callers up to the gate's limit, and connects to the server for those that are no probes. It moves
//! no bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Interest, Token};

use super::{LEGS, Occupant, Proxy};
use crate::gate::arrival::{Arrival, ArrivalAction};
use crate::gate::connection::Connection;
use crate::gate::kinds;
use crate::gate::leg::Leg;

/// How long accepting pauses after an error, which is usually a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted in one turn.
const ACCEPTS: usize = 64;
/// The events that the poll reports for a leg.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Proxy {
    /// Accepts the callers that wait. True when there may be more.
    pub(super) fn accept(&mut self, number: usize, now: Instant) -> bool {
        let Some(listener) = self.listeners.get_mut(number) else { return false };
        if listener.again.is_some_and(|again| now >= again) {
            (listener.again, listener.ready) = (None, true);
        }
        if !listener.ready || listener.again.is_some() {
            return false;
        }
        for _ in 0..ACCEPTS {
            let listener = &mut self.listeners[number];
            let Some(socket) = &listener.socket else { return false };
            match socket.accept() {
                Ok((stream, client)) => {
                    if listener.connections >= listener.gate.connections {
                        listener.totals.refused += 1;
                        let most = listener.gate.connections;
                        listener.warn(now, &format!("{client} was turned away: there are {most} connections already"));
                        continue;
                    }
                    if let Err(error) = self.admit(number, client, Leg::accepted(stream), now) {
                        self.listeners[number].warn(now, &format!("cannot serve {client}: {error}"));
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
    fn admit(&mut self, number: usize, client: SocketAddr, mut leg: Leg, now: Instant) -> io::Result<()> {
        let at = self.free.last().copied().unwrap_or(self.slots.len());
        self.poll.registry().register(leg.stream(), token(at, true), BOTH)?;
        if self.free.pop().is_none() {
            self.slots.push(None);
        }
        let listener = &mut self.listeners[number];
        listener.connections += 1;
        let first = kinds::first_sender(listener.gate.kind);
        let arrival = Arrival::new(self.next_number, (client, leg), first, listener.gate.start_timeout, now);
        self.next_number += 1;
        self.slots[at] = Some((number, Occupant::Arrival(arrival)));
        self.run_queue.on_ready(at);
        Ok(())
    }

    /// Does what is due with a caller that has sent nothing.
    pub(super) fn look_at_arrival(&mut self, at: usize, now: Instant) {
        let Some(Some((number, Occupant::Arrival(arrival)))) = self.slots.get_mut(at) else { return };
        let listener = &mut self.listeners[*number];
        match arrival.intent(now) {
            ArrivalAction::Stays => return self.run_queue.on_state(at, false, Some(arrival.poll_timeout())),
            ArrivalAction::Enters => return self.connect_upstream(at, now),
            ArrivalAction::Left => {
                listener.totals.probes += 1;
                if let Some(message) = listener.probes.on_probe(arrival.client(), listener.gate.upstream, now) {
                    tracing::info!(gate = %listener.gate.name, "{message}");
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
        let Some((listener, Occupant::Arrival(mut arrival))) = self.slots.get_mut(at).and_then(Option::take) else {
            return;
        };
        // Closing the socket also removes it from the poll.
        let _ = self.poll.registry().deregister(arrival.leg().stream());
        self.forget(at, listener, &arrival.counts());
    }

    /// Connects to the server for a caller.
    fn connect_upstream(&mut self, at: usize, now: Instant) {
        let Some(Some((number, Occupant::Arrival(arrival)))) = self.slots.get(at) else { return };
        let (number, client) = (*number, arrival.client());
        let listener = &mut self.listeners[number];
        let called = Leg::connecting(listener.gate.upstream).and_then(|mut leg| {
            self.poll.registry().register(leg.stream(), token(at, false), BOTH)?;
            Ok(leg)
        });
        let upstream = match called {
            Ok(leg) => leg,
            Err(error) => {
                listener.totals.connect_failures += 1;
                let upstream = listener.gate.upstream;
                listener.warn(now, &format!("cannot connect to {upstream} for {client}: {error}"));
                return self.drop_arrival(at);
            }
        };
        let made = ((listener.make)(&listener.gate, listener.tls.choice()), listener.caller, listener.tls.clone());
        let gate = Arc::clone(&listener.gate);
        let Some((_, Occupant::Arrival(arrival))) = self.slots[at].take() else { return };
        let (name, client, leg, accepted) = arrival.enter();
        let connection = Connection::new(name, gate, made, (client, leg, upstream), now).accepted_at(accepted);
        self.slots[at] = Some((number, Occupant::Connection(Box::new(connection))));
        self.run_queue.on_state(at, false, None);
        self.run_queue.on_ready(at);
    }
}

/// The token of a leg.
fn token(at: usize, is_caller: bool) -> Token {
    Token(LEGS + 2 * at + usize::from(!is_caller))
}
