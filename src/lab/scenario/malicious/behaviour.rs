//! What the malicious peer seals: each behaviour writes one datagram after the other.
//!
//! Each has profiles of its own, so that none depends on what another has done to the numbers of blocks.

use std::net::IpAddr;

use rand::{Rng, RngCore, rngs::SmallRng};

use super::peer::{SYMBOL_MAX, Seen};
use crate::{
    fec::{code::Code, layout::SymbolLayout},
    wire::{
        adu::AduHeader,
        datagram::DatagramType,
        payload_id::{NO_ADU, PAYLOAD_ID_LEN, RepairId, SBN_MAX, SourceId},
        report::{ENTRIES_MAX, Extension, LossRun, LostRun, Progress, Reception, Report, SentBelow},
        virtio::VirtioHeader,
    },
};

/// The symbols of an ordinary path.
pub const SYMBOL: usize = 1408;
/// Blocks of the honest behaviour.
const HONEST: (u16, u16) = (32, 4);
/// Lengths of blocks, source and repair, of which as many symbols are lost as repair symbols can replace. Few symbols make
/// each datagram a decoding; many make a decoding long.
pub const ERASURES: [(u16, u16); 12] = [
    (1, 1),
    (1, 8192),
    (2, 2),
    (8, 8),
    (16, 8192),
    (64, 64),
    (64, 8192),
    (255, 255),
    (1024, 1024),
    (4096, 4096),
    (8192, 1),
    (8192, 8192),
];
const HONEST_PROFILE: u8 = 0;
const LONE_PROFILE: u8 = 1;
const ERASURE_PROFILES: u8 = 16;
const EXTREME_PROFILE: u8 = 40;
const NUMBER_PROFILES: u8 = 48;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Whole blocks with packets in them.
    Honest,
    /// One symbol of each block.
    LoneSymbols,
    /// Blocks that must be decoded, as this entry of [`ERASURES`] says.
    Erasures(usize),
    /// The least and the greatest of each number, different in each symbol of a block.
    Extremes,
    /// Blocks far ahead and far behind.
    FarNumbers,
    /// A symbol with the highest number in each of 256 profiles.
    ManyProfiles,
    /// Everything has arrived, and more.
    AllArrives,
    /// Nothing has arrived.
    NothingArrives,
    /// Reports of every kind, old and repeated ones too.
    AnyReport,
}

/// Writes its datagrams.
pub struct Writer {
    packet: Vec<u8>,
    repair: Vec<u8>,
    rng: SmallRng,
    clock: u64,
}

impl Writer {
    /// Packets of the honest behaviour go from an address of the peer's site to one of the victim's.
    pub fn new([from, to]: [IpAddr; 2], rng: SmallRng) -> Self {
        let packet = symbol_with_packet(from, to);
        let source = packet.repeat(usize::from(HONEST.0));
        let layout = SymbolLayout { symbols: HONEST.0.into(), stride: SYMBOL, size: SYMBOL };
        let mut repair = Vec::new();
        Code::new().encode(layout, &source, HONEST.1.into(), &mut repair);
        Self { packet, repair, rng, clock: 1 }
    }

    /// The clock of its reports begins anew: the victim forgets the earlier one.
    pub fn restart(&mut self) {
        self.clock = 1;
    }

    /// Writes datagram `number` of a behaviour into `out`.
    pub fn write(&mut self, behaviour: Behaviour, number: u64, seen: &Seen, out: &mut Vec<u8>) -> DatagramType {
        out.clear();
        match behaviour {
            Behaviour::Honest => self.honest(number, out),
            Behaviour::LoneSymbols => {
                let k = HONEST.0;
                if number.is_multiple_of(2) {
                    let esi = self.rng.random_range(0..k);
                    self.source(source(LONE_PROFILE, esi, number), SYMBOL, out)
                } else {
                    self.repair(repair(LONE_PROFILE, k + 1, number, (k, HONEST.1)), SYMBOL, out)
                }
            }
            Behaviour::Erasures(entry) => self.erasures(entry, number, out),
            Behaviour::Extremes => self.extremes(number, out),
            Behaviour::FarNumbers => self.far_numbers(number, out),
            Behaviour::ManyProfiles => {
                let profile = number as u8;
                self.source(source(profile, 8191, SBN_MAX / 2 + number / 256), SYMBOL, out)
            }
            Behaviour::AllArrives => self.report(Lie::All, seen, out),
            Behaviour::NothingArrives => self.report(Lie::Nothing, seen, out),
            Behaviour::AnyReport => {
                let lie = LIES[self.rng.random_range(0..LIES.len())];
                self.report(lie, seen, out)
            }
        }
    }

    fn honest(&mut self, number: u64, out: &mut Vec<u8>) -> DatagramType {
        let (k, m) = HONEST;
        let (sbn, at) = (number / u64::from(k + m), (number % u64::from(k + m)) as u16);
        let previous_symbols = if sbn == 0 { 0 } else { k };
        if at < k {
            out.extend(SourceId { first_adu: 0, previous_symbols, ..source(HONEST_PROFILE, at, sbn) }.emit());
            out.extend(&self.packet);
            return DatagramType::Source;
        }
        out.extend(repair(HONEST_PROFILE, at, sbn, HONEST).emit());
        out.extend(&self.repair[usize::from(at - k) * SYMBOL..][..SYMBOL]);
        DatagramType::Repair
    }

    fn erasures(&mut self, entry: usize, number: u64, out: &mut Vec<u8>) -> DatagramType {
        let (k, m) = ERASURES[entry];
        let profile = ERASURE_PROFILES + entry as u8;
        let (sbn, at) = (number / u64::from(k), (number % u64::from(k)) as u16);
        let lost = k.min(m);
        match at.checked_sub(k - lost) {
            None => self.source(source(profile, lost + at, sbn), SYMBOL, out),
            // Those with the highest numbers cost most.
            Some(at) => self.repair(repair(profile, k + m - lost + at, sbn, (k, m)), SYMBOL, out),
        }
    }

    fn extremes(&mut self, number: u64, out: &mut Vec<u8>) -> DatagramType {
        let sbn = number / 16;
        let numbers = [1, 2, 63, 4095, 4096, 8191, 8192];
        let [k, m] = [0; 2].map(|_: u16| numbers[self.rng.random_range(0..numbers.len())]);
        let length = match self.rng.random_range(0..32) {
            // It is cut into as many packets of IP as the path wants.
            0 => usize::from(SYMBOL_MAX),
            1 => 8896,
            2..8 => 64,
            _ => SYMBOL,
        };
        if self.rng.random() {
            let esi = [0, 1, k - 1, 8191][self.rng.random_range(0..4)];
            let previous_symbols = [0, k, 8192][self.rng.random_range(0..3)];
            let first_adu = [0, NO_ADU, 63][self.rng.random_range(0..3)];
            let id = SourceId { previous_symbols, first_adu, ..source(EXTREME_PROFILE, esi, sbn) };
            return self.source(id, length, out);
        }
        let esi = [k, k + m - 1][self.rng.random_range(0..2)];
        let id = RepairId { previous_symbols: self.rng.random(), ..repair(EXTREME_PROFILE, esi, sbn, (k, m)) };
        self.repair(id, length, out)
    }

    fn far_numbers(&mut self, number: u64, out: &mut Vec<u8>) -> DatagramType {
        let step = number / 8;
        let which = (number % 8) as u8;
        let sbn = match which {
            // As far ahead as blocks are kept, a little less and more, and as far as an outage.
            0 => step * 4095,
            1 => step * 4096,
            2 => step * 8191,
            3 => step * 8192,
            // To and fro.
            4 => 1_000_000 + step - step % 2 * 4095,
            5 => [SBN_MAX, 0, SBN_MAX / 2, 1][(step % 4) as usize],
            6 => self.rng.random_range(0..=SBN_MAX),
            _ => SBN_MAX - 1_000_000 + step % 1_000_000,
        };
        let id = SourceId { previous_symbols: 8192, ..source(NUMBER_PROFILES + which, 0, sbn.min(SBN_MAX)) };
        self.source(id, 64, out)
    }

    fn source(&mut self, id: SourceId, length: usize, out: &mut Vec<u8>) -> DatagramType {
        out.extend(id.emit());
        out.resize(PAYLOAD_ID_LEN + length, 0x81);
        DatagramType::Source
    }

    fn repair(&mut self, id: RepairId, length: usize, out: &mut Vec<u8>) -> DatagramType {
        out.extend(id.emit());
        out.resize(PAYLOAD_ID_LEN + length, 0x81);
        DatagramType::Repair
    }

    fn report(&mut self, lie: Lie, seen: &Seen, out: &mut Vec<u8>) -> DatagramType {
        self.clock += 1;
        let clock = self.clock;
        let mut report = Report { sent_at: clock, echo: seen.newest_report, wants_reports: true, ..Report::default() };
        let run = |count| LostRun { profile: 0, first: 0, count, symbols: 0 };
        match lie {
            Lie::All => {
                // No more than was sent, so that it can be believed.
                report.reception = Reception { received: seen.datagrams, ..Reception::default() };
                let (highest, decoded_below) = (seen.highest, seen.highest);
                report.progress.push(Progress { profile: 0, highest, decoded_from: 0, decoded_below });
                report.extension = Some(Extension::default());
            }
            Lie::Nothing => {
                // Every second one, so that there are many runs.
                let half = seen.datagrams / 2;
                let burst_lengths = [half, 0, 0, 0, 0, 0, 0, 0];
                report.reception = Reception { received: half, lost: half, burst_lengths, ..Reception::default() };
                report.lost.push(LostRun { first: seen.highest.saturating_sub(10), ..run(10) });
                let first = |at: u64| seen.newest_count.saturating_sub(2 * (ENTRIES_MAX as u64 - at));
                let runs = (0..ENTRIES_MAX as u64).map(|at| LossRun { first: first(at), length: 1 });
                report.extension = Some(Extension { runs: runs.collect(), ..Extension::default() });
            }
            Lie::AbsurdCounts => {
                let most = u64::MAX / 2;
                report.reception =
                    Reception { received: most, lost: most, burst_lengths: [most; 8], ..Reception::default() };
                let (highest, decoded_below) = (SBN_MAX, SBN_MAX);
                report.progress.push(Progress { profile: 0, highest, decoded_from: 0, decoded_below });
                let runs = vec![LossRun { first: 0, length: u32::MAX }; ENTRIES_MAX];
                report.extension = Some(Extension { runs, ..Extension::default() });
            }
            Lie::AbsurdEcho => {
                report.echo = [0, 1, seen.newest_report + 1, u64::MAX][self.rng.random_range(0..4)];
                report.echo_delay = [0, u32::MAX][self.rng.random_range(0..2)];
            }
            Lie::OldOrRepeated => report.sent_at = [0, 1, clock - 1][self.rng.random_range(0..3)],
            Lie::Lost => {
                let counts = [1, 1000, u32::MAX];
                report.lost = (0..ENTRIES_MAX as u64)
                    .map(|at| LostRun {
                        first: self.rng.random_range(0..SBN_MAX - 1),
                        symbols: self.rng.random_range(0..=8192),
                        profile: at as u8,
                        ..run(counts[self.rng.random_range(0..3)])
                    })
                    .collect();
            }
            Lie::Sent => {
                report.sent = (0..ENTRIES_MAX)
                    .map(|_| SentBelow {
                        profile: self.rng.random(),
                        from: 0,
                        below: self.rng.random_range(0..=SBN_MAX),
                        symbols: 8192,
                    })
                    .collect();
            }
            Lie::LateForEver => {
                let late_spread = std::time::Duration::from_micros(u32::MAX.into());
                report.extension = Some(Extension { late_spread, congested: true, ..Extension::default() });
            }
            Lie::Nonsense => {
                out.resize(self.rng.random_range(0..SYMBOL), 0);
                self.rng.fill_bytes(out);
                return DatagramType::Report;
            }
        }
        report.emit(out);
        DatagramType::Report
    }
}

/// Kinds of reports.
#[derive(Clone, Copy, Debug)]
enum Lie {
    All,
    Nothing,
    AbsurdCounts,
    AbsurdEcho,
    OldOrRepeated,
    Lost,
    Sent,
    LateForEver,
    Nonsense,
}

const LIES: [Lie; 9] = [
    Lie::All,
    Lie::Nothing,
    Lie::AbsurdCounts,
    Lie::AbsurdEcho,
    Lie::OldOrRepeated,
    Lie::Lost,
    Lie::Sent,
    Lie::LateForEver,
    Lie::Nonsense,
];

fn source(profile: u8, esi: u16, sbn: u64) -> SourceId {
    SourceId { profile, unprotected: false, esi, sbn, previous_symbols: 0, first_adu: NO_ADU }
}

fn repair(profile: u8, esi: u16, sbn: u64, (k, m): (u16, u16)) -> RepairId {
    RepairId { profile, esi, sbn, source_symbols: k, repair_symbols: m, previous_symbols: 0 }
}

/// A symbol with one packet in it, to a port where nobody listens for long.
fn symbol_with_packet(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut packet = Vec::new();
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) {
        let header = AduHeader { packet_len: 0, virtio: VirtioHeader::default() };
        let body = vec![7; SYMBOL - header.header_len() - 28];
        let builder = etherparse::PacketBuilder::ipv4(from.octets(), to.octets(), 64).udp(super::PORT, super::PORT);
        // Writing into memory cannot fail.
        let _ = builder.write(&mut packet, &body);
    }
    let header = AduHeader { packet_len: packet.len(), virtio: VirtioHeader::default() };
    let mut symbol = vec![0; header.header_len()];
    header.emit(&mut symbol);
    symbol.extend(packet);
    symbol
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn writer() -> Writer {
        Writer::new([[10, 2, 0, 1].into(), [10, 1, 0, 1].into()], SmallRng::seed_from_u64(1))
    }

    /// What a receiver refuses for its form alone would test nothing behind that check.
    #[test]
    fn every_symbol_passes_the_bounds_of_the_wire() {
        let (mut writer, mut out, seen) = (writer(), Vec::new(), Seen::default());
        let erasures = (0..ERASURES.len()).map(Behaviour::Erasures);
        let others = [
            Behaviour::Honest,
            Behaviour::LoneSymbols,
            Behaviour::Extremes,
            Behaviour::FarNumbers,
            Behaviour::ManyProfiles,
        ];
        for behaviour in erasures.chain(others) {
            for number in 0..20_000 {
                let parsed = match writer.write(behaviour, number, &seen, &mut out) {
                    DatagramType::Source => SourceId::parse(&out).map(drop),
                    DatagramType::Repair => RepairId::parse(&out).map(drop),
                    _ => None,
                };
                // A block of one symbol has no second one.
                assert!(parsed.is_some(), "{behaviour:?} {number}: {:?}", &out[..PAYLOAD_ID_LEN]);
            }
        }
    }

    #[test]
    fn reports_are_reports_except_for_nonsense() {
        let (mut writer, mut out, seen) = (writer(), Vec::new(), Seen::default());
        let mut count = |behaviour| {
            (0..4000)
                .filter(|number| {
                    writer.write(behaviour, *number, &seen, &mut out);
                    Report::parse(&out).is_some()
                })
                .count()
        };
        assert_eq!([Behaviour::AllArrives, Behaviour::NothingArrives].map(&mut count), [4000; 2]);
        assert!((3300..3800).contains(&count(Behaviour::AnyReport)));
    }

    #[test]
    fn an_honest_symbol_is_full_and_each_block_has_its_repair() {
        let (mut writer, mut out, seen) = (writer(), Vec::new(), Seen::default());
        let types: Vec<_> = (0..72)
            .map(|number| {
                let of = writer.write(Behaviour::Honest, number, &seen, &mut out);
                assert_eq!(out.len(), PAYLOAD_ID_LEN + SYMBOL);
                of
            })
            .collect();
        assert_eq!(types.iter().filter(|of| **of == DatagramType::Repair).count(), 8);
        assert!(RepairId::parse(&out).is_some(), "the last is a repair symbol");
    }
}
