//! The counters of one direction of the emulator: the ground truth of every experiment.
//!
//! Everything is counted per datagram as on a real wire: a super-packet of 44 segments is 44 datagrams, each with its
//! own headers. The counters do not explain why an appliance lost something else.

use serde::{Deserialize, Serialize};

/// Datagrams that did not arrive, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Lost by the loss model.
    pub chance: u64,
    /// The queue in front of the limited rate was full.
    pub queue: u64,
    /// Longer than the MTU.
    pub mtu: u64,
    /// The link was cut when it entered.
    pub cut: u64,
    /// Lost in a blackhole, at the entrance or in flight.
    pub blackhole: u64,
    /// Entered during an interruption.
    pub interrupted: u64,
    /// The emulator's own memory bound was reached; zero in any valid experiment.
    pub overflow: u64,
    /// The receiving kernel refused it.
    pub refused: u64,
}

impl Lost {
    /// All causes together.
    pub fn total(&self) -> u64 {
        self.chance
            + self.queue
            + self.mtu
            + self.cut
            + self.blackhole
            + self.interrupted
            + self.overflow
            + self.refused
    }
}

/// The counters of one direction, since the emulator's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Datagrams that entered.
    pub entered: u64,
    /// Their bytes, IP headers included.
    pub entered_bytes: u64,
    /// Datagrams that left, duplicates included.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Datagrams that did not leave.
    pub lost: Lost,
    /// Datagrams lost by the loss model or an interruption after the last one that passed: the receiver cannot notice them.
    pub lost_last: u64,
    /// Additional copies that left.
    pub duplicated: u64,
    /// Datagrams with flipped bits.
    pub corrupted: u64,
    /// Datagrams that were delayed so that others overtake them.
    pub reordered: u64,
    /// Datagrams in flight now.
    pub in_flight: u64,
    /// Reads from the device: packets and super-packets.
    pub trains: u64,
}

impl Counters {
    /// Whether every datagram is accounted for.
    pub fn balanced(&self) -> bool {
        self.entered + self.duplicated == self.delivered + self.lost.total() + self.in_flight
    }

    /// What was counted after `earlier` was taken.
    pub fn since(&self, earlier: &Counters) -> Counters {
        let lost = Lost {
            chance: self.lost.chance - earlier.lost.chance,
            queue: self.lost.queue - earlier.lost.queue,
            mtu: self.lost.mtu - earlier.lost.mtu,
            cut: self.lost.cut - earlier.lost.cut,
            blackhole: self.lost.blackhole - earlier.lost.blackhole,
            interrupted: self.lost.interrupted - earlier.lost.interrupted,
            overflow: self.lost.overflow - earlier.lost.overflow,
            refused: self.lost.refused - earlier.lost.refused,
        };
        Counters {
            entered: self.entered - earlier.entered,
            entered_bytes: self.entered_bytes - earlier.entered_bytes,
            delivered: self.delivered - earlier.delivered,
            delivered_bytes: self.delivered_bytes - earlier.delivered_bytes,
            lost,
            lost_last: self.lost_last,
            duplicated: self.duplicated - earlier.duplicated,
            corrupted: self.corrupted - earlier.corrupted,
            reordered: self.reordered - earlier.reordered,
            in_flight: self.in_flight,
            trains: self.trains - earlier.trains,
        }
    }

    /// The share of datagrams that the emulator lost, by any cause.
    pub fn loss(&self) -> f64 {
        if self.entered == 0 { 0.0 } else { self.lost.total() as f64 / self.entered as f64 }
    }
}
