//! The testbed of the protection tests: a pair in which ithaca sends notifications, and programs at the primary.
//!
//! Makes no assumption about which notifications are right.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use onwire::notify::{
    client::{Client, Status, Waited, Wish},
    message::{Filter, Level, LinkState, Message},
    secret::Secret,
};
use serde_json::{Value, json};

use crate::{
    appliance::Pair,
    testbed::{ONWIRE, Testbed},
};

/// The notification address of ithaca, as programs at the primary use it.
pub const PORT: &str = "10.1.0.254:7118";

/// A pair in which ithaca sends notifications; both sides get the same changes.
pub fn notifying_pair<'g>(testbed: &'g Testbed, changes: &[(&'static str, Value)]) -> (Pair<'g>, Secret) {
    let secret = make_key(testbed);
    let ithaca: Vec<_> = [notify(testbed, "on_wire")].into_iter().chain(changes.iter().cloned()).collect();
    (Pair::start_each(testbed, &ithaca, changes), secret)
}

/// Generates the notification key.
pub fn make_key(testbed: &Testbed) -> Secret {
    let key = key_file(testbed);
    testbed.command(&[ONWIRE, "keygen", "--notify", &key]);
    Secret::parse(std::fs::read_to_string(&key).unwrap().trim()).unwrap()
}

/// The notification settings in ithaca's configuration.
pub fn notify(testbed: &Testbed, level: &str) -> (&'static str, Value) {
    let keys = json!([{ "id": 1, "file": key_file(testbed) }]);
    // Some links of these tests need more than the default: three round trips of 1.2 seconds.
    ("/notify", json!({ "listen": PORT, "keys": keys, "level": level, "trust_max": "5s" }))
}

/// The file of the notification key.
pub fn key_file(testbed: &Testbed) -> String {
    testbed.directory().join("notify.key").to_str().unwrap().to_owned()
}

/// A client at the primary.
pub fn client(testbed: &Testbed, secret: &Secret) -> Client {
    client_with(testbed, secret, Wish::default())
}

/// A client at the primary that keeps every message, including those about blocks.
pub fn follower(testbed: &Testbed, secret: &Secret) -> Client {
    client_with(testbed, secret, Wish::following(Filter::default(), true))
}

fn client_with(testbed: &Testbed, secret: &Secret, wish: Wish) -> Client {
    testbed.node("primary").run(|| Client::connect_with(PORT, secret.to_key(1), wish).unwrap()).unwrap()
}

/// A command of the executable at the primary, with the notification address and key in its environment.
fn command(testbed: &Testbed, arguments: &[&str]) -> Command {
    let mut command = Command::new(ONWIRE);
    command.args(arguments).env("ONWIRE_NOTIFY", PORT).env("ONWIRE_NOTIFY_KEY", key_file(testbed));
    command
}

/// Runs the executable at the primary to its end, also if it fails.
pub fn run(testbed: &Testbed, arguments: &[&str]) -> Output {
    let mut command = command(testbed, arguments);
    testbed.node("primary").run(|| command.output().unwrap()).unwrap()
}

/// A command at the primary that runs in the background and is killed when dropped.
pub struct Background(Option<Child>);

impl Background {
    /// Starts it.
    pub fn start(testbed: &Testbed, arguments: &[&str]) -> Self {
        let mut command = command(testbed, arguments);
        command.stdout(Stdio::piped());
        Self(Some(testbed.node("primary").run(|| command.spawn().unwrap()).unwrap()))
    }

    /// Waits for its end; returns the JSON objects that it printed, one per line.
    pub fn objects(mut self) -> Vec<Value> {
        let output = self.0.take().expect("it is ended once").wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The text of a program's output.
pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

/// A program at the mirror that only reads, on any number of connections; returns its address.
pub fn listener(testbed: &Testbed, at: &str) -> SocketAddr {
    let at: std::net::IpAddr = at.parse().unwrap();
    let listener = testbed.node("mirror").run(|| TcpListener::bind((at, 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut sink = [0; 65_536];
                while stream.read(&mut sink).is_ok_and(|len| len > 0) {}
            });
        }
    });
    address
}

/// A connection from the primary.
pub fn connect(testbed: &Testbed, to: SocketAddr) -> TcpStream {
    let stream = testbed.node("primary").run(|| crate::streams::connect(to)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A connection from the primary to a program at the mirror that only reads.
pub fn connection(testbed: &Testbed) -> TcpStream {
    connect(testbed, listener(testbed, crate::testbed::MIRROR[0]))
}

/// The deadline for anything that must happen, also on a busy machine.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Writes, and waits until everything written is protected; returns the level.
pub fn write_protected(client: &mut Client, stream: &mut TcpStream, bytes: &[u8]) -> Level {
    stream.write_all(bytes).unwrap();
    protected(client, stream)
}

/// Waits until everything written is protected; returns the level.
pub fn protected(client: &mut Client, stream: &TcpStream) -> Level {
    match client.wait_all(stream, soon()).unwrap() {
        Waited::Protected { level } => level,
        not => panic!("{not:?}, links {:?}", client.core().peers().collect::<Vec<_>>()),
    }
}

/// Processes the client's messages until `is_so`.
pub fn wait_until(client: &mut Client, what: &str, is_so: impl Fn(&Client) -> bool) {
    let deadline = soon();
    while !is_so(client) {
        assert!(Instant::now() < deadline, "never {what}: {:?}", client.core().peers().collect::<Vec<_>>());
        // Messages that a follower keeps stay available for [`messages`].
        turn(client);
    }
}

/// Processes the messages that arrive within a few milliseconds.
pub fn turn(client: &mut Client) {
    let unwatched = onwire::notify::message::FlowKey::tcp(([0, 0, 0, 0], 1).into(), ([0, 0, 0, 0], 1).into());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(5) {
        let status = client.status(&unwatched, 0).unwrap();
        assert!(matches!(status, Status::Never(_)), "this flow is not watched: {status:?}");
        thread::sleep(Duration::from_micros(500));
    }
}

/// Waits until the link is in this state.
pub fn wait_link(client: &mut Client, state: LinkState) {
    wait_until(client, &format!("{state:?}"), |client| {
        client.core().has_contact(Instant::now()) && client.core().peers().any(|peer| peer.state == state)
    });
}

/// All messages that a follower has received until now.
pub fn messages(client: &mut Client) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(message) = client.next_message(Instant::now()).unwrap() {
        all.push(message);
    }
    all
}
