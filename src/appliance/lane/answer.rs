//! How a lane answers a snapshot request.

use std::sync::mpsc::SyncSender;
use std::time::Instant;

use super::Lane;
use crate::appliance::lane::channel::LaneEvent;
use crate::appliance::lane::counts::PeerCounts;
use crate::appliance::lane::snapshot::{LaneSnapshot, PeerSnapshot};
use crate::appliance::status::arrivals::ArrivalsSnapshot;
use crate::appliance::status::protection::NotifyStatus;
use crate::flow::arrivals::Arrival;
use crate::tunnel::PeerId;

impl Lane {
    /// Answers a request. `is_read`: everything that came before it was read.
    pub(super) fn answer(&mut self, reply: &SyncSender<LaneSnapshot>, is_read: bool) {
        // The requester may have stopped waiting.
        let _ = reply.try_send(self.snapshot(is_read));
    }

    /// Answers the question for the few counts of each peer. If the answer finds no room, the question comes again.
    pub(super) fn tell_counts(&mut self, now: Instant) {
        let peers = self.forwarder.peers().iter().map(|peer| PeerCounts::of_peer(peer, now)).collect();
        self.send_event(LaneEvent::Counts { lane: self.number, peers });
    }

    pub(super) fn snapshot(&mut self, is_read: bool) -> LaneSnapshot {
        let now = Instant::now();
        let receive_overflows = self.udp.count_overflows();
        self.listening.on_overflows(receive_overflows, now);
        let (last_hop, arrivals) = (self.last_hop.status(), self.last_hop.arrivals());
        let protection_of =
            |peer: usize| self.driver.as_ref().and_then(|driver| driver.lane_protection().peers().get(peer));
        let peers = (0..).zip(self.forwarder.peers()).map(|(number, peer)| {
            let owns = |flow: &Arrival| self.forwarder.owner(flow.key.source) == Some(PeerId(number));
            let silence = self.listening.silence(number.into(), peer.last_heard(), is_read);
            let arrived = ArrivalsSnapshot::take(peer, arrivals, owns, silence, now);
            PeerSnapshot::take(peer, protection_of(number.into()), arrived, now)
        });
        let peers = peers.collect();
        LaneSnapshot {
            lane: self.number,
            listen: self.udp.local_addr(),
            gso: self.udp.gso_state().to_string(),
            receive_overflows,
            receive_wait: self.forwarder.receive_wait(now),
            paused: self.coalescing.paused(),
            errors: self.send_error_log.total(),
            cut_in_software: self.tun_writer.cut(),
            notices_lost: self.notices_lost,
            memory: self.forwarder.memory(),
            last_hop,
            drops: self.forwarder.drops().clone(),
            timestamps: self.udp.stamps().to_string(),
            notify: self.driver.as_mut().and_then(|driver| driver.publish_path().port().map(NotifyStatus::take)),
            peers,
        }
    }
}
