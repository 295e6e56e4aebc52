//! The TUN device: where the user's packets enter and leave.
//!
//! Two back-ends with the same interface. [`FastTun`] passes super-packets uncut, beside the virtio header that
//! describes them; [`SimpleTun`] passes one complete packet at a time on any kernel, which also helps to rule out an
//! offload bug. This module examines no packet and no header; addresses and routes are in [`super::netlink`].
//!
//! Start with [`Tun`], then `fast`; `ioctl` opens the device.

mod fast;
mod ioctl;
mod simple;

use std::io;
use std::os::fd::{AsRawFd, RawFd};

pub use fast::FastTun;
pub use simple::SimpleTun;

use super::explain;
use super::netlink::Netlink;

/// Which back-end to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Super-packets where the kernel has them, else the simple back-end.
    #[default]
    Auto,
    /// The simple back-end.
    Off,
}

/// How to open a TUN device.
#[derive(Clone, Copy, Debug)]
pub struct TunOptions {
    /// Which back-end.
    pub offload: Offload,
    /// Queues, one a lane: 1 to [`MAX_QUEUES`]; the simple back-end has one.
    pub queues: usize,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Packets the kernel holds for us to read; it drops silently beyond. `None` keeps the kernel's 500.
    pub txqueuelen: Option<u32>,
    /// Largest super-packet the kernel may hand over, in bytes. `None` keeps the kernel's 65,536.
    pub gso_max_size: Option<u32>,
}

impl Default for TunOptions {
    fn default() -> Self {
        Self { offload: Offload::Auto, queues: 1, mtu: 1500, txqueuelen: None, gso_max_size: None }
    }
}

/// Most queues the kernel gives a device.
pub const MAX_QUEUES: usize = 256;

/// Bytes that a buffer for [`Tun::read`] needs so that nothing is cut: the kernel truncates without an error.
pub const MAX_PACKET: usize = 65_536;

/// What passes the device uncut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// A virtio header travels with every packet.
    pub vnet_header: bool,
    /// TCP super-packets.
    pub tcp: bool,
    /// UDP super-packets.
    pub udp: bool,
}

/// One queue of a TUN device. Non-blocking. The device vanishes with its last queue.
///
/// The device may be moved to another network namespace and keeps working: only the descriptor matters.
#[derive(Debug)]
pub enum Tun {
    /// Super-packets with a virtio header.
    Fast(FastTun),
    /// One packet a read.
    Simple(SimpleTun),
}

impl Tun {
    /// Creates the device `name` in this thread's network namespace and opens its queues, in order.
    ///
    /// The device is down, without addresses and routes.
    pub fn open(name: &str, options: TunOptions) -> io::Result<Vec<Self>> {
        check(name, options)?;
        let mut fallback = None;
        let mut queues = Vec::with_capacity(options.queues);
        if options.offload == Offload::Auto {
            match FastTun::open(name, options.queues).map_err(|error| name_cause(name, &error))? {
                fast::Opened::Queues(opened) => queues.extend(opened.into_iter().map(Tun::Fast)),
                fast::Opened::Unsupported(reason) => fallback = Some(reason),
            }
        }
        if queues.is_empty() {
            if options.queues > 1 {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!(
                        "TUN device {name}: {} queues asked for, but {}; set `tun.queues: 1`",
                        options.queues,
                        fallback.as_deref().unwrap_or("`tun.offload: off` has only one: set `tun.offload: auto`")
                    ),
                ));
            }
            queues.push(Tun::Simple(SimpleTun::open(name, fallback).map_err(|error| name_cause(name, &error))?));
        }
        queues[0].shape(options)?;
        Ok(queues)
    }

    /// Sets properties of the device, not of a queue, and only those that differ. So a device that an administrator
    /// made for an unprivileged user can be used as it is.
    fn shape(&self, options: TunOptions) -> io::Result<()> {
        let mut netlink = Netlink::open()?;
        let link = netlink.link(self.name())?;
        if link.mtu != options.mtu {
            netlink.set_mtu(link.index, options.mtu)?;
        }
        if let Some(length) = options.txqueuelen.filter(|length| link.txqueuelen != *length) {
            netlink.set_txqueuelen(link.index, length)?;
        }
        if let Some(bytes) = options.gso_max_size.filter(|bytes| link.gso_max_size != Some(*bytes)) {
            netlink.set_gso_max_size(link.index, bytes)?;
        }
        Ok(())
    }

    /// Reads one packet, and its virtio header in native byte order. Returns the packet's length;
    /// [`io::ErrorKind::WouldBlock`] when there is none.
    ///
    /// After another error a later call may succeed, unless the device is [`gone`](Self::gone).
    ///
    /// `packet` must hold [`MAX_PACKET`] bytes.
    #[inline]
    pub fn read(&self, header: &mut [u8; 10], packet: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Fast(tun) => tun.read(header, packet),
            Self::Simple(tun) => {
                *header = [0; 10];
                tun.read(packet)
            }
        }
    }

    /// Gives one packet to the kernel, with its virtio header in native byte order. The simple back-end ignores the
    /// header: give it complete packets only.
    ///
    /// An error costs only this packet: `EINVAL` for a header or packet that the kernel refuses, `EIO` while the device
    /// is down.
    #[inline]
    pub fn write(&self, header: &[u8; 10], packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Fast(tun) => tun.write(header, packet),
            Self::Simple(tun) => tun.write(packet),
        }
    }

    /// What passes uncut.
    pub fn offloads(&self) -> TunOffloads {
        match self {
            Self::Fast(tun) => tun.offloads(),
            Self::Simple(_) => TunOffloads::default(),
        }
    }

    /// Why the simple back-end is used although the fast one was wanted.
    pub fn fallback(&self) -> Option<&str> {
        match self {
            Self::Fast(_) => None,
            Self::Simple(tun) => tun.fallback(),
        }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Fast(tun) => tun.name(),
            Self::Simple(tun) => tun.name(),
        }
    }

    /// The error of a read, explained, if it means that the device is gone: no later call can succeed.
    pub fn gone(&self, error: &io::Error) -> Option<io::Error> {
        let is_gone = matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF));
        let name = self.name();
        is_gone.then(|| {
            explain(
                error,
                format_args!(
                    "the TUN device {name} is gone; another program has deleted it: let NetworkManager and the like leave \
                     it alone, and start the appliance again"
                ),
            )
        })
    }

    /// Switches the carrier: without it the kernel does not use the device's routes. Needs no capability.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        ioctl::set_carrier(self.as_raw_fd(), on)
            .map_err(|error| explain(&error, format_args!("cannot switch the carrier of {}", self.name())))
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Fast(tun) => tun.as_raw_fd(),
            Self::Simple(tun) => tun.as_raw_fd(),
        }
    }
}

fn check(name: &str, options: TunOptions) -> io::Result<()> {
    let invalid = |words: String| Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." {
        return invalid(format!("TUN device name {name:?} has {} bytes; a device name has 1 to 15", name.len()));
    }
    if name.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'/' | b':' | b'%')) {
        return invalid(format!("TUN device name {name:?} may hold letters, digits, '-', '_' and '.' only"));
    }
    if !(1..=MAX_QUEUES).contains(&options.queues) {
        return invalid(format!(
            "TUN device {name}: {} queues asked for; allowed are 1 to {MAX_QUEUES}",
            options.queues
        ));
    }
    if !(68..=65_535).contains(&options.mtu) {
        return invalid(format!(
            "TUN device {name}: MTU {} asked for; allowed are 68 to 65535 (IPv6 needs 1280)",
            options.mtu
        ));
    }
    Ok(())
}

/// Explains an error of opening to the user. The kernel returns "invalid argument" for the name of a device of another
/// kind, so this checks whether the name is taken.
fn name_cause(name: &str, error: &io::Error) -> io::Error {
    let taken = || Netlink::open().and_then(|mut netlink| netlink.link(name)).is_ok();
    let advice = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "this system has no /dev/net/tun; load the module (`modprobe tun`), or give the container the device \
             (`--device /dev/net/tun`)"
        }
        Some(libc::EACCES) => {
            "this user may not open /dev/net/tun; run as root, or let everybody open it, as most systems do \
             (`chmod 666 /dev/net/tun`; making a device still needs CAP_NET_ADMIN)"
        }
        Some(libc::EPERM) => {
            "not permitted; run as root or with CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN)"
        }
        Some(libc::EBUSY | libc::EINVAL | libc::E2BIG) if taken() => {
            "the name is in use; `ip -d link show` says by what: stop that program, delete the device, or set another \
             `tun.name`"
        }
        _ => "the kernel refused",
    };
    explain(error, format_args!("cannot open TUN device {name}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_no_kernel_takes_are_refused_with_an_explanation() {
        let options = TunOptions::default();
        for (name, options, words) in [
            ("", options, "1 to 15"),
            ("a-name-of-16-byte", options, "1 to 15"),
            ("a/b", options, "letters"),
            ("ow%d", options, "letters"),
            ("ow0", TunOptions { queues: 0, ..options }, "1 to 256"),
            ("ow0", TunOptions { queues: 257, ..options }, "1 to 256"),
            ("ow0", TunOptions { mtu: 10, ..options }, "68 to 65535"),
        ] {
            let error = Tun::open(name, options).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
