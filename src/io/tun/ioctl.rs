//! The TUN driver's `ioctl` calls, one function each.
//!
//! Source: `include/uapi/linux/if_tun.h`. The back-ends decide which flags to use and in which order.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use libc::{c_int, c_uint};

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The `IFF_*` flags this kernel's driver knows.
pub(super) fn features(fd: RawFd) -> io::Result<c_int> {
    let mut flags: c_uint = 0;
    // SAFETY: TUNGETFEATURES writes one unsigned int to the pointer, which is valid for the call.
    checked(unsafe { libc::ioctl(fd, libc::TUNGETFEATURES, &raw mut flags) })?;
    Ok(flags.cast_signed())
}

/// Attaches the descriptor to the device `name` (at most 15 bytes), creating it if need be; returns its name.
pub(super) fn attach(fd: RawFd, name: &str, flags: c_int) -> io::Result<String> {
    let mut name_field = [0 as libc::c_char; libc::IFNAMSIZ];
    for (slot, byte) in name_field.iter_mut().zip(name.bytes()).take(libc::IFNAMSIZ - 1) {
        *slot = byte.cast_signed() as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name_field,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            // All flags used lie in the low 16 bits; the kernel reads the field as unsigned.
            ifru_flags: flags as libc::c_short,
        },
    };
    // SAFETY: TUNSETIFF reads and writes one ifreq at the pointer, which is valid for the call.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETIFF, &raw mut request) })?;
    let name: Vec<u8> = request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Sets the size of the virtio header.
pub(super) fn set_header_len(fd: RawFd, length: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int from the pointer, which is valid for the call.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const length) })
}

/// The size of the virtio header.
pub(super) fn header_len(fd: RawFd) -> io::Result<c_int> {
    let mut length: c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one int to the pointer, which is valid for the call.
    checked(unsafe { libc::ioctl(fd, libc::TUNGETVNETHDRSZ, &raw mut length) })?;
    Ok(length)
}

/// Sets which packets may come uncut (`TUN_F_*`).
pub(super) fn set_offload(fd: RawFd, mask: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value; no memory is touched.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) })
}

/// Switches the device's carrier.
pub(super) fn set_carrier(fd: RawFd, on: bool) -> io::Result<()> {
    let carrier = c_int::from(on);
    // SAFETY: TUNSETCARRIER reads one int from the pointer, which is valid for the call.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETCARRIER, &raw const carrier) })
}
