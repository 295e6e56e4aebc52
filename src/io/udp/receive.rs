//! Receives: one call returns one datagram, or a train of equal ones that the kernel has merged.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::address::RawAddress;
use super::arrival::parse_stamp;
use super::control::{ControlBuffer, Messages, PacketInfo, leading_u32, parse_class};
use super::{UdpSocket, unmapped};

/// The result of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Number of bytes in the buffer.
    pub len: usize,
    /// Size of each datagram in it but the last, which may be shorter. Never 0: `buffer[..len].chunks(segment)`
    /// gives the datagrams (an empty one gives none).
    pub segment: usize,
    /// Their source; an IPv4 address is plain IPv4 on any socket.
    pub from: SocketAddr,
    /// The address of this host that they were sent to; `None` where the socket has only one, or the kernel does not
    /// report it.
    pub to: Option<IpAddr>,
    /// When the first of them came to this host, however late it is read; `None` where the kernel does not report it,
    /// or its clock was set meanwhile.
    pub arrived: Option<Instant>,
    /// Their DSCP and ECN field, which is the same for all: the kernel merges no others. 0 if it is not asked for
    /// ([`UdpOptions::classes`](super::UdpOptions::classes)).
    pub class: u8,
}

/// Errors that may precede a datagram. More of them are a flood, or do not end: the loop must go on.
const MAX_PENDING_ERRORS: usize = 16;

impl UdpSocket {
    /// Receives a train, or `None` when there is nothing, or when only errors came
    /// ([`is_unread`](Self::is_unread)). `buffer` must hold 65,536 bytes: what does not fit is cut off.
    ///
    /// Errors of earlier sends are not reported here: see [`drain_errors`](Self::drain_errors).
    pub fn recv_train(&mut self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        self.first_train(|socket| socket.receive(buffer))
    }

    /// The first train of a few calls.
    #[inline]
    fn first_train(
        &mut self,
        mut receive: impl FnMut(&mut Self) -> io::Result<Option<Received>>,
    ) -> io::Result<Option<Received>> {
        for _ in 0..MAX_PENDING_ERRORS {
            match receive(self) {
                Ok(Some(received)) => return Ok(Some(received)),
                // A message without a source is not from the network.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.arrivals.on_empty();
                    self.is_unread = false;
                    return Ok(None);
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::EFAULT | libc::ENOTSOCK)) => {
                    return Err(error);
                }
                // Reading an ICMP error of an earlier datagram clears it; its copy is in the error queue.
                Err(error) if is_of_earlier_send(&error) => {}
                Err(error) => self.receive_error = Some(error),
            }
        }
        self.is_unread = true;
        Ok(None)
    }

    /// The last [`recv_train`](Self::recv_train) that returned nothing did not find the socket empty: something may lie
    /// there, and no event will report it again.
    pub fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// An error of receiving that is not about an earlier datagram, since this was last asked.
    pub fn poll_receive_error(&mut self) -> Option<io::Error> {
        self.receive_error.take()
    }

    #[inline]
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut address = RawAddress::EMPTY;
        let mut control = ControlBuffer::EMPTY;
        let (len, control_len) = receive_message(self.as_raw_fd(), buffer, &mut address, &mut control, 0)?;
        let Some(from) = address.decode() else {
            return Ok(None);
        };
        let (mut segment, mut stamp, mut to, mut class) = (len.max(1), None, None, None);
        for (level, kind, data) in Messages(&control.0[..control_len]) {
            match (level, kind, leading_u32(data)) {
                (libc::SOL_UDP, libc::UDP_GRO, Some(size @ 1..)) => segment = size as usize,
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, Some(total)) => self.on_overflows(total),
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, _) => stamp = parse_stamp(data),
                _ => {
                    to = to.or(PacketInfo::parse(level, kind, data));
                    class = class.or(parse_class(level, kind, data));
                }
            }
        }
        let (from, class, arrived) = (unmapped(from), class.unwrap_or(0), self.arrivals.tell(stamp));
        Ok(Some(Received { len, segment, from, to, arrived, class }))
    }
}

/// Whether an error of a receiving call is one that an earlier datagram brought about, or a signal.
fn is_of_earlier_send(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EMSGSIZE
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EACCES
        )
    )
}

/// Bytes that an error quotes of its datagram: the clear header.
pub const QUOTED_MAX: usize = 12;

/// An entry of the error queue.
pub(super) struct Entry<'a> {
    /// The destination of the datagram concerned.
    pub about: &'a RawAddress,
    /// Its control messages.
    pub messages: Messages<'a>,
    /// The first bytes of the datagram, as far as they are quoted.
    pub quoted: &'a [u8],
}

/// Room for what one call reads from the error queue: for each entry its destination, its messages and its quoted
/// bytes.
pub(super) struct Entries {
    addresses: [RawAddress; Self::MAX],
    controls: [ControlBuffer; Self::MAX],
    control_lens: [usize; Self::MAX],
    quoted: [[u8; QUOTED_MAX]; Self::MAX],
    quoted_lens: [usize; Self::MAX],
    count: usize,
}

impl Entries {
    /// Entries read in one call.
    pub(super) const MAX: usize = 16;
    /// No entries.
    pub(super) const EMPTY: Self = Self {
        addresses: [RawAddress::EMPTY; Self::MAX],
        controls: [const { ControlBuffer::EMPTY }; Self::MAX],
        control_lens: [0; Self::MAX],
        quoted: [[0; QUOTED_MAX]; Self::MAX],
        quoted_lens: [0; Self::MAX],
        count: 0,
    };

    /// Reads the next entries of this socket's error queue, in one `recvmmsg`; fewer than [`MAX`](Self::MAX) if there
    /// are no more.
    pub(super) fn read(&mut self, socket: libc::c_int) -> usize {
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::zeroed() }; Self::MAX];
        let mut slices = self
            .quoted
            .each_mut()
            .map(|quoted| libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: QUOTED_MAX });
        let rooms = self.addresses.iter_mut().zip(&mut self.controls).zip(&mut slices);
        for (message, ((address, control), slice)) in messages.iter_mut().zip(rooms) {
            *address = RawAddress::EMPTY;
            // SAFETY: mmsghdr is plain data for which all zeros is a valid value (some C libraries pad it).
            let message = unsafe { message.assume_init_mut() };
            message.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
            message.msg_hdr.msg_namelen = RawAddress::CAPACITY;
            message.msg_hdr.msg_iov = slice;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = control.0.len() as _;
        }
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: all messages are initialised and point to addresses, control buffers and slices with their true sizes,
        // all exclusively borrowed until the call returns.
        let read = unsafe {
            libc::recvmmsg(socket, messages.as_mut_ptr().cast(), Self::MAX as _, flags as _, std::ptr::null_mut())
        };
        self.count = usize::try_from(read).unwrap_or(0).min(Self::MAX);
        let lens = self.control_lens.iter_mut().zip(&mut self.quoted_lens);
        for ((control_len, quoted_len), message) in lens.zip(&messages[..self.count]) {
            // SAFETY: initialised above; the kernel wrote lengths.
            let message = unsafe { message.assume_init_ref() };
            #[allow(clippy::unnecessary_cast, reason = "not a usize in every C library")]
            let written = message.msg_hdr.msg_controllen as usize;
            *control_len = written.min(self.controls[0].0.len());
            *quoted_len = (message.msg_len as usize).min(QUOTED_MAX);
        }
        self.count
    }

    /// The entries of the last read.
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let controls = self.controls.iter().zip(&self.control_lens).map(|(control, len)| Messages(&control.0[..*len]));
        let quoted = self.quoted.iter().zip(&self.quoted_lens).map(|(quoted, len)| &quoted[..*len]);
        let parts = self.addresses.iter().zip(controls).zip(quoted).take(self.count);
        parts.map(|((about, messages), quoted)| Entry { about, messages, quoted })
    }
}

/// One `recvmsg`. Returns the bytes received and the bytes of control messages.
pub(super) fn receive_message(
    socket: libc::c_int,
    buffer: &mut [u8],
    address: &mut RawAddress,
    control: &mut ControlBuffer,
    flags: libc::c_int,
) -> io::Result<(usize, usize)> {
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data for which all zeros is a valid value (some C libraries pad it).
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = std::ptr::from_mut(address).cast();
    message.msg_namelen = RawAddress::CAPACITY;
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message points to the address, the buffer and the control buffer with their true sizes, all
    // exclusively borrowed until the call returns.
    let received = unsafe { libc::recvmsg(socket, &raw mut message, flags) };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    #[allow(clippy::unnecessary_cast, reason = "not a usize in every C library")]
    let control_len = message.msg_controllen as usize;
    Ok((len.min(buffer.len()), control_len.min(control.0.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::udp::UdpOptions;

    #[test]
    fn a_socket_that_only_gives_errors_is_unread_and_not_empty() {
        let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), UdpOptions::default()).unwrap();
        for (errno, is_told) in
            [(libc::ENOMEM, true), (libc::ENOBUFS, true), (libc::ECONNREFUSED, false), (libc::EINTR, false)]
        {
            let mut calls = 0;
            let failing = |_: &mut UdpSocket| {
                calls += 1;
                Err(io::Error::from_raw_os_error(errno))
            };
            assert!(socket.first_train(failing).unwrap().is_none(), "{errno}");
            assert_eq!((calls, socket.is_unread()), (MAX_PENDING_ERRORS, true), "{errno}");
            assert_eq!(socket.poll_receive_error().is_some(), is_told, "{errno}");
            assert!(socket.poll_receive_error().is_none(), "told once");
            assert!(socket.recv_train(&mut [0; 10]).unwrap().is_none());
            assert!(!socket.is_unread(), "it is empty");
        }
        let gone = |_: &mut UdpSocket| Err(io::Error::from_raw_os_error(libc::EBADF));
        assert!(socket.first_train(gone).is_err());
    }
}
