//! The bytes of our own connected TCP socket that are not sent yet.
//!
//! Whether bytes arrived is not known here. The sockets of other programs are in [`super::sock_diag`].
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// `SIOCOUTQNSD` of `linux/sockios.h`.
const NOT_SENT: libc::Ioctl = 0x894b;

/// Bytes written into the socket that were not sent even once.
pub fn unsent(stream: &TcpStream) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: this request writes one int, to a variable that outlives the call.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), NOT_SENT, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    #[test]
    fn bytes_that_the_receiver_has_no_room_for_are_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _silent = listener.accept().unwrap();
        stream.write_all(b"small").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while unsent(&stream).unwrap() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(unsent(&stream).unwrap(), 0);
        stream.set_nonblocking(true).unwrap();
        let block = vec![7; 1 << 20];
        while stream.write(&block).is_ok() {}
        assert!(unsent(&stream).unwrap() > 0);
    }
}
