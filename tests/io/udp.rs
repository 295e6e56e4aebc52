//! UDP trains over the loopback device: content, segments, fall-backs and errors. Transmit timestamps with both
//! mechanisms, through slow and full queues, in namespaces that disappear with the test. Needs root and iproute2.
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use onwire::io::namespace::NetworkNamespace;
use onwire::io::tun::{Offload, Tun, TunOptions};
use onwire::io::udp::{
    ErrorCounts, GsoOff, GsoState, Received, StampChoice, StampState, StampsOff, Switch, Target, UdpOptions, UdpSocket,
};

fn bind(address: &str, gso: Switch) -> UdpSocket {
    UdpSocket::bind(address.parse().unwrap(), UdpOptions { gso, ..UdpOptions::default() }).unwrap()
}

/// Bytes that differ from datagram to datagram and within one.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ (at / 1452) as u8).collect()
}

/// Receives until `length` bytes have arrived or five seconds have passed.
fn receive(socket: &mut UdpSocket, length: usize) -> (Vec<u8>, Vec<Received>) {
    let (mut bytes, mut trains, mut buffer) = (Vec::new(), Vec::new(), vec![0; 65_536]);
    let limit = Instant::now() + Duration::from_secs(5);
    while bytes.len() < length && Instant::now() < limit {
        match socket.recv_train(&mut buffer).unwrap() {
            Some(received) => {
                bytes.extend_from_slice(&buffer[..received.len]);
                trains.push(received);
            }
            None => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    (bytes, trains)
}

#[test]
fn a_train_arrives_whole_with_its_segment_size() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut sender, mut receiver) = (bind(address, Switch::Auto), bind(address, Switch::Auto));
        assert_eq!(sender.gso_state(), GsoState::Active);
        // At most 44 datagrams fit in 65,000 bytes; the last one may be short.
        for length in [1452, 100, 1452 * 2, 1452 * 20 + 700, 1452 * 44, 1452 * 130 + 1] {
            let bytes = content(length);
            let outcome = sender.send_train(receiver.local_addr(), &bytes, 1452);
            assert_eq!((outcome.sent, outcome.blocked), (length, false), "{:?}", outcome.error);
            let (received, trains) = receive(&mut receiver, length);
            assert_eq!(received, bytes, "{address} {length}");
            assert_eq!(trains.len(), length.div_ceil(1452 * 44), "{address} {length}");
            for train in trains {
                assert_eq!(train.from, sender.local_addr());
                assert_eq!(train.segment, train.len.min(1452));
            }
        }
        assert_eq!(sender.gso_state(), GsoState::Active);
        assert_eq!(receiver.receive_overflows(), 0);
    }
}

#[test]
fn the_same_train_arrives_without_segmentation() {
    let (mut sender, mut receiver) = (bind("127.0.0.1:0", Switch::Off), bind("127.0.0.1:0", Switch::Off));
    assert_eq!(sender.gso_state(), GsoState::Off(GsoOff::Configured));
    let bytes = content(1452 * 130 + 700);
    let outcome = sender.send_train(receiver.local_addr(), &bytes, 1452);
    assert_eq!(outcome.sent, bytes.len(), "{:?}", outcome.error);
    let (received, trains) = receive(&mut receiver, bytes.len());
    assert_eq!(received, bytes);
    assert_eq!(trains.len(), 131);
    assert_eq!((trains[0].len, trains[0].segment), (1452, 1452));
    assert_eq!((trains[130].len, trains[130].segment), (700, 700));
}

#[test]
fn a_segment_of_zero_is_one_datagram_and_an_empty_train_is_none() {
    let (mut sender, mut receiver) = (bind("127.0.0.1:0", Switch::Auto), bind("127.0.0.1:0", Switch::Auto));
    assert_eq!(sender.send_train(receiver.local_addr(), &[], 1452).sent, 0);
    assert_eq!(sender.send_train(receiver.local_addr(), &content(3000), 0).sent, 3000);
    let (_, trains) = receive(&mut receiver, 3000);
    assert_eq!(trains.len(), 1);
    assert!(receiver.recv_train(&mut [0; 65_536]).unwrap().is_none());
}

#[test]
fn an_ipv6_socket_reports_ipv4_peers_with_ipv4_addresses() {
    let (mut wildcard, mut v4) = (bind("[::]:0", Switch::Auto), bind("127.0.0.1:0", Switch::Auto));
    let wildcard_v4: SocketAddr = ([127, 0, 0, 1], wildcard.local_addr().port()).into();
    let bytes = content(1452 * 3);
    assert_eq!(v4.send_train(wildcard_v4, &bytes, 1452).sent, bytes.len());
    let (received, trains) = receive(&mut wildcard, bytes.len());
    assert_eq!((received, trains[0].from), (bytes.clone(), v4.local_addr()));
    assert_eq!(wildcard.send_train(v4.local_addr(), &bytes, 1452).sent, bytes.len());
    let (received, trains) = receive(&mut v4, bytes.len());
    assert_eq!((received, trains[0].from), (bytes, wildcard_v4));
}

#[test]
fn a_closed_port_is_counted_and_affects_no_later_datagram() {
    for (address, peer) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")] {
        let (mut sender, mut receiver) = (bind(address, Switch::Auto), bind(peer, Switch::Auto));
        let mut closed = receiver.local_addr();
        closed.set_port(9);
        for _ in 0..3 {
            assert_eq!(sender.send_train(closed, b"hello", 5).sent, 5);
        }
        // The ICMP errors are pending now; they must not affect sending or receiving.
        assert_eq!(sender.send_train(receiver.local_addr(), b"hello", 5).sent, 5);
        let (received, trains) = receive(&mut receiver, 5);
        assert_eq!(received, b"hello");
        assert_eq!(receiver.send_train(trains[0].from, b"back", 4).sent, 4);
        assert_eq!(sender.send_train(closed, b"hello", 5).sent, 5);
        assert_eq!(receive(&mut sender, 4).0, b"back");
        let counts = sender.drain_errors(&mut |_| {});
        assert_eq!((counts.unreachable, counts.total()), (4, 4), "{address}");
        assert_eq!(sender.drain_errors(&mut |_| {}).total(), 0);
        assert_eq!((sender.poll_refused(), sender.poll_refused()), (Some(closed), None), "once, however often");
        // Any host can send such an error; one that quotes nothing of ours says nothing.
        assert_eq!(sender.send_train(closed, b"hello", 5).sent, 5);
        assert_eq!(sender.drain_own_errors(&|_| false, &mut |_| {}).doubtful, 1);
        assert_eq!(sender.poll_refused(), None);
    }
}

#[test]
fn drops_of_a_full_receive_buffer_are_counted() {
    let options = UdpOptions { buffer_bytes: 16 << 10, gso: Switch::Off, ..UdpOptions::default() };
    let mut receiver = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
    let mut sender = bind("127.0.0.1:0", Switch::Off);
    assert_eq!(sender.send_train(receiver.local_addr(), &content(1000 * 200), 1000).sent, 200_000);
    let mut buffer = vec![0; 65_536];
    let mut arrived = 0;
    while receiver.recv_train(&mut buffer).unwrap().is_some() {
        arrived += 1;
    }
    // The kernel reports the count with the next datagram.
    assert_eq!(sender.send_train(receiver.local_addr(), b"next", 4).sent, 4);
    receive(&mut receiver, 4);
    assert_eq!(receiver.receive_overflows(), 200 - arrived);
    assert!(arrived < 200);
}

#[test]
fn count_overflows_includes_drops_after_the_last_datagram() {
    let options = UdpOptions { buffer_bytes: 16 << 10, gso: Switch::Off, ..UdpOptions::default() };
    let mut receiver = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
    let mut sender = bind("127.0.0.1:0", Switch::Off);
    assert_eq!(receiver.count_overflows(), 0);
    sender.send_train(receiver.local_addr(), &content(1000 * 200), 1000);
    let mut buffer = vec![0; 65_536];
    let arrived = std::iter::from_fn(|| receiver.recv_train(&mut buffer).unwrap()).count() as u64;
    assert_eq!(receiver.receive_overflows(), 0, "nothing came behind what was dropped");
    assert_eq!((receiver.count_overflows(), receiver.receive_overflows()), (200 - arrived, 200 - arrived));
    // A datagram with the same count or an older one adds nothing.
    assert_eq!(sender.send_train(receiver.local_addr(), b"next", 4).sent, 4);
    receive(&mut receiver, 4);
    assert_eq!(receiver.receive_overflows(), 200 - arrived);
}

#[test]
fn the_arrival_time_is_that_of_the_kernel_not_of_the_read() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        // With and without transmit timestamps on the same socket, and with each mechanism.
        for stamps in [StampChoice::Auto, StampChoice::LoopedData, StampChoice::Off] {
            let options = UdpOptions { stamps, ..UdpOptions::default() };
            let mut receiver = UdpSocket::bind(address.parse().unwrap(), options).unwrap();
            let mut sender = UdpSocket::bind(address.parse().unwrap(), options).unwrap();
            assert!(receiver.recv_train(&mut [0; 65_536]).unwrap().is_none());
            // The kernel starts to timestamp received datagrams some time after the first socket of the host requests
            // it.
            let limit = Instant::now() + Duration::from_secs(5);
            let is_stamped = |receiver: &mut UdpSocket, sender: &mut UdpSocket| {
                let after = (sender.send_train(receiver.local_addr(), &[7], 1), Instant::now()).1;
                std::thread::sleep(Duration::from_millis(20));
                receive(receiver, 1).1[0].arrived.unwrap() < after + Duration::from_millis(10)
            };
            while !is_stamped(&mut receiver, &mut sender) {
                assert!(Instant::now() < limit, "{address} {stamps:?}");
            }
            let mut sent = Vec::new();
            for _ in 0..2 {
                let before = Instant::now();
                assert_eq!(sender.send_train(receiver.local_addr(), &content(3000), 1452).sent, 3000);
                sent.push((before, Instant::now()));
                std::thread::sleep(Duration::from_millis(150));
            }
            let (_, trains) = receive(&mut receiver, 6000);
            let mut arrivals = trains.iter().map(|train| train.arrived.unwrap());
            let slack = Duration::from_millis(2);
            for (before, after) in sent {
                let arrived = arrivals.next().unwrap();
                assert!(
                    before - slack < arrived && arrived < after + slack,
                    "{:?}, {address} {stamps:?}",
                    arrived - before
                );
            }
        }
    }
}

#[test]
fn the_wrong_address_family_is_an_error() {
    let mut sender = bind("127.0.0.1:0", Switch::Auto);
    let outcome = sender.send_train("[::1]:9".parse().unwrap(), b"hello", 5);
    assert_eq!((outcome.sent, outcome.blocked), (0, false));
    assert_eq!(outcome.error.unwrap().raw_os_error(), Some(libc::EAFNOSUPPORT));
    assert_eq!(sender.drain_errors(&mut |_| {}).other, 1);
}

/// A socket with this timestamp mechanism.
fn stamping(address: &str, choice: StampChoice) -> UdpSocket {
    let socket = UdpSocket::bind(address.parse().unwrap(), UdpOptions { stamps: choice, ..UdpOptions::default() });
    socket.unwrap()
}

/// A datagram with a unique beginning, as the tunnel's datagrams have.
fn numbered(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = content(length);
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Collects timestamps until `wanted` have arrived or ten seconds have passed; also returns the other counts.
fn stamps(socket: &mut UdpSocket, wanted: usize) -> (Vec<u32>, ErrorCounts) {
    let (mut stamped, mut counts) = (Vec::new(), ErrorCounts::default());
    let limit = Instant::now() + Duration::from_secs(10);
    while stamped.len() < wanted && Instant::now() < limit {
        counts += socket.drain_errors(&mut |stamp| stamped.push(stamp));
        std::thread::sleep(Duration::from_micros(200));
    }
    // A superfluous timestamp would arrive in this time.
    std::thread::sleep(Duration::from_millis(30));
    counts += socket.drain_errors(&mut |stamp| stamped.push(stamp));
    (stamped, counts)
}

fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split(' ')).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install iproute2"));
    assert!(status.success(), "{program} {arguments}");
}

/// Runs `work` in a namespace with the loopback device and a veth that leads to 10.98.0.2 and fd98::2, where no host
/// answers.
fn beside_a_veth(work: impl FnOnce() + Send) {
    let inside = || {
        run("ip", "link set lo up");
        run("ip", "link add owu0 type veth peer name owu1");
        run("ip", "link set owu0 up");
        run("ip", "link set owu1 up");
        run("ip", "address add 10.98.0.1/24 dev owu0");
        run("ip", "-6 address add fd98::1/64 dev owu0 nodad");
        run("ip", "neighbor add 10.98.0.2 lladdr 02:00:00:00:00:02 dev owu0");
        run("ip", "-6 neighbor add fd98::2 lladdr 02:00:00:00:00:02 dev owu0");
        work();
    };
    NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
}

const BOTH: [StampChoice; 2] = [StampChoice::Auto, StampChoice::LoopedData];

#[test]
fn the_chosen_timestamp_mechanism_is_used() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let best = if version >= (6, 13) { StampState::OwnId } else { StampState::LoopedData };
    let states = || {
        ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"].map(|address| stamping(address, StampChoice::Auto).stamps())
    };
    assert_eq!(states(), [best; 4]);
    assert_eq!(stamping("127.0.0.1:0", StampChoice::LoopedData).stamps(), StampState::LoopedData);
    // Without a loopback device the mechanism cannot be verified.
    let alone = || stamping("0.0.0.0:0", StampChoice::Auto).stamps();
    assert_eq!(NetworkNamespace::anonymous().unwrap().run(alone).unwrap(), StampState::LoopedData);

    let mut off = stamping("127.0.0.1:0", StampChoice::Off);
    assert_eq!(off.stamps(), StampState::Off(StampsOff::Configured));
    let mut receiver = bind("127.0.0.1:0", Switch::Auto);
    assert_eq!(off.send_stamped(receiver.local_addr(), b"hello", 0, 1).sent, 5);
    assert_eq!(receive(&mut receiver, 5).0, b"hello");
    assert_eq!(stamps(&mut off, 0), (vec![], ErrorCounts::default()));
}

#[test]
fn over_loopback_the_stamp_is_available_when_send_returns() {
    for choice in BOTH {
        for (from, to) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")] {
            let (mut sender, mut receiver) = (stamping(from, choice), bind(to, Switch::Auto));
            for (stamp, length) in [(u32::MAX, 1452), (0, 16), (1, 4), (77, 65_000), (0x8000_0000, 100)] {
                let datagram = numbered(stamp, length);
                let outcome = sender.send_stamped(receiver.local_addr(), &datagram, 0, stamp);
                assert_eq!((outcome.sent, outcome.blocked), (length, false), "{:?}", outcome.error);
                let mut stamped = Vec::new();
                let counts = sender.drain_errors(&mut |stamp| stamped.push(stamp));
                assert_eq!(stamped, [stamp], "{choice:?} {from} {length}");
                assert_eq!(counts, ErrorCounts { timestamps: 1, ..ErrorCounts::default() });
                assert_eq!(receive(&mut receiver, length).0, datagram);
                // A train that requests no timestamp gets none.
                assert_eq!(sender.send_train(receiver.local_addr(), &content(3000), 1452).sent, 3000);
                receive(&mut receiver, 3000);
            }
            assert_eq!(sender.send_stamped(receiver.local_addr(), b"", 0, 5).sent, 0);
            assert_eq!(stamps(&mut sender, 0), (vec![], ErrorCounts::default()));
        }
    }
}

/// A train of `length`-byte datagrams with unique beginnings.
fn numbered_train(datagrams: u32, length: usize) -> Vec<u8> {
    (0..datagrams).flat_map(|number| numbered(number, length)).collect()
}

#[test]
fn a_train_gets_one_stamp_per_kernel_packet() {
    for choice in BOTH {
        for (gso, packets) in [(Switch::On, 1), (Switch::Off, 7)] {
            let options = UdpOptions { stamps: choice, gso, ..UdpOptions::default() };
            let mut sender = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
            let mut receiver = bind("127.0.0.1:0", Switch::Auto);
            let train = numbered_train(7, 1452);
            let first = u32::MAX - 2;
            let outcome = sender.send_stamped(receiver.local_addr(), &train, 1452, first);
            assert_eq!(
                (outcome.sent, outcome.stamps),
                (train.len(), packets),
                "{choice:?} {gso:?} {:?}",
                outcome.error
            );
            assert_eq!(receive(&mut receiver, train.len()).0, train);
            let (stamped, counts) = stamps(&mut sender, packets);
            let expected: Vec<u32> = (0..packets as u32).map(|number| first.wrapping_add(number)).collect();
            assert_eq!((stamped, counts.stray_timestamps), (expected, 0), "{choice:?} {gso:?}");
        }
    }
}

#[test]
fn a_silently_dropped_datagram_gets_no_stamp_and_the_next_gets_its_own() {
    beside_a_veth(|| {
        let to = "10.98.0.2:9".parse().unwrap();
        for choice in BOTH {
            run("ip", "link set owu1 up");
            run("ip", "neighbor replace 10.98.0.2 lladdr 02:00:00:00:00:02 dev owu0");
            run("tc", "qdisc replace dev owu0 root handle 1: htb default 1");
            run("tc", "class replace dev owu0 parent 1: classid 1:1 htb rate 8mbit burst 2kb");
            let mut sender = stamping("0.0.0.0:0", choice);
            // 30 KB are in the queue when it is replaced.
            for number in 0..10 {
                let train = numbered_train(3, 1000);
                let train: Vec<u8> =
                    train.chunks(1000).flat_map(|it| [&[number as u8; 8], &it[8..]].concat()).collect();
                let outcome = sender.send_stamped(to, &train, 1000, number);
                assert_eq!((outcome.sent, outcome.stamps), (3000, 1), "{:?}", outcome.error);
            }
            run("tc", "qdisc replace dev owu0 root pfifo limit 100");
            assert_eq!(sender.send_stamped(to, &numbered(77, 500), 0, 77).stamps, 1);
            let (stamped, counts) = stamps(&mut sender, 11);
            assert!(stamped.len() < 9 && stamped.last() == Some(&77), "{choice:?} {stamped:?}: the queue was emptied");
            assert_eq!((counts.total(), counts.stray_timestamps), (0, 0), "and nobody said so");
            run("ip", "link set owu1 down");
            std::thread::sleep(Duration::from_millis(1500));
            assert_eq!(sender.send_stamped(to, &numbered(78, 500), 0, 78).sent, 500, "without a carrier");
            assert_eq!(stamps(&mut sender, 0).0, [0u32; 0], "{choice:?}");
        }
    });
}

#[test]
fn a_slow_queue_delays_the_stamps_and_keeps_all_in_order() {
    beside_a_veth(|| {
        run("tc", "qdisc add dev owu0 root tbf rate 2mbit burst 5kb limit 1mb");
        for choice in BOTH {
            for (from, to) in [("0.0.0.0:0", "10.98.0.2:9"), ("[::]:0", "[fd98::2]:9"), ("[::]:0", "10.98.0.2:9")] {
                let mut sender = stamping(from, choice);
                let start = Instant::now();
                for number in 0..40 {
                    // Datagrams without a timestamp request in between.
                    assert_eq!(sender.send_train(to.parse().unwrap(), &content(500), 500).sent, 500);
                    let outcome = sender.send_stamped(to.parse().unwrap(), &numbered(number, 1000), 0, number ^ 0xffff);
                    assert_eq!(outcome.sent, 1000, "{:?}", outcome.error);
                }
                let (handed_over, mut early) = (start.elapsed(), 0);
                sender.drain_errors(&mut |stamp| {
                    assert_eq!(stamp, early ^ 0xffff);
                    early += 1;
                });
                let (stamped, counts) = stamps(&mut sender, 40 - early as usize);
                assert_eq!(stamped, (early..40).map(|number| number ^ 0xffff).collect::<Vec<_>>(), "{choice:?} {to}");
                assert_eq!((counts.stray_timestamps, counts.total()), (0, 0));
                // 60 KB at 2 Mbit/s minus the burst take at least 200 ms.
                assert!(early < 10 && start.elapsed() > Duration::from_millis(200), "{early} {handed_over:?}");
            }
        }
    });
}

#[test]
fn a_datagram_refused_by_a_full_queue_is_an_error_and_gets_no_stamp() {
    beside_a_veth(|| {
        run("tc", "qdisc add dev owu0 root tbf rate 8mbit burst 5kb limit 10kb");
        for choice in BOTH {
            let mut sender = stamping("0.0.0.0:0", choice);
            let (mut taken, mut refused) = (Vec::new(), 0);
            for number in 0..100 {
                let outcome = sender.send_stamped("10.98.0.2:9".parse().unwrap(), &numbered(number, 1000), 0, number);
                match outcome.error {
                    None => taken.push(number),
                    Some(error) => {
                        assert_eq!((error.raw_os_error(), outcome.sent), (Some(libc::ENOBUFS), 0));
                        refused += 1;
                    }
                }
            }
            let (stamped, counts) = stamps(&mut sender, taken.len());
            assert!(refused > 50 && taken.len() > 5, "{refused} refused");
            assert_eq!(stamped, taken, "{choice:?}");
            assert_eq!((counts.queue_full, counts.total(), counts.stray_timestamps), (refused, refused, 0));
        }
    });
}

#[test]
fn a_datagram_to_an_unreachable_address_gets_no_stamp() {
    beside_a_veth(|| {
        for choice in BOTH {
            let mut sender = stamping("0.0.0.0:0", choice);
            // The first waits for an ARP answer that never comes; for the second there is no route.
            sender.send_stamped("10.98.0.77:9".parse().unwrap(), &numbered(1, 100), 0, 1);
            let outcome = sender.send_stamped("203.0.113.1:9".parse().unwrap(), &numbered(2, 100), 0, 2);
            assert_eq!(outcome.error.unwrap().raw_os_error(), Some(libc::ENETUNREACH));
            assert_eq!(sender.send_stamped("10.98.0.2:9".parse().unwrap(), &numbered(3, 100), 0, 3).sent, 100);
            let (stamped, counts) = stamps(&mut sender, 1);
            assert_eq!((stamped, counts.unreachable), (vec![3], 1), "{choice:?}");
        }
    });
}

#[test]
fn a_tun_stamps_datagrams_before_its_ring_may_drop_them() {
    let options = TunOptions { offload: Offload::Off, txqueuelen: Some(4), ..TunOptions::default() };
    let inside = || {
        run("ip", "link set lo up");
        let _tun = Tun::open("owu2", options).unwrap();
        run("ip", "link set owu2 up");
        run("ip", "address add 10.97.0.1/24 dev owu2");
        for choice in BOTH {
            let mut sender = stamping("0.0.0.0:0", choice);
            for number in 0..20 {
                sender.send_stamped("10.97.0.2:9".parse().unwrap(), &numbered(number, 200), 0, number);
            }
            let (stamped, _) = stamps(&mut sender, 20);
            assert!(stamped.len() > 4 && stamped.iter().all(|stamp| *stamp < 20), "{choice:?} {stamped:?}");
        }
    };
    NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
}

#[test]
fn stamps_and_icmp_errors_share_the_queue_and_none_is_lost() {
    for choice in BOTH {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (mut sender, receiver) = (stamping(address, choice), bind(address, Switch::Auto));
            let mut closed = receiver.local_addr();
            closed.set_port(9);
            for number in 0..30 {
                let to = if number % 3 == 0 { closed } else { receiver.local_addr() };
                let outcome = sender.send_stamped(to, &numbered(number, 300), 0, number);
                assert_eq!(outcome.sent, 300, "{:?}", outcome.error);
            }
            let (stamped, counts) = stamps(&mut sender, 30);
            assert_eq!(stamped, (0..30).collect::<Vec<_>>(), "{choice:?} {address}");
            // The kernel limits the number of ICMP errors per second, for IPv6 more than for IPv4.
            assert!((1..=10).contains(&counts.unreachable), "{counts:?}");
            assert_eq!((counts.total(), counts.stray_timestamps), (counts.unreachable, 0));
        }
    }
}

#[test]
fn a_long_error_queue_is_read_in_bounded_pieces() {
    for choice in BOTH {
        let (mut sender, receiver) = (stamping("127.0.0.1:0", choice), bind("127.0.0.1:0", Switch::Auto));
        for number in 0..1000 {
            assert_eq!(sender.send_stamped(receiver.local_addr(), &numbered(number, 64), 0, number).sent, 64);
        }
        let (mut stamped, mut calls) = (Vec::new(), 0);
        loop {
            sender.drain_errors(&mut |stamp| stamped.push(stamp));
            calls += 1;
            if !sender.errors_left() {
                break;
            }
        }
        assert_eq!(stamped, (0..1000).collect::<Vec<_>>(), "{choice:?}");
        assert!(calls > 1, "{calls}");
    }
}

#[test]
fn an_answer_leaves_from_the_address_that_received_the_request() {
    let alone = Switch::Off;
    for (listen, called, caller) in [
        ("0.0.0.0:0", "127.0.0.5", "127.0.0.1:0"),
        ("[::]:0", "127.0.0.5", "127.0.0.1:0"),
        ("[::]:0", "::1", "[::1]:0"),
    ] {
        for gso in [Switch::Auto, alone] {
            let (mut node, mut peer) = (bind(listen, gso), bind(caller, gso));
            let called: std::net::IpAddr = called.parse().unwrap();
            let to = SocketAddr::new(called, node.local_addr().port());
            assert_eq!(peer.send_train(to, b"call", 0).sent, 4);
            let (_, trains) = receive(&mut node, 4);
            assert_eq!((trains[0].from, trains[0].to), (peer.local_addr(), Some(called)), "{listen} {called}");
            // With trains, the rest of a train, and a timestamp request.
            let bytes = content(5000);
            for stamp in [None, Some(7)] {
                let target = Target { from: trains[0].to, ..trains[0].from.into() };
                let outcome = node.send(target, &bytes, 1452, stamp);
                assert_eq!(outcome.sent, bytes.len(), "{:?}", outcome.error);
                let (received, answers) = receive(&mut peer, bytes.len());
                assert_eq!(received, bytes);
                assert!(answers.iter().all(|answer| answer.from == to), "{listen} {called}: {answers:?}");
                assert_eq!(answers[0].to, None, "a socket of one address has nothing to tell");
            }
        }
    }
}

#[test]
fn each_datagram_comes_with_its_class_and_only_equal_ones_are_merged() {
    let options = UdpOptions { classes: true, ..UdpOptions::default() };
    let bound = |address: &str| UdpSocket::bind(address.parse().unwrap(), options).unwrap();
    for (listen, call) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0"), ("[::]:0", "[::]:0")]
    {
        let (mut receiver, mut silent, mut sender) = (bound(listen), bind(listen, Switch::Auto), bound(call));
        let to = |socket: &UdpSocket, family: &str| match family.contains("127") {
            true => SocketAddr::from(([127, 0, 0, 1], socket.local_addr().port())),
            false => format!("[::1]:{}", socket.local_addr().port()).parse().unwrap(),
        };
        let (mut seen, mut expected) = (vec![], vec![]);
        for class in [0, 2, 3, 0xb8, 0xba, 2] {
            for alone in [false, true] {
                let target = Target { class, alone, ..to(&receiver, call).into() };
                // With a train, and a timestamp request.
                let outcome = sender.send(target, &content(1452 * 5), 1452, Some(1));
                assert_eq!(outcome.sent, 1452 * 5, "{:?}", outcome.error);
                expected.extend([class; 5]);
            }
        }
        let (bytes, trains) = receive(&mut receiver, 1452 * 60);
        assert_eq!(bytes.len(), 1452 * 60);
        for train in trains {
            seen.extend(vec![train.class; train.len.div_ceil(train.segment)]);
        }
        assert_eq!(seen, expected, "{listen} {call}");
        let target = Target { class: 3, ..to(&silent, call).into() };
        assert_eq!(sender.send(target, b"hello", 0, None).sent, 5);
        assert_eq!(receive(&mut silent, 5).1[0].class, 0, "this socket did not ask");
    }
}

#[test]
fn trains_of_different_classes_are_not_merged_on_a_device() {
    let words = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let done = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
    };
    let [near, far] = ["near", "far"].map(|end| format!("owclass-{end}-{}", std::process::id()));
    let _removed = [Removed(near.clone()), Removed(far.clone())];
    words(&format!("ip netns add {near}"));
    words(&format!("ip netns add {far}"));
    words(&format!("ip link add v0 netns {near} type veth peer name v0 netns {far}"));
    for (node, address) in [(&near, "192.0.2.1/24"), (&far, "192.0.2.2/24")] {
        words(&format!("ip -n {node} addr add {address} dev v0"));
        words(&format!("ip -n {node} link set v0 up"));
    }
    let options = UdpOptions { classes: true, gso: Switch::Off, ..UdpOptions::default() };
    let bind = |node: &str, at: &str| {
        NetworkNamespace::named(node).unwrap().run(|| UdpSocket::bind(at.parse().unwrap(), options).unwrap()).unwrap()
    };
    let (mut sender, mut receiver) = (bind(&near, "192.0.2.1:0"), bind(&far, "192.0.2.2:0"));
    let mut expected = vec![];
    for number in 0..60u8 {
        let class = if number % 10 == 9 { 3 } else { 2 };
        let target = Target { class, ..receiver.local_addr().into() };
        assert_eq!(sender.send(target, &[class; 1000], 0, None).sent, 1000);
        expected.push(class);
    }
    let (bytes, trains) = receive(&mut receiver, 60_000);
    let mut at = 0;
    for train in trains {
        assert!(bytes[at..at + train.len].iter().all(|&class| class == train.class), "merged with another class");
        at += train.len;
    }
    assert_eq!(at, 60_000);
    assert_eq!(bytes.chunks(1000).map(|datagram| datagram[0]).collect::<Vec<_>>(), expected);
}

/// A namespace that is removed with this value.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn a_removed_source_address_is_an_error_and_changes_no_other_state() {
    for (listen, gone) in [("0.0.0.0:0", "203.0.113.9"), ("[::]:0", "203.0.113.9")] {
        let (mut node, mut peer) = (bind(listen, Switch::Auto), bind("127.0.0.1:0", Switch::Auto));
        let (gso, stamps, bytes) = (node.gso_state(), node.stamps(), content(5000));
        let gone = Target { from: Some(gone.parse().unwrap()), ..peer.local_addr().into() };
        for _ in 0..9 {
            let outcome = node.send(gone, &bytes, 1452, Some(1));
            assert_eq!((outcome.sent, outcome.stamps), (0, 0));
            let errno = outcome.error.unwrap().raw_os_error();
            // The errno depends on the kernel.
            assert!(matches!(errno, Some(libc::EINVAL | libc::ENETUNREACH)), "{listen}: {errno:?}");
        }
        assert_eq!((node.gso_state(), node.stamps()), (gso, stamps), "{listen}");
        assert!(node.poll_change().is_none(), "{listen}");
        assert_eq!(node.send(peer.local_addr().into(), &bytes, 1452, None).sent, bytes.len());
        assert_eq!(receive(&mut peer, bytes.len()).0, bytes);
    }
}
