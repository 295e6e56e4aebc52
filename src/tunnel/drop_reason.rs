//! Why input was dropped. Bad input is counted here and goes no further; it is never an error for the caller.

/// Declares the reasons, their names in status output, and their number in one place.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// Why a datagram, a packet or an ADU was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[doc = $doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of its counter.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name used in status output.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

drop_reasons! {
    /// Datagram: shorter than its headers, or of an unknown type.
    NotOurs = "not_ours",
    /// Datagram: no session has this receiver index.
    UnknownSession = "unknown_session",
    /// Datagram: the session is too old to be used.
    ExpiredSession = "expired_session",
    /// Datagram: its counter belongs to another lane.
    WrongLane = "wrong_lane",
    /// Datagram: the tag is wrong: corrupt or forged.
    BadTag = "bad_tag",
    /// Datagram: its counter was seen before.
    Replayed = "replayed",
    /// Datagram: its counter is older than the replay window.
    TooOld = "too_old",
    /// Datagram: authentic, but its payload id or report breaks a bound.
    BadPayload = "bad_payload",
    /// Symbol: contradicts what is known of its block.
    Contradictory = "contradictory_symbol",
    /// Symbol: its block was already given up or delivered.
    LateSymbol = "late_symbol",
    /// Symbol or report: it needs more memory than its sender may use here.
    NoRoom = "no_room",
    /// ADU from the peer: does not parse, or its offload header does not fit.
    MalformedAdu = "malformed_adu",
    /// ADU from the peer: its source is not in the peer's prefixes, or its destination not in ours.
    ForeignAddress = "foreign_address",
    /// Packet from the TUN: not IP, truncated, or an offload header that does not fit.
    MalformedPacket = "malformed_packet",
    /// Packet from the TUN: no peer has its destination.
    NoPeer = "no_peer",
    /// Packet from the TUN: its source is not in our prefixes.
    ForeignSource = "foreign_source",
    /// Packet from the TUN: there is no session with its peer yet.
    NoSession = "no_session",
    /// Packet from the TUN: the queue for the rate of the path to its peer is full.
    PathQueueFull = "path_queue_full",
    /// Packet from the TUN, or the first segment of a super-packet: the queue for the rate of the path stands, and the
    /// sender of this one understands no marks.
    PathQueueStands = "path_queue_stands",
    /// Packet from the TUN, or the first segment of a super-packet: what we send waits at the peer until it is read, the
    /// queue there stands, and the sender of this one understands no marks.
    PeerQueueStands = "peer_queue_stands",
    /// TCP from the TUN, or the first segment of a super-packet: a full queue on the path has dropped as much, and the code has
    /// repaired it.
    RepairedLoss = "repaired_loss",
    /// Packet for the TUN: the kernel refused it.
    TunRefused = "tun_refused",
    /// Datagram: the kernel refused to send it.
    SendFailed = "send_failed",
    /// Handshake: damaged, forged, replayed, from an unauthenticated sender, or too many.
    Handshake = "handshake",
}

/// A counter for each reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts several.
    pub fn add(&mut self, reason: DropReason, number: u64) {
        self.0[reason as usize] += number;
    }

    /// The number of drops for this reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds the counts of another lane.
    pub fn merge(&mut self, other: &Self) {
        for &reason in DropReason::ALL {
            self.add(reason, other.of(reason));
        }
    }

    /// Reasons with their counts, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.of(reason)))
    }
}

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}
