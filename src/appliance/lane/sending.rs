//! How a lane sends: trains to each peer, and what it learns from the kernel and from reports about them.

use std::io;
use std::time::Instant;

use super::Lane;
use crate::appliance::notify::protection_driver::ProtectionDriver;
use crate::io::udp::{Change, Target};
use crate::protect::TakenSend;
use crate::tunnel::PeerId;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::outbox::Trains;
use crate::tunnel::peer::Peer;
use crate::tunnel::train_watch::TrainNews;

/// How datagrams leave for a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerTarget {
    /// One datagram a call.
    alone: bool,
}

impl PeerTarget {
    fn of(peer: &Peer, keeps_trains: bool) -> Self {
        let watch = peer.train_watch();
        // Where the configuration demands trains, single datagrams are used only for a trial.
        Self { alone: watch.sends_alone() && !(watch.is_settled() && keeps_trains) }
    }
}

impl Lane {
    /// Sends what waits, as much as the socket takes.
    pub(super) fn send(&mut self, trains: Trains, now: Instant) {
        let keeps_trains = self.udp.keeps_trains();
        self.targets.clear();
        self.targets.extend(self.forwarder.peers().iter().map(|peer| PeerTarget::of(peer, keeps_trains)));
        while self.ready.sendable {
            let Some((peer, train)) = self.forwarder.poll_transmit(trains, now) else { break };
            let PeerTarget { alone } = self.targets[usize::from(peer.0)];
            let len = train.bytes.len();
            let datagram_len = train.datagram_len;
            let taken = TakenSend { peer, send: train.send, queued: train.since };
            let class = train.class.0;
            let stamp = self.driver.as_ref().and_then(ProtectionDriver::next_stamp);
            let target = Target { to: train.to.remote, from: train.to.local, alone, class };
            let mut outcome = self.udp.send(target, train.bytes, datagram_len, stamp);
            if target.from.is_some() && outcome.sent == 0 && outcome.error.as_ref().is_some_and(is_unroutable) {
                // This address is to blame only if sending works from another one: a link may be down for a moment.
                let other = self.udp.send(Target { from: None, ..target }, train.bytes, datagram_len, stamp);
                if other.sent > 0 {
                    let error = std::mem::replace(&mut outcome, other).error;
                    self.clear_source(peer, error, now);
                }
            }
            if let Some(driver) = self.driver.as_mut().filter(|_| outcome.sent > 0) {
                driver.on_taken(taken, outcome.stamps, now);
            }
            self.ready.sendable = !outcome.blocked;
            self.forwarder.on_sent(peer, outcome.sent, now);
            if outcome.error.is_some() {
                // One datagram is lost; the rest is tried again.
                self.ready.errors = true;
                self.forwarder.on_unsendable(peer, datagram_len.min(len - outcome.sent), now);
            }
        }
    }

    /// Nothing can be sent to this peer from the address that it called. The driver follows the new egress before
    /// anything is sent there.
    fn clear_source(&mut self, peer: PeerId, error: Option<io::Error>, now: Instant) {
        if let (Some(from), Some(error)) = (self.forwarder.on_unroutable(peer, now), error) {
            let to =
                self.forwarder.peers()[usize::from(peer.0)].address().map_or("?".to_owned(), |to| to.ip().to_string());
            tracing::warn!(
                lane = self.number,
                "nothing can be sent to {to} from {from}, by which the peer called ({error}); the kernel chooses another address, \
                 and a firewall of the peer may drop what comes from there. `ip route get {to} from {from}` says why"
            );
        }
        if let Some(driver) = &mut self.driver {
            driver.follow(&self.forwarder);
        }
    }

    /// Sends a handshake datagram. One that cannot be sent is repeated by the timer of the handshake.
    pub(super) fn send_handshake(&mut self, to: Endpoint, datagram: &[u8]) {
        let mut target = Target { from: to.local, ..to.remote.into() };
        let error = self.udp.send(target, datagram, 0, None).error;
        if to.local.is_some() && error.is_some_and(|error| is_unroutable(&error)) {
            target.from = None;
            self.udp.send(target, datagram, 0, None);
        }
    }

    /// Logs what has changed about sending: once when it begins, and once when it ends.
    pub(super) fn log_changes(&mut self) {
        while let Some(change) = self.udp.poll_change() {
            match change {
                Change::Refused(what, error) => tracing::warn!(
                    lane = self.number,
                    "the kernel refuses {what} ({error}): sending without, and trying again now and then"
                ),
                Change::Back(what) => tracing::info!(lane = self.number, "the kernel takes {what} again"),
            }
        }
        match self.tun_writer.poll_change() {
            Some(true) => tracing::info!(lane = self.number, "the TUN takes UDP super-packets again"),
            Some(false) => tracing::warn!(
                lane = self.number,
                "the TUN refuses UDP super-packets: they are cut here, and tried again now and then"
            ),
            None => {}
        }
        while let Some((peer, news)) = self.forwarder.poll_train_news() {
            let to = self.forwarder.peers()[usize::from(peer.0)].address().map_or("?".to_owned(), |to| to.to_string());
            let lane = self.number;
            match news {
                TrainNews::Trial => tracing::info!(
                    lane,
                    "hardly any full-sized datagram arrives at {to} although reports do; sending each alone to see whether \
                     it is the segmentation"
                ),
                TrainNews::PathLoses => tracing::warn!(
                    lane,
                    "full-sized datagrams do not arrive at {to}, neither in trains nor alone, and short ones do: the path \
                     carries less than `path.mtu` says, or drops what is long; lower `path.mtu` (`ping -M do -s SIZE` finds \
                     what passes)"
                ),
                TrainNews::Alone(wait) if self.udp.keeps_trains() => tracing::warn!(
                    lane,
                    "segmented trains do not arrive at {to} and single datagrams do, but `udp_gso: on` keeps them; set it to \
                     auto, which looks again after {} s, or off",
                    wait.as_secs()
                ),
                TrainNews::Alone(wait) => tracing::warn!(
                    lane,
                    "segmented trains do not arrive at {to} and single datagrams do: one datagram a call, several times as \
                     costly, and another try in {} s; `path.udp_gso: off` spares the tries",
                    wait.as_secs()
                ),
                TrainNews::Arrive => tracing::info!(lane, "full-sized datagrams arrive at {to} again, in trains"),
            }
        }
    }
}

/// Errors that may be about the source address: it is gone, or no route leads from it.
fn is_unroutable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENODEV)
    )
}
