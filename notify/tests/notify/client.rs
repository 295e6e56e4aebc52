//! The blocking client against a publisher behind a real loopback socket.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onwire_notify::client::{Client, Need, Reason, Status, Waited, Wish};
use onwire_notify::envelope::{Key, KeyRing};
use onwire_notify::message::*;
use onwire_notify::publisher::{Asked, Limits, Publisher};

fn key() -> Key {
    Key::new(1, &[5; 32]).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A program that registers this cookie gets a violation of the whole flow a little later.
const VIOLATE: u64 = 666;

/// A publisher that knows one flow. A flush request puts all its bytes on the wire at once.
struct Appliance {
    address: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Appliance {
    fn start(flow: Flow, after_flush: u64) -> Appliance {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut keys = KeyRing::new();
            keys.insert(key()).unwrap();
            let mut publisher = Publisher::new(keys, Limits::default(), 42, &[8; 32], Instant::now());
            publisher.publish_flow(&flow, Instant::now());
            let mut bytes = [0; 2048];
            let mut violation_at = None;
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                    publisher.handle_datagram(from, &bytes[..len], Instant::now());
                }
                while let Some(asked) = publisher.poll_asked() {
                    match asked {
                        Asked::Flush => {
                            let positions = Positions { on_wire: Some(after_flush), ..Positions::default() };
                            publisher.publish_flow(&Flow { positions, ..flow }, Instant::now());
                        }
                        Asked::Barrier { id } => publisher.publish_barrier(id, Some(Level::OnWire)),
                        Asked::Register { cookie: VIOLATE, .. } => {
                            violation_at = Some(Instant::now() + Duration::from_millis(30));
                        }
                        Asked::Register { .. } => {}
                    }
                }
                if violation_at.take_if(|at| *at <= Instant::now()).is_some() {
                    let lost = Range { key: flow.key, instance: flow.instance, start: 0, end: after_flush };
                    publisher.publish_violation(0, &[lost], Instant::now());
                }
                publisher.handle_timeout(Instant::now());
                publisher.poll_datagrams(64, Instant::now(), |to, bytes| socket.send_to(bytes, to).is_ok());
            }
        });
        Appliance { address, stop, thread: Some(thread) }
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    (stream, other)
}

fn flow(key: FlowKey) -> Flow {
    Flow {
        key,
        instance: 1,
        peer: 0,
        event: Event::New,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(1),
        positions: Positions::default(),
        violated: None,
        packets: None,
        cookie: None,
        block: None,
        survives_burst: 0,
    }
}

#[test]
fn a_write_is_protected_when_the_appliance_reports_it_and_not_before() {
    let (mut stream, mut other) = connection();
    let flow_key = Client::flow_of(&stream).unwrap().key;
    let appliance = Appliance::start(flow(flow_key), 5);
    let mut client = Client::connect(appliance.address, key()).unwrap();
    assert!(client.watch(flow_key));
    stream.write_all(b"hello").unwrap();
    other.read_exact(&mut [0; 5]).unwrap();

    let waited = client.wait_all(&stream, Instant::now() + Duration::from_millis(300)).unwrap();
    assert_eq!(waited, Waited::NotProtected { reason: Reason::Deadline });
    assert_eq!(client.flush(soon()).unwrap(), Ok(()));
    let waited = client.wait_all(&stream, soon()).unwrap();
    assert_eq!(waited, Waited::Protected { level: Level::OnWire });
    assert_eq!(client.barrier(soon()).unwrap(), Waited::Protected { level: Level::OnWire });
    assert_eq!(client.register(flow_key, 9, soon()).unwrap(), Ok(()));
    let hundred = || Instant::now() + Duration::from_millis(100);
    let none = Waited::NotProtected { reason: Reason::SurvivesBurst(Duration::ZERO) };
    client.set_need(Need::surviving(Duration::from_millis(2)));
    assert_eq!(client.wait(&flow_key, 5, hundred()).unwrap(), none);
    assert_eq!(client.barrier(soon()).unwrap(), none, "its answer says nothing of interruptions");
    client.set_need(Need::surviving(Duration::ZERO));
    assert_eq!(client.wait(&flow_key, 5, soon()).unwrap(), Waited::Protected { level: Level::OnWire });
    assert_eq!(client.barrier(soon()).unwrap(), Waited::Protected { level: Level::OnWire });
    client.set_least_level(Level::Acked);
    let waited = client.wait(&flow_key, 5, Instant::now() + Duration::from_millis(20)).unwrap();
    assert_eq!(waited, Waited::NotProtected { reason: Reason::Level(Level::OnWire) });
}

#[test]
fn a_program_that_was_suspended_reads_the_violation_before_it_gets_an_answer() {
    let (mut stream, _other) = connection();
    let flow_key = Client::flow_of(&stream).unwrap().key;
    let appliance = Appliance::start(flow(flow_key), 5);
    let mut client = Client::connect(appliance.address, key()).unwrap();
    assert!(client.watch(flow_key));
    stream.write_all(b"hello").unwrap();
    assert_eq!(client.flush(soon()).unwrap(), Ok(()));
    assert_eq!(client.wait(&flow_key, 5, soon()).unwrap(), Waited::Protected { level: Level::OnWire });
    assert_eq!(client.register(flow_key, VIOLATE, soon()).unwrap(), Ok(()));
    assert_eq!(client.wait(&flow_key, 5, soon()).unwrap(), Waited::Protected { level: Level::OnWire }, "as yet");
    // The program is suspended; the appliance goes on.
    std::thread::sleep(Duration::from_millis(200));
    let waited = client.wait(&flow_key, 5, Instant::now()).unwrap();
    assert!(matches!(waited, Waited::NotProtected { .. }), "{waited:?}");
}

#[test]
fn claims_of_more_than_was_written_are_about_another_connection() {
    let (mut stream, _other) = connection();
    stream.write_all(b"hello").unwrap();
    let flow_key = Client::flow_of(&stream).unwrap().key;
    let earlier = Positions { on_wire: Some(1000), ..Positions::default() };
    let appliance = Appliance::start(Flow { positions: earlier, ..flow(flow_key) }, 1000);
    let mut client = Client::connect(appliance.address, key()).unwrap();
    let waited = client.wait_all(&stream, soon()).unwrap();
    assert_eq!(waited, Waited::NotProtected { reason: Reason::OtherConnection });
}

#[test]
fn no_publisher_and_a_wrong_key_mean_not_protected() {
    let (stream, _other) = connection();
    let flow_key = Client::flow_of(&stream).unwrap().key;
    let unused = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let appliance = Appliance::start(flow(flow_key), 0);
    let wrong = Key::new(1, &[6; 32]).unwrap();
    for (address, key) in [(unused, key()), (appliance.address, wrong)] {
        let mut client = Client::connect(address, key).unwrap();
        let waited = client.wait_all(&stream, Instant::now() + Duration::from_millis(200)).unwrap();
        assert_eq!(waited, Waited::NotProtected { reason: Reason::NoContact });
        let deadline = Instant::now() + Duration::from_millis(50);
        assert_eq!(client.barrier(deadline).unwrap(), Waited::NotProtected { reason: Reason::NoContact });
    }
}

/// Zero bytes are always protected, but not zero bytes of an unknown flow.
#[test]
fn an_unknown_flow_a_lost_contact_and_no_watch_never_mean_protected_even_for_zero_bytes() {
    let (stream, _other) = connection();
    let flow_key = Client::flow_of(&stream).unwrap().key;
    let nowhere = FlowKey::tcp(([10, 9, 9, 9], 1).into(), ([10, 9, 9, 9], 2).into());
    let all = Some(1 << 40);
    let all_levels = Positions { queued: all, early: None, on_wire: all, decoded: all, acked: all };
    let appliance = Appliance::start(Flow { positions: all_levels, ..flow(flow_key) }, 0);
    let mut client = Client::connect(appliance.address, key()).unwrap();
    client.set_least_level(Level::Queued);
    assert_eq!(client.status(&nowhere, 0).unwrap(), Status::Never(Reason::UnknownFlow), "not watched");
    assert!(client.watch(nowhere) && client.watch(flow_key));
    assert_eq!(client.wait(&flow_key, 1, soon()).unwrap(), Waited::Protected { level: Level::Acked });
    let short = Instant::now() + Duration::from_millis(100);
    assert_eq!(client.wait(&nowhere, 0, short).unwrap(), Waited::NotProtected { reason: Reason::UnknownFlow });
    drop(appliance);
    let after_the_lease = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < after_the_lease {
        let _ = client.next_message(after_the_lease).unwrap();
    }
    for offset in [0, 1] {
        assert_eq!(client.status(&flow_key, offset).unwrap(), Status::Pending(Reason::NoContact), "{offset}");
    }
}

#[test]
fn a_client_that_follows_gets_every_message() {
    let (stream, _other) = connection();
    let appliance = Appliance::start(flow(Client::flow_of(&stream).unwrap().key), 0);
    let wish = Wish { follow: true, ..Wish::default() };
    let mut client = Client::connect_with(appliance.address, key(), wish).unwrap();
    let (mut flows, mut heartbeats) = (0, 0);
    while flows == 0 || heartbeats == 0 {
        match client.next_message(soon()).unwrap().expect("a message within ten seconds") {
            Message::Flow(_) => flows += 1,
            Message::Heartbeat(_) => heartbeats += 1,
            _ => {}
        }
    }
}
