//! How many bytes a program has written into a local TCP socket since the connection began, without any privilege.
//!
//! `TCP_INFO` has two sums. What was sent, without repetitions, and waits to be sent is exact until a send fails on this
//! host, because there is no route: the kernel counts those bytes again when they leave. What is acknowledged and what is
//! queued stays exact, but for the SYN, which counts as a byte where this end connected. Neither is ever too low, so the
//! lesser of the two is taken. While a connection is being made the kernel says that nothing is queued, whatever is (TCP Fast
//! Open sends bytes with the SYN): then only the first sum counts.
//!
//! These are the only system calls of the crate, and the only file with `unsafe` outside of the appliance's `io`: the
//! crate imports nothing of the appliance, and there is no maintained safe wrapper of them. The file does not
//! know flows or positions.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Offsets of the fields in `struct tcp_info` of `linux/tcp.h`, which only grows at its end.
const STATE: usize = 0;
const BYTES_ACKED: usize = 120;
const NOTSENT_BYTES: usize = 144;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;
/// Bytes that Linux 4.19 fills, the first version with all four fields.
const NEEDED: usize = 216;
/// The states in which `SIOCOUTQ` is 0, whatever waits: `TCP_SYN_SENT`, `TCP_SYN_RECV`.
const BEGINNING: [u8; 2] = [2, 3];
/// How often the kernel is asked again because bytes were acknowledged between two questions.
const TRIES: usize = 16;

/// What is known of the stream of a socket toward the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes written into the socket, never less than were; one more where sends have failed on this host and this end
    /// connected, and where the socket was closed and its FIN is not sent yet.
    pub written: u64,
    /// Bytes that the other side has acknowledged: `written` where it has all that was written before the question, else never
    /// more than it has, and one less where the other end connected.
    pub acknowledged: u64,
    /// `written` is exact: no send has failed on this host.
    pub is_certain: bool,
}

/// Bytes written into the socket so far: the stream offset of the next byte.
///
/// Fails on kernels older than 4.19.
pub fn written(stream: &TcpStream) -> io::Result<u64> {
    of(stream).map(|it| it.written)
}

/// Whether [`written`] may be one too high, because sends have failed, and whatever was written is acknowledged.
pub fn is_acknowledged_but_uncertain(stream: &TcpStream) -> io::Result<bool> {
    of(stream).map(|it| !it.is_certain && it.acknowledged >= it.written)
}

fn of(stream: &TcpStream) -> io::Result<Written> {
    let mut before = info(stream)?;
    for _ in 0..TRIES {
        let queued = queued(stream)?;
        let after = info(stream)?;
        if let Some(written) = counted(before, queued, after) {
            return Ok(written);
        }
        before = after;
    }
    Ok(before.with_queued(u64::MAX))
}

/// From what the kernel said in this order; `None`: ask again.
fn counted(before: Info, queued: u64, after: Info) -> Option<Written> {
    if before.is_beginning || after.is_beginning {
        return Some(after.with_queued(u64::MAX));
    }
    // Bytes that were acknowledged in between may be in neither sum or in both.
    (after.acked == before.acked).then(|| after.with_queued(queued))
}

/// The same from a `struct tcp_info` that the caller already has, and the bytes in the socket's queue, which were asked for
/// before it or with it: those that are not acknowledged, sent or not.
///
/// Fails if the structure is shorter than in Linux 4.19.
pub fn written_in(info: &[u8], queued: u64) -> io::Result<Written> {
    Ok(Info::read(info)?.with_queued(queued))
}

/// The sums of `TCP_INFO`.
#[derive(Clone, Copy, Debug)]
struct Info {
    /// Sent, without repetitions, and waiting to be sent.
    sent: u64,
    acked: u64,
    is_beginning: bool,
}

impl Info {
    fn read(info: &[u8]) -> io::Result<Self> {
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
        let once = word(BYTES_SENT).saturating_sub(word(BYTES_RETRANS));
        let sent = once.saturating_add(u32::from_ne_bytes(notsent).into());
        Ok(Self { sent, acked: word(BYTES_ACKED), is_beginning: BEGINNING.contains(&info[STATE]) })
    }

    fn with_queued(self, queued: u64) -> Written {
        let written = self.sent.min(self.acked.saturating_add(queued));
        // The SYN may be one of the acknowledged; with nothing in the queue that does not matter.
        let acknowledged = if queued == 0 { written } else { self.acked.saturating_sub(1).min(written) };
        Written { written, acknowledged, is_certain: written == self.sent }
    }
}

fn info(stream: &TcpStream) -> io::Result<Info> {
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the pointers are to a buffer and a length that outlive the call, and the length is the buffer's.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Info::read(&info[..(len as usize).min(info.len())])
}

/// Bytes that are not acknowledged, sent or not.
fn queued(stream: &TcpStream) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one `int`, to a variable that outlives the call.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    match result {
        0 => Ok(u64::try_from(count).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
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

    #[test]
    fn what_is_written_before_the_connection_is_made_counts() {
        let info = |state: u8, acked: u64, sent: u64| {
            let mut info = [0; 224];
            info[STATE] = state;
            info[BYTES_ACKED..BYTES_ACKED + 8].copy_from_slice(&acked.to_ne_bytes());
            info[BYTES_SENT..BYTES_SENT + 8].copy_from_slice(&sent.to_ne_bytes());
            Info::read(&info).unwrap()
        };
        let [established, syn_sent, syn_received] = [1, 2, 3];
        let of = |written, acknowledged| Some(Written { written, acknowledged, is_certain: true });
        for (before, queued, after, expected) in [
            ((syn_sent, 0, 500), 0, (syn_sent, 0, 500), of(500, 0)),
            ((syn_received, 0, 500), 0, (syn_received, 0, 500), of(500, 0)),
            ((syn_received, 0, 500), 0, (established, 0, 500), of(500, 0)),
            ((syn_sent, 0, 500), 500, (established, 1, 500), of(500, 0)),
            ((established, 1, 500), 500, (established, 1, 500), of(500, 0)),
            ((established, 1, 500), 500, (established, 501, 500), None),
            ((established, 501, 500), 0, (established, 501, 500), of(500, 500)),
        ] {
            let read = |(state, acked, sent)| info(state, acked, sent);
            assert_eq!(counted(read(before), queued, read(after)), expected, "{before:?} {queued} {after:?}");
        }
    }

    #[test]
    fn sends_that_failed_count_once() {
        let info = |acked: u64, sent: u64, again: u64, waiting: u32| {
            let mut info = [0; 224];
            info[BYTES_ACKED..BYTES_ACKED + 8].copy_from_slice(&acked.to_ne_bytes());
            info[NOTSENT_BYTES..NOTSENT_BYTES + 4].copy_from_slice(&waiting.to_ne_bytes());
            info[BYTES_SENT..BYTES_SENT + 8].copy_from_slice(&sent.to_ne_bytes());
            info[BYTES_RETRANS..BYTES_RETRANS + 8].copy_from_slice(&again.to_ne_bytes());
            info
        };
        for (acked, sent, again, waiting, queued, written, acknowledged, why) in [
            (101, 300, 50, 40, 190, 290, 100, "this end connected: its SYN is not a byte"),
            (100, 300, 50, 40, 190, 290, 99, "the other end connected"),
            (291, 300, 10, 0, 0, 290, 290, "all is acknowledged"),
            (100, 900, 50, 40, 190, 290, 99, "600 bytes were sent in vain"),
            (101, 900, 50, 40, 190, 291, 100, "the same where this end connected: one too many, never one too few"),
            (290, 900, 50, 0, 0, 290, 290, "sent in vain, then acknowledged"),
            (0, 0, 0, 0, 0, 0, 0, "nothing"),
            (1, 700, 0, 40, 40, 41, 0, "nothing of it has arrived"),
        ] {
            let found = written_in(&info(acked, sent, again, waiting), queued).unwrap();
            assert_eq!(found, Written { written, acknowledged, is_certain: sent < 600 }, "{why}");
        }
        assert!(written_in(&[0; NEEDED - 1], 0).is_err());
    }
}
