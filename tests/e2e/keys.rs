//! An appliance takes another key while it runs, and floods of initiations that its public key allows anyone to make.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use ring::{digest, hmac};
use serde_json::{Value, json};

use crate::appliance::{Appliance, Pair};
use crate::datagrams::{Sink, Stream};
use crate::testbed::{MIRROR, ONWIRE, Testbed};

fn reload(appliance: &Appliance<'_>) -> String {
    let socket = appliance.socket.to_str().unwrap();
    let output = std::process::Command::new(ONWIRE).args(["reload", "--socket", socket]).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success(), "{said}");
    said
}

/// The steps of the manual, with traffic all the time.
#[test]
fn a_key_is_changed_while_the_appliances_run_and_no_packet_is_lost() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    let stream = Stream::begin(&testbed.node("primary"), sink.address, 500, Duration::from_micros(500));
    let peer = |changes: &[(&str, Value)]| {
        let config: Value = serde_json::from_slice(&fs::read(&pair.syracuse.config).unwrap()).unwrap();
        let mut peer = config["peers"][0].clone();
        for (key, value) in changes {
            peer.as_object_mut().unwrap().insert((*key).to_owned(), value.clone());
        }
        json!([peer])
    };
    let in_use = |pair: &Pair<'_>| {
        let peer = &pair.syracuse.status().peers[0];
        (peer.key.clone().unwrap(), peer.public_key.clone().unwrap(), peer.sessions)
    };
    let old = pair.ithaca.status().public_key;
    assert_eq!(in_use(&pair).0, "public_key");
    let file = testbed.directory().join("ithaca-2.key");
    let new = testbed.command(&[ONWIRE, "keygen", file.to_str().unwrap()]).trim().to_owned();

    pair.syracuse.configure(&[("/peers", peer(&[("next_public_key", json!(new))]))]);
    assert_eq!(reload(&pair.syracuse), "reloaded: peers[ithaca].next_public_key added\n");
    let (_, key, sessions) = in_use(&pair);
    assert_eq!(key, old);
    pair.ithaca.configure(&[("/node/key_file", json!(file))]);
    assert_eq!(reload(&pair.ithaca), "reloaded: node.key_file changed\n");
    pair.syracuse.wait("the new key", |status| status.peers[0].public_key.as_ref() == Some(&new));
    assert_eq!(in_use(&pair), ("next_public_key".to_owned(), new.clone(), sessions + 1));
    assert_eq!(pair.ithaca.status().public_key, new);
    pair.syracuse.wait_said("it uses its next_public_key now");
    pair.syracuse.configure(&[("/peers", peer(&[("public_key", json!(new)), ("next_public_key", Value::Null)]))]);
    let said = reload(&pair.syracuse);
    assert!(said.contains("public_key changed") && said.contains("next_public_key removed"), "{said}");
    assert_eq!(in_use(&pair), ("public_key".to_owned(), new.clone(), sessions + 1));

    let sent = stream.end();
    assert!(sink.wait_for(sent as usize), "{} of {sent} arrived", sink.count());
    sink.arrived().assert_once();
    assert_eq!(pair.ithaca.drops("no_session") + pair.ithaca.drops("no_peer"), 0);
    // A restart finds the same.
    pair.ithaca.kill();
    pair.ithaca.start();
    pair.wait_up();
}

/// An initiation with a right mac1 and nothing else.
fn forged(receiver: &str, rng: &mut SmallRng) -> Vec<u8> {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"onwire mac1");
    hash.update(&base64::prelude::BASE64_STANDARD.decode(receiver).unwrap());
    let mut bytes = vec![0; 4 + 124];
    rng.fill_bytes(&mut bytes);
    bytes[0] = 1;
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, hash.finish().as_ref()), &bytes);
    bytes.extend(&mac.as_ref()[..16]);
    bytes
}

/// The processor time of the main thread, in ticks of 10 ms.
fn ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/task/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_peer_that_restarts_in_a_flood_gets_its_session() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    let public = pair.syracuse.status().public_key;
    testbed.run("ithaca", &["ip", "address", "add", "198.51.100.1/32", "dev", "lo"]).unwrap();
    let nft = |rule: &str| {
        let words: Vec<&str> = ["nft"].into_iter().chain(rule.split(' ')).collect();
        let done = testbed.run("ithaca", &words);
        done.unwrap_or_else(|error| panic!("{error:?}; nft missing? apt-get install nftables"))
    };
    nft("add table inet flood");
    nft("add chain inet flood in { type filter hook input priority 0 ; }");
    nft("add chain inet flood out { type filter hook output priority 0 ; }");
    // The first byte of a datagram is its type: a cookie reply of 60 bytes, and an initiation that proves a cookie.
    nft("add rule inet flood in udp sport 7117 udp length 68 @th,64,8 3 counter");
    nft("add rule inet flood out udp dport 7117 @th,64,8 7 counter");
    let node = testbed.node("ithaca");
    let target: SocketAddr = "192.0.2.2:7117".parse().unwrap();
    let sockets: Vec<_> = (0..64).map(|_| node.run(|| UdpSocket::bind("198.51.100.1:0").unwrap()).unwrap()).collect();
    let is_over = AtomicBool::new(false);
    let (before, begun) = (ticks(pair.syracuse.id()), Instant::now());
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut rng = SmallRng::seed_from_u64(1);
            let forged: Vec<_> = (0..64).map(|_| forged(&public, &mut rng)).collect();
            let mut sent = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                for (socket, bytes) in sockets.iter().zip(&forged) {
                    sent += u64::from(socket.send_to(bytes, target).is_ok());
                }
                // About a hundred thousand a second.
                std::thread::sleep(Duration::from_micros(500));
            }
            sent
        });
        pair.syracuse.wait("a load", |status| status.drops.contains_key("handshake_without_cookie"));
        for _ in 0..3 {
            pair.ithaca.kill();
            pair.ithaca.start();
            pair.wait_up();
        }
        is_over.store(true, Ordering::Relaxed);
        flood.join().unwrap()
    });
    let (took, used) = (begun.elapsed(), ticks(pair.syracuse.id()) - before);
    let status = pair.syracuse.status();
    println!("{sent} initiations in {took:?}, {used} ticks of the control thread: {:?}", status.drops);
    let drops = |reason: &str| status.drops.get(reason).copied().unwrap_or(0);
    // The beginning of the flood is computed, and of what comes after a pause as much again.
    assert!(drops("handshake_not_authentic") < sent / 50, "{:?}", status.drops);
    assert!(drops("handshake_without_cookie") as f64 <= 6000.0 * took.as_secs_f64() + 200.0, "{:?}", status.drops);
    pair.syracuse.wait_said("more than 200 handshakes a second");
    // The peer had to show cookies, and they were sent.
    let counted = |chain: &str| -> u64 {
        let rules = nft(&format!("list chain inet flood {chain}"));
        let count = rules.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        count.parse().unwrap()
    };
    let (replies, shown) = (counted("in"), counted("out"));
    println!("{replies} cookies came, {shown} initiations showed one");
    assert!(shown > 0 && replies >= shown, "{replies} cookies came, {shown} initiations showed one");
}
