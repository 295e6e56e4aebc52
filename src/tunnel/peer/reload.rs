//! What is configured about a peer changes while the tunnel runs.

use std::time::{Duration, Instant};

use super::{Peer, PeerSettings};
use crate::fec::code::Code;
use crate::tunnel::late_repair;
use crate::tunnel::pacer::Pacer;
use crate::tunnel::receiver::Delivery;

impl Peer {
    /// Follows these settings from now on. The size of symbols, the class of datagrams, the order of delivery and whether protection
    /// is claimed stay as they are; a known address stays too, because handshakes find out when it is another. True if it was removed and is a peer
    /// again.
    pub fn reload(&mut self, settings: PeerSettings, delivery: Delivery, survive_burst: Duration) -> bool {
        self.delivery = Delivery { strict: self.delivery.strict, ..delivery };
        self.receivers.iter_mut().flatten().for_each(|receiver| receiver.set_hold(delivery));
        let pace = |settings: &PeerSettings| (settings.bytes_per_second, settings.queue_max);
        if pace(&settings) != pace(&self.settings) {
            self.outbox.set_pace(Pacer::new(settings.bytes_per_second), settings.queue_max);
        }
        self.reporting.extend_late_spread(late_repair::spread(survive_burst));
        let is_back = self.settings.is_removed && !settings.is_removed;
        let PeerSettings { symbol_size, outer, claims, .. } = self.settings;
        self.settings = PeerSettings { symbol_size, outer, claims, ..settings };
        is_back
    }

    /// It is no peer any more: what is in blocks leaves, and then there is no session.
    pub fn remove(&mut self, code: &mut Code, now: Instant) {
        self.settings.is_removed = true;
        self.flush(code, now);
        self.abandon_blocks();
        self.retire_receivers();
        self.sessions.end();
        self.last_heard = None;
    }
}
