//! The fast back-end: super-packets in, super-packets out, several queues.
//!
//! The virtio header passes through as the kernel wrote it; its meaning is not examined here.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::{TunOffloads, ioctl};

/// One queue of a TUN device whose packets carry a virtio header.
#[derive(Debug)]
pub struct FastTun {
    file: File,
    name: String,
    offloads: TunOffloads,
}

/// The result of opening.
pub(super) enum Opened {
    Queues(Vec<FastTun>),
    /// The kernel lacks something that we need; the text says what.
    Unsupported(String),
}

const HEADER_LEN: libc::c_int = 10;
const TCP: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

impl FastTun {
    pub(super) fn open(name: &str, queues: usize) -> io::Result<Opened> {
        let mut opened = Vec::with_capacity(queues);
        for _ in 0..queues {
            match Self::open_queue(name, queues > 1)? {
                Ok(queue) => opened.push(queue),
                Err(reason) => return Ok(Opened::Unsupported(reason)),
            }
        }
        Ok(Opened::Queues(opened))
    }

    fn open_queue(name: &str, multi_queue: bool) -> io::Result<Result<Self, String>> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let fd = file.as_raw_fd();
        let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if multi_queue {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        let missing = flags & !(ioctl::features(fd)? | libc::IFF_TUN);
        if missing != 0 {
            return Ok(Err(format!("the kernel's TUN lacks the features {missing:#x}")));
        }
        let name = ioctl::attach(fd, name, flags)?;

        // Header size and offload mask belong to the device, and a persistent device keeps them: set both, trust
        // neither.
        ioctl::set_header_len(fd, HEADER_LEN)?;
        let header_len = ioctl::header_len(fd)?;
        if header_len != HEADER_LEN {
            return Ok(Err(format!("the device keeps a virtio header of {header_len} bytes instead of {HEADER_LEN}")));
        }
        if let Err(error) = ioctl::set_offload(fd, TCP) {
            return Ok(Err(format!("the kernel refuses TCP super-packets ({error})")));
        }
        let udp = ioctl::set_offload(fd, TCP | UDP).is_ok();
        Ok(Ok(Self { file, name, offloads: TunOffloads { vnet_header: true, tcp: true, udp } }))
    }

    #[inline]
    pub(super) fn read(&self, header: &mut [u8; 10], packet: &mut [u8]) -> io::Result<usize> {
        let length = rustix::io::readv(&self.file, &mut [IoSliceMut::new(header), IoSliceMut::new(packet)])?;
        Ok(length.saturating_sub(header.len()))
    }

    #[inline]
    pub(super) fn write(&self, header: &[u8; 10], packet: &[u8]) -> io::Result<()> {
        rustix::io::writev(&self.file, &[IoSlice::new(header), IoSlice::new(packet)])?;
        Ok(())
    }

    pub(super) fn offloads(&self) -> TunOffloads {
        self.offloads
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl AsRawFd for FastTun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
