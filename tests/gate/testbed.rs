//! The basis for the tests of gates: an appliance that reports what a test wants, a protocol of lines, a gate in a
//! thread. Makes no assertions about the results.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onwire::config::gate::{DEFAULT_START_TIMEOUT, Gate, GateNotify, Gates, Kind, Policy};
use onwire::config::reload::Outcome;
use onwire::config::{Log, LogFormat, LogLevel};
use onwire::gate::dialect::{Dialect, Release, Side, TlsChoice, Turn};
use onwire::gate::listener::Make;
use onwire::gate::prepared::Prepared;
use onwire::gate::proxy::{Proxy, Stop};
use onwire::gate::status::{ConnectionStatus, GateStatus, Status};
use onwire::io::status_socket;
use onwire::notify::message::{FlowKey, Level};

pub use crate::appliance::{Appliance, KEY, secret};

/// A time limit that no healthy run reaches.
pub const SOON: Duration = Duration::from_secs(60);

/// The result of a check in [`until`]: a boolean, or an optional value.
pub trait Answer {
    /// The value that `until` returns.
    type Found;
    /// The value, if the check has succeeded.
    fn found(self) -> Option<Self::Found>;
}

impl Answer for bool {
    type Found = ();

    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Answer for Option<T> {
    type Found = T;

    fn found(self) -> Option<T> {
        self
    }
}

/// Waits until `check` succeeds; `what` is for the message if it never does.
pub fn until<A: Answer>(what: &str, mut check: impl FnMut() -> A) -> A::Found {
    let start = Instant::now();
    loop {
        if let Some(found) = check().found() {
            return found;
        }
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A protocol for tests. The primary sends lines, each of which is a mark; the mirror's `A<n>` is a real
/// acknowledgement and is forwarded; the gate sends `P<n>` when line n is protected, and `X<n>` when it is released by
/// the policy without protection.
pub struct Lines {
    lines: u64,
    /// The legs with TLS, from the first byte.
    tls: TlsChoice,
    answer: Vec<u8>,
}

impl Lines {
    pub fn make() -> Make {
        Box::new(|_, tls| Box::new(Lines { lines: 0, tls, answer: vec![] }))
    }
}

impl Dialect for Lines {
    fn on_open(&mut self, turn: &mut Turn) {
        if self.tls.accepts {
            turn.start_tls(Side::Mirror);
        }
        if self.tls.connects {
            turn.start_tls(Side::Primary);
        }
    }

    fn on_bytes(&mut self, side: Side, bytes: &[u8], turn: &mut Turn) {
        match side {
            Side::Primary => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    turn.send(Side::Mirror, piece);
                    if piece.ends_with(b"\n") {
                        self.lines += 1;
                        turn.mark(self.lines);
                    }
                }
            }
            Side::Mirror => {
                self.answer.extend_from_slice(bytes);
                while let Some(end) = self.answer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.answer.drain(..=end).collect();
                    turn.send(Side::Primary, &line);
                    let number = std::str::from_utf8(&line[1..end]).ok().and_then(|text| text.parse().ok());
                    if let (b'A', Some(number)) = (line[0], number) {
                        turn.on_acknowledged(number);
                    }
                }
            }
        }
    }

    fn on_released(&mut self, mark: u64, release: Release, turn: &mut Turn) {
        let letter = if release == Release::Protected { 'P' } else { 'X' };
        turn.send(Side::Primary, format!("{letter}{mark}\n").as_bytes());
        turn.on_injected();
    }

    fn phase(&self) -> &str {
        "lines"
    }
}

/// A gate that runs in a thread of the test.
pub struct Running {
    pub address: SocketAddr,
    pub socket: PathBuf,
    config: Gates,
    stop: Stop,
    thread: Option<JoinHandle<Status>>,
    _directory: tempfile::TempDir,
}

/// A gate with this policy; tests change what they need.
pub fn gate(upstream: SocketAddr, policy: Policy) -> Gate {
    Gate {
        name: "test".to_owned(),
        kind: Kind::Tcp,
        listen: "127.0.0.1:0".parse().unwrap(),
        upstream,
        policy,
        level: Level::OnWire,
        survive_burst: None,
        max_unprotected: None,
        connections: 1024,
        start_timeout: DEFAULT_START_TIMEOUT,
        tls: None,
        upstream_tls: None,
    }
}

impl Running {
    /// A gate for the protocol of lines; the mirror connects to it.
    pub fn lines(gate: Gate, notify: SocketAddr) -> Running {
        Running::start(gate, notify, |config| Proxy::start_with(config, |_| (Side::Mirror, Lines::make())))
    }

    /// A gate with the dialect of its kind.
    pub fn tcp(gate: Gate, notify: SocketAddr) -> Running {
        Running::start(gate, notify, Proxy::start)
    }

    fn start(gate: Gate, notify: SocketAddr, open: impl FnOnce(&Gates) -> std::io::Result<Proxy>) -> Running {
        Running::start_all(vec![gate], notify, open)
    }

    /// Several gates for the protocol of lines.
    pub fn all_lines(gates: Vec<Gate>, notify: SocketAddr) -> Running {
        Running::start_all(gates, notify, |config| Proxy::start_with(config, |_| (Side::Mirror, Lines::make())))
    }

    fn start_all(gates: Vec<Gate>, notify: SocketAddr, open: impl FnOnce(&Gates) -> std::io::Result<Proxy>) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("gate.sock");
        let config = Gates {
            notify: GateNotify { address: notify, secret: secret(), key_id: 1 },
            gates,
            status: Some(socket.clone()),
            metrics: None,
            log: Log { level: LogLevel::Info, format: LogFormat::Text },
            file: None,
            files: vec![],
            warnings: vec![],
        };
        let proxy = open(&config).unwrap();
        let (address, stop) = (proxy.addresses().unwrap()[0], proxy.stopper());
        let thread = Some(std::thread::spawn(move || proxy.run().unwrap()));
        Running { address, socket, config, stop, thread, _directory: directory }
    }

    /// Reloads its first configuration with this change. Returns how that ended.
    pub fn reload(&self, change: impl FnOnce(&mut Gates)) -> Outcome {
        let mut gates = self.config.clone();
        change(&mut gates);
        let before = self.status().reload.attempts;
        self.stop.reload(Prepared::new(gates).map_err(|faults| faults.join("\n")));
        until("the reload has ended", || {
            let reload = self.status().reload;
            reload.last.filter(|_| reload.attempts == before + 1)
        })
    }

    /// The same, and it must be followed. Returns what it says.
    pub fn follow(&self, change: impl FnOnce(&mut Gates)) -> String {
        let Outcome { is_good, text, .. } = self.reload(change);
        assert!(is_good, "{text}");
        text
    }

    /// The gate of this name, as status shows it.
    pub fn gate(&self, name: &str) -> Option<GateStatus> {
        self.status().gates.into_iter().find(|gate| gate.name == name)
    }

    pub fn status(&self) -> Status {
        serde_json::from_str(&status_socket::ask(&self.socket).unwrap()).unwrap()
    }

    /// The only connection, once `check` holds for it.
    pub fn connection(&self, what: &str, check: impl Fn(&ConnectionStatus) -> bool) -> ConnectionStatus {
        until(what, || self.status().gates[0].connections.first().filter(|it| check(it)).cloned())
    }

    /// Waits for contact with the appliance.
    pub fn hears(&self) {
        until("contact with the appliance", || self.status().notify.contact.then_some(()));
    }

    /// Stops it. Returns the last status.
    pub fn stop(mut self) -> Status {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection through a gate of lines: the primary's socket, the mirror's socket, and the flow between.
pub struct Session {
    pub primary: TcpStream,
    pub mirror: TcpStream,
    pub key: FlowKey,
}

impl Session {
    /// The mirror connects to the gate, and the gate to the primary.
    pub fn open(gate: &Running, primary: &TcpListener) -> Session {
        Session::at(gate.address, primary)
    }

    /// The same with the gate that listens there.
    pub fn at(gate: SocketAddr, primary: &TcpListener) -> Session {
        let mirror = TcpStream::connect(gate).unwrap();
        let (primary, _) = primary.accept().unwrap();
        for stream in [&primary, &mirror] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        let key = FlowKey::tcp(mirror.peer_addr().unwrap(), mirror.local_addr().unwrap());
        Session { primary, mirror, key }
    }

    /// The primary sends this, and the mirror receives it.
    pub fn replicate(&mut self, text: &str) {
        self.primary.write_all(text.as_bytes()).unwrap();
        let mut got = vec![0; text.len()];
        self.mirror.read_exact(&mut got).unwrap();
        assert_eq!(got, text.as_bytes());
    }

    /// The primary receives exactly this next.
    pub fn hears(&mut self, text: &str) {
        let mut got = vec![0; text.len()];
        self.primary.read_exact(&mut got).unwrap_or_else(|error| panic!("waiting for {text:?}: {error}"));
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    /// The primary receives nothing for this long.
    pub fn hears_nothing(&mut self, time: Duration) {
        let mut byte = [0];
        self.primary.set_read_timeout(Some(time)).unwrap();
        match self.primary.read(&mut byte) {
            Ok(count) => panic!("the primary heard {:?}", &byte[..count]),
            Err(error) => assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock), "{error}"),
        }
        self.primary.set_read_timeout(Some(SOON)).unwrap();
    }
}

/// A gate of lines with contact to its appliance, and a connection through it.
pub struct Scene {
    pub appliance: Appliance,
    pub gate: Running,
    pub session: Session,
    /// The primary's listening socket.
    pub primary: TcpListener,
}

impl Scene {
    pub fn open(policy: Policy) -> Scene {
        Scene::with(|upstream| gate(upstream, policy))
    }

    /// A scene with these settings; `settings` gets the primary's address.
    pub fn with(settings: impl FnOnce(SocketAddr) -> Gate) -> Scene {
        let (primary, upstream) = server();
        let appliance = Appliance::start();
        let gate = Running::lines(settings(upstream), appliance.address);
        gate.hears();
        let session = Session::open(&gate, &primary);
        Scene { appliance, gate, session, primary }
    }
}

/// A listening socket for a server behind the gate.
pub fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Keeps the log of this process in memory, for a test to read.
pub fn keep_log() -> Arc<Mutex<Vec<u8>>> {
    static LOG: std::sync::OnceLock<Arc<Mutex<Vec<u8>>>> = std::sync::OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        let writer = move || Sink(Arc::clone(&sink));
        let _ = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).try_init();
        log
    });
    Arc::clone(log)
}

/// Waits until a line of the log has these words, and returns it. What a gate counts may be seen before its line is there.
pub fn until_logged(log: &Mutex<Vec<u8>>, words: &str) -> String {
    let start = Instant::now();
    loop {
        let said = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
        if let Some(line) = said.lines().find(|line| line.contains(words)) {
            return line.to_owned();
        }
        assert!(start.elapsed() < SOON, "not logged within {SOON:?}: {words}\n{said}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
