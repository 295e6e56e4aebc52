//! Who is let in: accepts callers up to what the gate may have, and connects to the server for those who mean it.
//! It moves no bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Interest, Token};

use super::{Guest, LEGS, Proxy};
use crate::gate::arrival::{Arrival, Intent};
use crate::gate::connection::Connection;
use crate::gate::kinds;
use crate::gate::leg::Leg;

/// After an error of accepting, which is most often a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted in one turn.
const ACCEPTS: usize = 64;
/// What a poll tells of a leg.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Proxy {
    /// Accepts who waits; true when there may be more.
    pub(super) fn accept(&mut self, number: usize, now: Instant) -> bool {
        let Some(door) = self.doors.get_mut(number) else { return false };
        if door.again.is_some_and(|again| now >= again) {
            (door.again, door.ready) = (None, true);
        }
        if !door.ready || door.again.is_some() {
            return false;
        }
        for _ in 0..ACCEPTS {
            let door = &mut self.doors[number];
            let Some(listener) = &door.listener else { return false };
            match listener.accept() {
                Ok((stream, client)) => {
                    if door.connections >= door.gate.connections {
                        door.totals.refused += 1;
                        let most = door.gate.connections;
                        door.warn(now, &format!("{client} was turned away: there are {most} connections already"));
                        continue;
                    }
                    if let Err(error) = self.admit(number, client, Leg::accepted(stream), now) {
                        self.doors[number].warn(now, &format!("cannot serve {client}: {error}"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    door.ready = false;
                    return false;
                }
                // The caller gave up while it waited.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    door.again = Some(now + PAUSE);
                    door.warn(now, &format!("cannot accept connections: {error}; are there enough descriptors?"));
                    return false;
                }
            }
        }
        true
    }

    /// Gives a caller a place.
    fn admit(&mut self, number: usize, client: SocketAddr, mut leg: Leg, now: Instant) -> io::Result<()> {
        let at = self.free.last().copied().unwrap_or(self.slots.len());
        self.poll.registry().register(leg.stream(), token(at, true), BOTH)?;
        if self.free.pop().is_none() {
            self.slots.push(None);
        }
        let door = &mut self.doors[number];
        door.connections += 1;
        let first = kinds::first_word(door.gate.kind);
        let arrival = Arrival::new(self.next_number, (client, leg), first, door.gate.start_timeout, now);
        self.next_number += 1;
        self.slots[at] = Some((number, Guest::Arrival(arrival)));
        self.agenda.on_ready(at);
        Ok(())
    }

    /// Does what is due with one that has said nothing.
    pub(super) fn look_at_arrival(&mut self, at: usize, now: Instant) {
        let Some(Some((number, Guest::Arrival(arrival)))) = self.slots.get_mut(at) else { return };
        let door = &mut self.doors[*number];
        match arrival.intent(now) {
            Intent::Stays => return self.agenda.on_state(at, false, Some(arrival.poll_timeout())),
            Intent::Enters => return self.call(at, now),
            Intent::Left => {
                door.totals.probes += 1;
                if let Some(words) = door.probes.on_probe(arrival.client(), door.gate.upstream, now) {
                    tracing::info!(gate = %door.gate.name, "{words}");
                }
            }
            Intent::Overdue => {
                door.totals.overdue += 1;
                let words = arrival.words();
                door.warn(now, &words);
            }
        }
        self.let_go(at);
    }

    /// Takes away one that has said nothing.
    pub(super) fn let_go(&mut self, at: usize) {
        let Some((door, Guest::Arrival(mut arrival))) = self.slots.get_mut(at).and_then(Option::take) else { return };
        // Closing it takes it out of the poll, too.
        let _ = self.poll.registry().deregister(arrival.leg().stream());
        self.forget(at, door, &arrival.counts());
    }

    /// Connects to the server for one that has arrived.
    fn call(&mut self, at: usize, now: Instant) {
        let Some(Some((number, Guest::Arrival(arrival)))) = self.slots.get(at) else { return };
        let (number, client) = (*number, arrival.client());
        let door = &mut self.doors[number];
        let called = Leg::connecting(door.gate.upstream).and_then(|mut leg| {
            self.poll.registry().register(leg.stream(), token(at, false), BOTH)?;
            Ok(leg)
        });
        let upstream = match called {
            Ok(leg) => leg,
            Err(error) => {
                door.totals.connect_failures += 1;
                let upstream = door.gate.upstream;
                door.warn(now, &format!("cannot connect to {upstream} for {client}: {error}"));
                return self.let_go(at);
            }
        };
        let made = ((door.make)(&door.gate, door.tls.choice()), door.caller, door.tls.clone());
        let gate = Arc::clone(&door.gate);
        let Some((_, Guest::Arrival(arrival))) = self.slots[at].take() else { return };
        let (name, client, leg, accepted) = arrival.enter();
        let connection = Connection::new(name, gate, made, (client, leg, upstream), now).accepted_at(accepted);
        self.slots[at] = Some((number, Guest::Connection(Box::new(connection))));
        self.agenda.on_state(at, false, None);
        self.agenda.on_ready(at);
    }
}

/// The token of a leg.
fn token(at: usize, is_caller: bool) -> Token {
    Token(LEGS + 2 * at + usize::from(!is_caller))
}
