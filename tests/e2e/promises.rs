//! What subscribers are told, by a running appliance, about real connections.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use onwire::notify::{
    client::{Client, Reason, Waited},
    message::{Level, LinkState},
    secret::Secret,
};
use serde_json::{Value, json};

use crate::{
    appliance::Pair,
    ground::{Ground, MIRROR, ONWIRE},
};

/// The appliance of the primary's site, as programs there reach it.
const PORT: &str = "10.1.0.254:7118";
const DELAY: Duration = Duration::from_millis(50);

/// A pair of which ithaca tells what is protected.
fn telling<'g>(ground: &'g Ground, changes: &[(&'static str, Value)]) -> (Pair<'g>, Secret) {
    let key = ground.directory().join("notify.key");
    ground.command(&[ONWIRE, "keygen", "--notify", key.to_str().unwrap()]);
    let secret = Secret::parse(std::fs::read_to_string(&key).unwrap().trim()).unwrap();
    let notify = json!({ "listen": PORT, "keys": [{ "id": 1, "file": key }] });
    let ithaca: Vec<_> = [("/notify", notify)].into_iter().chain(changes.iter().cloned()).collect();
    (Pair::start_each(ground, &ithaca, &[]), secret)
}

fn client(ground: &Ground, secret: &Secret) -> Client {
    ground.node("primary").run(|| Client::connect(PORT, secret.to_key(1)).unwrap()).unwrap()
}

/// A connection from the primary to a program at the mirror that reads and says nothing.
fn connection(ground: &Ground) -> TcpStream {
    let address: SocketAddr = format!("{}:5432", MIRROR[0]).parse().unwrap();
    let listener = ground.node("mirror").run(|| TcpListener::bind(address).unwrap()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut sink = [0; 65_536];
            while stream.read(&mut sink).is_ok_and(|len| len > 0) {}
        }
    });
    let stream = ground.node("primary").run(|| TcpStream::connect(address).unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Waits until the link is in this state.
fn wait_link(client: &mut Client, state: LinkState) {
    let deadline = soon();
    while !client.core().peers().any(|peer| peer.state == state) {
        assert!(Instant::now() < deadline, "never {state:?}: {:?}", client.core().peers().collect::<Vec<_>>());
        let _ = client.next_message(Instant::now() + Duration::from_millis(5)).unwrap();
    }
}

#[test]
fn a_write_is_protected_long_before_the_mirror_can_have_it() {
    let ground = Ground::emulated("delay 50ms");
    let (_pair, secret) = telling(&ground, &[]);
    let mut client = client(&ground, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&ground);
    stream.write_all(b"first").unwrap();
    assert!(matches!(client.wait_all(&stream, soon()).unwrap(), Waited::Protected { .. }));
    let mut took = Vec::new();
    for round in 0..50 {
        let begin = Instant::now();
        stream.write_all(&[round; 200]).unwrap();
        let waited = client.wait_all(&stream, soon()).unwrap();
        assert!(matches!(waited, Waited::Protected { level: Level::OnWire }), "{waited:?}");
        took.push(begin.elapsed());
        thread::sleep(Duration::from_millis(3));
    }
    took.sort();
    println!("median {:?}, slowest {:?}", took[25], took[49]);
    // The mirror's own answer takes two delays. Half of one is generous even on a busy machine.
    assert!(took[25] < DELAY / 2, "median {:?}", took[25]);
}

#[test]
fn nothing_is_protected_while_the_peer_is_away_and_again_after_it_came_back() {
    let ground = Ground::emulated("delay 5ms");
    let (mut pair, secret) = telling(&ground, &[]);
    let mut client = client(&ground, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&ground);
    stream.write_all(b"first").unwrap();
    assert!(matches!(client.wait_all(&stream, soon()).unwrap(), Waited::Protected { .. }));
    pair.syracuse.kill();
    wait_link(&mut client, LinkState::Degraded);
    stream.write_all(b"second").unwrap();
    let waited = client.wait_all(&stream, Instant::now() + Duration::from_millis(300)).unwrap();
    assert!(matches!(waited, Waited::NotProtected { reason: Reason::Link(..) }), "{waited:?}");
    pair.syracuse.start();
    wait_link(&mut client, LinkState::Up);
    assert!(matches!(client.wait_all(&stream, soon()).unwrap(), Waited::Protected { .. }));
}
