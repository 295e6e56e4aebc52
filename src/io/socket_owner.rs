//! The process that listens on a Unix socket.
//!
//! The kernel gives 0 for a process that this PID namespace does not show. The types of `rustix` have no such process, so the
//! structure of the kernel is read here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::process::Pid;

/// The process that has opened the other end; `None` if it is in a PID namespace that is not visible here.
pub fn owner(stream: &UnixStream) -> io::Result<Option<Pid>> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, to a variable of that size that outlives the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(credentials.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(owner(&near).unwrap(), Some(rustix::process::getpid()));
    }
}
