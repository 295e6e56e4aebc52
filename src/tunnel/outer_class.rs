//! The DSCP and ECN field of our own datagrams, from those of the packets in them (RFC 6040, RFC 2983).
//!
//! A datagram holds parts of packets, whole ones, or several. It says that its congestion may be marked only if that is
//! true of every packet with bytes in it: a mark on a packet whose sender understands none could only be told by
//! dropping the packet, and it may have been called protected. A repair symbol stands for all packets of its block.
//!
//! A datagram is ECT(0) at most, whatever the packets are: a router would treat ECT(1) as one flow that keeps short
//! queues. A packet that is marked already keeps its mark inside and needs no second one outside (the full functionality
//! of RFC 3168, section 9.1.1).

use std::ops::Range;

use crate::wire::traffic_class::TrafficClass;

/// What the datagrams to one peer take over from packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OuterRule {
    /// That congestion may be marked.
    pub copies_ecn: bool,
    /// The DSCP of all datagrams; `None`: that of the first packet in each.
    pub dscp: Option<u8>,
}

impl OuterRule {
    /// For datagrams without packets: reports.
    pub fn plain(self) -> TrafficClass {
        TrafficClass::new(self.dscp.unwrap_or(0), false)
    }

    fn of(self, packet: TrafficClass) -> TrafficClass {
        TrafficClass::new(self.dscp.unwrap_or(packet.dscp()), self.copies_ecn && packet.is_ect())
    }
}

/// The first packet's DSCP; ECT only if both are.
fn join(first: TrafficClass, second: TrafficClass) -> TrafficClass {
    TrafficClass::new(first.dscp(), first.is_ect() && second.is_ect())
}

/// The classes of the symbols of the block that is being built.
#[derive(Debug, Default)]
pub struct SymbolClasses {
    rule: OuterRule,
    source: Vec<TrafficClass>,
    repair: Option<TrafficClass>,
}

impl SymbolClasses {
    /// For a block of up to `symbols` source symbols.
    pub fn new(rule: OuterRule, symbols: usize) -> Self {
        Self { rule, source: Vec::with_capacity(symbols), repair: None }
    }

    /// Blocks may have up to `symbols` source symbols from now on.
    pub fn make_room(&mut self, symbols: usize) {
        self.source.reserve(symbols.saturating_sub(self.source.len()));
    }

    /// A packet of class `packet` has bytes in these source symbols. Symbols come in order.
    pub fn add(&mut self, symbols: Range<usize>, packet: TrafficClass) {
        let class = self.rule.of(packet);
        self.repair = Some(self.repair.map_or(class, |repair| join(repair, class)));
        if let Some(shared) = self.source.get_mut(symbols.start) {
            *shared = join(*shared, class);
        }
        self.source.resize(self.source.len().max(symbols.end), class);
    }

    /// That of a source symbol.
    pub fn source(&self, esi: usize) -> TrafficClass {
        self.source.get(esi).copied().unwrap_or(self.rule.plain())
    }

    /// That of every repair symbol.
    pub fn repair(&self) -> TrafficClass {
        self.repair.unwrap_or(self.rule.plain())
    }

    /// The block is empty again.
    pub fn clear(&mut self) {
        self.source.clear();
        self.repair = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fec::source_block::SourceBlock;
    use crate::wire::virtio::VirtioHeader;

    const E: usize = 128;

    proptest! {
        #[test]
        fn a_symbol_may_be_marked_only_if_all_packets_in_it_may(
            packets in prop::collection::vec((1usize..700, any::<u8>(), any::<bool>()), 1..40),
            copies_ecn: bool,
            dscp in prop::option::of(0u8..64),
        ) {
            let rule = OuterRule { copies_ecn, dscp };
            let mut block = SourceBlock::new(E, 1000);
            let mut classes = SymbolClasses::new(rule, 1000);
            for &(len, class, ends) in &packets {
                block.room()[..len].fill(0);
                let symbols = block.commit(VirtioHeader::default(), len);
                classes.add(symbols, TrafficClass(class));
                if ends {
                    block.finish_symbol();
                }
            }
            block.finish_symbol();
            // The model lays the ADUs out anew: a header of four bytes that does not cross the end of a symbol.
            let (mut fill, mut model) = (0usize, Vec::<Vec<u8>>::new());
            for &(len, class, ends) in &packets {
                if !fill.is_multiple_of(E) && E - fill % E < 12 {
                    fill = fill.next_multiple_of(E);
                }
                let last = (fill + 4 + len - 1) / E;
                model.resize(model.len().max(last + 1), vec![]);
                model[fill / E..=last].iter_mut().for_each(|symbol| symbol.push(class));
                fill += 4 + len;
                if ends {
                    fill = fill.next_multiple_of(E);
                }
            }
            prop_assert_eq!(block.finished(), model.len());
            let expected = |inner: &[u8]| {
                let ect = copies_ecn && inner.iter().all(|class| class & 3 != 0);
                TrafficClass(dscp.unwrap_or(inner[0] >> 2) << 2 | if ect { 2 } else { 0 })
            };
            for (esi, inner) in model.iter().enumerate() {
                prop_assert_eq!(classes.source(esi), expected(inner), "symbol {}", esi);
            }
            let all: Vec<u8> = packets.iter().map(|&(_, class, _)| class).collect();
            prop_assert_eq!(classes.repair(), expected(&all));
            classes.clear();
            prop_assert_eq!((classes.source(0), classes.repair()), (rule.plain(), rule.plain()));
        }
    }
}
