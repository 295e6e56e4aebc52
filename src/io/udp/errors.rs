//! What went wrong with datagrams that were sent: errors of the calls, and what comes back later.
//!
//! Without the error queue the kernel keeps to itself that its own queues dropped our datagrams.

use std::io;
use std::ops::AddAssign;
use std::os::fd::AsRawFd;

use super::UdpSocket;
use super::address::RawAddress;
use super::control::{ControlBuffer, Messages};
use super::receive::receive_message;

/// Errors of sending, counted since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// A queue of this host was full and dropped the datagram or train (`ENOBUFS`).
    pub queue_full: u64,
    /// Nobody or nothing there: no route, host or port unreachable.
    pub unreachable: u64,
    /// Larger than the device or the path carries (`EMSGSIZE`).
    pub too_big: u64,
    /// The smallest MTU named with a `too_big`.
    pub path_mtu: Option<u32>,
    /// Forbidden by a firewall rule (`EPERM`, `EACCES`).
    pub forbidden: u64,
    /// Anything else.
    pub other: u64,
    /// Transmit timestamps found in the queue; not errors.
    pub timestamps: u64,
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

    /// `data` is a `sock_extended_err` (`include/uapi/linux/errqueue.h`): errno u32, origin u8, type u8, code u8,
    /// pad u8, info u32, data u32; then who said it.
    fn count_queued(&mut self, data: &[u8]) {
        let (Some(errno), Some(&origin)) = (data.first_chunk(), data.get(4)) else {
            return;
        };
        let errno = i32::from_ne_bytes(*errno);
        if origin == libc::SO_EE_ORIGIN_TIMESTAMPING {
            self.timestamps += 1;
            return;
        }
        if errno == libc::EMSGSIZE
            && let Some(mtu) = data.get(8..).and_then(|info| info.first_chunk())
        {
            let mtu = u32::from_ne_bytes(*mtu);
            self.path_mtu = Some(self.path_mtu.map_or(mtu, |known| known.min(mtu)));
        }
        // The call that met a local error has returned it and it is counted.
        if origin != libc::SO_EE_ORIGIN_LOCAL {
            self.count(errno);
        }
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
        self.timestamps += later.timestamps;
    }
}

/// Entries read in one call: a flood of ICMP must not hold the loop.
const MAX_ENTRIES: usize = 256;

impl UdpSocket {
    /// Empties the error queue, and takes what was counted since the last time, errors of
    /// [`send_train`](Self::send_train) included. Call it each turn in which the poll reported an error: the queue is
    /// bounded.
    pub fn drain_errors(&mut self) -> ErrorCounts {
        // The datagram that failed comes back with its error; its first bytes are all we take of it.
        let mut datagram = [0; 64];
        for _ in 0..MAX_ENTRIES {
            let mut address = RawAddress::EMPTY;
            let mut control = ControlBuffer::EMPTY;
            let flags = libc::MSG_ERRQUEUE;
            let received = receive_message(self.as_raw_fd(), &mut datagram, &mut address, &mut control, flags);
            let Ok((_, control_len)) = received else { break };
            for message in Messages(&control.0[..control_len]) {
                if let (libc::IPPROTO_IP, libc::IP_RECVERR, data) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, data) =
                    message
                {
                    self.counts.count_queued(data);
                }
            }
        }
        std::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(errno: i32, origin: u8, info: u32) -> Vec<u8> {
        let mut data = errno.to_ne_bytes().to_vec();
        data.extend([origin, 3, 4, 0]);
        data.extend(info.to_ne_bytes());
        data.extend([0; 4]);
        data
    }

    #[test]
    fn every_error_lands_in_its_counter_and_timestamps_in_none() {
        let mut counts = ErrorCounts::default();
        for (errno, origin, info) in [
            (libc::ECONNREFUSED, libc::SO_EE_ORIGIN_ICMP, 0),
            (libc::EHOSTUNREACH, libc::SO_EE_ORIGIN_ICMP6, 0),
            (libc::EMSGSIZE, libc::SO_EE_ORIGIN_ICMP, 1400),
            (libc::EMSGSIZE, libc::SO_EE_ORIGIN_LOCAL, 1300),
            (libc::EPROTO, libc::SO_EE_ORIGIN_ICMP, 0),
            (libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, 0),
        ] {
            counts.count_queued(&queued(errno, origin, info));
        }
        counts.count_queued(&[1, 2, 3]);
        for errno in [libc::ENOBUFS, libc::EPERM] {
            counts.count_send(&io::Error::from_raw_os_error(errno));
        }
        let expected = ErrorCounts {
            queue_full: 1,
            unreachable: 2,
            too_big: 1,
            path_mtu: Some(1300),
            forbidden: 1,
            other: 1,
            timestamps: 1,
        };
        assert_eq!(counts, expected);
        assert_eq!(counts.total(), 6);
        let mut sum = expected;
        sum += expected;
        assert_eq!((sum.unreachable, sum.path_mtu), (4, Some(1300)));
    }
}
