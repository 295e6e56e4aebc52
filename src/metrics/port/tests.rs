//! The port over real sockets, with an owner that answers, or does not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicU64;

use serde::Serialize;

use super::*;
use crate::metrics::family::{Table, Unit, counter};

/// A status of which each copy has another number.
#[derive(Debug, Serialize)]
struct Numbered {
    number: u64,
    degraded: Vec<String>,
}

const NUMBERED: Table<u64> =
    Table { labels: &[], metrics: &[counter("number", Unit::Number, "Its number.", |number: &u64| (*number).into())] };

fn pages() -> Pages<Numbered> {
    Pages { metrics: |it| NUMBERED.families([(vec![], it.number)]), degraded: |it| it.degraded.clone() }
}

/// An owner on a thread of its own, as a control thread is.
struct Owner {
    address: SocketAddr,
    /// Copies that it has handed over.
    copies: Arc<AtomicU64>,
    answers: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Owner {
    fn start(degraded: &[&str]) -> Self {
        let (wake, woken) = sync_channel(1);
        let wake_owner = move || {
            // One that waits already is enough.
            let _ = wake.try_send(());
        };
        let port = MetricsPort::open("127.0.0.1:0".parse().unwrap(), pages(), wake_owner).unwrap();
        let address = port.address();
        let (copies, answers, ends) =
            (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let degraded: Vec<String> = degraded.iter().map(|&words| words.to_owned()).collect();
        let (count, may_answer, stop) = (Arc::clone(&copies), Arc::clone(&answers), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let _ = woken.recv_timeout(Duration::from_millis(20));
                if may_answer.load(Ordering::Acquire) && port.is_asked() {
                    let number = count.fetch_add(1, Ordering::AcqRel) + 1;
                    port.answer(Numbered { number, degraded: degraded.clone() });
                }
            }
        });
        Self { address, copies, answers, ends, thread: Some(thread) }
    }

    fn ask(&self, path: &str) -> String {
        request(self.address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn request(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn each_path_has_its_document() {
    let owner = Owner::start(&[]);
    let metrics = owner.ask("/metrics");
    assert!(
        metrics.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{metrics}"
    );
    assert!(metrics.contains("\r\n\r\n# HELP onwire_number Its number.\n"), "{metrics}");
    assert!(metrics.ends_with("onwire_number_total 1\n# EOF\n"), "{metrics}");
    let older = request(owner.address, "GET /metrics HTTP/1.1\r\nAccept: text/plain\r\n\r\n");
    assert!(older.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{older}");
    assert!(older.ends_with("onwire_number_total 1\n"), "{older}");
    let health = owner.ask("/healthz");
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"), "{health}");
    let status = owner.ask("/status.json");
    assert!(status.contains("application/json") && status.contains("\"number\": 1"), "{status}");
    let other = owner.ask("/");
    assert!(other.starts_with("HTTP/1.1 404 ") && other.contains("/metrics, /healthz or /status.json"), "{other}");
    let head = request(owner.address, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(owner.copies.load(Ordering::Acquire), 1, "one copy served all");
}

#[test]
fn what_is_degraded_makes_health_fail_with_the_reasons() {
    let owner = Owner::start(&["peer a is silent", "a lane is gone"]);
    let health = owner.ask("/healthz");
    assert!(
        health.starts_with("HTTP/1.1 503 ") && health.ends_with("\r\n\r\npeer a is silent; a lane is gone\n"),
        "{health}"
    );
    assert!(owner.ask("/metrics").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_hundred_at_once_cost_their_owner_two_copies_a_second_at_most() {
    let owner = Owner::start(&[]);
    let start = Instant::now();
    while start.elapsed() < FRESH * 3 {
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let address = owner.address;
                thread::spawn(move || request(address, "GET /metrics HTTP/1.1\r\n\r\n"))
            })
            .collect();
        for caller in callers {
            assert!(caller.join().unwrap().ends_with("# EOF\n"));
        }
    }
    let most = 1 + (start.elapsed().as_millis() / FRESH.as_millis()) as u64;
    let copies = owner.copies.load(Ordering::Acquire);
    assert!((2..=most).contains(&copies), "{copies} copies, at most {most}");
}

#[test]
fn an_owner_that_stands_still_makes_requests_fail_in_time_and_is_asked_again() {
    let owner = Owner::start(&[]);
    owner.answers.store(false, Ordering::Release);
    let start = Instant::now();
    let asked: Vec<_> = ["/metrics", "/healthz", "/status.json"]
        .map(|path| {
            let (address, text) = (owner.address, format!("GET {path} HTTP/1.1\r\n\r\n"));
            thread::spawn(move || request(address, &text))
        })
        .into_iter()
        .collect();
    for answer in asked {
        let answer = answer.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("no status came"), "{answer}");
    }
    assert!(start.elapsed() >= ANSWERED_WITHIN);
    owner.answers.store(true, Ordering::Release);
    assert!(owner.ask("/metrics").ends_with("# EOF\n"));
}

#[test]
fn the_port_is_free_when_its_owner_has_dropped_it() {
    let open = |address| MetricsPort::open(address, pages(), || {});
    let port = open("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = port.address();
    let mut waits = TcpStream::connect(address).unwrap();
    waits.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    assert!(open(address).unwrap_err().to_string().contains("metrics.listen"));
    drop(port);
    let again = open(address).unwrap();
    assert_eq!(again.address(), address);
    // Who waited is not left alone.
    waits.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(waits.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn the_thread_has_no_privilege_and_opens_no_file() {
    use crate::io::restriction::CapabilitySet;
    static FOUND: std::sync::Mutex<Option<(CapabilitySet, bool)>> = std::sync::Mutex::new(None);
    // The function runs on the thread of the port.
    let metrics = |_: &Numbered| {
        let capabilities = rustix::thread::capabilities(None).unwrap().effective;
        let reads = std::fs::read_to_string("/proc/self/status").is_ok();
        *FOUND.lock().unwrap() = Some((capabilities, reads));
        Vec::new()
    };
    let pages = Pages { metrics, degraded: |_| Vec::new() };
    let port = MetricsPort::open("127.0.0.1:0".parse().unwrap(), pages, || {}).unwrap();
    let address = port.address();
    let asks = thread::spawn(move || request(address, "GET /metrics HTTP/1.1\r\n\r\n"));
    while !asks.is_finished() {
        port.answer(Numbered { number: 1, degraded: Vec::new() });
        thread::sleep(Duration::from_millis(5));
    }
    let answer = asks.join().unwrap();
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    assert_eq!(*FOUND.lock().unwrap(), Some((CapabilitySet::empty(), false)));
}
