//! Sends a train of equal datagrams in as few system calls as the kernel allows, with or without requests for transmit
//! timestamps. What comes back later is read elsewhere.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::ptr;

use super::address::RawAddress;
use super::control::{PacketInfo, Requests};
use super::stamps::{StampState, StampsOff};
use super::{Change, Extra, UdpSocket, mapped};

/// Segments in one call that every kernel with UDP segmentation takes.
const MAX_SEGMENTS: usize = 64;
/// Bytes in one call: below the 65,507 of a UDP datagram, with room for IPv6 options.
const MAX_BYTES: usize = 65_000;

/// Whether the kernel cuts our trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoState {
    /// It does: a train is one call.
    Active,
    /// It does not: a train is one call a batch (`sendmmsg`), at several times the cost.
    Off(GsoOff),
}

/// Why the kernel does not cut our trains. Numbers are errno values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoOff {
    /// The configuration switches it off.
    Configured,
    /// The kernel does not know it.
    Unsupported(i32),
    /// A train was refused, and went through when we cut it. Tried again from time to time.
    Refused(i32),
}

impl std::fmt::Display for GsoState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errno = |number| io::Error::from_raw_os_error(number);
        match *self {
            Self::Active => f.write_str("active"),
            Self::Off(GsoOff::Configured) => f.write_str("off (configured)"),
            Self::Off(GsoOff::Unsupported(number)) => write!(f, "off (not in this kernel: {})", errno(number)),
            Self::Off(GsoOff::Refused(number)) => write!(f, "off (refused when sending: {})", errno(number)),
        }
    }
}

/// The destination of a train, and how to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where to.
    pub to: SocketAddr,
    /// Source address of this host, of the same family; with `None` the kernel chooses.
    pub from: Option<IpAddr>,
    /// Each datagram by itself, although the kernel could cut the train.
    pub alone: bool,
    /// DSCP and ECN field of each datagram.
    pub class: u8,
}

impl From<SocketAddr> for Target {
    fn from(to: SocketAddr) -> Self {
        Self { to, from: None, alone: false, class: 0 }
    }
}

/// The result of sending a train.
#[derive(Debug, Default)]
pub struct SendOutcome {
    /// Bytes the kernel took, from the front: whole datagrams.
    pub sent: usize,
    /// Number of timestamps requested for these bytes; their ids count up from the `stamp` of the call. Each stands for
    /// one packet that the kernel took. If one never comes, its packet may have been dropped.
    pub stamps: usize,
    /// The send buffer is full: offer the rest again when the socket is writable.
    pub blocked: bool,
    /// The error that stopped the train. The datagram at `sent` is lost, and nothing after it was tried. Already
    /// counted in [`ErrorCounts`](super::ErrorCounts).
    pub error: Option<io::Error>,
}

/// A target in the kernel's form, and the size of its datagrams.
struct Destination {
    address: RawAddress,
    length: libc::socklen_t,
    from: Option<PacketInfo>,
    class: u8,
    is_v6: bool,
    segment: usize,
    alone: bool,
}

/// What one system call took.
#[derive(Clone, Copy)]
struct Taken {
    bytes: usize,
    /// Packets that the kernel may drop or send each by itself: a train that it cuts is one packet until it is cut.
    packets: usize,
}

impl UdpSocket {
    /// Sends `bytes` to `to`, cut into datagrams of `segment` bytes, the last of which may be shorter. A `segment` of
    /// 0 sends one datagram.
    pub fn send_train(&mut self, to: SocketAddr, bytes: &[u8], segment: usize) -> SendOutcome {
        self.send(to.into(), bytes, segment, None)
    }

    /// As [`send_train`](Self::send_train), with a transmit timestamp requested for each packet that the kernel takes:
    /// one for a train that it cuts, else one for each datagram. [`drain_errors`](Self::drain_errors) reports them with
    /// `stamp` and the ids that follow it; no other datagram in flight may have one of these. Nor may two datagrams in
    /// flight have the same length and first 16 bytes, by which the timestamps of older kernels are matched.
    ///
    /// A timestamp means that the driver of the last device got the datagram (a TUN's driver gets it before its ring of
    /// packets, which may be full and drop it). For a train that the kernel cuts, it is the timestamp of the *first*
    /// datagram. The others have left once a timestamp comes of something sent later through the same queue, if the
    /// device has dropped nothing. What was dropped in this host gets no timestamp. Where there are no timestamps
    /// ([`stamps`](Self::stamps)), everything is sent without them.
    pub fn send_stamped(&mut self, to: SocketAddr, bytes: &[u8], segment: usize, stamp: u32) -> SendOutcome {
        self.send(to.into(), bytes, segment, Some(stamp))
    }

    /// Sends as either of them, to a target.
    pub fn send(&mut self, target: Target, bytes: &[u8], segment: usize, stamp: Option<u32>) -> SendOutcome {
        let (address, length) = RawAddress::new(mapped(target.to, self.local.is_ipv6()));
        let segment = if segment == 0 { bytes.len() } else { segment };
        let from = target.from.map(|from| PacketInfo::new(from, self.local.is_ipv6()));
        let (class, is_v6) = (target.class, target.to.is_ipv6());
        let destination = Destination { address, length, from, class, is_v6, segment, alone: target.alone };
        let mut outcome = SendOutcome::default();
        let mut is_whole = true;
        while outcome.sent < bytes.len() {
            let rest = &bytes[outcome.sent..];
            let number = stamp.map(|stamp| stamp.wrapping_add(outcome.stamps as u32));
            match self.send_batch(&destination, rest, number) {
                Ok((taken, stamps)) => {
                    outcome.sent += taken.bytes;
                    outcome.stamps += stamps;
                    is_whole &= stamps == taken.packets;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    outcome.blocked = true;
                    break;
                }
                Err(error) => {
                    self.counts.count_send(&error);
                    outcome.error = Some(error);
                    break;
                }
            }
        }
        outcome.stamps = counted(outcome.stamps, is_whole);
        outcome
    }

    /// Sends from the front what fits in one call; returns how many timestamps were requested. `Ok` is never empty.
    fn send_batch(
        &mut self,
        destination: &Destination,
        bytes: &[u8],
        stamp: Option<u32>,
    ) -> io::Result<(Taken, usize)> {
        let stamp = stamp.filter(|_| self.asks_for_stamps());
        match self.try_batch(destination, bytes, stamp) {
            Err(error) if stamp.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {
                // As for segmentation: the request was to blame only if sending works without it.
                let taken = self.try_batch(destination, bytes, None)?;
                let is_new = self.stamp_retry.on_refused();
                if is_new {
                    self.changes.push_back(Change::Refused(Extra::Timestamps, error));
                }
                if self.stamp_retry.is_given_up() {
                    self.stamps = StampState::Off(StampsOff::Refused(libc::EINVAL));
                }
                Ok((taken, 0))
            }
            Err(error) => Err(error),
            Ok(taken) => {
                let Some(stamp) = stamp else { return Ok((taken, 0)) };
                if self.stamp_retry.on_taken() {
                    self.changes.push_back(Change::Back(Extra::Timestamps));
                }
                if self.stamps == StampState::LoopedData {
                    self.in_flight.push_all(stamp, &bytes[..taken.bytes], destination.segment, taken.packets);
                }
                Ok((taken, taken.packets))
            }
        }
    }

    /// Timestamps are available, or may be tried again.
    fn asks_for_stamps(&mut self) -> bool {
        match self.stamps {
            StampState::Off(StampsOff::Refused(_)) if self.stamp_retry.is_allowed() => {
                self.stamps = self.stamps_before;
                true
            }
            StampState::Off(_) => false,
            StampState::OwnId | StampState::LoopedData => true,
        }
    }

    /// Whether the kernel is to cut trains.
    fn cuts_trains(&self) -> bool {
        match self.gso {
            GsoState::Active => true,
            GsoState::Off(GsoOff::Refused(_)) => self.gso_retry.is_allowed(),
            GsoState::Off(_) => false,
        }
    }

    /// Requests the source address of the envelope, its class unless that is 0, and the timestamp with this id, if one is wanted.
    fn requests(&self, destination: &Destination, stamp: Option<u32>) -> Requests {
        let requests = match (self.stamps, stamp) {
            (StampState::OwnId, Some(_)) => Requests::stamp(stamp),
            (StampState::LoopedData, Some(_)) => Requests::stamp(None),
            _ => Requests::NONE,
        };
        let requests = match &destination.from {
            Some(from) => requests.from(from),
            None => requests,
        };
        match destination.class {
            0 => requests,
            class => requests.class(class, destination.is_v6),
        }
    }

    fn try_batch(&mut self, destination: &Destination, bytes: &[u8], stamp: Option<u32>) -> io::Result<Taken> {
        let segment = destination.segment;
        if bytes.len() <= segment {
            return retried(|| self.send_one(destination, bytes, &self.requests(destination, stamp)));
        }
        let fitting = (MAX_BYTES / segment).clamp(1, MAX_SEGMENTS);
        let size = u16::try_from(segment).ok().filter(|_| !destination.alone && fitting > 1 && self.cuts_trains());
        let Some(size) = size else { return retried(|| self.send_each(destination, bytes, stamp)) };
        let batch = &bytes[..bytes.len().min(fitting * segment)];
        let cut = self.requests(destination, stamp).segment(size);
        let result = retried(|| self.send_one(destination, batch, &cut));
        let Err(error) = result else {
            if self.gso_retry.on_taken() {
                self.gso = GsoState::Active;
                self.changes.push_back(Change::Back(Extra::Segmentation));
            }
            return result;
        };
        let Some(errno @ (libc::EIO | libc::EINVAL)) = error.raw_os_error() else {
            return Err(error);
        };
        // The device or the kernel may not cut this train. Cut it here; the segmentation was to blame only if that
        // works.
        let taken = retried(|| self.send_each(destination, batch, stamp))?;
        if self.gso_retry.on_refused() {
            self.changes.push_back(Change::Refused(Extra::Segmentation, error));
        }
        if self.gso_retry.is_given_up() {
            self.gso = GsoState::Off(GsoOff::Refused(errno));
        }
        Ok(taken)
    }

    /// One `sendmsg`: a datagram, or a train for the kernel to cut if `requests` says so.
    fn send_one(&self, destination: &Destination, bytes: &[u8], requests: &Requests) -> io::Result<Taken> {
        let mut slice = io_slice(bytes);
        let message = message(destination, &mut slice, requests);
        // SAFETY: the message points to the address, the slice and the control messages, all alive until the call
        // returns; the kernel only reads them.
        let sent = unsafe { libc::sendmsg(self.as_raw_fd(), &raw const message, 0) };
        let bytes = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        Ok(Taken { bytes, packets: 1 })
    }

    /// One `sendmmsg`: up to [`MAX_SEGMENTS`] datagrams from the front.
    fn send_each(&self, destination: &Destination, bytes: &[u8], stamp: Option<u32>) -> io::Result<Taken> {
        let segment = destination.segment;
        let mut slices = [io_slice(&[]); MAX_SEGMENTS];
        let mut requests = [const { Requests::NONE }; MAX_SEGMENTS];
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MAX_SEGMENTS];
        let mut count = 0;
        for (((datagram, slice), slot), asked) in
            bytes.chunks(segment).zip(&mut slices).zip(&mut messages).zip(&mut requests)
        {
            *slice = io_slice(datagram);
            *asked = self.requests(destination, stamp.map(|stamp| stamp.wrapping_add(count)));
            slot.write(libc::mmsghdr { msg_hdr: message(destination, slice, asked), msg_len: 0 });
            count += 1;
        }
        // SAFETY: the first `count` messages are initialised and point to the address, their slices and the control
        // messages, all alive until the call returns; the kernel writes only `msg_len`.
        let sent = unsafe { libc::sendmmsg(self.as_raw_fd(), messages.as_mut_ptr().cast(), count, 0) };
        let packets = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        Ok(Taken { bytes: bytes.len().min(packets * segment), packets })
    }
}

fn io_slice(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// A message of one slice. The kernel only reads what the pointers point to; they are mutable because of the C API.
fn message(destination: &Destination, slice: &mut libc::iovec, requests: &Requests) -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zeros is a valid value (some C libraries pad it).
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = ptr::from_ref(&destination.address).cast_mut().cast();
    message.msg_namelen = destination.length;
    message.msg_iov = slice;
    message.msg_iovlen = 1;
    message.msg_control = requests.as_bytes().as_ptr().cast_mut().cast();
    message.msg_controllen = requests.as_bytes().len() as _;
    message
}

/// How many timestamps a send waits for when `asked` were requested. If the kernel took a part of it without one, the
/// others prove nothing about that part: the count is one more, which never comes.
fn counted(asked: usize, is_whole: bool) -> usize {
    if is_whole || asked == 0 { asked } else { asked + 1 }
}

/// ICMP errors of earlier datagrams make a call fail at most this often.
const LEFT_OVER_MAX: usize = 16;

/// Repeats a call that failed because of an earlier datagram. With `IP_RECVERR` an ICMP error of an earlier datagram,
/// forged or not, makes the next call fail, whatever that sends; its datagram was not tried.
fn retried(mut call: impl FnMut() -> io::Result<Taken>) -> io::Result<Taken> {
    for _ in 0..LEFT_OVER_MAX {
        match call() {
            Err(error) if !is_own(&error) => {}
            result => return result,
        }
    }
    call()
}

/// Errors of this call, not of an earlier datagram.
fn is_own(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOBUFS | libc::EINVAL | libc::EIO | libc::EPERM | libc::EAFNOSUPPORT | libc::ENODEV)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_of_a_part_of_a_send_do_not_prove_all_of_it() {
        // Requested for each packet, for none, and for those of one of two calls.
        assert_eq!([counted(3, true), counted(0, false), counted(3, false)], [3, 0, 4]);
    }

    #[test]
    fn errors_of_earlier_datagrams_do_not_lose_the_next_one() {
        for (errors, is_sent) in [(0, true), (1, true), (LEFT_OVER_MAX, true), (LEFT_OVER_MAX + 1, false)] {
            let mut left = errors;
            let outcome = retried(|| match left {
                0 => Ok(Taken { bytes: 1, packets: 1 }),
                _ => {
                    left -= 1;
                    Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
                }
            });
            assert_eq!(outcome.is_ok(), is_sent, "{errors}");
        }
        let mut calls = 0;
        let own = retried(|| {
            calls += 1;
            Err(io::Error::from_raw_os_error(libc::ENOBUFS))
        });
        assert!(own.is_err() && calls == 1, "an error of this call is final");
    }
    use crate::io::udp::{GsoOff, GsoState, UdpOptions, control};
    use std::os::fd::AsFd;

    #[test]
    fn a_train_that_the_kernel_will_not_cut_is_cut_here_and_the_state_shows_it() {
        let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), UdpOptions::default()).unwrap();
        let (mut sender, mut receiver) = (bind(), bind());
        // Without checksums there is no segmentation: EINVAL, as from a device that lacks it.
        control::set_option(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|at| at as u8).collect();
        for _ in 0..2 {
            let outcome = sender.send_train(receiver.local_addr(), &bytes, 1452);
            assert_eq!((outcome.sent, outcome.blocked), (bytes.len(), false), "{:?}", outcome.error);
            assert_eq!(sender.gso_state(), GsoState::Off(GsoOff::Refused(libc::EINVAL)));
            let (mut received, mut buffer) = (Vec::new(), vec![0; 65_536]);
            while let Some(train) = receiver.recv_train(&mut buffer).unwrap() {
                received.extend_from_slice(&buffer[..train.len]);
            }
            assert!(received == bytes, "{} bytes came", received.len());
        }
        assert_eq!(sender.drain_errors(&mut |_| {}).total(), 0);
        assert!(matches!(sender.poll_change(), Some(Change::Refused(Extra::Segmentation, _))));
        assert!(sender.poll_change().is_none(), "returned once");
    }

    #[test]
    fn a_kernel_that_refused_three_trains_gets_another_after_a_while() {
        let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), UdpOptions::default()).unwrap();
        let (mut sender, receiver) = (bind(), bind());
        let send = |sender: &mut UdpSocket| {
            let bytes = vec![7; 5000];
            assert_eq!(sender.send_train(receiver.local_addr(), &bytes, 1000).sent, bytes.len());
            sender.gso_state() == GsoState::Active
        };
        let refuse = |sender: &UdpSocket, refuse: libc::c_int| {
            control::set_option(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, refuse).unwrap();
        };
        refuse(&sender, 1);
        assert_eq!([(); 4].map(|()| send(&mut sender)), [true, true, false, false]);
        refuse(&sender, 0);
        assert!(!send(&mut sender), "not before its time");
        sender.gso_retry.expire();
        assert!(send(&mut sender));
        let is_back: Vec<bool> = std::iter::from_fn(|| sender.poll_change())
            .map(|change| matches!(change, Change::Back(Extra::Segmentation)))
            .collect();
        assert_eq!(is_back, [false, true], "in the order in which it happened");
        // A train sent as single datagrams does not show that trains are taken.
        let target = Target { alone: true, ..receiver.local_addr().into() };
        refuse(&sender, 1);
        (0..9).for_each(|_| assert_eq!(sender.send(target, &[7; 5000], 1000, None).sent, 5000));
        assert_eq!(sender.gso_state(), GsoState::Active);
    }
}
