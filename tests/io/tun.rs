//! TUN devices, links and routes; each test has network namespaces of its own, which disappear with it. Needs root.
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket as StdUdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use onwire::io::namespace::NetworkNamespace;
use onwire::io::netlink::{Netlink, ROUTE_PROTOCOL, Route};
use onwire::io::tun::{MAX_PACKET, Offload, Tun, TunOptions};
use onwire::io::udp::{GsoState, Switch, UdpOptions, UdpSocket};

/// A namespace with an `owio0` that is up and has this address; the test holds its queues.
fn site(options: TunOptions, address: &str) -> (NetworkNamespace, Vec<Tun>) {
    let namespace = NetworkNamespace::anonymous().unwrap();
    let queues = namespace
        .run(|| {
            let queues = Tun::open("owio0", options).unwrap();
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.link_index("owio0").unwrap();
            netlink.set_no_ipv6_address(index).unwrap();
            netlink.add_address(index, address.parse().unwrap()).unwrap();
            netlink.set_up(index).unwrap();
            queues
        })
        .unwrap();
    (namespace, queues)
}

/// Copies packets between two TUNs until `stop`; returns the length of the longest packet.
fn relay(left: &Tun, right: &Tun, stop: &AtomicBool) -> usize {
    let mut poll = Poll::new().unwrap();
    for (number, tun) in [left, right].into_iter().enumerate() {
        poll.registry().register(&mut SourceFd(&tun.as_raw_fd()), Token(number), Interest::READABLE).unwrap();
    }
    let (mut events, mut packet, mut longest) = (Events::with_capacity(8), vec![0; MAX_PACKET], 0);
    let mut header = [0xff; 10];
    while !stop.load(Ordering::Relaxed) {
        poll.poll(&mut events, Some(Duration::from_millis(10))).unwrap();
        for (from, to) in [(left, right), (right, left)] {
            loop {
                match from.read(&mut header, &mut packet) {
                    Ok(length) => {
                        longest = longest.max(length);
                        to.write(&header, &packet[..length]).unwrap();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    longest
}

/// Sends `content` over TCP from one namespace to the other through a relay; returns the length of the longest packet.
fn transfer(options: TunOptions, addresses: [&str; 2], content: &[u8]) -> usize {
    let (near, near_tun) = site(options, addresses[0]);
    let (far, far_tun) = site(options, addresses[1]);
    let listen = SocketAddr::new(addresses[1].split('/').next().unwrap().parse::<IpAddr>().unwrap(), 5000);
    let listener = eventually(|| far.run(|| TcpListener::bind(listen)).unwrap().ok());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let relay = scope.spawn(|| relay(&near_tun[0], &far_tun[0], &stop));
        let sender = scope.spawn(|| {
            let connect = || TcpStream::connect_timeout(&listen, Duration::from_secs(5)).unwrap();
            let mut stream = near.run(connect).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(content).unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        sender.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        assert!(received == content, "{} bytes of {}", received.len(), content.len());
        relay.join().unwrap()
    })
}

/// Puts a queue of 100 Mbit/s before the device.
fn shape(namespace: &NetworkNamespace, limit: &str) {
    let command = format!("qdisc add dev owio0 root tbf rate 100mbit burst 70kb {limit}");
    let status = namespace.run(|| Command::new("tc").args(command.split(' ')).status()).unwrap();
    assert!(status.expect("`tc` is missing: apt-get install iproute2").success());
}

/// Retries for up to five seconds, because an IPv6 address is tentative at first.
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < limit, "still not after five seconds");
        thread::sleep(Duration::from_millis(20));
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 / 7) as u8).collect()
}

#[test]
fn super_packets_pass_whole_and_unchanged() {
    for addresses in [["10.99.0.1/24", "10.99.0.2/24"], ["fd99::1/64", "fd99::2/64"]] {
        let longest = transfer(TunOptions::default(), addresses, &content(8 << 20));
        assert!(longest > 3000, "the longest packet had {longest} bytes");
    }
}

#[test]
fn the_simple_back_end_carries_single_packets() {
    let options = TunOptions { offload: Offload::Off, mtu: 1400, ..TunOptions::default() };
    for addresses in [["10.99.0.1/24", "10.99.0.2/24"], ["fd99::1/64", "fd99::2/64"]] {
        let longest = transfer(options, addresses, &content(2 << 20));
        assert_eq!(longest, 1400);
    }
}

#[test]
fn a_udp_train_is_one_super_packet_if_the_kernel_supports_it() {
    let (namespace, queues) = site(TunOptions::default(), "10.99.0.1/24");
    let mut socket =
        namespace.run(|| UdpSocket::bind("0.0.0.0:0".parse().unwrap(), UdpOptions::default()).unwrap()).unwrap();
    let bytes = content(1452 * 20);
    assert_eq!(socket.send_train("10.99.0.2:7117".parse().unwrap(), &bytes, 1452).sent, bytes.len());
    let (mut header, mut packet) = ([0; 10], vec![0; MAX_PACKET]);
    let length = queues[0].read(&mut header, &mut packet).unwrap();
    if queues[0].offloads().udp {
        assert_eq!(length, 28 + bytes.len());
        assert_eq!(packet[28..length], bytes);
        assert_eq!(header[1], 5, "GSO type UDP_L4");
        assert_eq!(u16::from_ne_bytes([header[4], header[5]]), 1452);
    } else {
        assert_eq!(length, 28 + 1452);
    }
}

#[test]
fn a_too_long_datagram_is_counted_with_the_mtu_and_keeps_segmentation_on() {
    let (namespace, queues) = site(TunOptions { mtu: 1400, ..TunOptions::default() }, "10.99.0.1/24");
    let mut socket =
        namespace.run(|| UdpSocket::bind("0.0.0.0:0".parse().unwrap(), UdpOptions::default()).unwrap()).unwrap();
    let to = "10.99.0.2:7117".parse().unwrap();
    for length in [1452, 1452 * 5] {
        let outcome = socket.send_train(to, &content(length), 1452);
        assert_eq!((outcome.sent, outcome.blocked), (0, false));
        assert_eq!(outcome.error.unwrap().raw_os_error(), Some(libc::EMSGSIZE));
    }
    let counts = socket.drain_errors(&mut |_| {});
    assert_eq!((counts.too_big, counts.path_mtu, counts.total()), (2, Some(1400), 2));
    assert_eq!(socket.gso_state(), GsoState::Active);
    assert_eq!(socket.send_train(to, &content(1372 * 5), 1372).sent, 1372 * 5);
    assert!(queues[0].read(&mut [0; 10], &mut vec![0; MAX_PACKET]).is_ok());
}

#[test]
fn a_full_tun_queue_shows_in_the_counters() {
    let options = TunOptions { txqueuelen: Some(8), mtu: 9000, gso_max_size: Some(32_768), ..TunOptions::default() };
    let (namespace, _queues) = site(options, "10.99.0.1/24");
    namespace
        .run(|| {
            let mut netlink = Netlink::open().unwrap();
            let link = netlink.link("owio0").unwrap();
            assert_eq!((link.mtu, link.txqueuelen, link.gso_max_size), (9000, 8, Some(32_768)));
            assert!(link.up && link.carrier);
            let socket = StdUdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..50 {
                let _ = socket.send_to(b"hello", "10.99.0.2:9");
            }
            let statistics = netlink.link_statistics(link.index).unwrap();
            assert!(statistics.tx_dropped >= 40, "{statistics:?}");
        })
        .unwrap();
}

#[test]
fn a_full_send_buffer_blocks_the_train_and_the_rest_goes_later() {
    let (namespace, queues) = site(TunOptions::default(), "10.99.0.1/24");
    // A TUN removes packets from the send buffer's account at once; a queue before it keeps them there.
    shape(&namespace, "limit 10mb");
    for gso in [Switch::Auto, Switch::Off] {
        let options = UdpOptions { gso, buffer_bytes: 150_000, ..UdpOptions::default() };
        let mut socket = namespace.run(|| UdpSocket::bind("0.0.0.0:0".parse().unwrap(), options).unwrap()).unwrap();
        let bytes = content(1452 * 400);
        let (mut sent, mut blocked, mut read) = (0, 0, 0);
        let mut packet = vec![0; MAX_PACKET];
        let limit = Instant::now() + Duration::from_secs(10);
        while read < bytes.len() && Instant::now() < limit {
            let outcome = socket.send_train("10.99.0.2:7117".parse().unwrap(), &bytes[sent..], 1452);
            assert!(outcome.error.is_none(), "{:?}", outcome.error);
            assert_eq!(outcome.sent % 1452, 0);
            sent += outcome.sent;
            blocked += usize::from(outcome.blocked);
            assert!(outcome.blocked || sent == bytes.len());
            thread::sleep(Duration::from_millis(1));
            while let Ok(length) = queues[0].read(&mut [0; 10], &mut packet) {
                if packet[0] >> 4 == 4 {
                    read += length - 28;
                }
            }
        }
        assert!(blocked > 0);
        assert_eq!(read, bytes.len(), "{gso:?}");
    }
}

#[test]
fn a_drop_in_a_local_queue_is_an_error_and_counted() {
    let (namespace, _queues) = site(TunOptions::default(), "10.99.0.1/24");
    shape(&namespace, "limit 5000");
    let bind = || UdpSocket::bind("0.0.0.0:0".parse().unwrap(), UdpOptions::default()).unwrap();
    let mut socket = namespace.run(bind).unwrap();
    let failed = (0..200).filter(|_| {
        let outcome = socket.send_train("10.99.0.2:7117".parse().unwrap(), &content(1452), 1452);
        outcome.error.is_some_and(|error| error.raw_os_error() == Some(libc::ENOBUFS))
    });
    let failed = failed.count() as u64;
    let counts = socket.drain_errors(&mut |_| {});
    assert!(failed > 0);
    assert_eq!((counts.queue_full, counts.total()), (failed, failed));
}

#[test]
fn several_queues_share_the_flows() {
    let options = TunOptions { queues: 4, ..TunOptions::default() };
    let (namespace, queues) = site(options, "10.99.0.1/24");
    assert_eq!(queues.len(), 4);
    namespace
        .run(|| {
            for _ in 0..64 {
                let socket = StdUdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"hello", "10.99.0.2:9").unwrap();
            }
        })
        .unwrap();
    let count = |tun: &Tun| {
        let (mut header, mut packet) = ([0; 10], vec![0; MAX_PACKET]);
        std::iter::from_fn(|| tun.read(&mut header, &mut packet).ok()).count()
    };
    let counts: Vec<usize> = queues.iter().map(count).collect();
    assert_eq!(counts.iter().sum::<usize>(), 64, "{counts:?}");
    assert!(counts.iter().filter(|count| **count > 0).count() > 1, "{counts:?}");
}

#[test]
fn a_failed_open_names_the_reason() {
    let (namespace, queues) = site(TunOptions::default(), "10.99.0.1/24");
    namespace
        .run(|| {
            for (name, options, words) in [
                ("owio0", TunOptions::default(), "the name is in use"),
                ("owio0", TunOptions { offload: Offload::Off, ..TunOptions::default() }, "the name is in use"),
                ("lo", TunOptions::default(), "the name is in use"),
                (
                    "owio1",
                    TunOptions { offload: Offload::Off, queues: 2, ..TunOptions::default() },
                    "set `tun.offload: auto`",
                ),
            ] {
                let error = Tun::open(name, options).unwrap_err().to_string();
                assert!(error.contains(words), "{name}: {error}");
            }
        })
        .unwrap();
    assert!(queues[0].fallback().is_none());
}

#[test]
fn a_bad_header_is_refused_and_the_carrier_can_be_switched() {
    let (namespace, queues) = site(TunOptions::default(), "10.99.0.1/24");
    let bad = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let error = queues[0].write(&bad, &[0x45; 60]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    let carrier = || namespace.run(|| Netlink::open().unwrap().link("owio0").unwrap().carrier).unwrap();
    assert!(carrier());
    queues[0].set_carrier(false).unwrap();
    assert!(!carrier());
    queues[0].set_carrier(true).unwrap();
    assert!(carrier());
}

#[test]
fn a_device_moved_to_another_namespace_keeps_working() {
    let (here, queues) = site(TunOptions::default(), "10.99.0.1/24");
    let there = NetworkNamespace::anonymous().unwrap();
    here.run(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("owio0").unwrap();
        netlink.move_link(index, there.as_fd()).unwrap();
        assert_eq!(netlink.link("owio0").unwrap_err().raw_os_error(), None);
    })
    .unwrap();
    there
        .run(|| {
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.link_index("owio0").unwrap();
            netlink.add_address(index, "10.99.1.1/24".parse().unwrap()).unwrap();
            netlink.set_up(index).unwrap();
            StdUdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", "10.99.1.2:9").unwrap();
        })
        .unwrap();
    let mut packet = vec![0; MAX_PACKET];
    let first_ipv4 =
        std::iter::from_fn(|| queues[0].read(&mut [0; 10], &mut packet).ok().map(|n| packet[..n].to_vec()))
            .find(|packet| packet[0] >> 4 == 4);
    assert_eq!(first_ipv4.unwrap()[28..], *b"hello");
}

#[test]
fn routes_keep_source_and_metric_and_a_later_run_finds_them() {
    let (namespace, _queues) = site(TunOptions::default(), "10.1.0.1/24");
    namespace
        .run(|| {
            let mut netlink = Netlink::open().unwrap();
            let device = netlink.link_index("owio0").unwrap();
            netlink.add_address(device, "fd00:1::1/64".parse().unwrap()).unwrap();
            assert_eq!(netlink.address_within("10.1.0.0/16".parse().unwrap()).unwrap(), "10.1.0.1".parse().ok());
            assert_eq!(netlink.address_within("fd00:1::/48".parse().unwrap()).unwrap(), "fd00:1::1".parse().ok());
            assert_eq!(netlink.address_within("10.2.0.0/16".parse().unwrap()).unwrap(), None);
            let route = |prefix: &str, source: &str, metric| Route {
                prefix: prefix.parse().unwrap(),
                device,
                preferred_source: source.parse().ok(),
                metric: Some(metric),
                protocol: ROUTE_PROTOCOL,
            };
            let routes = [
                route("10.2.0.0/24", "10.1.0.1", 50),
                route("10.3.0.0/24", "", 10),
                route("0.0.0.0/0", "", 900),
                route("fd00:2::/64", "fd00:1::1", 50),
                route("::/0", "", 900),
            ];
            for route in &routes {
                // A tentative address cannot be a preferred source yet.
                eventually(|| netlink.add_route(route).ok());
            }
            let error = netlink.add_route(&routes[0]).unwrap_err().to_string();
            assert!(error.contains("10.2.0.0/24") && error.contains("metric already"), "{error}");
            let error = netlink.add_route(&route("10.4.0.0/24", "192.0.2.1", 1)).unwrap_err().to_string();
            assert!(error.contains("address of this host"), "{error}");

            // A new Netlink socket, as a later run would use.
            let mut later = Netlink::open().unwrap();
            let mut found = later.routes(ROUTE_PROTOCOL).unwrap();
            assert_eq!(found.len(), routes.len());
            assert!(routes.iter().all(|route| found.contains(route)), "{found:?}");
            while let Some(route) = found.pop() {
                later.remove_route(&route).unwrap();
                later.remove_route(&route).unwrap();
                assert_eq!(later.routes(ROUTE_PROTOCOL).unwrap().len(), found.len());
            }
        })
        .unwrap();
}

/// Deletes a named namespace when dropped.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

#[test]
fn a_named_namespace_is_entered_by_one_thread_only() {
    let name = Named(format!("owio-{}", std::process::id()));
    let added = Command::new("ip").args(["netns", "add", &name.0]).status();
    assert!(added.expect("`ip` is missing: apt-get install iproute2").success());
    let namespace = NetworkNamespace::named(&name.0).unwrap();
    let seen = AtomicUsize::new(0);
    namespace
        .run(|| {
            Tun::open("owio7", TunOptions::default()).unwrap();
            seen.store(Netlink::open().unwrap().addresses().unwrap().len(), Ordering::Relaxed);
        })
        .unwrap();
    assert_eq!(seen.into_inner(), 0, "a new namespace has no addresses");
    assert!(Netlink::open().unwrap().link("owio7").is_err());
    let error = NetworkNamespace::named("owio-nobody").unwrap_err().to_string();
    assert!(error.contains("ip netns list"), "{error}");
    assert!(NetworkNamespace::named("../x").is_err());
}
