//! Testbed of the tests of promises: a pair of which ithaca tells what is protected, and programs at the primary.
//!
//! Decides nothing about what should be told.

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

/// The appliance of the primary's site, as programs there reach it.
pub const PORT: &str = "10.1.0.254:7118";

/// A pair of which ithaca tells what is protected, both changed alike.
pub fn telling<'g>(testbed: &'g Testbed, changes: &[(&'static str, Value)]) -> (Pair<'g>, Secret) {
    let secret = make_key(testbed);
    let ithaca: Vec<_> = [notify(testbed, "on_wire")].into_iter().chain(changes.iter().cloned()).collect();
    (Pair::start_each(testbed, &ithaca, changes), secret)
}

/// Makes the key of programs.
pub fn make_key(testbed: &Testbed) -> Secret {
    let key = key_file(testbed);
    testbed.command(&[ONWIRE, "keygen", "--notify", &key]);
    Secret::parse(std::fs::read_to_string(&key).unwrap().trim()).unwrap()
}

/// What ithaca's configuration says of notifications.
pub fn notify(testbed: &Testbed, level: &str) -> (&'static str, Value) {
    let keys = json!([{ "id": 1, "file": key_file(testbed) }]);
    // Some links of these tests take longer than the default allows: three round trips of 1.2 seconds.
    ("/notify", json!({ "listen": PORT, "keys": keys, "level": level, "trust_max": "5s" }))
}

fn key_file(testbed: &Testbed) -> String {
    testbed.directory().join("notify.key").to_str().unwrap().to_owned()
}

/// A client at the primary.
pub fn client(testbed: &Testbed, secret: &Secret) -> Client {
    client_with(testbed, secret, Wish::default())
}

/// A client at the primary that keeps every message, blocks too.
pub fn follower(testbed: &Testbed, secret: &Secret) -> Client {
    client_with(testbed, secret, Wish::following(Filter::default(), true))
}

fn client_with(testbed: &Testbed, secret: &Secret, wish: Wish) -> Client {
    testbed.node("primary").run(|| Client::connect_with(PORT, secret.to_key(1), wish).unwrap()).unwrap()
}

/// A command of the executable at the primary, which knows where to ask.
fn command(testbed: &Testbed, arguments: &[&str]) -> Command {
    let mut command = Command::new(ONWIRE);
    command.args(arguments).env("ONWIRE_NOTIFY", PORT).env("ONWIRE_NOTIFY_KEY", key_file(testbed));
    command
}

/// Runs the executable at the primary to its end, good or bad.
pub fn run(testbed: &Testbed, arguments: &[&str]) -> Output {
    let mut command = command(testbed, arguments);
    testbed.node("primary").run(|| command.output().unwrap()).unwrap()
}

/// A command that runs beside the test at the primary, and is killed when dropped.
pub struct Beside(Option<Child>);

impl Beside {
    /// Starts it.
    pub fn start(testbed: &Testbed, arguments: &[&str]) -> Self {
        let mut command = command(testbed, arguments);
        command.stdout(Stdio::piped());
        Self(Some(testbed.node("primary").run(|| command.spawn().unwrap()).unwrap()))
    }

    /// Its end, and the objects that it printed, one a line.
    pub fn objects(mut self) -> Vec<Value> {
        let output = self.0.take().expect("it is ended once").wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a program wrote.
pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

/// A program at the mirror that reads and says nothing, on any number of connections; where it listens.
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

/// A connection from the primary to a program at the mirror that reads and says nothing.
pub fn connection(testbed: &Testbed) -> TcpStream {
    connect(testbed, listener(testbed, crate::testbed::MIRROR[0]))
}

/// As long as anything that must happen may take on a busy machine.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Writes, and waits until all that was written is protected; at which level.
pub fn write_protected(client: &mut Client, stream: &mut TcpStream, bytes: &[u8]) -> Level {
    stream.write_all(bytes).unwrap();
    protected(client, stream)
}

/// Waits until all that was written is protected; at which level.
pub fn protected(client: &mut Client, stream: &TcpStream) -> Level {
    match client.wait_all(stream, soon()).unwrap() {
        Waited::Protected { level } => level,
        not => panic!("{not:?}, links {:?}", client.core().peers().collect::<Vec<_>>()),
    }
}

/// Turns the client's wheel until this is so.
pub fn wait_until(client: &mut Client, what: &str, is_so: impl Fn(&Client) -> bool) {
    let deadline = soon();
    while !is_so(client) {
        assert!(Instant::now() < deadline, "never {what}: {:?}", client.core().peers().collect::<Vec<_>>());
        // What a follower keeps meanwhile stays for whoever asks.
        turn(client);
    }
}

/// Takes in what comes within a few milliseconds.
pub fn turn(client: &mut Client) {
    let nobody = onwire::notify::message::FlowKey::tcp(([0, 0, 0, 0], 1).into(), ([0, 0, 0, 0], 1).into());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(5) {
        let status = client.status(&nobody, 0).unwrap();
        assert!(matches!(status, Status::Never(_)), "nobody watches this: {status:?}");
        thread::sleep(Duration::from_micros(500));
    }
}

/// Waits until the link is in this state.
pub fn wait_link(client: &mut Client, state: LinkState) {
    wait_until(client, &format!("{state:?}"), |client| {
        client.core().has_contact(Instant::now()) && client.core().peers().any(|peer| peer.state == state)
    });
}

/// Everything a follower has been told until now.
pub fn messages(client: &mut Client) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(message) = client.next_message(Instant::now()).unwrap() {
        all.push(message);
    }
    all
}
