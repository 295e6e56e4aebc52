//! The client with a socket: each call sends and receives until its answer is there or its deadline has passed.
//!
//! It has no thread, so it renews its lease only during calls. If two calls are further apart than the lease, the
//! subscription ends; the next call begins it again.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use super::core::{Core, Wish};
use super::need::Need;
use super::requests::Outcome;
use super::status::{Reason, Status};
use crate::envelope::Key;
use crate::message::{FlowKey, Level, Message, Request};
use crate::tcp_info;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// Protected.
    Protected {
        /// At least the level asked for.
        level: Level,
    },
    /// Not protected, as far as is known.
    NotProtected {
        /// Why.
        reason: Reason,
    },
}

/// A flow that a local socket sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalFlow {
    /// Its addresses.
    pub key: FlowKey,
    /// Bytes written into the socket so far: wait for this offset to wait for all of them.
    pub written: u64,
}

/// A blocking client. Use it from one thread.
///
/// ```no_run
/// use std::io::Write;
/// use std::net::TcpStream;
/// use std::time::{Duration, Instant};
///
/// use onwire_notify::client::{Client, Waited};
/// use onwire_notify::secret::Secret;
///
/// let key = Secret::parse(&std::fs::read_to_string("/etc/onwire/notify.key")?)?.to_key(1);
/// let mut client = Client::connect("127.0.0.1:7118", key)?;
///
/// let mut mirror = TcpStream::connect("10.2.0.1:5432")?;
/// client.watch(Client::flow_of(&mirror)?.key);
/// mirror.write_all(b"bytes that must survive this site")?;
///
/// match client.wait_all(&mirror, Instant::now() + Duration::from_secs(1))? {
///     Waited::Protected { level } => println!("protected: {}", level.name()),
///     Waited::NotProtected { reason } => println!("not protected: {reason}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    core: Core,
    need: Need,
    outgoing: Vec<u8>,
    recorder: Option<Recorder>,
    /// Unread datagrams may be left in the socket.
    is_behind: bool,
}

/// Datagrams read at a time, so that a flood cannot delay a call beyond its deadline.
const AT_ONCE: usize = 256;
/// How often [`Client::status`] reads that many before it gives up.
const ROUNDS: usize = 16;

/// Receives every incoming datagram, with its source and destination.
type Take = dyn FnMut(SocketAddr, SocketAddr, &[u8]) + Send;

struct Recorder(Box<Take>);

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl Client {
    /// A client of the publisher at `address`, with the default wish. It sends nothing yet: an appliance that is down
    /// is no error here, and waits end with [`Reason::NoContact`].
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// use onwire_notify::client::Client;
    /// use onwire_notify::secret::{LEN, Secret};
    ///
    /// let key = Secret::from_random(&[7; LEN]).to_key(1);
    /// let client = Client::connect("127.0.0.1:7118", key)?;
    /// assert!(!client.core().has_contact(Instant::now()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect(address: impl ToSocketAddrs, key: Key) -> io::Result<Client> {
        Client::connect_with(address, key, Wish::default())
    }

    /// As [`Client::connect`], with a wish.
    pub fn connect_with(address: impl ToSocketAddrs, key: Key, wish: Wish) -> io::Result<Client> {
        let address = address
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name of the appliance has no address"))?;
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        let mut epoch = [0; 8];
        SystemRandom::new().fill(&mut epoch).map_err(|_| io::Error::other("the system has no random numbers"))?;
        let core = Core::new(key, wish, u64::from_le_bytes(epoch), Instant::now());
        let (need, outgoing) = (Level::OnWire.into(), vec![]);
        Ok(Client { socket, core, need, outgoing, recorder: None, is_behind: false })
    }

    /// Demands this of all bytes from now on; at first [`Level::OnWire`], whatever interruption the profile promises to
    /// survive.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use onwire_notify::client::{Client, Need};
    /// # use onwire_notify::secret::{LEN, Secret};
    /// # let key = Secret::from_random(&[7; LEN]).to_key(1);
    /// # let mut client = Client::connect("127.0.0.1:7118", key)?;
    ///
    /// // Waits end only when the bytes survive an interruption of 2 ms, or are at the peer.
    /// client.set_need(Need::surviving(Duration::from_millis(2)));
    /// // Late repair is not waited for.
    /// client.set_need(Need::surviving(Duration::ZERO));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_need(&mut self, need: Need) {
        self.need = need;
    }

    /// Demands at least this level from now on: [`Client::set_need`] with nothing but a level.
    pub fn set_least_level(&mut self, level: Level) {
        self.set_need(level.into());
    }

    /// Passes every incoming datagram from now on, authentic or not, to `recorder`: source, destination, bytes.
    pub fn record(&mut self, recorder: impl FnMut(SocketAddr, SocketAddr, &[u8]) + Send + 'static) {
        self.recorder = Some(Recorder(Box::new(recorder)));
    }

    /// The flow of a connected local socket, and how much was written into it.
    pub fn flow_of(stream: &TcpStream) -> io::Result<LocalFlow> {
        let key = FlowKey::tcp(stream.local_addr()?, stream.peer_addr()?);
        Ok(LocalFlow { key, written: tcp_info::written(stream)? })
    }

    /// Begins to watch a flow: call it once after the connection is established and before its first [`Client::wait`].
    /// It does not block. False when too many flows are watched.
    ///
    /// The appliance distinguishes an earlier connection with the same addresses if it has seen the SYN of this one.
    /// Only [`Client::wait_all`] recognises a connection that began while its packets bypassed the appliance: it
    /// compares the claims with what the socket has sent.
    ///
    /// ```no_run
    /// # use std::net::TcpStream;
    /// # use onwire_notify::client::Client;
    /// # fn example(client: &mut Client) -> std::io::Result<()> {
    /// let mirror = TcpStream::connect("10.2.0.1:5432")?;
    /// assert!(client.watch(Client::flow_of(&mirror)?.key));
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&mut self, key: FlowKey) -> bool {
        self.core.watch(key, Instant::now())
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, key: &FlowKey) {
        self.core.unwatch(key);
    }

    /// The status of all bytes below `offset`, without waiting. It first reads the datagrams that have arrived.
    pub fn status(&mut self, key: &FlowKey, offset: u64) -> io::Result<Status> {
        for _ in 0..ROUNDS {
            self.turn(Instant::now())?;
            if !self.is_behind {
                return Ok(self.core.status(key, offset, self.need, Instant::now()));
            }
        }
        Ok(Status::Pending(Reason::Deadline))
    }

    /// Waits until all bytes below `offset` of a watched flow are protected or certainly will not be, or the deadline
    /// passes.
    pub fn wait(&mut self, key: &FlowKey, offset: u64, deadline: Instant) -> io::Result<Waited> {
        self.wait_until(deadline, |client, now| match client.core.status(key, offset, client.need, now) {
            Status::Protected { level } => Ok(Waited::Protected { level }),
            Status::Never(reason) => Ok(Waited::NotProtected { reason }),
            Status::Pending(reason) => Err(reason),
        })
    }

    /// Takes the number of bytes written into a watched flow's socket: claims of more are about another connection.
    /// [`Client::wait_all`] reads that number itself.
    pub fn handle_written(&mut self, key: &FlowKey, written: u64) {
        self.core.handle_written(key, written);
    }

    /// Waits until all bytes written into a socket so far are protected. Begins the watch when there is none.
    ///
    /// ```no_run
    /// # use std::net::TcpStream;
    /// # use std::time::{Duration, Instant};
    /// # use onwire_notify::client::{Client, Waited};
    /// # fn example(client: &mut Client, mirror: &TcpStream) -> std::io::Result<()> {
    /// let deadline = Instant::now() + Duration::from_millis(100);
    /// if let Waited::NotProtected { reason } = client.wait_all(mirror, deadline)? {
    ///     println!("not protected within 100 ms: {reason}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_all(&mut self, stream: &TcpStream, deadline: Instant) -> io::Result<Waited> {
        let flow = Client::flow_of(stream)?;
        if !self.core.is_watched(&flow.key) {
            self.watch(flow.key);
        }
        let waited = self.wait(&flow.key, flow.written, deadline)?;
        // Claims of more bytes than this socket has written are about another connection.
        self.core.handle_written(&flow.key, tcp_info::written(stream)?);
        match (waited, self.core.status(&flow.key, flow.written, self.need, Instant::now())) {
            (Waited::Protected { .. }, Status::Never(reason)) => Ok(Waited::NotProtected { reason }),
            // The last byte may be none; if it is one, the other end has it.
            (Waited::NotProtected { .. }, _) if tcp_info::is_acknowledged_but_uncertain(stream)? => {
                match self.core.status(&flow.key, flow.written.saturating_sub(1), self.need, Instant::now()) {
                    Status::Protected { level } => Ok(Waited::Protected { level }),
                    Status::Pending(_) | Status::Never(_) => Ok(waited),
                }
            }
            _ => Ok(waited),
        }
    }

    /// Waits until everything that the appliance has read from its TUN by now is protected. The answer does not say which
    /// interruption is survived: with one demanded, only [`Level::Decoded`] and better count.
    pub fn barrier(&mut self, deadline: Instant) -> io::Result<Waited> {
        let Need { level: least, survives_burst } = self.need;
        self.ask(Request::Barrier, deadline, |outcome| match outcome {
            Outcome::Barrier(Some(level)) if level >= least && !survives_burst.is_zero() && level < Level::Decoded => {
                Waited::NotProtected { reason: Reason::SurvivesBurst(Duration::ZERO) }
            }
            Outcome::Barrier(Some(level)) if level >= least => Waited::Protected { level },
            Outcome::Barrier(Some(level)) => Waited::NotProtected { reason: Reason::Level(level) },
            Outcome::Barrier(None) => Waited::NotProtected { reason: Reason::Failed },
            Outcome::Restarted => Waited::NotProtected { reason: Reason::Restarted },
            Outcome::Acknowledged | Outcome::Refused(_) => Waited::NotProtected { reason: Reason::Refused },
        })
        .map(|answer| answer.unwrap_or_else(|reason| Waited::NotProtected { reason }))
    }

    /// Asks the appliance to close its open blocks now; `Ok(Err(reason))` if it did not confirm.
    pub fn flush(&mut self, deadline: Instant) -> io::Result<Result<(), Reason>> {
        self.ask(Request::Flush, deadline, is_acknowledged).map(Result::flatten)
    }

    /// Puts a cookie on a flow, even before the flow exists; `Ok(Err(reason))` if the appliance did not confirm.
    pub fn register(&mut self, key: FlowKey, cookie: u64, deadline: Instant) -> io::Result<Result<(), Reason>> {
        self.ask(Request::Register { key, cookie }, deadline, is_acknowledged).map(Result::flatten)
    }

    /// The next message, only with [`Wish::follow`]; `None` at the deadline.
    pub fn next_message(&mut self, deadline: Instant) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.core.poll_message() {
                return Ok(Some(message));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            self.turn(deadline)?;
        }
    }

    /// The state without the socket.
    pub fn core(&self) -> &Core {
        &self.core
    }

    fn ask<T>(
        &mut self,
        request: Request,
        deadline: Instant,
        read: impl Fn(Outcome) -> T,
    ) -> io::Result<Result<T, Reason>> {
        let Some(number) = self.core.request(request, Instant::now()) else {
            return Ok(Err(Reason::Refused));
        };
        self.wait_until(deadline, |client, now| match client.core.poll_outcome(number) {
            Some(outcome) => Ok(Ok(read(outcome))),
            None if !client.core.has_contact(now) => Err(Reason::NoContact),
            None => Err(Reason::Deadline),
        })
    }

    /// Runs turns until `check` returns an answer; at the deadline returns its last reason. Datagrams that have arrived
    /// are read first: they may take a claim back, and a program that was suspended has not read them.
    fn wait_until<T: From<NotYet>>(
        &mut self,
        deadline: Instant,
        mut check: impl FnMut(&mut Client, Instant) -> Result<T, Reason>,
    ) -> io::Result<T> {
        self.take_in()?;
        loop {
            let now = Instant::now();
            let answer = if self.is_behind { Err(Reason::Deadline) } else { check(self, now) };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(reason) if now >= deadline => return Ok(NotYet(reason).into()),
                Err(_) => self.turn(deadline)?,
            }
        }
    }

    /// Sends what is due, then reads datagrams: all that are there. If there are none, it waits for one until
    /// `deadline` or until the next request is due.
    fn turn(&mut self, deadline: Instant) -> io::Result<()> {
        while self.core.poll_datagram(&mut self.outgoing, Instant::now()) {
            // A send error, most often "connection refused", counts as silence: the request is sent again.
            let _ = self.socket.send(&self.outgoing);
        }
        let wait = self.core.poll_timeout().min(deadline).saturating_duration_since(Instant::now());
        // A timeout of zero is not allowed: it would mean "for ever".
        self.socket.set_read_timeout(Some(wait.max(Duration::from_micros(50))))?;
        let mut datagram = [0; 2048];
        match self.socket.recv(&mut datagram) {
            Ok(len) => self.on_datagram(&datagram[..len])?,
            Err(error) => {
                self.is_behind = false;
                return self.on_receive_error(error);
            }
        }
        self.take_in()
    }

    /// Reads the datagrams that are there, without waiting.
    fn take_in(&mut self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let (mut datagram, mut rest) = ([0; 2048], Ok(()));
        self.is_behind = true;
        for _ in 0..AT_ONCE {
            match self.socket.recv(&mut datagram) {
                Ok(len) => self.on_datagram(&datagram[..len])?,
                Err(error) => {
                    self.is_behind = false;
                    rest = self.on_receive_error(error);
                    break;
                }
            }
        }
        self.socket.set_nonblocking(false)?;
        rest
    }

    fn on_datagram(&mut self, datagram: &[u8]) -> io::Result<()> {
        if let Some(Recorder(take)) = &mut self.recorder {
            take(self.socket.peer_addr()?, self.socket.local_addr()?, datagram);
        }
        self.core.handle_datagram(datagram, Instant::now());
        Ok(())
    }

    fn on_receive_error(&self, error: io::Error) -> io::Result<()> {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, TimedOut, WouldBlock,
        };
        match error.kind() {
            WouldBlock | TimedOut | Interrupted => Ok(()),
            // Reported by ICMP: no program receives there now. The pause keeps a call from looping at full speed.
            ConnectionRefused | HostUnreachable | NetworkUnreachable => {
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            _ => Err(error),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let now = Instant::now();
        if self.core.has_contact(now) && self.core.request(Request::Unsubscribe, now).is_some() {
            while self.core.poll_datagram(&mut self.outgoing, now) {
                // If it is lost, the lease ends by itself.
                let _ = self.socket.send(&self.outgoing);
            }
        }
    }
}

/// A wait that ended without an answer.
struct NotYet(Reason);

impl From<NotYet> for Waited {
    fn from(NotYet(reason): NotYet) -> Waited {
        Waited::NotProtected { reason }
    }
}

impl<T> From<NotYet> for Result<T, Reason> {
    fn from(NotYet(reason): NotYet) -> Result<T, Reason> {
        Err(reason)
    }
}

fn is_acknowledged(outcome: Outcome) -> Result<(), Reason> {
    match outcome {
        Outcome::Acknowledged => Ok(()),
        Outcome::Restarted => Err(Reason::Restarted),
        Outcome::Barrier(_) | Outcome::Refused(_) => Err(Reason::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_move_to_another_thread() {
        fn sendable<T: Send>() {}
        sendable::<Client>();
    }
}
