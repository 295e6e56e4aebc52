//! How many bytes a program has written into a local TCP socket since the connection began, exactly and without any
//! privilege: `tcpi_bytes_sent - tcpi_bytes_retrans + tcpi_notsent_bytes` of `TCP_INFO`.
//!
//! This is the only system call of the crate, and the only file with `unsafe` outside of the appliance's `io`: the
//! crate imports nothing of the appliance, and there is no maintained safe wrapper of this option. The file does not
//! know flows or positions.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Offsets of the fields in `struct tcp_info` of `linux/tcp.h`, which only grows at its end.
const NOTSENT_BYTES: usize = 144;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;
/// Bytes that Linux 4.19 fills, the first version with all three fields.
const NEEDED: usize = 216;

/// Bytes written into the socket so far: the stream offset of the next byte.
///
/// Fails on kernels older than 4.19.
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

/// The same from a `struct tcp_info` that the caller already has. If the socket was closed and its FIN is not sent yet,
/// the FIN counts as one byte.
///
/// Fails if the structure is shorter than in Linux 4.19.
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
    fn written_bytes_count_whether_read_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        assert_eq!(written(&stream).unwrap(), 0);
        stream.write_all(b"hello").unwrap();
        assert_eq!(written(&stream).unwrap(), 5);
        // More than the receive window takes: a part waits in the socket.
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
