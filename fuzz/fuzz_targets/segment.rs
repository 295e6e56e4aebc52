//! Ten bytes of virtio header and a packet: a packet that passes the check is cut into packets that pass it too and
//! together hold the payload; one that does not pass is cut without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::wire::offload::check_offload;
use onwire::wire::packet::PacketView;
use onwire::wire::segment::{complete_checksum, segment_count, segment_range};
use onwire::wire::virtio::VirtioHeader;

fuzz_target!(|input: &[u8]| {
    let Some((native, rest)) = input.split_first_chunk::<{ VirtioHeader::LEN }>() else {
        return;
    };
    let mut header = VirtioHeader::from_native(*native);
    let mut packet = rest.to_vec();
    cut(header, &packet);
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            let len = packet.len() as u16;
            packet[2..4].copy_from_slice(&len.to_be_bytes());
        }
        Some(6) if packet.len() >= 40 => {
            let len = (packet.len() - 40) as u16;
            packet[4..6].copy_from_slice(&len.to_be_bytes());
        }
        _ => return,
    }
    let Ok(view) = PacketView::parse(&packet) else {
        return;
    };
    header.csum_start = view.transport_offset as u16;
    let Ok(checked) = check_offload(header, &packet, &view) else {
        return cut(header, &packet);
    };
    let count = segment_count(checked, &packet);
    let headers = usize::from(checked.hdr_len);
    let mut payload = vec![];
    let mut out = vec![];
    for index in 0..count {
        out.clear();
        let plain = segment_range(checked, &packet, index..index + 1, &mut out);
        let view = PacketView::parse(&out).expect("a segment is a packet");
        assert_eq!(check_offload(plain, &out, &view), Ok(plain));
        complete_checksum(plain, &mut out);
        payload.extend_from_slice(&out[headers..]);
    }
    if count > 1 {
        assert_eq!(payload, packet[headers..]);
        out.clear();
        let part = segment_range(checked, &packet, 1..count, &mut out);
        let view = PacketView::parse(&out).expect("a part is a packet");
        assert_eq!(check_offload(part, &out, &view), Ok(part));
        assert_eq!(segment_count(part, &out), count - 1);
    }
});

fn cut(header: VirtioHeader, packet: &[u8]) {
    let count = segment_count(header, packet);
    let mut out = vec![];
    let part = segment_range(header, packet, count / 2..count, &mut out);
    assert!(out.len() <= packet.len());
    complete_checksum(part, &mut out);
}
