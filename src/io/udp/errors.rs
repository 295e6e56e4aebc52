//! What became of datagrams that were sent: errors of the calls, and entries of the error queue that come later.
//!
//! Only through the error queue does the kernel report that its own queues dropped our datagrams. Transmit timestamps
//! come the same way. What they prove is not decided here.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::AddAssign;
use std::os::fd::AsRawFd;

use super::address::RawAddress;
use super::control::{ControlBuffer, Messages, leading_u32};
use super::receive::{Entries, Entry, QUOTED_MAX, receive_message};
use super::stamps::StampState;
use super::{UdpSocket, unmapped};

/// Errors of sending, counted since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// A queue of this host was full and dropped the datagram or train (`ENOBUFS`).
    pub queue_full: u64,
    /// No route, or host or port unreachable.
    pub unreachable: u64,
    /// Larger than the device or the path carries (`EMSGSIZE`).
    pub too_big: u64,
    /// The smallest MTU that came with a `too_big`.
    pub path_mtu: Option<u32>,
    /// Forbidden by a firewall rule (`EPERM`, `EACCES`).
    pub forbidden: u64,
    /// Anything else.
    pub other: u64,
    /// Errors among them that came back after the send had succeeded: a datagram that the kernel took was dropped, in
    /// this host or on the path.
    pub late: u64,
    /// Errors from the path that quote no datagram of ours: any host can forge them, so they are not trusted.
    pub doubtful: u64,
    /// Transmit timestamps that were reported; not errors.
    pub timestamps: u64,
    /// Transmit timestamps that match no known datagram, and were not reported; not errors either.
    pub stray_timestamps: u64,
}

impl ErrorCounts {
    /// All errors together.
    pub fn total(&self) -> u64 {
        self.queue_full + self.unreachable + self.too_big + self.forbidden + self.other
    }

    pub(super) fn count_send(&mut self, error: &io::Error) {
        self.count(error.raw_os_error().unwrap_or(0));
    }

    fn count(&mut self, errno: i32) {
        let counter = match errno {
            libc::ENOBUFS => &mut self.queue_full,
            libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::ENONET
            | libc::EADDRNOTAVAIL => &mut self.unreachable,
            libc::EMSGSIZE => &mut self.too_big,
            libc::EPERM | libc::EACCES => &mut self.forbidden,
            _ => &mut self.other,
        };
        *counter += 1;
    }

    fn count_queued(&mut self, queued: &Queued) {
        let least = if queued.origin == libc::SO_EE_ORIGIN_ICMP6 { PATH_MTU_MIN_IPV6 } else { PATH_MTU_MIN };
        if queued.errno == libc::EMSGSIZE && queued.info >= least {
            self.path_mtu = Some(self.path_mtu.map_or(queued.info, |known| known.min(queued.info)));
        }
        // The call has returned a local error, and it is counted.
        if queued.origin != libc::SO_EE_ORIGIN_LOCAL {
            self.late += 1;
            self.count(queued.errno);
        }
    }
}

/// An entry of the error queue.
struct Queued {
    errno: i32,
    origin: u8,
    info: u32,
    data: u32,
}

impl Queued {
    /// The bytes are a `sock_extended_err` (`include/uapi/linux/errqueue.h`): errno u32, origin u8, type u8, code u8,
    /// pad u8, info u32, data u32; then the address of the host that reported it.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at| leading_u32(bytes.get(at..)?);
        Some(Self { errno: word(0)?.cast_signed(), origin: *bytes.get(4)?, info: word(8)?, data: word(12)? })
    }
}

impl AddAssign for ErrorCounts {
    fn add_assign(&mut self, later: Self) {
        self.queue_full += later.queue_full;
        self.unreachable += later.unreachable;
        self.too_big += later.too_big;
        self.path_mtu = match (self.path_mtu, later.path_mtu) {
            (Some(known), Some(mtu)) => Some(known.min(mtu)),
            (known, mtu) => known.or(mtu),
        };
        self.forbidden += later.forbidden;
        self.other += later.other;
        self.late += later.late;
        self.doubtful += later.doubtful;
        self.timestamps += later.timestamps;
        self.stray_timestamps += later.stray_timestamps;
    }
}

/// A smaller path MTU is not trusted: every IPv4 host takes packets of 576 bytes (RFC 791), every IPv6 link one of 1280
/// (RFC 8200, section 5).
const PATH_MTU_MIN: u32 = 576;
const PATH_MTU_MIN_IPV6: u32 = 1280;

/// Destinations of late errors that are kept apart. When there are more, the unspecified address stands for any.
const LATE_ERRORS_MAX: usize = 32;

/// Entries read in one call: a flood of ICMP errors must not hold up the loop.
const MAX_ENTRIES: usize = 256;

/// `SCM_TSTAMP_SND` of `include/uapi/linux/errqueue.h`: the driver got the datagram. Other values mean that it was
/// queued or acknowledged.
const SCM_TSTAMP_SND: u32 = 0;

impl UdpSocket {
    /// Empties the error queue: calls `stamped` with the id of each packet of [`send_stamped`](Self::send_stamped) that
    /// has left, and returns the counts since the last call, errors of sending included.
    ///
    /// The queue is bounded: call it in each turn in which the poll reported an error or
    /// [`errors_left`](Self::errors_left) is true. With an empty queue it is one short system call. Ids come in the
    /// order in which datagrams left. One may be lost when the queue is full; none is reported without its timestamp.
    pub fn drain_errors(&mut self, stamped: &mut impl FnMut(u32)) -> ErrorCounts {
        self.drain_own_errors(&|_: &[u8]| true, stamped)
    }

    /// As [`drain_errors`](Self::drain_errors), but trusts an error from the path only if `is_own` recognises the
    /// quoted beginning of the datagram: any host can send such errors.
    pub fn drain_own_errors(&mut self, is_own: &impl Fn(&[u8]) -> bool, stamped: &mut impl FnMut(u32)) -> ErrorCounts {
        self.errors_left = if self.stamps == StampState::LoopedData {
            self.drain_looped(is_own, stamped)
        } else {
            self.drain_entries(is_own, stamped)
        };
        std::mem::take(&mut self.counts)
    }

    /// Reads entries without their datagram, except for its first bytes. True if more may be left.
    fn drain_entries(&mut self, is_own: &impl Fn(&[u8]) -> bool, stamped: &mut impl FnMut(u32)) -> bool {
        let mut entries = Entries::EMPTY;
        for _ in 0..MAX_ENTRIES / Entries::MAX {
            let count = entries.read(self.as_raw_fd());
            for Entry { about, messages, quoted } in entries.iter() {
                let is_own = || is_own(quoted);
                self.handle_messages(messages, about, 0, &is_own, stamped);
            }
            if count < Entries::MAX {
                return false;
            }
        }
        true
    }

    /// Reads timestamps that bring back their datagram, one by one: its bytes show whose they are. True if more may be
    /// left.
    fn drain_looped(&mut self, is_own: &impl Fn(&[u8]) -> bool, stamped: &mut impl FnMut(u32)) -> bool {
        let mut control = ControlBuffer::EMPTY;
        let fd = self.as_raw_fd();
        for _ in 0..MAX_ENTRIES {
            let buffer = self.in_flight.buffer();
            let mut about = RawAddress::EMPTY;
            let Ok((len, control_len)) = receive_message(fd, buffer, &mut about, &mut control, libc::MSG_ERRQUEUE)
            else {
                return false;
            };
            let mut quoted = [0; QUOTED_MAX];
            let quoted_len = len.min(QUOTED_MAX);
            quoted[..quoted_len].copy_from_slice(&buffer[..quoted_len]);
            let is_own = || is_own(&quoted[..quoted_len]);
            self.handle_messages(Messages(&control.0[..control_len]), &about, len, &is_own, stamped);
        }
        true
    }

    fn handle_messages(
        &mut self,
        messages: Messages<'_>,
        about: &RawAddress,
        len: usize,
        is_own: &impl Fn() -> bool,
        stamped: &mut impl FnMut(u32),
    ) {
        for message in messages {
            if let (libc::IPPROTO_IP, libc::IP_RECVERR, data) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, data) = message
                && let Some(queued) = Queued::parse(data)
            {
                let is_from_path = matches!(queued.origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
                if is_from_path && !is_own() {
                    self.counts.doubtful += 1;
                    continue;
                }
                let to = about.decode().map(unmapped);
                if let Some(to) = to.filter(|_| is_from_path && queued.errno == libc::ECONNREFUSED) {
                    self.note_refusal(to);
                }
                self.handle_queued(&queued, to.map(|to| to.ip()), len, stamped);
            }
        }
    }

    /// Whether the last [`drain_errors`](Self::drain_errors) stopped at its bound: drain again in the next turn,
    /// without waiting for the poll.
    pub fn errors_left(&self) -> bool {
        self.errors_left
    }

    /// The destination of a datagram that the kernel had taken and for which an error came back, as found by
    /// [`drain_errors`](Self::drain_errors). The unspecified address stands for any.
    pub fn poll_late_error(&mut self) -> Option<IpAddr> {
        self.late_errors.pop()
    }

    /// A destination where nobody listens, as its host has said, since this was last asked.
    pub fn poll_refused(&mut self) -> Option<SocketAddr> {
        self.refused.pop()
    }

    fn note_refusal(&mut self, to: SocketAddr) {
        // One that does not fit is refused again soon.
        if self.refused.len() < LATE_ERRORS_MAX && !self.refused.contains(&to) {
            self.refused.push(to);
        }
    }

    /// `to` is the destination of the datagram concerned; `len` bytes of it came back.
    fn handle_queued(&mut self, queued: &Queued, to: Option<IpAddr>, len: usize, stamped: &mut impl FnMut(u32)) {
        if queued.origin != libc::SO_EE_ORIGIN_TIMESTAMPING {
            let late = self.counts.late;
            self.counts.count_queued(queued);
            let to = to.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
            if self.counts.late > late && !self.late_errors.contains(&to) {
                if self.late_errors.len() >= LATE_ERRORS_MAX {
                    self.late_errors.clear();
                    self.late_errors.push(Ipv6Addr::UNSPECIFIED.into());
                } else {
                    self.late_errors.push(to);
                }
            }
            return;
        }
        let stamp = match self.stamps {
            _ if queued.info != SCM_TSTAMP_SND => None,
            StampState::OwnId => Some(queued.data),
            StampState::LoopedData => self.in_flight.claim(len),
            StampState::Off(_) => None,
        };
        match stamp {
            Some(stamp) => {
                self.counts.timestamps += 1;
                stamped(stamp);
            }
            None => self.counts.stray_timestamps += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::udp::{StampsOff, UdpOptions};

    fn queued(errno: i32, origin: u8, info: u32) -> Queued {
        let mut bytes = errno.to_ne_bytes().to_vec();
        bytes.extend([origin, 3, 4, 0]);
        bytes.extend(info.to_ne_bytes());
        bytes.extend([0; 4]);
        for cut in 0..bytes.len() {
            assert!(Queued::parse(&bytes[..cut]).is_none(), "{cut}");
        }
        Queued::parse(&bytes).unwrap()
    }

    #[test]
    fn each_error_counts_in_its_own_counter() {
        let mut counts = ErrorCounts::default();
        for (errno, origin, info) in [
            (libc::ECONNREFUSED, libc::SO_EE_ORIGIN_ICMP, 0),
            (libc::EHOSTUNREACH, libc::SO_EE_ORIGIN_ICMP6, 0),
            (libc::EMSGSIZE, libc::SO_EE_ORIGIN_ICMP, 1400),
            (libc::EMSGSIZE, libc::SO_EE_ORIGIN_LOCAL, 1300),
            (libc::EMSGSIZE, libc::SO_EE_ORIGIN_LOCAL, 68),
            (libc::EMSGSIZE, libc::SO_EE_ORIGIN_ICMP6, 1279),
            (libc::EPROTO, libc::SO_EE_ORIGIN_ICMP, 0),
        ] {
            counts.count_queued(&queued(errno, origin, info));
        }
        for errno in [libc::ENOBUFS, libc::EPERM] {
            counts.count_send(&io::Error::from_raw_os_error(errno));
        }
        let expected = ErrorCounts {
            queue_full: 1,
            unreachable: 2,
            too_big: 2,
            path_mtu: Some(1300),
            forbidden: 1,
            other: 1,
            late: 5,
            doubtful: 0,
            timestamps: 0,
            stray_timestamps: 0,
        };
        assert_eq!(counts, expected);
        assert_eq!(counts.total(), 7);
        let mut sum = ErrorCounts { timestamps: 3, stray_timestamps: 4, ..expected };
        sum += sum;
        assert_eq!((sum.unreachable, sum.path_mtu), (4, Some(1300)));
        assert_eq!((sum.timestamps, sum.stray_timestamps), (6, 8));
    }

    #[test]
    fn late_errors_are_reported_by_destination_and_bounded() {
        let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), UdpOptions::default()).unwrap();
        let at = |host: u8| IpAddr::from([192, 0, 2, host]);
        let mut reported = |entries: &[(u8, Option<IpAddr>)]| -> Vec<IpAddr> {
            for &(origin, to) in entries {
                socket.handle_queued(&queued(libc::ECONNREFUSED, origin, 0), to, 0, &mut |stamp| panic!("{stamp}"));
            }
            std::iter::from_fn(|| socket.poll_late_error()).collect()
        };
        let (icmp, local) = (libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_LOCAL);
        assert_eq!(reported(&[(icmp, Some(at(1))), (icmp, Some(at(1))), (local, Some(at(2)))]), [at(1)]);
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        assert_eq!(reported(&[(icmp, None)]), [any]);
        let many: Vec<_> = (0..=LATE_ERRORS_MAX as u8).map(|host| (icmp, Some(at(host)))).collect();
        assert_eq!(reported(&many), [any], "no destination is left out");
        for port in 1..=2 * LATE_ERRORS_MAX as u16 {
            socket.note_refusal((at(1), port).into());
            socket.note_refusal((at(1), port).into());
        }
        assert_eq!(std::iter::from_fn(|| socket.poll_refused()).count(), LATE_ERRORS_MAX);
    }

    #[test]
    fn only_a_timestamp_of_leaving_is_reported() {
        let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), UdpOptions::default()).unwrap();
        let (left, scheduled, acknowledged) = (0, 1, 2);
        for (state, info, expected) in [
            (StampState::OwnId, left, vec![u32::MAX]),
            (StampState::OwnId, scheduled, vec![]),
            (StampState::OwnId, acknowledged, vec![]),
            (StampState::LoopedData, left, vec![]),
            (StampState::Off(StampsOff::Configured), left, vec![]),
        ] {
            socket.stamps = state;
            let mut reported = Vec::new();
            let entry = Queued { data: u32::MAX, ..queued(libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, info) };
            socket.handle_queued(&entry, None, 0, &mut |stamp| reported.push(stamp));
            assert_eq!(reported, expected, "{state:?} {info}");
            let counts = socket.drain_errors(&mut |stamp| panic!("{stamp}"));
            assert_eq!(
                (counts.timestamps, counts.stray_timestamps),
                (reported.len() as u64, 1 - reported.len() as u64)
            );
        }
    }
}
