//! Wireshark reads the protocol: the test vectors as a capture, decoded by tshark with `docs/protocol/onwire.lua`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use crate::tshark::tshark;

/// Names and datagrams of `docs/protocol/vectors.txt`.
fn vectors() -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol/vectors.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let mut vectors: Vec<(String, Vec<u8>)> = vec![];
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[') {
            Some(name) => vectors.push((name.trim_end_matches(']').to_owned(), vec![])),
            None => {
                let bytes = line.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap());
                vectors.last_mut().unwrap().1.extend(bytes);
            }
        }
    }
    vectors
}

/// A capture of raw IPv4 packets, each with one datagram from or to the publisher's port.
fn pcap(datagrams: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut file = vec![];
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 101] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for (at, (_, datagram)) in datagrams.iter().enumerate() {
        let from_publisher = datagram[5] == 1;
        let ports: [u16; 2] = if from_publisher { [7118, 40_000] } else { [40_000, 7118] };
        let udp_len = (8 + datagram.len()) as u16;
        let len = udp_len + 20;
        for word in [at as u32, 0, len.into(), len.into()] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&[0x45, 0]);
        file.extend_from_slice(&len.to_be_bytes());
        file.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
        for half in [ports[0], ports[1], udp_len, 0] {
            file.extend_from_slice(&half.to_be_bytes());
        }
        file.extend_from_slice(datagram);
    }
    file
}

#[test]
fn tshark_reads_every_vector() {
    let vectors = vectors();
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("vectors.pcap");
    std::fs::write(&capture, pcap(&vectors)).unwrap();

    let columns = ["-T", "fields", "-E", "separator=|", "-e", "_ws.col.Info", "-e", "netlink.hdr_len", "-e"];
    let columns =
        [&columns[..], &["onwire.on_wire", "-e", "onwire.key.destination_port", "-e", "_ws.malformed"]].concat();
    let lines = tshark(&capture, &columns);
    let lines: Vec<Vec<&str>> = lines.lines().map(|line| line.split('|').collect()).collect();
    assert_eq!(lines.len(), vectors.len());
    let expected = [
        "SUBSCRIBE",
        "SUBSCRIBE",
        "GET_FLOWS",
        "GET_FLOWS",
        "REGISTER",
        "FLUSH",
        "BARRIER",
        "UNSUBSCRIBE",
        "CHALLENGE",
        "SUBSCRIBE",
        "FLOW",
        "DONE",
        "FLOW",
        "FLOW",
        "STATE",
        "VIOLATION",
        "BLOCK",
        "HEARTBEAT",
        "BARRIER",
        "ACK",
        "ERROR",
        "FLOW",
        "FLOW",
        "STATE",
        "STATE",
        "STATE",
    ];
    assert_eq!(expected.len(), vectors.len());
    for ((line, (name, datagram)), expected) in lines.iter().zip(&vectors).zip(expected) {
        assert_eq!(line[0], expected, "{name}");
        // Wireshark's own netlink dissector saw the message, with its length.
        let len = (datagram.len() - 48).to_string();
        assert!(line[1].split(',').any(|found| found == len), "{name}: {line:?}");
        assert_eq!(line[4], "", "{name} is malformed");
    }
    assert_eq!(lines[12][2..4], ["65536", "5432"]);
    assert_eq!(lines[13][2..4], ["512", "53"]);

    let text = tshark(&capture, &["-V"]);
    for part in [
        "event: protected (2)",
        "level: on_wire (2)",
        "state: degraded (2)",
        "name: syracuse",
        "fd00:2::1",
        "early: 69000",
        "survives-burst: 2000",
        "reason: target not reachable (7)",
        "reason: model violated (8)",
        "reason: bypass (9)",
    ] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
}
