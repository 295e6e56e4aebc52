//! Writes packets to the TUN: uncut where the device takes super-packets, else cut and with checksums from software.

use std::io;

use crate::io::retry::Retry;
use crate::io::tun::Tun;
use crate::wire::segment::{complete_checksum, segment_count, segment_range};
use crate::wire::virtio::VirtioHeader;

/// After this many refused UDP super-packets in a row, they are cut here for a while.
const REFUSALS_MAX: u8 = 3;

/// One queue of the TUN, to write to.
pub struct TunWriter {
    tun: Tun,
    scratch: Vec<u8>,
    /// The kernel may refuse UDP super-packets although it has this offload.
    udp: Retry,
    cut: u64,
    /// Whether the kernel takes UDP super-packets, after a change.
    changed: Option<bool>,
    /// Why a packet was refused, if one was since somebody asked.
    error: Option<io::Error>,
}

impl TunWriter {
    /// Takes over the queue.
    pub fn new(tun: Tun) -> Self {
        Self { tun, scratch: Vec::new(), udp: Retry::after(REFUSALS_MAX), cut: 0, changed: None, error: None }
    }

    /// The queue itself, to read from.
    pub fn tun(&self) -> &Tun {
        &self.tun
    }

    /// Writes a packet whose header was checked; `false` if the kernel refused it or a part of it.
    pub fn write(&mut self, header: VirtioHeader, packet: &[u8]) -> bool {
        let is_udp_train = header.segmentation() == VirtioHeader::GSO_UDP_L4;
        let offloads = self.tun.offloads();
        if !offloads.vnet_header || (is_udp_train && !(offloads.udp && self.udp.is_allowed())) {
            return self.write_cut(header, packet);
        }
        match self.tun.write(&header.to_native(), packet) {
            Ok(()) => {
                if is_udp_train && self.udp.on_taken() {
                    self.changed = Some(true);
                }
                true
            }
            Err(error) if is_udp_train && error.raw_os_error() == Some(libc::EINVAL) => {
                // The super-packet was to blame only if its pieces go through.
                let is_written = self.write_cut(header, packet);
                if is_written && self.udp.on_refused() {
                    self.changed = Some(false);
                }
                is_written
            }
            Err(error) => {
                self.error = Some(error);
                false
            }
        }
    }

    /// Why the kernel refused a packet, if it refused one since this was last asked.
    pub fn poll_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Whether the kernel takes UDP super-packets, after a change; returned once.
    pub fn poll_change(&mut self) -> Option<bool> {
        self.changed.take()
    }

    /// Super-packets cut in software.
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
            if let Err(error) = self.tun.write(&plain, &self.scratch) {
                self.error = Some(error);
                all_written = false;
            }
        }
        all_written
    }
}
