//! Writes datagrams of the protocol as a capture file, which Wireshark reads with `docs/protocol/onwire.lua`.
//!
//! The IP and UDP headers are made from the addresses alone: the real headers are not known here. The caller opens the
//! file. The datagrams are not parsed.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// `LINKTYPE_RAW`: packets begin with their IP header.
const RAW: u32 = 101;
const UDP: u8 = 17;
/// The longest UDP payload that an IPv4 packet holds.
const MOST: usize = 65_507;

/// A capture file being written.
#[derive(Debug)]
pub struct Pcap<Out> {
    out: Out,
}

impl<Out: Write> Pcap<Out> {
    /// Writes the file's header.
    pub fn new(mut out: Out) -> io::Result<Self> {
        let mut head = Vec::with_capacity(24);
        // Microseconds, version 2.4, time in UTC, whole packets.
        for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, RAW] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        out.write_all(&head)?;
        Ok(Self { out })
    }

    /// Appends one datagram with the time `now`. Each datagram is written with one call, so that the file is whole
    /// whenever the program ends.
    ///
    /// Fails if the addresses have different IP versions, or if the datagram is longer than UDP allows.
    pub fn write(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8], now: SystemTime) -> io::Result<()> {
        if datagram.len() > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more bytes than a UDP datagram has"));
        }
        let mut udp = Vec::with_capacity(8 + datagram.len());
        for half in [from.port(), to.port(), 8 + datagram.len() as u16, 0] {
            udp.extend_from_slice(&half.to_be_bytes());
        }
        udp.extend_from_slice(datagram);
        let (head, pseudo) = headers(from.ip().to_canonical(), to.ip().to_canonical(), udp.len() as u16)?;
        let sum = match checksum(&[&pseudo, &udp]) {
            // Zero would mean "no checksum".
            0 => 0xffff,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let length = (head.len() + udp.len()) as u32;
        let mut record = Vec::with_capacity(16 + length as usize);
        for word in [since.as_secs() as u32, since.subsec_micros(), length, length] {
            record.extend_from_slice(&word.to_le_bytes());
        }
        record.extend_from_slice(&head);
        record.extend_from_slice(&udp);
        self.out.write_all(&record)
    }
}

/// The IP header in front of `length` bytes of UDP, and the pseudo-header that the UDP checksum covers.
fn headers(from: IpAddr, to: IpAddr, length: u16) -> io::Result<(Vec<u8>, Vec<u8>)> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let mut head = vec![0x45, 0];
            head.extend_from_slice(&(20 + length).to_be_bytes());
            head.extend_from_slice(&[0, 0, 0, 0, 64, UDP, 0, 0]);
            head.extend_from_slice(&addresses);
            let sum = checksum(&[&head]);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
            let pseudo = [&addresses[..], &[0, UDP], &length.to_be_bytes()].concat();
            Ok((head, pseudo))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let mut head = vec![0x60, 0, 0, 0];
            head.extend_from_slice(&length.to_be_bytes());
            head.extend_from_slice(&[UDP, 64]);
            head.extend_from_slice(&addresses);
            let pseudo = [&addresses[..], &u32::from(length).to_be_bytes(), &[0, 0, 0, UDP]].concat();
            Ok((head, pseudo))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a datagram from one version of IP to the other")),
    }
}

/// The checksum of RFC 1071 over several slices; all but the last have an even length.
fn checksum(runs: &[&[u8]]) -> u16 {
    let halves = runs.iter().flat_map(|run| run.chunks(2));
    let sum: u32 = halves.map(|half| u32::from(half[0]) << 8 | u32::from(half.get(1).copied().unwrap_or(0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_correct_for_both_versions_and_odd_lengths() {
        for (from, to) in [("10.1.0.1:7118", "10.1.0.9:40000"), ("[fd00::1]:7118", "[fd00::2]:40000")] {
            for datagram in [&b"odd"[..], b"even", b""] {
                let mut pcap = Pcap::new(Vec::new()).unwrap();
                let now = SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000);
                pcap.write(from.parse().unwrap(), to.parse().unwrap(), datagram, now).unwrap();
                let (head, packet) = pcap.out[24..].split_at(16);
                assert_eq!(head[..8], [1u32.to_le_bytes(), 500_000u32.to_le_bytes()].concat());
                let sliced = etherparse::SlicedPacket::from_ip(packet).unwrap();
                let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
                assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (7118, 40_000, datagram));
                let sum = match sliced.net.unwrap() {
                    etherparse::NetSlice::Ipv4(ip) => {
                        let ip = ip.header().to_header();
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        udp.to_header().calc_checksum_ipv4(&ip, datagram).unwrap()
                    }
                    etherparse::NetSlice::Ipv6(ip) => {
                        udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), datagram).unwrap()
                    }
                    other => panic!("{other:?}"),
                };
                assert_eq!(udp.checksum(), sum);
            }
        }
    }

    #[test]
    fn mixed_ip_versions_and_too_long_datagrams_are_refused() {
        let mut pcap = Pcap::new(Vec::new()).unwrap();
        let (four, six) = ("10.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        assert!(pcap.write(four, six, b"", SystemTime::UNIX_EPOCH).is_err());
        assert!(pcap.write(four, four, &vec![0; MOST + 1], SystemTime::UNIX_EPOCH).is_err());
        assert!(pcap.write(four, four, &vec![0; MOST], SystemTime::UNIX_EPOCH).is_ok());
    }
}
