//! Socket options and control messages.
//!
//! The bytes of control messages are laid out and read by hand, checked, rather than through pointers: every message
//! is a header (length, level, type) and data, aligned to a machine word.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
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

/// Asks whether the kernel knows segmentation. Whether the device of a route does shows when sending.
pub(super) fn probe_segmentation(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 1400)?;
    // As a lasting option it would cut every datagram: trains say it themselves.
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0)
}

const WORD: usize = size_of::<usize>();
const HEADER: usize = size_of::<libc::cmsghdr>();

/// The control message that asks for a train to be cut into datagrams of `segment` bytes.
pub(super) struct SegmentMessage([usize; (HEADER + WORD) / WORD]);

impl SegmentMessage {
    #[inline]
    pub(super) fn new(segment: u16) -> Self {
        let header = libc::cmsghdr {
            cmsg_len: (HEADER + size_of::<u16>()) as _,
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        };
        let mut words = [0; (HEADER + WORD) / WORD];
        let at = words.as_mut_ptr();
        // SAFETY: `words` is aligned for a cmsghdr and has room for it and the word that follows.
        unsafe {
            at.cast::<libc::cmsghdr>().write(header);
            at.byte_add(HEADER).cast::<u16>().write(segment);
        }
        Self(words)
    }

    #[inline]
    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }

    /// Bytes, the padding of the data included.
    pub(super) const LEN: usize = HEADER + WORD;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_message_reads_back() {
        let message = SegmentMessage::new(1452);
        let bytes: Vec<u8> = message.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes.len(), SegmentMessage::LEN);
        let read: Vec<_> = Messages(&bytes).collect();
        assert_eq!(read, [(libc::SOL_UDP, libc::UDP_SEGMENT, &1452u16.to_ne_bytes()[..])]);
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
