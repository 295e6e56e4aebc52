//! The last hop, from this appliance to the mirror: packets that were handed on are kept until the mirror's TCP has
//! acknowledged them. While the peer is silent they are handed on again, because the original sender may be gone.
//!
//! [`Arrivals`] knows which bytes arrived, [`Retained`] what is kept and when to send it again; this file connects both
//! to the peers. Only packets of a peer that calls bytes protected are kept: others pay nothing.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::appliance::lane::tun_writer::TunWriter;
use crate::flow::arrivals::{Acknowledged, Arrivals, ArrivedSegment};
use crate::flow::retained::{Bounds, DeliveredPacket, Retained};
use crate::tunnel::forwarder::Deliverable;
use crate::tunnel::peer::Peer;
use crate::wire::packet::PacketView;
use crate::wire::virtio::VirtioHeader;

/// TCP flows toward this side that a lane follows.
const ARRIVALS_MAX: usize = 8192;
/// A peer is silent when nothing came from it for this many of its report intervals.
const INTERVALS: u32 = 10;

/// The state of a peer that matters here.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// It calls bytes protected, so its packets are kept.
    claims: bool,
    /// When it becomes silent if nothing comes.
    silent_at: Option<Instant>,
}

/// What one lane has handed on.
#[derive(Debug)]
pub struct LastHop {
    arrivals: Arrivals,
    retained: Option<Retained>,
    sources: Vec<Source>,
}

/// What is kept for the last hop, as status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LastHopStatus {
    /// Packets and super-packets that the mirror has not acknowledged.
    pub packets: u64,
    /// Flows that these packets belong to.
    pub flows: u64,
    /// Bytes of memory for them.
    pub memory: usize,
    /// Packets dropped because of a bound on bytes or flows before they were acknowledged, since the start.
    pub dropped: u64,
    /// How often a packet was handed on again.
    pub repeated: u64,
}

impl LastHop {
    /// Nothing was handed on yet. Without `keeps`, bytes are counted but not kept.
    pub fn new(seed: u64, keeps: bool) -> Self {
        let retained = keeps.then(|| Retained::new(Bounds::default()));
        Self { arrivals: Arrivals::new(ARRIVALS_MAX, seed), retained, sources: Vec::new() }
    }

    /// A packet from a peer was handed on, or was refused by the TUN.
    #[inline]
    pub fn on_incoming(&mut self, deliverable: &Deliverable<'_>, is_written: bool, now: Instant) {
        let &Deliverable { peer, header, packet, ref view } = deliverable;
        let brought = self.arrivals.on_incoming(view, packet, header, is_written, now);
        let (Some(brought), Some(retained)) = (brought, &mut self.retained) else { return };
        if brought.is_new {
            retained.give_way(brought.slot);
        }
        let claims = self.sources.get(usize::from(peer.0)).is_some_and(|source| source.claims);
        if claims {
            let ArrivedSegment { slot, begin, upto, clock, .. } = brought;
            retained.keep(&DeliveredPacket { slot, peer: peer.0, begin, upto, header, packet, clock }, now);
        }
    }

    /// A packet goes to a peer: its acknowledgement shows what the mirror has.
    #[inline]
    pub fn on_outgoing(&mut self, view: &PacketView, packet: &[u8], virtio: VirtioHeader, now: Instant) {
        let acknowledged = self.arrivals.on_outgoing(view, packet, virtio, now);
        let (Some(acknowledged), Some(retained)) = (acknowledged, &mut self.retained) else { return };
        match acknowledged {
            Acknowledged { slot, reset: true, .. } => retained.forget(slot),
            Acknowledged { slot, upto: Some(upto), is_open, .. } => retained.on_acknowledged(slot, upto, is_open, now),
            Acknowledged { upto: None, .. } => {}
        }
    }

    /// A packet was read that may go nowhere: a peer that is gone has no session. Its acknowledgement counts anyway.
    #[inline]
    pub fn on_read(&mut self, packet: &[u8], virtio: VirtioHeader, now: Instant) {
        if let Some(view) = self.is_resend_due(now).then(|| PacketView::parse(packet).ok()).flatten() {
            self.on_outgoing(&view, packet, virtio, now);
        }
    }

    /// Hands on again what was lost between us and the mirror, if its peer is silent. `is_dry`: nothing lies unread in
    /// the socket, so that no peer only seems silent.
    #[inline]
    pub fn resend(&mut self, peers: &[Peer], tun_writer: &mut TunWriter, is_dry: bool, now: Instant) {
        if self.retained.is_none() {
            return;
        }
        self.sources.resize(peers.len(), Source::default());
        for (source, peer) in self.sources.iter_mut().zip(peers) {
            let silence = peer.reporting().peer_interval() * INTERVALS;
            let silent_at = peer.last_heard().map(|at| at + silence);
            *source = Source { claims: peer.reporting().peer_claims(), silent_at };
        }
        if !is_dry || !self.is_resend_due(now) {
            return;
        }
        let (sources, Some(retained)) = (&self.sources, &mut self.retained) else { return };
        let is_silent = |peer: u16| silent_at(sources, peer).is_some_and(|at| at <= now);
        while let Some((header, packet)) = retained.poll(is_silent, now) {
            // A packet that the TUN refuses is tried again later.
            tun_writer.write(header, packet);
        }
    }

    /// A peer is silent, and packets of it are kept.
    fn is_resend_due(&self, now: Instant) -> bool {
        let Some(retained) = self.retained.as_ref().filter(|retained| !retained.is_empty()) else { return false };
        let mut peers = (0..).zip(&self.sources);
        peers.any(|(peer, source)| source.silent_at.is_some_and(|at| at <= now) && retained.has_of(peer))
    }

    /// When to call [`resend`](Self::resend) if nothing comes.
    pub fn deadline(&self) -> Option<Instant> {
        self.retained.as_ref()?.deadline(|peer| silent_at(&self.sources, peer))
    }

    /// The flows that were handed on, each with how many of its bytes are kept.
    pub fn arrivals(&mut self) -> &Arrivals {
        if let Some(retained) = &self.retained {
            for (slot, flow) in self.arrivals.numbered_mut() {
                flow.kept = retained.kept(slot);
            }
        }
        &self.arrivals
    }

    /// What is kept; `None` where that is switched off.
    pub fn status(&self) -> Option<LastHopStatus> {
        let tally = self.retained.as_ref()?.tally();
        Some(LastHopStatus {
            packets: tally.packets,
            flows: tally.flows,
            memory: tally.memory,
            dropped: tally.dropped,
            repeated: tally.repeated,
        })
    }
}

fn silent_at(sources: &[Source], peer: u16) -> Option<Instant> {
    sources.get(usize::from(peer))?.silent_at
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tunnel::PeerId;
    use crate::wire::packet::{TCP, TcpHeader};
    use crate::wire::samples;
    use crate::wire::virtio::VirtioHeader;

    /// A packet of the peer, or one of the mirror that acknowledges this many bytes to it.
    fn packet(acknowledged: Option<u32>) -> Vec<u8> {
        let mut segment = samples::tcp(TcpHeader::ACK, &[], if acknowledged.is_some() { 0 } else { 100 });
        segment[4..8].fill(0);
        if let Some(bytes) = acknowledged {
            segment[8..12].copy_from_slice(&bytes.to_be_bytes());
            let (source, destination) = segment[..4].split_at_mut(2);
            source.swap_with_slice(destination);
        }
        let mut packet = samples::ipv4(TCP, &[], &segment);
        if acknowledged.is_some() {
            let (source, destination) = packet[12..20].split_at_mut(4);
            source.swap_with_slice(destination);
        }
        packet
    }

    fn deliver(last_hop: &mut LastHop, is_written: bool, now: Instant) {
        let packet = packet(None);
        let (header, view) = (VirtioHeader::default(), PacketView::parse(&packet).unwrap());
        last_hop.on_incoming(&Deliverable { peer: PeerId(0), header, packet: &packet, view }, is_written, now);
    }

    fn kept(last_hop: &LastHop) -> Option<u64> {
        last_hop.status().map(|status| status.packets)
    }

    #[test]
    fn only_what_was_handed_on_from_a_peer_that_calls_bytes_protected_is_kept() {
        let now = Instant::now();
        let claims = |claims| vec![Source { claims, silent_at: None }];
        let mut last_hop = LastHop::new(7, true);
        deliver(&mut last_hop, true, now);
        last_hop.sources = claims(false);
        deliver(&mut last_hop, true, now);
        assert_eq!(kept(&last_hop), Some(0));
        last_hop.sources = claims(true);
        deliver(&mut last_hop, false, now);
        assert_eq!(kept(&last_hop), Some(0));
        deliver(&mut last_hop, true, now);
        assert_eq!(kept(&last_hop), Some(1));
        assert_eq!(last_hop.arrivals().flows().map(|flow| flow.kept).sum::<u64>(), 100);
        let mut off = LastHop::new(7, false);
        off.sources = claims(true);
        deliver(&mut off, true, now);
        assert_eq!(kept(&off), None);
        assert_eq!(off.arrivals().flows().count(), 1, "it is counted anyway");
    }

    #[test]
    fn an_acknowledgement_counts_without_a_session_to_carry_it() {
        let start = Instant::now();
        let mut last_hop = LastHop::new(7, true);
        last_hop.sources = vec![Source { claims: true, silent_at: Some(start + Duration::from_secs(1)) }];
        deliver(&mut last_hop, true, start);
        last_hop.on_read(&packet(Some(60)), VirtioHeader::default(), start + Duration::from_secs(2));
        assert_eq!(last_hop.arrivals().flows().map(|flow| (flow.acked, flow.kept)).next(), Some((Some(60), 40)));
        last_hop.on_read(&packet(Some(100)), VirtioHeader::default(), start + Duration::from_secs(2));
        assert_eq!((kept(&last_hop), last_hop.deadline()), (Some(0), None));
        deliver(&mut last_hop, true, start);
        last_hop.on_read(&[1, 2, 3], VirtioHeader::default(), start + Duration::from_secs(2));
    }
}
