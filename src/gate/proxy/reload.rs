//! The configuration changes while the gates run: all of it or nothing, and no connection ends.
//!
//! The file was read and checked on another thread. Here everything is opened first that can fail: sockets on new addresses, a
//! socket for another appliance. Then nothing fails any more. A socket that listens on an address that stays is kept, so the
//! callers that wait there are not lost. Connections keep what they began with.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::net::UdpSocket;
use mio::{Interest, Token};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{LEGS, LISTENERS, Proxy, SUBSCRIPTION, monitoring};
use crate::config::changes::{Change, Takes, What};
use crate::config::gate::{Gate, Gates};
use crate::config::gate_changes::gate_changes;
use crate::config::reload::{Failure, refuse_fixed, words};
use crate::gate::listener::{GateListener, ListeningSocket, Settings};
use crate::gate::prepared::Prepared;
use crate::gate::status::Status;
use crate::gate::subscription::Subscription;
use crate::gate::tls::Tls;
use crate::metrics::port::MetricsPort;

/// How often callers are accepted from a socket that closes, 64 at a time.
const LAST_ACCEPTS: usize = 64;

/// What a reload has opened and not used yet: dropping it takes everything back.
struct Opened {
    sockets: Vec<ListeningSocket>,
    notify: Option<UdpSocket>,
    /// `None`: it stays as it is.
    metrics: Option<Option<MetricsPort<Status>>>,
}

impl Proxy {
    /// Follows what was read, if something was.
    pub(super) fn poll_reload(&mut self, now: Instant) {
        if let Ok(read) = self.read.try_recv() {
            self.tell_reloading();
            let ended = read.and_then(|prepared| self.reload(prepared, now));
            self.reloads.on_end(ended.map_err(Failure::Unchanged));
            self.tell_ready();
        }
    }

    /// All of it, or nothing. Returns what has changed, or why nothing has.
    fn reload(&mut self, prepared: Prepared, now: Instant) -> Result<String, String> {
        if self.stopping.is_some() {
            return Err("the gates are stopping".to_owned());
        }
        let changes = self.changes(&prepared);
        refuse_fixed(&changes)?;
        let opened = self.open(&prepared.gates)?;
        // From here on nothing fails.
        self.accept_last_callers(&prepared.gates, now);
        if let Some(socket) = opened.notify {
            let notify = &prepared.gates.notify;
            self.subscription.move_to(socket, notify.address, notify.key(), StdRng::from_os_rng().random(), now);
        }
        if let Some(metrics) = opened.metrics {
            self.metrics = metrics;
        }
        self.config = prepared.gates;
        self.replace_listeners(opened.sockets, prepared.tls);
        (self.on_reloaded)(&self.config);
        self.config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(format!("{}{}", words(&changes), self.what_goes_on()))
    }

    /// What differs, also in files that have the same names.
    fn changes(&self, new: &Prepared) -> Vec<Change> {
        let mut changes = gate_changes(&self.config, &new.gates);
        for (gate, tls) in new.gates.gates.iter().zip(&new.tls) {
            let old = self.config.gates.iter().find(|old| old.name == gate.name);
            let have_same_names =
                old.is_some_and(|old| (&old.tls, &old.upstream_tls) == (&gate.tls, &gate.upstream_tls));
            if have_same_names && self.named(&gate.name).is_some_and(|listener| !listener.settings.tls.is_like(tls)) {
                let key = format!("gates[{}]: certificate files", gate.name);
                changes.push(Change { key, what: What::Changed, takes: Takes::Reload });
            }
        }
        changes
    }

    fn named(&self, name: &str) -> Option<&GateListener> {
        self.listeners.iter().find(|listener| listener.settings.gate.name == name)
    }

    /// The socket that listens on this address of a configuration.
    fn socket_on(&self, address: SocketAddr) -> Option<&ListeningSocket> {
        let on = |listener: &&GateListener| listener.settings.gate.listen == address;
        self.listeners.iter().filter(on).find_map(|listener| listener.socket.as_ref())
    }

    /// Opens what is new, in the order of the gates.
    fn open(&self, new: &Gates) -> Result<Opened, String> {
        let (mut sockets, mut faults) = (Vec::<ListeningSocket>::new(), Vec::new());
        for gate in new.gates.iter().filter(|gate| self.socket_on(gate.listen).is_none()) {
            let taken = self.listeners.iter().filter_map(|listener| listener.socket.as_ref()).chain(&sockets);
            let taken: Vec<Token> = taken.map(|socket| socket.token).collect();
            let opened = match (LISTENERS..LEGS).map(Token).find(|token| !taken.contains(token)) {
                Some(token) => ListeningSocket::open(gate, self.poll.registry(), token),
                None => Err(io::Error::other(format!("gate {} is one too many", gate.name))),
            };
            match opened {
                Ok(socket) => sockets.push(socket),
                Err(error) => faults.push(error.to_string()),
            }
        }
        let (old, notify) = (&self.config.notify, &new.notify);
        let is_same = (old.address, old.key_id, &old.secret) == (notify.address, notify.key_id, &notify.secret);
        let socket = (!is_same).then(|| self.open_notify(notify.address)).transpose();
        let notify = socket.unwrap_or_else(|error| {
            faults.push(format!("cannot open a socket for notifications from {}: {error}", notify.address));
            None
        });
        let metrics = (self.config.metrics != new.metrics).then(|| {
            let opened = new.metrics.map(|metrics| monitoring::open(metrics, &self.stop)).transpose();
            opened.unwrap_or_else(|error| {
                faults.push(error.to_string());
                None
            })
        });
        if faults.is_empty() {
            // Last, because it cannot be taken back. Only a cap makes buffers smaller, and a socket has the same cap afterwards.
            for gate in &new.gates {
                let fitted = self.socket_on(gate.listen).map_or(Ok(()), |socket| socket.fit(gate));
                fitted.unwrap_or_else(|error| {
                    faults.push(format!("gate {}: cannot set its buffers: {error}", gate.name))
                });
            }
        }
        if faults.is_empty() { Ok(Opened { sockets, notify, metrics }) } else { Err(faults.join("\n")) }
    }

    fn open_notify(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let mut socket = Subscription::bind(address)?;
        self.poll.registry().register(&mut socket, SUBSCRIPTION, Interest::READABLE)?;
        Ok(socket)
    }

    /// Accepts the callers that wait at sockets that close: for them their connection has begun.
    fn accept_last_callers(&mut self, new: &Gates, now: Instant) {
        for at in 0..self.listeners.len() {
            let listener = &mut self.listeners[at];
            let address = listener.settings.gate.listen;
            if new.gates.iter().all(|gate| gate.listen != address) {
                (listener.ready, listener.again) = (true, None);
                let mut rounds = 0..LAST_ACCEPTS;
                while rounds.next().is_some() && self.accept(at, now) {}
            }
        }
    }

    /// Gives each gate of the configuration its socket, and the settings of its later connections. A gate that has gone keeps its
    /// connections until they end.
    fn replace_listeners(&mut self, opened: Vec<ListeningSocket>, tls: Vec<Tls>) {
        let mut before = std::mem::take(&mut self.listeners);
        let held = before.iter_mut().filter_map(|it| Some((it.settings.gate.listen, it.socket.take()?)));
        let (mut held, mut opened): (Vec<_>, _) = (held.collect(), opened.into_iter());
        for (gate, tls) in self.config.gates.iter().zip(tls) {
            let kept = held.iter().position(|(address, _)| *address == gate.listen);
            let is_new = kept.is_none();
            let socket = kept.map(|at| held.swap_remove(at).1).or_else(|| opened.next());
            let socket = socket.expect("a socket was opened for each address on which none listens");
            let old = before.iter().position(|listener| listener.settings.gate.name == gate.name);
            let old = old.map(|at| before.remove(at));
            let settings = self.settings(gate, tls, old.as_ref());
            let listener = match old {
                Some(mut listener) => {
                    listener.follow(settings, socket);
                    listener
                }
                None => {
                    self.next_listener += 1;
                    GateListener::new(self.next_listener - 1, settings, Some(socket))
                }
            };
            if is_new {
                listener.announce();
            }
            self.listeners.push(listener);
        }
        for (address, _closed) in held {
            tracing::info!("no longer listening on {address}");
        }
        self.listeners.append(&mut before);
    }

    fn settings(&self, gate: &Gate, tls: Tls, old: Option<&GateListener>) -> Arc<Settings> {
        // Sessions of TLS can be resumed while its files stay the same.
        let same = old.map(|old| &old.settings).filter(|old| old.tls.is_like(&tls));
        match same.filter(|old| *old.gate == *gate) {
            Some(same) => Arc::clone(same),
            None => {
                let (caller, make) = (self.dialects)(gate);
                let tls = same.map_or(tls, |old| old.tls.clone());
                Arc::new(Settings { gate: Arc::new(gate.clone()), tls, caller, make })
            }
        }
    }

    /// What of earlier configurations goes on, for people.
    fn what_goes_on(&self) -> String {
        let count = |listener: &GateListener| match listener.socket {
            Some(_) => self.callers(listener).filter(|slot| slot.has_earlier_settings(listener)).count(),
            None => listener.connections,
        };
        match self.listeners.iter().map(count).sum::<usize>() {
            0 => String::new(),
            1 => "; 1 connection keeps the settings it began with".to_owned(),
            count => format!("; {count} connections keep the settings they began with"),
        }
    }

    /// Forgets gates that a reload has removed and whose last connection has ended.
    pub(super) fn drop_drained(&mut self) {
        if self.stopping.is_none() {
            self.listeners.retain(|listener| {
                let is_drained = listener.socket.is_none() && listener.connections == 0;
                if is_drained {
                    tracing::info!(gate = %listener.settings.gate.name, "it was removed, and has no connection any more");
                }
                !is_drained
            });
        }
    }
}
