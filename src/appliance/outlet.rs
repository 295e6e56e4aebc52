//! Where packets leave for the TUN: uncut where the device takes super-packets, else cut and summed in software.

use crate::io::tun::Tun;
use crate::wire::segment::{complete_checksum, segment_count, segment_range};
use crate::wire::virtio::VirtioHeader;

/// One queue of the TUN, from our side the place to write to.
pub struct Outlet {
    tun: Tun,
    scratch: Vec<u8>,
    /// The kernel refused UDP super-packets although it has the offload; then they are cut here for good.
    cuts_udp: bool,
    cut: u64,
}

impl Outlet {
    /// Takes over the queue.
    pub fn new(tun: Tun) -> Self {
        let cuts_udp = !tun.offloads().udp;
        Self { tun, scratch: Vec::new(), cuts_udp, cut: 0 }
    }

    /// The queue itself, to read from.
    pub fn tun(&self) -> &Tun {
        &self.tun
    }

    /// Writes a packet whose header was checked; `false` if the kernel refused it or a part of it.
    pub fn write(&mut self, header: VirtioHeader, packet: &[u8]) -> bool {
        let is_udp_train = header.segmentation() == VirtioHeader::GSO_UDP_L4;
        if !self.tun.offloads().vnet_header || (is_udp_train && self.cuts_udp) {
            return self.write_cut(header, packet);
        }
        match self.tun.write(&header.to_native(), packet) {
            Ok(()) => true,
            Err(error) if is_udp_train && error.raw_os_error() == Some(libc::EINVAL) => {
                self.cuts_udp = true;
                self.write_cut(header, packet)
            }
            Err(_) => false,
        }
    }

    /// Super-packets that were cut in software.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    fn write_cut(&mut self, header: VirtioHeader, packet: &[u8]) -> bool {
        let segments = segment_count(header, packet);
        self.cut += u64::from(segments > 1);
        let plain = VirtioHeader::default().to_native();
        let mut all_written = true;
        for index in 0..segments {
            self.scratch.clear();
            let left = segment_range(header, packet, index..index + 1, &mut self.scratch);
            complete_checksum(left, &mut self.scratch);
            all_written &= self.tun.write(&plain, &self.scratch).is_ok();
        }
        all_written
    }
}
