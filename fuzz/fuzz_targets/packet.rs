//! Any bytes from a TUN or from inside a datagram: an error, or a view that lies inside the packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::wire::packet::PacketView;

fuzz_target!(|input: &[u8]| {
    let mut packet = input.to_vec();
    check(&packet);
    // A length that fits lets the fuzzer reach the code behind this check.
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            let len = packet.len() as u16;
            packet[2..4].copy_from_slice(&len.to_be_bytes());
        }
        Some(6) if packet.len() >= 40 => {
            let len = (packet.len() - 40) as u16;
            packet[4..6].copy_from_slice(&len.to_be_bytes());
        }
        _ => {}
    }
    check(&packet);
});

fn check(packet: &[u8]) {
    let Ok(view) = PacketView::parse(packet) else {
        return;
    };
    assert!(view.transport_offset <= packet.len());
    if let Some(tcp) = view.tcp(packet) {
        assert!(view.transport_offset + tcp.header_len <= packet.len());
        assert!(view.ports.is_some());
    }
}
