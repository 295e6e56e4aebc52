//! The few counts of a peer that the control thread asks for each second. Nothing of its flows and blocks is copied:
//! this costs the lane as little with many flows as with one.

use std::time::Instant;

use crate::appliance::lane::snapshot::PeerSnapshot;
use crate::tunnel::peer::Peer;
use crate::tunnel::sent::Sent;
use crate::wire::report::Reception;

/// How a peer is reached, over all lanes; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// It answers.
    Up,
    /// It has a session, and nothing comes from it.
    Silent,
    /// It has no session.
    Connecting,
}

impl Contact {
    /// Of a peer that is up, and silent, on these lanes.
    pub fn of(lanes: impl Iterator<Item = (bool, bool)>) -> Self {
        let (mut contact, mut lanes) = (Self::Up, lanes.peekable());
        if lanes.peek().is_none() {
            return Self::Connecting;
        }
        for lane in lanes {
            match lane {
                (false, _) => return Self::Connecting,
                (true, true) => contact = Self::Silent,
                (true, false) => {}
            }
        }
        contact
    }

    /// As status shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Silent => "silent",
            Self::Connecting => "connecting",
        }
    }
}

/// Counts of one peer on one lane, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerCounts {
    /// It has a session that may seal.
    pub up: bool,
    /// Nothing authentic has come for longer than a live peer is silent.
    pub silent: bool,
    /// Packets and super-packets sent.
    pub adus: u64,
    /// Bytes of them.
    pub adu_bytes: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// UDP payload bytes sent.
    pub bytes: u64,
    /// Repair symbols sent.
    pub repair_symbols: u64,
    /// What was received.
    pub received: Received,
    /// What the peer has reported as received.
    pub reported: Option<Received>,
}

/// Counts of what was received on one lane, by us or by the peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// Packets and super-packets handed on.
    pub adus: u64,
    /// Bytes of them.
    pub adu_bytes: u64,
    /// Datagrams that arrived.
    pub datagrams: u64,
    /// Datagrams that did not.
    pub lost: u64,
    /// Symbols rebuilt.
    pub recovered_symbols: u64,
    /// Blocks that ended.
    pub blocks: u64,
    /// Those of them that were given up.
    pub unrecoverable_blocks: u64,
}

impl PeerCounts {
    fn new((up, silent): (bool, bool), sent: Sent, received: &Reception, reported: Option<&Reception>) -> Self {
        Self {
            up,
            silent,
            adus: sent.adus,
            adu_bytes: sent.adu_bytes,
            datagrams: sent.datagrams,
            bytes: sent.bytes,
            repair_symbols: sent.repair_symbols,
            received: received.into(),
            reported: reported.map(Into::into),
        }
    }

    /// Whether these can be earlier counts of the same peer as `later`.
    pub fn may_precede(&self, later: &Self) -> bool {
        self.bytes <= later.bytes && self.received.datagrams <= later.received.datagrams
    }

    /// Copies those of `peer` at `now`.
    pub fn of_peer(peer: &Peer, now: Instant) -> Self {
        let up = peer.sessions().current().is_some_and(|session| session.can_seal(now));
        let reported = peer.reporting().peer_reception().map(|(reception, _)| reception);
        Self::new((up, peer.reporting().is_silent(now)), peer.sent(), &peer.reception(), reported.as_ref())
    }
}

impl From<&PeerSnapshot> for PeerCounts {
    fn from(peer: &PeerSnapshot) -> Self {
        let reported = peer.peer_reception.as_ref().map(|(reception, _)| reception);
        Self::new((peer.up, peer.silent), peer.sent, &peer.reception, reported)
    }
}

impl From<&Reception> for Received {
    fn from(reception: &Reception) -> Self {
        Self {
            adus: reception.adus,
            adu_bytes: reception.adu_bytes,
            datagrams: reception.received,
            lost: reception.lost,
            recovered_symbols: reception.recovered_symbols,
            blocks: reception.blocks,
            unrecoverable_blocks: reception.unrecoverable_blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_reached_as_on_its_worst_lane() {
        let (up, silent, none) = ((true, false), (true, true), (false, false));
        let rows: [(&[_], _); 6] = [
            (&[], Contact::Connecting),
            (&[up], Contact::Up),
            (&[up, up], Contact::Up),
            (&[up, silent], Contact::Silent),
            (&[silent, none, up], Contact::Connecting),
            (&[(false, true)], Contact::Connecting),
        ];
        for (lanes, contact) in rows {
            assert_eq!(Contact::of(lanes.iter().copied()), contact, "{lanes:?}");
        }
    }
}
