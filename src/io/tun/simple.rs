//! The simple back-end: the `tun-tap` crate, one complete packet a read, any kernel.
//!
//! It never asks for offloads: the crate's descriptor has no virtio header, so super-packets could not be told from
//! packets.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use tun_tap::{Iface, Mode};

/// A TUN device without super-packets; one queue.
#[derive(Debug)]
pub struct SimpleTun {
    device: Iface,
    fallback: Option<String>,
}

impl SimpleTun {
    pub(super) fn open(name: &str, fallback: Option<String>) -> io::Result<Self> {
        let device = Iface::without_packet_info(name, Mode::Tun)?;
        device.set_non_blocking()?;
        // A persistent device keeps the mask: its last owner may have left it on.
        super::ioctl::set_offload(device.as_raw_fd(), 0)?;
        Ok(Self { device, fallback })
    }

    #[inline]
    pub(super) fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.device.recv(packet)
    }

    #[inline]
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<()> {
        self.device.send(packet).map(drop)
    }

    pub(super) fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    pub(super) fn name(&self) -> &str {
        self.device.name()
    }
}

impl AsRawFd for SimpleTun {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}
