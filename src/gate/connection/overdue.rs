//! The time limits of a connection, because otherwise a caller that connects and does nothing would keep its slot: the
//! server's accept, TLS, start-up, and finally the caller's end after the server has ended.
//!
//! The time runs from the moment the connection was accepted (for the server's accept: from the connect), so that no
//! unauthenticated sender can extend it. The limits do not end a connection that has begun, nor a replicating
//! connection whose server ends: the bytes on their way to the mirror still go there. They do not bound silence: the
//! kernel checks whether the far end is alive, and the server has its own limits.

use std::fmt;
use std::time::{Duration, Instant};

use super::Connection;
use crate::config::units::show_duration;
use crate::gate::dialect::Side;

/// How long the server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The server accepts it.
    Server,
    /// TLS with the caller.
    TlsOfCaller,
    /// TLS with the server.
    TlsOfServer,
    /// The end of what the dialect calls start-up.
    StartUp,
    /// The caller's end, after the server has ended the connection.
    End,
}

impl fmt::Display for Awaited {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Awaited::Server => "the server did not accept it",
            Awaited::TlsOfCaller => "it did not complete its TLS handshake",
            Awaited::TlsOfServer => "the server did not complete the TLS handshake",
            Awaited::StartUp => "it did not complete its start-up",
            Awaited::End => "the server has ended the connection, and it did not",
        })
    }
}

impl Connection {
    /// When the connection is dropped if what it waits for does not happen; `None`: it waits for nothing.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.awaited().map(|(_, due)| due)
    }

    /// The log message, if the connection is over because a time limit has passed. Counts it.
    pub fn poll_overdue(&mut self, now: Instant) -> Option<String> {
        let (awaited, _) = self.awaited().filter(|(_, due)| now >= *due)?;
        let (client, start) = (self.client, show_duration(self.gate.start_timeout));
        if awaited == Awaited::Server {
            self.counts.connect_failures += 1;
            let (upstream, seconds) = (self.gate.upstream, CONNECT.as_secs());
            return Some(format!("{upstream} did not accept the connection for {client} within {seconds} s"));
        }
        self.counts.overdue += 1;
        Some(format!("{client} was let go: {awaited} within {start} (start_timeout)"))
    }

    /// Notes when only the caller's own end is missing. An application may still send to a server that has ended its
    /// own half; a replica has no one left to send to.
    pub(super) fn on_deserted(&mut self, now: Instant) {
        let server_ended_at = self.caller == Side::Mirror && self.primary.has_ended() && self.mirror.is_done();
        if server_ended_at && self.server_ended_at.is_none() {
            self.server_ended_at = Some(now);
        }
    }

    fn awaited(&self) -> Option<(Awaited, Instant)> {
        if self.deadline.is_some() {
            return None;
        }
        if !self.opened {
            return Some((Awaited::Server, self.connecting_since + CONNECT));
        }
        let (caller, server) = match self.caller {
            Side::Primary => (&self.primary, &self.mirror),
            Side::Mirror => (&self.mirror, &self.primary),
        };
        let (awaited, since) = if caller.is_securing() {
            (Awaited::TlsOfCaller, self.accepted)
        } else if server.is_securing() {
            (Awaited::TlsOfServer, self.accepted)
        } else if self.dialect.is_starting() {
            (Awaited::StartUp, self.accepted)
        } else {
            (Awaited::End, self.server_ended_at.filter(|_| !self.policy.replicates())?)
        };
        Some((awaited, since + self.gate.start_timeout))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::sync::Arc;

    use super::*;
    use crate::config::gate::{Certificate, Gate, Kind};
    use crate::gate::connection::Scratch;
    use crate::gate::kinds;
    use crate::gate::leg::Leg;
    use crate::gate::subscription::Subscription;
    use crate::gate::tls::Tls;
    use crate::notify::envelope::Key;

    const BOUND: Duration = Duration::from_secs(30);
    const DAY: Duration = Duration::from_secs(86_400);

    /// A connection on real sockets; the test sets the time.
    struct Rig {
        connection: Connection,
        scratch: Scratch,
        subscription: Subscription,
        client: TcpStream,
        server: TcpStream,
        start: Instant,
    }

    fn pair() -> (TcpStream, mio::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (far, mio::net::TcpStream::from_std(near))
    }

    impl Rig {
        /// The server has accepted it, and the poll has reported that.
        fn new(kind: Kind, tls: Tls) -> Rig {
            let mut rig = Rig::connecting(kind, tls);
            for is_caller in [true, false] {
                rig.connection.leg(is_caller).on_ready(false, true);
            }
            rig.pump(rig.start);
            assert!(rig.connection.opened);
            rig
        }

        /// The poll has not reported yet that the server accepted it.
        fn connecting(kind: Kind, tls: Tls) -> Rig {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let upstream = listener.local_addr().unwrap();
            let gate = Gate { start_timeout: BOUND, ..Gate::sample(kind, upstream) };
            let (client, accepted) = pair();
            let made = (kinds::dialect(&gate, tls.choice()), kinds::listens_to(kind), tls);
            let legs = (client.local_addr().unwrap(), Leg::accepted(accepted), Leg::connecting(upstream).unwrap());
            let (server, _) = listener.accept().unwrap();
            let start = Instant::now();
            let unused: SocketAddr = "127.0.0.1:9".parse().unwrap();
            let subscription = Subscription::open(unused, Key::new(1, &[5; 32]).unwrap(), 7, start).unwrap();
            let connection = Connection::new(1, Arc::new(gate), made, legs, start);
            Rig { connection, scratch: Scratch::default(), subscription, client, server, start }
        }

        fn pump(&mut self, now: Instant) {
            while self.connection.pump(&mut self.scratch, &mut self.subscription, now) {}
        }

        /// Lets the connection read until `done`.
        fn read(&mut self, is_caller: bool, done: impl Fn(&mut Leg) -> bool) {
            let patience = Instant::now() + Duration::from_secs(20);
            while !done(self.connection.leg(is_caller)) {
                assert!(Instant::now() < patience, "it does not arrive");
                self.connection.leg(is_caller).on_ready(true, true);
                self.pump(self.start);
            }
        }

        fn say(&mut self, is_caller: bool, bytes: &[u8]) {
            let stream = if is_caller { &mut self.client } else { &mut self.server };
            stream.write_all(bytes).unwrap();
            let wanted = self.connection.leg(is_caller).received() + bytes.len() as u64;
            self.read(is_caller, |leg| leg.received() == wanted);
        }

        fn server_ends(&mut self) {
            self.server.shutdown(Shutdown::Write).unwrap();
            self.read(false, |leg| leg.has_ended());
        }

        /// When it is dropped, and what is logged and counted then.
        fn fate(mut self) -> Option<(Duration, String, (u64, u64))> {
            let due = self.connection.poll_timeout();
            let Some(due) = due else {
                assert!(!self.connection.is_over(self.start + DAY));
                assert_eq!(self.connection.poll_overdue(self.start + DAY), None);
                return None;
            };
            let before = due - Duration::from_millis(1);
            assert!(!self.connection.is_over(before) && self.connection.is_over(due));
            assert_eq!(self.connection.poll_overdue(before), None);
            let message = self.connection.poll_overdue(due).unwrap();
            let counts = self.connection.counts();
            Some((due - self.start, message, (counts.connect_failures, counts.overdue)))
        }
    }

    fn certificate(directory: &std::path::Path) -> Tls {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let files = Certificate { chain: directory.join("gate.pem"), key: directory.join("gate.key") };
        std::fs::write(&files.chain, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        Tls::load(Some(&files), None).unwrap()
    }

    /// A standby's start-up packet.
    fn standby() -> Vec<u8> {
        let parameters = b"user\0mirror\0replication\0true\0\0";
        let length = u32::try_from(parameters.len() + 8).unwrap();
        [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), parameters].concat()
    }

    /// MariaDB's first packet.
    const GREETING: &[u8] = b"\x20\0\0\0\x0a5\0\x07\0\0\0abcdefgh\0\x05\xa2\x21\x02\0\0\0\x15\0\0\0\0\0\0\0\0";

    #[test]
    fn an_unauthenticated_caller_is_dropped_after_the_bound_whatever_it_sends() {
        let directory = tempfile::tempdir().unwrap();
        type Act = fn(&mut Rig);
        let cases: [(&str, Kind, bool, Act, &str); 9] = [
            ("no TLS", Kind::Redis, true, |_| {}, "TLS handshake"),
            ("half a record", Kind::Redis, true, |rig| rig.say(true, b"\x16\x03\x01\x02\x00\x01"), "TLS handshake"),
            ("no first packet", Kind::Postgres, false, |_| {}, "start-up"),
            ("half a first packet", Kind::Postgres, false, |rig| rig.say(true, &standby()[..9]), "start-up"),
            ("no password", Kind::Postgres, false, |rig| rig.say(true, &standby()), "start-up"),
            (
                "a wrong password, and no end of it",
                Kind::Postgres,
                false,
                |rig| {
                    rig.say(true, &standby());
                    rig.say(false, b"R\0\0\0\x08\0\0\0\x03");
                    rig.say(true, b"p\0\0\0\x07no\0");
                    rig.say(false, b"E\0\0\0\x08SFA\0");
                    rig.server_ends();
                },
                "start-up",
            ),
            (
                "a request for TLS, and no TLS",
                Kind::Postgres,
                true,
                |rig| rig.say(true, b"\0\0\0\x08\x04\xd2\x16\x2f"),
                "TLS",
            ),
            ("no greeting", Kind::MariaDb, false, |_| {}, "start-up"),
            (
                "a command without a password",
                Kind::MariaDb,
                false,
                |rig| {
                    rig.say(false, GREETING);
                    rig.say(true, b"\x04\0\0\x01\x05\xa2\0\0\x01\0\0\0\x12");
                    rig.say(false, b"\x01\0\0\x02\xfe");
                },
                "start-up",
            ),
        ];
        for (name, kind, tls, act, message) in cases {
            let mut rig = Rig::new(kind, if tls { certificate(directory.path()) } else { Tls::default() });
            act(&mut rig);
            let (after, said, counts) = rig.fate().unwrap_or_else(|| panic!("{name}: it has no time limit"));
            assert_eq!((after, counts), (BOUND, (0, 1)), "{name}");
            assert!(said.contains(message) && said.contains("30s (start_timeout)"), "{name}: {said}");
        }
    }

    #[test]
    fn a_connection_that_has_begun_has_no_time_limit() {
        type Act = fn(&mut Rig);
        let cases: [(&str, Kind, Act); 6] = [
            ("an application", Kind::Tcp, |_| {}),
            ("an application whose server has ended", Kind::Tcp, Rig::server_ends),
            ("a client of Redis, which may not need a password", Kind::Redis, |_| {}),
            ("an admitted standby", Kind::Postgres, |rig| {
                rig.say(true, &standby());
                rig.say(false, b"R\0\0\0\x08\0\0\0\0");
            }),
            ("an admitted replica", Kind::MariaDb, |rig| {
                rig.say(false, GREETING);
                rig.say(true, b"\x02\0\0\x01\x05\xa2");
                rig.say(false, b"\x07\0\0\x02\0\0\0\x02\0\0\0");
            }),
            ("a mirror that still has to read what its dead primary sent", Kind::Redis, |rig| {
                rig.say(true, b"PSYNC 8de1787ba490483314a4d30f1c628bc5025eb761 1001\r\n");
                rig.say(false, b"+CONTINUE\r\n*1\r\n$4\r\nPING\r\n");
                rig.server_ends();
            }),
        ];
        for (name, kind, act) in cases {
            let mut rig = Rig::new(kind, Tls::default());
            act(&mut rig);
            assert_eq!(rig.fate(), None, "{name}");
        }
    }

    #[test]
    fn a_caller_that_stays_after_its_server_has_ended_is_dropped() {
        let mut rig = Rig::new(Kind::Redis, Tls::default());
        rig.say(false, b"-ERR max number of clients reached\r\n");
        rig.server_ends();
        let (after, said, counts) = rig.fate().unwrap();
        assert_eq!((after, counts), (BOUND, (0, 1)));
        assert!(said.contains("the server has ended the connection"), "{said}");
    }

    #[test]
    fn a_server_that_does_not_accept_counts_as_a_connect_failure() {
        let (after, said, counts) = Rig::connecting(Kind::Postgres, Tls::default()).fate().unwrap();
        assert_eq!((after, counts), (CONNECT, (1, 0)));
        assert!(said.contains("did not accept") && said.contains("within 10 s"), "{said}");
    }
}
