//! Invalid traffic at the notification port: it is counted and bounded, and does not affect other subscribers.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use onwire::{
    appliance::status::protection::NotifyStatus,
    notify::{
        client::{Core, Wish},
        envelope::Key,
        message::{Level, LinkState},
        secret::Secret,
    },
};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};

use crate::{
    appliance::Appliance,
    protected_site::{
        Background, PORT, client, connection, notifying_pair, protected, soon, wait_link, write_protected,
    },
    streams,
    testbed::{MIRROR, Testbed},
};

/// A client that the test runs step by step: its sent datagrams are kept, and it reads only in [`turn`](Self::turn).
struct StepClient {
    socket: UdpSocket,
    core: Core,
    sent: Vec<Vec<u8>>,
}

impl StepClient {
    fn new(testbed: &Testbed, key: Key, epoch: u64) -> Self {
        let target: SocketAddr = PORT.parse().unwrap();
        let socket = testbed.node("primary").run(|| UdpSocket::bind("10.1.0.1:0").unwrap()).unwrap();
        socket.connect(target).unwrap();
        socket.set_nonblocking(true).unwrap();
        // Its lease outlives the test unless the appliance ends it.
        let wish = Wish { lease: Duration::from_secs(60), follow: true, ..Wish::default() };
        Self { socket, core: Core::new(key, wish, epoch, Instant::now()), sent: Vec::new() }
    }

    fn turn(&mut self) {
        let (mut datagram, mut buffer) = (Vec::new(), [0; 2048]);
        while self.core.poll_datagram(&mut datagram, Instant::now()) {
            // The kernel may report an ICMP error of an earlier datagram here.
            let _ = self.socket.send(&datagram);
            self.sent.push(datagram.clone());
        }
        while let Ok(len) = self.socket.recv(&mut buffer) {
            self.core.handle_datagram(&buffer[..len], Instant::now());
        }
    }

    fn send(&self, bytes: &[u8]) {
        self.socket.send(bytes).unwrap();
        // Slow enough for the appliance's socket.
        thread::sleep(Duration::from_micros(300));
    }

    /// Waits until its subscription is granted.
    fn subscribe(&mut self) {
        let deadline = soon();
        while !self.core.has_contact(Instant::now()) {
            assert!(Instant::now() < deadline, "not subscribed");
            self.turn();
            thread::sleep(Duration::from_millis(1));
        }
        self.turn();
    }
}

fn counts(appliance: &Appliance<'_>) -> NotifyStatus {
    appliance.status().notify.expect("it has a notification port")
}

/// Waits until the counts meet a condition; the appliance reads a bounded number of requests per turn.
fn wait_counts(appliance: &Appliance<'_>, what: &str, is_so: impl Fn(&NotifyStatus) -> bool) -> NotifyStatus {
    appliance.wait(what, |status| is_so(status.notify.as_ref().unwrap())).notify.unwrap()
}

/// Resident memory of a process, in kilobytes.
fn resident(appliance: &Appliance<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", appliance.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn forged_replayed_truncated_and_random_datagrams_are_counted_and_harmless() {
    let testbed = Testbed::perfect();
    let (mut pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, b"first");
    let mut honest = StepClient::new(&testbed, secret.to_key(1), 71);
    honest.subscribe();
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let mut rng = SmallRng::seed_from_u64(3);
    thread::scope(|scope| {
        let copy =
            scope.spawn(|| streams::copy_paced(&primary, &mirror, MIRROR[1], 1, 3_000_000, Duration::from_millis(20)));
        let appliance = &pair.ithaca;
        // Another secret with a known key id, and an unknown key id.
        for (secret, id) in [(1, 1), (2, 9)] {
            let before = counts(appliance).forged;
            let mut forger = StepClient::new(&testbed, Secret::from_random(&[secret; 32]).to_key(id), 72);
            for _ in 0..20 {
                forger.turn();
                thread::sleep(Duration::from_millis(10));
            }
            assert!(!forger.core.has_contact(Instant::now()));
            for _ in 0..50 {
                forger.send(&forger.sent[0]);
            }
            let sent = forger.sent.len() as u64 + 50;
            let now = wait_counts(appliance, "forged", |now| now.forged >= before + sent);
            assert_eq!(now.forged, before + sent, "{now:?}");
        }
        // The subscriber's own datagrams again, from its own address and from another.
        let before = counts(appliance);
        let recorded = honest.sent.clone();
        assert!(recorded.len() >= 3, "{recorded:?}");
        recorded.iter().for_each(|datagram| honest.send(datagram));
        // The first ones were sent before there was a subscription; only those that name this run are recognized as
        // replays.
        wait_counts(appliance, "replayed", |now| now.replayed > before.replayed);
        let elsewhere = StepClient::new(&testbed, secret.to_key(1), 73);
        recorded.iter().for_each(|datagram| elsewhere.send(datagram));
        let now = wait_counts(appliance, "not subscribed", |now| now.not_subscribed > before.not_subscribed);
        assert_eq!(now.subscribers, before.subscribers, "a recording makes no subscriber");
        // Each prefix of a genuine datagram, one with a flipped bit, and noise.
        let before = counts(appliance);
        let mut sent = 0;
        for datagram in &recorded {
            for len in 0..datagram.len() {
                elsewhere.send(&datagram[..len]);
            }
            let mut turned = datagram.clone();
            turned[rng.random_range(0..datagram.len())] ^= 1 << rng.random_range(0..8);
            elsewhere.send(&turned);
            sent += datagram.len() as u64 + 1;
        }
        for len in (0..1400).step_by(7) {
            let mut noise = vec![0; len];
            rng.fill_bytes(&mut noise);
            elsewhere.send(&noise);
            sent += 1;
        }
        let bad = |it: &NotifyStatus| it.not_ours + it.forged + it.replayed;
        let now = wait_counts(appliance, "all counted", |now| bad(now) >= bad(&before) + sent);
        // The genuine subscriber renews its lease meanwhile; none of that counts as bad.
        assert_eq!(bad(&now), bad(&before) + sent, "{before:?}\n{now:?}");
        copy.join().unwrap();
    });
    write_protected(&mut client, &mut stream, b"unharmed");

    // Datagrams sent to the earlier run have no effect on the next.
    let recorded = honest.sent.clone();
    pair.ithaca.kill();
    pair.ithaca.start();
    pair.wait_up();
    write_protected(&mut client, &mut stream, b"to the next run");
    let before = counts(&pair.ithaca);
    let elsewhere = StepClient::new(&testbed, secret.to_key(1), 74);
    recorded.iter().for_each(|datagram| elsewhere.send(datagram));
    let now = wait_counts(&pair.ithaca, "old ones", |now| now.replayed > before.replayed);
    assert_eq!(now.subscribers, before.subscribers, "{now:?}");
    protected(&mut client, &stream);
    write_protected(&mut client, &mut stream, b"unharmed");
}

#[test]
fn subscribers_are_bounded_in_number_and_memory_and_silent_ones_expire() {
    let testbed = Testbed::perfect();
    let (pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, b"first");
    // Load first, so that the memory which any traffic needs is allocated already.
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 4, 2_000_000);
    let before = resident(&pair.ithaca);

    // One subscriber ends without unsubscribing, one never reads its messages.
    let gone = Background::start(&testbed, &["watch", "--json", "--blocks", "--for", "60s"]);
    let mut unread = StepClient::new(&testbed, secret.to_key(1), 50);
    unread.subscribe();
    rustix::net::sockopt::set_socket_recv_buffer_size(&unread.socket, 2048).unwrap();
    wait_counts(&pair.ithaca, "three subscribers", |now| now.subscribers == 3);
    drop(gone);
    let left = wait_counts(&pair.ithaca, "a lease that ended", |now| now.leases_ended >= 1);
    assert_eq!(left.subscribers, 2, "{left:?}");

    let mut clients: Vec<StepClient> =
        (0..300).map(|number| StepClient::new(&testbed, secret.to_key(1), 1000 + number)).collect();
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    thread::scope(|scope| {
        let copy =
            scope.spawn(|| streams::copy_paced(&primary, &mirror, MIRROR[1], 2, 3_000_000, Duration::from_millis(30)));
        let until = Instant::now() + Duration::from_secs(4);
        let mut rounds = 0;
        while Instant::now() < until || !copy.is_finished() {
            clients.iter_mut().for_each(StepClient::turn);
            assert!(write_protected(&mut client, &mut stream, b"beside a flood") >= Level::OnWire);
            rounds += 1;
        }
        assert!(rounds > 2);
        copy.join().unwrap();
    });
    let now = counts(&pair.ithaca);
    let admitted = clients.iter().filter(|one| one.core.has_contact(Instant::now())).count();
    println!("{admitted} of 300 admitted: {now:?}; {before} and {} kB", resident(&pair.ithaca));
    assert!(now.subscribers <= 48 && admitted <= 46 && admitted > 20, "{admitted}: {now:?}");
    assert!(now.refused >= 200, "{now:?}");
    assert!(now.sent > 1000, "{now:?}");
    let grown = resident(&pair.ithaca).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} kB more than before");
    assert!(write_protected(&mut client, &mut stream, b"unharmed") >= Level::OnWire);
    drop(clients);
    drop(unread);
}
