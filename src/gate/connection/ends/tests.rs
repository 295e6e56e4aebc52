//! Connections on real sockets whose ends come in every order: each connection frees its slot.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use rustix::net::sockopt;

use super::*;
use crate::config::gate::{Certificate, DEFAULT_START_TIMEOUT, Gate, Kind};
use crate::gate::kinds;
use crate::gate::leg::HIGH;
use crate::gate::subscription::Subscription;
use crate::gate::tls::Tls;
use crate::notify::envelope::Key;

/// When a connection that has lost one end is over, whatever else happens.
const BOUND: Duration = if LINGER.as_secs() > DEFAULT_START_TIMEOUT.as_secs() { LINGER } else { DEFAULT_START_TIMEOUT };
/// The buffer of each socket: small, so that few bytes fill it.
const BUFFER: usize = 16 * 1024;

/// Bytes per write.
const PIECE: usize = 32 * 1024;

/// What one of the two far ends does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Sends until its writes block, or until it has sent a lot.
    Send,
    /// Reads all that has arrived.
    Read,
    /// Ends its own half.
    Half,
    /// Closes its socket: FIN, or RST if something was not read.
    Close,
    /// Sends RST.
    Reset,
}

/// A connection with its own poll; the test sets the time.
struct Rig {
    connection: Connection,
    scratch: Scratch,
    subscription: Subscription,
    poll: Poll,
    events: Events,
    /// The caller and the server.
    far: [Option<TcpStream>; 2],
    start: Instant,
}

impl Rig {
    fn new(kind: Kind, cap: Option<u64>, tls: Tls) -> Rig {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        sockopt::set_socket_recv_buffer_size(&server, BUFFER).unwrap();
        let upstream = server.local_addr().unwrap();
        let gate = Gate { max_unprotected: cap, ..Gate::sample(kind, upstream) };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        sockopt::set_socket_recv_buffer_size(&listener, BUFFER).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let accepted = Leg::accepted(mio::net::TcpStream::from_std(accepted));
        let made = (kinds::dialect(&gate, tls.choice()), kinds::listens_to(kind), tls);
        let legs = (client.local_addr().unwrap(), accepted, Leg::connecting(upstream).unwrap());
        let start = Instant::now();
        let mut connection = Connection::new(1, Arc::new(gate), made, legs, start);
        let poll = Poll::new().unwrap();
        for is_caller in [true, false] {
            let stream = connection.leg(is_caller).stream();
            sockopt::set_socket_send_buffer_size(&*stream, BUFFER).unwrap();
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(stream, Token(usize::from(!is_caller)), both).unwrap();
        }
        let (server, _) = server.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_nonblocking(true).unwrap();
            sockopt::set_socket_recv_buffer_size(stream, BUFFER).unwrap();
            sockopt::set_socket_send_buffer_size(stream, BUFFER).unwrap();
        }
        let unused: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let subscription = Subscription::open(unused, Key::new(1, &[5; 32]).unwrap(), 7, start).unwrap();
        let events = Events::with_capacity(16);
        let far = [Some(client), Some(server)];
        let mut rig = Rig { connection, scratch: Scratch::default(), subscription, poll, events, far, start };
        rig.drive();
        assert!(rig.connection.opened);
        rig
    }

    /// Does what a gate's loop would do now.
    fn drive(&mut self) {
        loop {
            self.poll.poll(&mut self.events, Some(Duration::ZERO)).unwrap();
            if self.events.is_empty() {
                return;
            }
            for event in &self.events {
                self.connection.leg(event.token().0 == 0).on_event(event);
            }
            while self.connection.pump(&mut self.scratch, &mut self.subscription, self.start) {}
        }
    }

    fn act(&mut self, end: usize, act: Act) {
        let Some(mut stream) = self.far[end].take() else { return };
        match act {
            Act::Send => {
                let mut idle = 0;
                // If the gate drops the bytes, every write succeeds: the loop is bounded.
                for _ in 0..4 * HIGH / PIECE {
                    idle = if stream.write(&[b'x'; PIECE]).is_ok() { 0 } else { idle + 1 };
                    self.drive();
                    if idle == 3 {
                        break;
                    }
                }
            }
            Act::Read => {
                let (mut bytes, mut idle) = (vec![0; 64 * 1024], 0);
                while idle < 50 {
                    match stream.read(&mut bytes) {
                        Ok(0) => break,
                        Ok(_) => idle = 0,
                        // The kernel may need a moment to report that there is room again.
                        Err(_) => {
                            std::thread::sleep(Duration::from_millis(2));
                            idle += 1;
                        }
                    }
                    self.drive();
                }
            }
            Act::Half => drop(stream.shutdown(std::net::Shutdown::Write)),
            Act::Close => {}
            Act::Reset => sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap(),
        }
        match act {
            Act::Close | Act::Reset => drop(stream),
            Act::Send | Act::Read | Act::Half => self.far[end] = Some(stream),
        }
        self.drive();
    }

    /// Waits until the condition holds. On a busy machine the loopback device delivers an end a moment later; the
    /// connection's own clock stands still meanwhile.
    fn becomes(&mut self, is_so: impl Fn(&Self) -> bool) -> bool {
        let patience = Instant::now() + Duration::from_secs(10);
        while !is_so(self) {
            if Instant::now() >= patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
            self.drive();
        }
        true
    }

    /// Whether it is over within the bound, and its timer fires by then.
    fn is_freed(&mut self) -> bool {
        self.becomes(|rig| {
            let (connection, due) = (&rig.connection, rig.start + BOUND);
            let looked_at = connection.is_over(rig.start) || connection.poll_timeout().is_some_and(|at| at <= due);
            connection.is_over(due) && looked_at
        })
    }
}

/// All interleavings of the two lists of acts.
fn orders(first: &[Act], second: &[Act]) -> Vec<Vec<(usize, Act)>> {
    let (Some(a), Some(b)) = (first.first(), second.first()) else {
        let of = |end: usize, acts: &[Act]| acts.iter().map(|act| (end, *act)).collect::<Vec<_>>();
        return vec![[of(0, first), of(1, second)].concat()];
    };
    let then = |end: usize, act: &Act, rest: Vec<Vec<(usize, Act)>>| {
        rest.into_iter().map(|order| [vec![(end, *act)], order].concat()).collect::<Vec<_>>()
    };
    [then(0, a, orders(&first[1..], second)), then(1, b, orders(first, &second[1..]))].concat()
}

fn check(what: &str, mut rig: Rig, order: &[(usize, Act)]) {
    let (mut reset, mut halves) = (false, 0);
    for (end, act) in order {
        rig.act(*end, *act);
        halves += u32::from(*act == Act::Half);
        // When both halves have ended nothing is left to reset, and the bytes held are still delivered.
        reset |= *act == Act::Reset && halves < 2;
        // One lost end is enough.
        assert!(!reset || rig.is_freed(), "{what}: not freed after a reset: {order:?}");
    }
    assert!(rig.is_freed(), "{what}: both ends are gone and it is not freed: {order:?}");
}

/// What an end may do before it goes.
const BEFORE: [&[Act]; 4] = [&[], &[Act::Send], &[Act::Half], &[Act::Send, Act::Half]];

fn certificate(directory: &std::path::Path) -> Tls {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = Certificate { chain: directory.join("gate.pem"), key: directory.join("gate.key") };
    std::fs::write(&files.chain, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    Tls::load(Some(&files), None).unwrap()
}

#[test]
fn a_connection_is_freed_in_bounded_time_whatever_the_order_of_its_ends() {
    let directory = tempfile::tempdir().unwrap();
    let secured = certificate(directory.path());
    type Make<'a> = Box<dyn Fn() -> Rig + 'a>;
    let kinds: [(&str, Make<'_>); 4] = [
        ("redis", Box::new(|| Rig::new(Kind::Redis, None, Tls::default()))),
        ("redis, a handshake that is never done", Box::new(|| Rig::new(Kind::Redis, None, secured.clone()))),
        ("tcp", Box::new(|| Rig::new(Kind::Tcp, None, Tls::default()))),
        ("tcp at its cap", Box::new(|| Rig::new(Kind::Tcp, Some(4096), Tls::default()))),
    ];
    let mut count = 0;
    for (what, make) in kinds {
        let ends = [Act::Close, Act::Reset];
        let scripts: Vec<Vec<Act>> =
            BEFORE.iter().flat_map(|before| ends.map(|end| [*before, &[end]].concat())).collect();
        for first in &scripts {
            for second in &scripts {
                for order in orders(first, second) {
                    check(what, make(), &order);
                    count += 1;
                }
            }
        }
    }
    println!("{count} orders");
}

#[test]
fn a_connection_whose_end_is_followed_by_a_reset_is_freed() {
    for (what, kind) in [("what waits for the mirror", Kind::Redis), ("what waits for the server", Kind::Tcp)] {
        let mut rig = Rig::new(kind, None, Tls::default());
        // With Redis the server is the primary, with TCP it is the mirror. In both cases the server sends and the
        // caller leaves.
        rig.act(1, Act::Send);
        assert!(rig.connection.leg(true).backlog() >= HIGH, "{what}");
        rig.act(0, Act::Half);
        assert!(!rig.connection.is_over(rig.start + BOUND) || kind == Kind::Redis, "{what}: half of it goes on");
        rig.act(0, Act::Reset);
        assert!(rig.is_freed(), "{what}");
        // Bytes that the server still sends are read, so that the server's end is found too.
        assert!(rig.connection.leg(true).has_room(), "{what}");
    }
}

#[test]
fn an_end_that_cannot_be_read_for_want_of_room_is_noticed() {
    // The primary has filled the buffer toward the mirror and is gone; the mirror is connected and does not read.
    let mut rig = Rig::new(Kind::Redis, None, Tls::default());
    rig.act(1, Act::Send);
    rig.act(1, Act::Reset);
    assert!(rig.is_freed());
    // An application at its cap is not read at all.
    let mut rig = Rig::new(Kind::Tcp, Some(4096), Tls::default());
    rig.act(0, Act::Send);
    rig.act(0, Act::Reset);
    assert!(rig.is_freed());
}

#[test]
fn a_peer_that_answers_nothing_is_given_up_when_the_kernel_does() {
    let mut rig = Rig::new(Kind::Redis, None, Tls::default());
    rig.act(1, Act::Send);
    rig.act(0, Act::Half);
    assert!(rig.connection.leg(true).backlog() >= HIGH);
    // As the kernel does after about 15 minutes without an answer.
    sockopt::set_tcp_user_timeout(&*rig.connection.leg(true).stream(), 1).unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    while !rig.connection.leg(true).is_broken() {
        assert!(Instant::now() < patience, "the kernel does not give up");
        std::thread::sleep(Duration::from_millis(5));
        rig.drive();
    }
    assert!(rig.is_freed());
}

#[test]
fn a_connection_whose_ends_were_read_completely_is_freed_at_once() {
    let mut rig = Rig::new(Kind::Redis, None, Tls::default());
    for (end, act) in [(1, Act::Send), (0, Act::Half), (0, Act::Read), (1, Act::Close), (0, Act::Read), (0, Act::Close)]
    {
        rig.act(end, act);
    }
    assert!(rig.becomes(|rig| rig.connection.is_over(rig.start)));
}
