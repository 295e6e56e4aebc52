//! Socket options and control messages.
//!
//! The bytes of control messages are written and read by hand, with checks, instead of through pointers: every message
//! is a header (length, level, type) and data, aligned to a machine word.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an integer option.
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one int from the pointer, which is valid for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Checks whether the kernel knows segmentation. Whether the device of a route does shows when sending.
pub(super) fn probe_segmentation(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 1400)?;
    // As a lasting option it would cut every datagram: each train requests it itself.
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0)
}

/// `SO_MEMINFO` and `SK_MEMINFO_DROPS` of `include/uapi`: counters of a socket, in words of 32 bits, since Linux 4.12.
const SO_MEMINFO: libc::c_int = 55;
const SK_MEMINFO_DROPS: usize = 8;

/// Datagrams for which the socket had no room, as counted by the kernel; `None` if the kernel does not report it.
pub(super) fn drops(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut words = [0u32; 16];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the array and the length to `len`; both live through the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, words.as_mut_ptr().cast(), &raw mut len)
    };
    let count = len as usize / size_of::<u32>();
    (result == 0 && count > SK_MEMINFO_DROPS).then_some(words[SK_MEMINFO_DROPS])
}

const WORD: usize = size_of::<usize>();
const HEADER: usize = size_of::<libc::cmsghdr>();

/// Bytes of one control message whose data fits in a word, padding included.
const SLOT: usize = HEADER + WORD;

/// The same for a source address: `in6_pktinfo` is the longer of its two forms.
const SOURCE_SLOT: usize = HEADER + size_of::<libc::in6_pktinfo>().next_multiple_of(WORD);

/// Bytes of all requests of one send.
const REQUESTS_LEN: usize = 4 * SLOT + SOURCE_SLOT;

/// A source address in the kernel's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketInfo {
    V4([u8; 12]),
    V6([u8; 20]),
}

impl PacketInfo {
    /// For a socket of this family: an IPv6 socket takes IPv4 addresses in mapped form.
    pub(super) fn new(from: IpAddr, socket_is_v6: bool) -> Self {
        // The interface stays 0: the routes decide.
        let v6 = |from: Ipv6Addr| {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&from.octets());
            Self::V6(info)
        };
        match from {
            IpAddr::V4(from) if socket_is_v6 => v6(from.to_ipv6_mapped()),
            IpAddr::V6(from) => v6(from),
            IpAddr::V4(from) => {
                // `struct in_pktinfo`: interface, source, destination.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&from.octets());
                Self::V4(info)
            }
        }
    }

    /// The address of ours that a datagram was sent to, if this message holds it. For IPv4 it is the address to answer
    /// from, even if the datagram was a broadcast.
    pub(super) fn parse(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Option<IpAddr> {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let source: [u8; 4] = data.get(4..8)?.try_into().ok()?;
                Some(IpAddr::from(source))
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let destination: [u8; 16] = data.get(..16)?.try_into().ok()?;
                Some(IpAddr::from(destination).to_canonical())
            }
            _ => None,
        }
    }
}

/// `SCM_TS_OPT_ID` of `include/uapi/asm-generic/socket.h`, since Linux 6.13. An architecture with another number
/// refuses this one, as older kernels do.
const SCM_TS_OPT_ID: libc::c_int = 81;

/// The control messages of one send: at most four whose data fits in a word, and a source address.
#[repr(align(8))]
pub(super) struct Requests {
    bytes: [u8; REQUESTS_LEN],
    len: usize,
}

impl Requests {
    /// No requests.
    pub(super) const NONE: Self = Self { bytes: [0; REQUESTS_LEN], len: 0 };

    /// Adds a request to cut a train into datagrams of `segment` bytes.
    #[inline]
    pub(super) fn segment(self, segment: u16) -> Self {
        self.and(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes())
    }

    /// Requests a transmit timestamp from software, which comes back with `id`, if there is one.
    #[inline]
    pub(super) fn stamp(id: Option<u32>) -> Self {
        // Other flags of the socket (ids, no data) may not be in a control message: the kernel would refuse it.
        let wanted = libc::SOF_TIMESTAMPING_TX_SOFTWARE.to_ne_bytes();
        let request = Self::NONE.and(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, &wanted);
        match id {
            Some(id) => request.and(libc::SOL_SOCKET, SCM_TS_OPT_ID, &id.to_ne_bytes()),
            None => request,
        }
    }

    /// Adds this source address.
    #[inline]
    pub(super) fn from(self, source: &PacketInfo) -> Self {
        match source {
            PacketInfo::V4(info) => self.and(libc::IPPROTO_IP, libc::IP_PKTINFO, info),
            PacketInfo::V6(info) => self.and(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info),
        }
    }

    /// Adds this DSCP and ECN field, toward an IPv6 or an IPv4 address; the latter also from an IPv6 socket.
    #[inline]
    pub(super) fn class(self, class: u8, to_v6: bool) -> Self {
        let value = libc::c_int::from(class).to_ne_bytes();
        match to_v6 {
            true => self.and(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value),
            false => self.and(libc::IPPROTO_IP, libc::IP_TOS, &value),
        }
    }

    /// Adds a message.
    #[inline]
    fn and(mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Self {
        let len = HEADER + data.len().next_multiple_of(WORD);
        let slot = &mut self.bytes[self.len..self.len + len];
        slot[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        slot[HEADER - 8..HEADER - 4].copy_from_slice(&level.to_ne_bytes());
        slot[HEADER - 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        slot[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.len += len;
        self
    }

    /// The messages as the kernel reads them, aligned for it.
    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The DSCP and ECN field that a datagram came with, if this message holds it.
#[inline]
pub(super) fn parse_class(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Option<u8> {
    match (level, kind) {
        // One byte, although it is sent as an integer.
        (libc::IPPROTO_IP, libc::IP_TOS) => data.first().copied(),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => leading_u32(data).map(|class| class as u8),
        _ => None,
    }
}

/// Room for the control messages of one receive.
#[repr(align(8))]
pub(super) struct ControlBuffer(pub(super) [u8; 256]);

impl ControlBuffer {
    pub(super) const EMPTY: Self = Self([0; 256]);
}

/// The control messages the kernel wrote: level, type and data of each.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (libc::c_int, libc::c_int, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..HEADER)?;
        let length = usize::from_ne_bytes(header[..WORD].try_into().ok()?);
        let level = libc::c_int::from_ne_bytes(header[HEADER - 8..HEADER - 4].try_into().ok()?);
        let kind = libc::c_int::from_ne_bytes(header[HEADER - 4..].try_into().ok()?);
        let data = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(WORD)..).unwrap_or_default();
        Some((level, kind, data))
    }
}

/// The integer a control message begins with.
#[inline]
pub(super) fn leading_u32(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The long integer a control message begins with.
#[inline]
pub(super) fn leading_u64(data: &[u8]) -> Option<u64> {
    data.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_messages_read_back() {
        let stamp = libc::SOF_TIMESTAMPING_TX_SOFTWARE.to_ne_bytes();
        let (segment, id) = (1452u16.to_ne_bytes(), 0xfedc_ba98u32.to_ne_bytes());
        let stamped = (libc::SOL_SOCKET, libc::SO_TIMESTAMPING, &stamp[..]);
        let numbered = (libc::SOL_SOCKET, SCM_TS_OPT_ID, &id[..]);
        let cut = (libc::SOL_UDP, libc::UDP_SEGMENT, &segment[..]);
        let [v4, v6] = [false, true].map(|v6| PacketInfo::new("192.0.2.1".parse().unwrap(), v6));
        let (PacketInfo::V4(v4_data), PacketInfo::V6(v6_data)) = (v4, v6) else { panic!("{v4:?} {v6:?}") };
        let (tos, ect) = (0xb8i32.to_ne_bytes(), 2i32.to_ne_bytes());
        let from_v4 = (libc::IPPROTO_IP, libc::IP_PKTINFO, &v4_data[..]);
        let from_v6 = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &v6_data[..]);
        for (requests, expected) in [
            (Requests::NONE, vec![]),
            (Requests::NONE.segment(1452), vec![cut]),
            (Requests::stamp(None), vec![stamped]),
            (Requests::stamp(Some(0xfedc_ba98)), vec![stamped, numbered]),
            (Requests::stamp(Some(0xfedc_ba98)).segment(1452), vec![stamped, numbered, cut]),
            (Requests::stamp(Some(0xfedc_ba98)).from(&v6).segment(1452), vec![stamped, numbered, from_v6, cut]),
            (Requests::NONE.from(&v4), vec![from_v4]),
            (Requests::NONE.class(0xb8, false), vec![(libc::IPPROTO_IP, libc::IP_TOS, &tos[..])]),
            (
                Requests::stamp(Some(0xfedc_ba98)).from(&v6).class(2, true).segment(1452),
                vec![stamped, numbered, from_v6, (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &ect[..]), cut],
            ),
        ] {
            let len = |data: &[u8]| HEADER + data.len().next_multiple_of(WORD);
            assert_eq!(requests.as_bytes().len(), expected.iter().map(|(_, _, data)| len(data)).sum::<usize>());
            assert_eq!(requests.as_bytes().as_ptr() as usize % size_of::<libc::cmsghdr>().min(8), 0);
            assert_eq!(Messages(requests.as_bytes()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn cut_and_senseless_messages_end_the_reading() {
        let mut bytes = vec![0; 64];
        for length in [0, 1, HEADER - 1, 65, usize::MAX] {
            bytes[..WORD].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Messages(&bytes).count(), 0, "{length}");
        }
        assert_eq!(Messages(&bytes[..HEADER - 1]).count(), 0);
    }
}
