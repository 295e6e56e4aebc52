//! The reception that a receiver must have counted, derived from the datagrams that reached it.

use std::collections::{BTreeMap, BTreeSet};

use onwire::wire::report::{BURST_CLASSES, Reception, burst_class};

/// The datagrams that reached one run of one side, by session.
#[derive(Debug, Default)]
pub struct ExpectedReception {
    sessions: BTreeMap<u32, BTreeSet<u64>>,
    /// Genuine datagrams that arrived again.
    pub duplicates: u64,
    /// Packets written to its TUN.
    pub adus: u64,
    /// Bytes of these packets.
    pub adu_bytes: u64,
}

impl ExpectedReception {
    /// Whether this datagram was accepted before.
    pub fn has(&self, receiver_index: u32, count: u64) -> bool {
        self.sessions.get(&receiver_index).is_some_and(|counts| counts.contains(&count))
    }

    /// This datagram was accepted.
    pub fn insert(&mut self, receiver_index: u32, count: u64) {
        self.sessions.entry(receiver_index).or_default().insert(count);
    }

    /// Compares with a receiver's counts; counts that only the receiver can know are ignored.
    pub fn check(&self, reception: &Reception) {
        let mut burst_lengths = [0; BURST_CLASSES];
        let (mut received, mut lost, mut settled) = (0, 0, false);
        for counts in self.sessions.values() {
            received += counts.len() as u64;
            let mut next = 0;
            for &count in counts {
                if count > next {
                    lost += count - next;
                    burst_lengths[burst_class(count - next)] += 1;
                }
                next = count + 1;
            }
            settled |= next > 500;
        }
        assert_eq!(reception.received, received, "datagrams received");
        assert_eq!(reception.lost, lost, "datagrams lost");
        assert_eq!(reception.duplicates, self.duplicates, "duplicates");
        // A receiver decides on a burst after some time; datagrams that come later count as received, but not here.
        assert!(settled || reception.burst_lengths == burst_lengths, "bursts {burst_lengths:?}, not {reception:?}");
        assert_eq!((reception.adus, reception.adu_bytes), (self.adus, self.adu_bytes), "ADUs delivered");
    }
}
