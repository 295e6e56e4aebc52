//! How many bytes a program has written into a local TCP socket since the connection began, exactly and without any
//! privilege: `tcpi_bytes_sent - tcpi_bytes_retrans + tcpi_notsent_bytes` of `TCP_INFO`.
//!
//! The one system call of the notification library, and the one file with `unsafe` outside of the appliance's `io`: the
//! library imports nothing of the appliance, and no safe wrapper of this option is kept. It knows neither flows nor
//! positions.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Where the fields lie in `struct tcp_info` of `linux/tcp.h`: it only ever grows at its end.
const NOTSENT_BYTES: usize = 144;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;
/// As far as Linux 4.19 fills it, which is the first with all of them.
const NEEDED: usize = 216;

/// Bytes written into the socket so far: the offset in the stream of the next byte to be written.
///
/// Fails where the kernel is older than 4.19.
pub fn written(stream: &TcpStream) -> io::Result<u64> {
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the pointers are to a buffer and a length that outlive the call, and the length is the buffer's.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    written_in(&info[..(len as usize).min(info.len())])
}

/// The same from a `struct tcp_info` that the kernel gave elsewhere. Where a socket was closed and the end of its stream
/// is not sent yet, that end counts as one byte.
///
/// Fails where the structure is shorter than Linux 4.19 makes it.
pub fn written_in(info: &[u8]) -> io::Result<u64> {
    if info.len() < NEEDED {
        let text = "TCP_INFO does not say how much was sent: Linux 4.19 or later is needed";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&info[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    let mut notsent = [0; 4];
    notsent.copy_from_slice(&info[NOTSENT_BYTES..NOTSENT_BYTES + 4]);
    let sent = word(BYTES_SENT).saturating_sub(word(BYTES_RETRANS));
    Ok(sent + u64::from(u32::from_ne_bytes(notsent)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn every_byte_written_is_counted_read_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        assert_eq!(written(&stream).unwrap(), 0);
        stream.write_all(b"hello").unwrap();
        assert_eq!(written(&stream).unwrap(), 5);
        // More than the reader's window takes: part of it waits in the socket.
        stream.set_nonblocking(true).unwrap();
        let mut total = 5;
        while let Ok(count) = stream.write(&[7; 100_000]) {
            total += count as u64;
        }
        assert_eq!(written(&stream).unwrap(), total);
        other.read_exact(&mut vec![0; 100_000]).unwrap();
        assert_eq!(written(&stream).unwrap(), total);
    }
}
