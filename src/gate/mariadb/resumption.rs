//! Detects what a mirror lacks when it reconnects. The primary starts a dump after what the mirror has. So if the
//! primary sends a transaction that was acknowledged early for the mirror on an earlier connection, the mirror has lost
//! that transaction.
//!
//! The start of the dump proves nothing: with GTIDs it is the head of a file, whose first events are no transactions.
//! After RESET MASTER the positions start again, and then transactions are newer than those acknowledged early. This
//! module reads headers, and acknowledges nothing.

use std::cmp::Ordering;
use std::sync::Arc;

use super::event;
use super::packet::Packet;
use crate::gate::returns::{EarlyPosition, Place};

/// `COM_BINLOG_DUMP_GTID`: the command byte and two bytes of flags come before the replica's number; in
/// `COM_BINLOG_DUMP` also a position of four bytes.
const DUMP_GTID: u8 = 0x1e;

/// The replica's number, from a command that asks for the binary log.
pub(super) fn server(command: &[u8]) -> u32 {
    let at = if command.first() == Some(&DUMP_GTID) { 3 } else { 7 };
    command.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Waits for the first transaction of a dump, if anything was acknowledged early for the mirror before.
#[derive(Debug, Default)]
pub(super) struct Resumption {
    recalled: Option<EarlyPosition>,
    latest: u64,
}

impl Resumption {
    /// `recalled` is what was acknowledged early for the mirror on earlier connections.
    pub(super) fn new(recalled: Option<EarlyPosition>) -> Self {
        let latest = recalled.as_ref().map_or(0, |early_position| early_position.stamp);
        Self { recalled, latest }
    }

    /// The newest time in the events sent so far, in seconds since 1970.
    pub(super) fn latest(&self) -> u64 {
        self.latest
    }

    /// An event of the present file was sent to the mirror, whose number is `mirror`. Returns the position up to which
    /// the mirror has everything, if it is proven that this is too little.
    pub(super) fn on_event(&mut self, packet: &Packet, file: Option<&Arc<[u8]>>, mirror: u32) -> Option<Place> {
        let (made, begins) = event::dated(packet)?;
        let is_older = self.recalled.as_ref().is_some_and(|early_position| u64::from(made) <= early_position.stamp);
        self.latest = self.latest.max(made.into());
        // The mirror discards its own transactions when it receives them again.
        let begin = begins.filter(|begin| begin.server != mirror)?;
        let (early_position, file) = (self.recalled.take()?, file?);
        let place = |position: u32| Place::Binlog { file: Arc::clone(file), position: position.into() };
        let is_within = place(begin.end).partial_cmp(&early_position.place) == Some(Ordering::Less);
        (is_older && is_within).then(|| place(begin.start))
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{SEMI_SYNC, tests::event};
    use super::*;

    const MADE: u64 = 1_700_000_000;

    fn packet(kind: u8, end: u32) -> Packet {
        let content = [&[0, SEMI_SYNC, 0][..], &event(kind, end, 0, b"12345678")].concat();
        Packet { number: 1, len: content.len() as u64, head: content }
    }

    fn file(number: u32) -> Arc<[u8]> {
        format!("bin.{number:06}").into_bytes().into()
    }

    fn early_position(number: u32, position: u64, stamp: u64) -> Option<EarlyPosition> {
        Some(EarlyPosition { place: Place::Binlog { file: file(number), position }, stamp })
    }

    #[test]
    fn a_transaction_that_is_sent_again_is_reported_as_lost() {
        let lost = Some(Place::Binlog { file: file(2), position: 700 - 27 });
        for (recalled, wanted, why) in [
            (early_position(2, 900, MADE), lost.clone(), "within what was acknowledged early"),
            (early_position(3, 4, MADE + 5), lost, "in an earlier file"),
            (early_position(2, 673, MADE), None, "it begins behind that"),
            (early_position(1, 5000, MADE), None, "in a later file"),
            (early_position(2, 900, MADE - 1), None, "the positions have begun anew"),
            (None, None, "nothing was acknowledged early for it"),
        ] {
            let mut resumption = Resumption::new(recalled);
            // The head of a file, before any transaction.
            assert_eq!(resumption.on_event(&packet(163, 350), Some(&file(2)), 7), None);
            assert_eq!(resumption.on_event(&packet(162, 700), Some(&file(2)), 7), wanted, "{why}");
            assert_eq!(resumption.on_event(&packet(162, 750), Some(&file(2)), 7), None, "{why}: reported once");
            assert!(resumption.latest() >= MADE);
        }
    }

    #[test]
    fn a_transaction_made_by_the_mirror_itself_proves_nothing() {
        let mut resumption = Resumption::new(early_position(2, 900, MADE));
        assert_eq!(resumption.on_event(&packet(162, 700), Some(&file(2)), 1), None);
        assert_eq!(resumption.on_event(&packet(162, 950), Some(&file(2)), 7), None, "the next lies behind");
        assert_eq!(Resumption::default().on_event(&packet(162, 700), None, 7), None);
    }

    #[test]
    fn the_number_of_a_replica_is_in_its_command() {
        assert_eq!(server(b"\x12\x04\0\0\0\x02\0\x07\x01\0\0bin.000001"), 0x107);
        assert_eq!(server(b"\x1e\x04\0\x07\x01\0\0\x0a\0\0\0bin.000001"), 0x107);
        assert_eq!(server(b"\x12\x04"), 0);
    }
}
