//! What reaches the notification port and should not: counted, bounded, and no matter to others.

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
    protected_site::{Beside, PORT, client, connection, protected, soon, telling, wait_link, write_protected},
    streams,
    testbed::{MIRROR, Testbed},
};

/// A client in pieces: what it sends is kept, and it reads only when told to.
struct Pieces {
    socket: UdpSocket,
    core: Core,
    sent: Vec<Vec<u8>>,
}

impl Pieces {
    fn new(testbed: &Testbed, key: Key, epoch: u64) -> Self {
        let target: SocketAddr = PORT.parse().unwrap();
        let socket = testbed.node("primary").run(|| UdpSocket::bind("10.1.0.1:0").unwrap()).unwrap();
        socket.connect(target).unwrap();
        socket.set_nonblocking(true).unwrap();
        // Its lease outlives the test, if nobody ends it.
        let wish = Wish { lease: Duration::from_secs(60), follow: true, ..Wish::default() };
        Self { socket, core: Core::new(key, wish, epoch, Instant::now()), sent: Vec::new() }
    }

    fn turn(&mut self) {
        let (mut datagram, mut buffer) = (Vec::new(), [0; 2048]);
        while self.core.poll_datagram(&mut datagram, Instant::now()) {
            // A refusal of an earlier one may be told here.
            let _ = self.socket.send(&datagram);
            self.sent.push(datagram.clone());
        }
        while let Ok(len) = self.socket.recv(&mut buffer) {
            self.core.handle_datagram(&buffer[..len], Instant::now());
        }
    }

    fn send(&self, bytes: &[u8]) {
        self.socket.send(bytes).unwrap();
        // Slow enough for the socket of the appliance.
        thread::sleep(Duration::from_micros(300));
    }

    /// Until its subscription was granted.
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

/// Waits until the counts are so: the appliance reads a bounded number of requests a turn.
fn wait_counts(appliance: &Appliance<'_>, what: &str, is_so: impl Fn(&NotifyStatus) -> bool) -> NotifyStatus {
    appliance.wait(what, |status| is_so(status.notify.as_ref().unwrap())).notify.unwrap()
}

/// Kilobytes of memory that a process has now.
fn resident(appliance: &Appliance<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", appliance.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_is_forged_recorded_cut_or_noise_is_counted_and_harms_nobody() {
    let testbed = Testbed::perfect();
    let (mut pair, secret) = telling(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, b"first");
    let mut honest = Pieces::new(&testbed, secret.to_key(1), 71);
    honest.subscribe();
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let mut rng = SmallRng::seed_from_u64(3);
    thread::scope(|scope| {
        let copy =
            scope.spawn(|| streams::copy_paced(&primary, &mirror, MIRROR[1], 1, 3_000_000, Duration::from_millis(20)));
        let appliance = &pair.ithaca;
        // Another secret under a number that is known, and a number that is not.
        for (secret, id) in [(1, 1), (2, 9)] {
            let before = counts(appliance).forged;
            let mut forger = Pieces::new(&testbed, Secret::from_random(&[secret; 32]).to_key(id), 72);
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
        // The subscriber's own words again, from its own address, and from another.
        let before = counts(appliance);
        let recorded = honest.sent.clone();
        assert!(recorded.len() >= 3, "{recorded:?}");
        recorded.iter().for_each(|datagram| honest.send(datagram));
        // The first were sent before there was a subscription; only what names this run can be known for a repetition.
        wait_counts(appliance, "replayed", |now| now.replayed > before.replayed);
        let elsewhere = Pieces::new(&testbed, secret.to_key(1), 73);
        recorded.iter().for_each(|datagram| elsewhere.send(datagram));
        let now = wait_counts(appliance, "not subscribed", |now| now.not_subscribed > before.not_subscribed);
        assert_eq!(now.subscribers, before.subscribers, "a recording makes no subscriber");
        // Each beginning of a real one, one with a bit turned, and noise.
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
        // The honest subscriber beside it renews; nothing of that is bad.
        assert_eq!(bad(&now), bad(&before) + sent, "{before:?}\n{now:?}");
        copy.join().unwrap();
    });
    write_protected(&mut client, &mut stream, b"unharmed");

    // What was sent to the earlier run means nothing to the next.
    let recorded = honest.sent.clone();
    pair.ithaca.kill();
    pair.ithaca.start();
    pair.wait_up();
    write_protected(&mut client, &mut stream, b"to the next run");
    let before = counts(&pair.ithaca);
    let elsewhere = Pieces::new(&testbed, secret.to_key(1), 74);
    recorded.iter().for_each(|datagram| elsewhere.send(datagram));
    let now = wait_counts(&pair.ithaca, "old ones", |now| now.replayed > before.replayed);
    assert_eq!(now.subscribers, before.subscribers, "{now:?}");
    protected(&mut client, &stream);
    write_protected(&mut client, &mut stream, b"unharmed");
}

#[test]
fn a_flood_of_subscribers_is_bounded_and_those_that_leave_or_sleep_are_let_go() {
    let testbed = Testbed::perfect();
    let (pair, secret) = telling(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, b"first");
    // Some load first, so that what any traffic needs is there already.
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 4, 2_000_000);
    let before = resident(&pair.ithaca);

    // One ends without a word, one never reads what it is told.
    let gone = Beside::start(&testbed, &["watch", "--json", "--blocks", "--for", "60s"]);
    let mut asleep = Pieces::new(&testbed, secret.to_key(1), 50);
    asleep.subscribe();
    rustix::net::sockopt::set_socket_recv_buffer_size(&asleep.socket, 2048).unwrap();
    wait_counts(&pair.ithaca, "three subscribers", |now| now.subscribers == 3);
    drop(gone);
    let left = wait_counts(&pair.ithaca, "a lease that ended", |now| now.leases_ended >= 1);
    assert_eq!(left.subscribers, 2, "{left:?}");

    let mut crowd: Vec<Pieces> =
        (0..300).map(|number| Pieces::new(&testbed, secret.to_key(1), 1000 + number)).collect();
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    thread::scope(|scope| {
        let copy =
            scope.spawn(|| streams::copy_paced(&primary, &mirror, MIRROR[1], 2, 3_000_000, Duration::from_millis(30)));
        let until = Instant::now() + Duration::from_secs(4);
        let mut rounds = 0;
        while Instant::now() < until || !copy.is_finished() {
            crowd.iter_mut().for_each(Pieces::turn);
            assert!(write_protected(&mut client, &mut stream, b"beside a flood") >= Level::OnWire);
            rounds += 1;
        }
        assert!(rounds > 2);
        copy.join().unwrap();
    });
    let now = counts(&pair.ithaca);
    let admitted = crowd.iter().filter(|one| one.core.has_contact(Instant::now())).count();
    println!("{admitted} of 300 admitted: {now:?}; {before} and {} kB", resident(&pair.ithaca));
    assert!(now.subscribers <= 48 && admitted <= 46 && admitted > 20, "{admitted}: {now:?}");
    assert!(now.refused >= 200, "{now:?}");
    assert!(now.sent > 1000, "{now:?}");
    let grown = resident(&pair.ithaca).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} kB more than before");
    assert!(write_protected(&mut client, &mut stream, b"unharmed") >= Level::OnWire);
    drop(crowd);
    drop(asleep);
}
