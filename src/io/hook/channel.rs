//! The channel between the process that works and one that runs a hook: whole messages, in both directions, and neither end ever
//! waits for the other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use crate::io::explain;

/// The longest message, in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Message(Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// The other process has ended, and nothing comes any more.
    End,
}

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(ours), Self(theirs)))
    }

    /// The end that this process got as its standard input. Programs that it starts do not inherit it.
    ///
    /// # Errors
    /// Standard input is closed.
    pub fn from_stdin() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// Sends a message of at most [`MESSAGE_MAX`] bytes. `false` if there is no room, or nobody at the other end.
    pub fn send(&self, message: &[u8]) -> bool {
        send(&self.0, message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }

    /// The next message, if one is there.
    pub fn receive(&self) -> Received {
        let mut buffer = vec![0; MESSAGE_MAX];
        match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Received::End,
            Ok((length, _)) => {
                buffer.truncate(length);
                Received::Message(buffer)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Received::Nothing,
            Err(_) => Received::End,
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The process that runs a hook, for the one that works.
#[derive(Debug)]
pub struct HookProcess {
    channel: Option<Channel>,
    child: Child,
}

impl HookProcess {
    /// Starts `program`, which finds its end of the channel as its standard input.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: &Path, arguments: &[String]) -> io::Result<Self> {
        let remedy = "allow this process to start another, or remove `hooks`";
        let failed = |error: io::Error| explain(&error, format_args!("cannot start the process of a hook; {remedy}"));
        let (ours, theirs) = Channel::pair().map_err(failed)?;
        let child = Command::new(program)
            .arg0("onwire")
            .args(arguments)
            .stdin(Stdio::from(theirs.0))
            .stdout(Stdio::null())
            // What a terminal sends to its foreground must not end it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self { channel: Some(ours), child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It has not ended.
    pub fn is_there(&self) -> bool {
        self.channel.is_some()
    }

    /// Sends a message; `false` if there is no room for it, or the process has ended.
    pub fn send(&self, message: &[u8]) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.send(message))
    }

    /// The next message. [`Received::End`] comes once; later there is nothing.
    pub fn receive(&mut self) -> Received {
        let Some(channel) = &self.channel else { return Received::Nothing };
        let received = channel.receive();
        if received == Received::End {
            self.channel = None;
            // No zombie of it is left behind.
            let _ = self.child.try_wait();
        }
        received
    }

    /// For a poll: readable when a message is there. `None` once the process has ended.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.channel.as_ref().map(|channel| channel.0.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_whole_and_a_full_channel_refuses_without_waiting() {
        let (ours, theirs) = Channel::pair().unwrap();
        assert_eq!(theirs.receive(), Received::Nothing);
        assert!(ours.send(b"one") && ours.send(&[7; MESSAGE_MAX]));
        assert_eq!(theirs.receive(), Received::Message(b"one".to_vec()));
        assert_eq!(theirs.receive(), Received::Message(vec![7; MESSAGE_MAX]));
        let sent = (0..1_000_000).take_while(|_| ours.send(&[1; 1000])).count();
        assert!((1..1_000_000).contains(&sent), "{sent}");
        drop(ours);
        let come = std::iter::from_fn(|| match theirs.receive() {
            Received::Message(message) => Some(message),
            _ => None,
        });
        assert_eq!(come.count(), sent, "what was sent before the end arrives");
        assert_eq!(theirs.receive(), Received::End);
        assert!(!theirs.send(b"nobody"));
    }

    #[test]
    fn the_end_of_the_process_is_told_once() {
        let mut process = HookProcess::start(Path::new("/bin/true"), &[]).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while process.receive() != Received::End {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!process.is_there() && process.descriptor().is_none() && !process.send(b"x"));
        assert_eq!(process.receive(), Received::Nothing);
        let error = HookProcess::start(Path::new("/nonexistent"), &[]).unwrap_err().to_string();
        assert!(error.starts_with("cannot start the process of a hook"), "{error}");
    }
}
