//! The server over real sockets of this host, with a clock that the test moves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use mio::{Events, Poll};

use super::*;

struct Bench {
    server: HttpServer,
    poll: Poll,
    address: SocketAddr,
    now: Instant,
    asked: Vec<Request>,
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

impl Bench {
    fn new() -> Self {
        let poll = Poll::new().unwrap();
        let listener = listen("127.0.0.1:0".parse().unwrap(), "`metrics.listen`").unwrap();
        let address = listener.local_addr().unwrap();
        let server = HttpServer::new(listener, poll.registry(), 7).unwrap();
        Self { server, poll, address, now: Instant::now(), asked: Vec::new() }
    }

    fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    fn send(&self, text: &str) -> TcpStream {
        send(self.address, text)
    }

    /// A turn as the owner makes it; each request is answered with its path.
    fn turn(&mut self) {
        self.turn_with(|path| path.to_owned());
    }

    fn turn_with(&mut self, body: impl Fn(&str) -> String) {
        let mut events = Events::with_capacity(256);
        self.poll.poll(&mut events, Some(Duration::from_millis(2))).unwrap();
        for event in &events {
            self.server.handle_event(event.token(), self.now);
        }
        self.server.handle_timeout(self.poll.registry(), self.now);
        while let Some((id, request)) = self.server.poll_request() {
            let answer = Answer::document("text/plain", body(&request.path)).to_bytes(request.is_head);
            self.server.answer(id, answer.into(), self.now);
            self.asked.push(request);
        }
    }

    /// Turns until `thread` has ended. Returns what it found.
    fn until<T>(&mut self, thread: thread::JoinHandle<T>) -> T {
        let start = Instant::now();
        while !thread.is_finished() {
            assert!(start.elapsed() < Duration::from_secs(20), "the caller has no answer");
            self.turn();
        }
        thread.join().unwrap()
    }

    /// Turns until so many callers have places.
    fn has_callers(&mut self, count: usize) {
        let start = Instant::now();
        while self.server.callers() != count {
            assert!(start.elapsed() < Duration::from_secs(20), "{} callers, not {count}", self.server.callers());
            self.turn();
        }
    }

    fn answer_of(&mut self, mut stream: TcpStream) -> String {
        self.until(thread::spawn(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        }))
    }
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn a_request_that_comes_in_pieces_is_answered_once() {
    let mut bench = Bench::new();
    let mut stream = bench.connect();
    for piece in GET.split_inclusive(' ') {
        stream.write_all(piece.as_bytes()).unwrap();
        bench.turn();
    }
    let text = bench.answer_of(stream);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n/metrics"), "{text}");
    assert_eq!(bench.asked.len(), 1);
    bench.has_callers(0);
}

#[test]
fn a_hundred_at_once_are_all_answered() {
    let mut bench = Bench::new();
    // More than the kernel keeps for a server that accepts none.
    let address = bench.address;
    let callers = bench.until(thread::spawn(move || (0..2 * CALLERS).map(|_| send(address, GET)).collect::<Vec<_>>()));
    for caller in callers {
        assert!(bench.answer_of(caller).ends_with("\r\n\r\n/metrics"));
    }
    assert_eq!(bench.asked.len(), 2 * CALLERS);
}

#[test]
fn callers_that_hang_give_their_places_to_others_after_a_second_and_end_after_five() {
    let mut bench = Bench::new();
    let hanging: Vec<_> = (0..CALLERS).map(|_| bench.send("GET /metrics HTTP/1.1\r\n")).collect();
    bench.has_callers(CALLERS);
    let behind = bench.send(GET);
    (0..20).for_each(|_| bench.turn());
    assert_eq!((bench.server.callers(), bench.asked.len()), (CALLERS, 0), "they have time to go on");
    assert_eq!(bench.server.poll_timeout(), Some(bench.now + GIVES_WAY_AFTER));
    bench.now += GIVES_WAY_AFTER;
    assert!(bench.answer_of(behind).ends_with("/metrics"));
    assert!(bench.server.callers() >= CALLERS - 2, "only who is in the way goes");
    bench.now += Duration::from_secs(4);
    bench.has_callers(0);
    drop(hanging);
}

#[test]
fn a_reader_that_stops_loses_its_place_and_delays_no_other() {
    let mut bench = Bench::new();
    let slow = bench.send(GET);
    let start = Instant::now();
    while bench.asked.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20));
        bench.turn_with(|_| "x".repeat(32 << 20));
    }
    let other = bench.send(GET);
    assert!(bench.answer_of(other).ends_with("/metrics"));
    bench.has_callers(1);
    assert_eq!(bench.server.poll_timeout(), Some(bench.now + Duration::from_secs(10)));
    bench.now += Duration::from_secs(10);
    bench.has_callers(0);
    drop(slow);
}

#[test]
fn whoever_leaves_early_is_forgotten() {
    let mut bench = Bench::new();
    drop(bench.connect());
    drop(bench.send("GET /met"));
    drop(bench.send(GET));
    (0..20).for_each(|_| bench.turn());
    bench.has_callers(0);
    assert!(bench.answer_of(bench.send(GET)).ends_with("/metrics"));
}

#[test]
fn what_is_refused_is_told_why_even_if_more_comes() {
    let mut bench = Bench::new();
    let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(3 * MOST_BYTES));
    let post = format!("POST /metrics HTTP/1.1\r\nContent-Length: 20000\r\n\r\n{}", "z".repeat(20_000));
    for (text, expected) in [(&*long, " 431 "), (&post, " 405 "), ("\0\0\0\0\r\n", " 400 ")] {
        let answer = bench.answer_of(bench.send(text));
        assert!(answer.starts_with(&format!("HTTP/1.1{expected}")), "{answer}");
    }
    assert_eq!(bench.asked, []);
    // One that never stops sending is cut off.
    let mut endless = bench.connect();
    let ended = bench.until(thread::spawn(move || {
        let bytes = [b'x'; 65536];
        (0..1000).any(|_| endless.write_all(&bytes).is_err())
    }));
    assert!(ended, "64 MB were taken from it");
    bench.has_callers(0);
}

#[test]
fn an_address_that_is_taken_is_refused_with_the_remedy() {
    let bench = Bench::new();
    let error = listen(bench.address, "`metrics.listen`").unwrap_err().to_string();
    assert!(error.contains("for metrics") && error.contains("choose another in `metrics.listen`"), "{error}");
}
