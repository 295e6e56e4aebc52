//! The socket of systemd's journal, for a process whose standard error is read by it. What a record says is decided elsewhere.
//!
//! Source: systemd, "Native Journal Protocol", and `JOURNAL_STREAM` in systemd.exec(5).

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::Path,
};

/// Where journald takes records.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal. Each call of `write` is one record.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// The journal, if it is what reads `stream`: `variable` is the value of `JOURNAL_STREAM`, device and inode of the stream
    /// that systemd has connected. A program whose output was sent elsewhere since writes there.
    pub fn behind(stream: impl AsFd, variable: Option<&OsStr>, socket: &Path) -> Option<Self> {
        let (device, inode) = variable?.to_str()?.split_once(':')?;
        let found = rustix::fs::fstat(stream).ok()?;
        if (device.parse(), inode.parse()) != (Ok(found.st_dev), Ok(found.st_ino)) {
            return None;
        }
        let journal = UnixDatagram::unbound().ok()?;
        journal.connect(socket).ok()?;
        Some(Self(journal))
    }
}

impl Write for Journal {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.send(record)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_a_stream_that_the_journal_reads_leads_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let reader = UnixDatagram::bind(&socket).unwrap();
        let [(stream, _kept), (other, _also)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        let found = rustix::fs::fstat(&stream).unwrap();
        let variable = format!("{}:{}", found.st_dev, found.st_ino);
        let variable = Some(OsStr::new(&variable));
        let mut journal = Journal::behind(&stream, variable, &socket).unwrap();
        for record in ["PRIORITY=6\nMESSAGE=one\n", "PRIORITY=4\nMESSAGE=two\n"] {
            journal.write_all(record.as_bytes()).unwrap();
            let mut got = [0; 100];
            let length = reader.recv(&mut got).unwrap();
            assert_eq!(std::str::from_utf8(&got[..length]), Ok(record));
        }
        assert!(Journal::behind(&other, variable, &socket).is_none(), "sent elsewhere");
        assert!(Journal::behind(&stream, None, &socket).is_none());
        assert!(Journal::behind(&stream, Some(OsStr::new("8:x")), &socket).is_none());
        assert!(Journal::behind(&stream, variable, &directory.path().join("none")).is_none(), "no journal runs");
    }
}
