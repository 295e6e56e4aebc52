//! Real servers on loopback for tests, and a driver that puts a dialect between two of them: it moves bytes as a gate does
//! and releases marks when the test says so, with neither appliance nor notifications.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use onwire::gate::dialect::{Dialect, Release, Side, Turn};

/// Nobody: the servers refuse to run as root, and must own nothing.
const NOBODY: u32 = 65_534;

/// A server of ours, ended with the test.
pub struct Server(Child);

impl Server {
    /// Starts `program` in `directory` as an unprivileged user; its output goes to `log` there.
    pub fn start(program: &str, package: &str, arguments: &[String], directory: &Path) -> Server {
        let log = std::fs::File::create(directory.join("log")).expect("the directory is ours");
        let errors = log.try_clone().expect("a file can be shared");
        let mut command = unprivileged(program, directory);
        command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; install it: apt-get install {package}"));
        Server(child)
    }

    /// Stops it as if its site were gone: no connection closes.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(status.expect("kill is a program of the base system").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that runs in `directory`, as nobody if we are root.
pub fn unprivileged(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory);
    let ours = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if ours {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A temporary directory that the servers may write to.
pub fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("the directory is ours");
    directory
}

/// A port that nobody uses at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Waits until `condition` holds; `what` is for the message if it never does.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "a minute has passed: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Stands where a gate stands.
pub struct Driver {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    protected: AtomicBool,
    sessions: Mutex<Vec<Arc<Mutex<Session>>>>,
}

struct Session {
    dialect: Box<dyn Dialect + Send>,
    primary: TcpStream,
    mirror: TcpStream,
    turn: Turn,
    mark: Option<u64>,
    injected: u64,
    warnings: Vec<String>,
}

impl Driver {
    /// Listens for mirrors and connects each to the primary at `upstream`.
    pub fn start(upstream: u16, dialect: fn() -> Box<dyn Dialect + Send>) -> Driver {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for mirror in listener.incoming() {
                let (Ok(mirror), Ok(primary)) =
                    (mirror, TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, upstream))))
                else {
                    continue;
                };
                let _ = (mirror.set_nodelay(true), primary.set_nodelay(true));
                let legs = (primary.try_clone().expect("a socket"), mirror.try_clone().expect("a socket"));
                let (turn, warnings) = (Turn::default(), vec![]);
                let session = Session { dialect: dialect(), primary, mirror, turn, mark: None, injected: 0, warnings };
                let session = Arc::new(Mutex::new(session));
                own.sessions.lock().expect("no thread panics").push(Arc::clone(&session));
                for (side, leg) in [(Side::Primary, legs.0), (Side::Mirror, legs.1)] {
                    let (session, shared) = (Arc::clone(&session), Arc::clone(&own));
                    thread::spawn(move || relay(side, leg, &session, &shared));
                }
            }
        });
        Driver { port, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on everything is protected at once, or nothing is.
    pub fn protect(&self, protected: bool) {
        self.shared.protected.store(protected, SeqCst);
        if protected {
            for session in self.shared.sessions.lock().expect("no thread panics").iter() {
                session.lock().expect("no thread panics").release();
            }
        }
    }

    /// Acknowledgements that were sent in the mirror's stead.
    pub fn injected(&self) -> u64 {
        self.sum(|session| session.injected)
    }

    /// Whether a connection of this phase exists.
    pub fn has_phase(&self, phase: &str) -> bool {
        self.sum(|session| u64::from(session.dialect.phase() == phase)) > 0
    }

    /// All warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        let sessions = self.shared.sessions.lock().expect("no thread panics");
        sessions.iter().flat_map(|session| session.lock().expect("no thread panics").warnings.clone()).collect()
    }

    fn sum(&self, of: impl Fn(&Session) -> u64) -> u64 {
        let sessions = self.shared.sessions.lock().expect("no thread panics");
        sessions.iter().map(|session| of(&session.lock().expect("no thread panics"))).sum()
    }
}

fn relay(side: Side, mut leg: TcpStream, session: &Mutex<Session>, shared: &Shared) {
    let mut bytes = [0; 16_384];
    loop {
        let len = leg.read(&mut bytes).unwrap_or(0);
        let mut session = session.lock().expect("no thread panics");
        if len == 0 {
            let mut turn = std::mem::take(&mut session.turn);
            session.dialect.on_end(side, &mut turn);
            session.turn = turn;
            session.apply();
            let _ = session.primary.shutdown(Shutdown::Both);
            let _ = session.mirror.shutdown(Shutdown::Both);
            return;
        }
        let mut turn = std::mem::take(&mut session.turn);
        session.dialect.on_bytes(side, &bytes[..len], &mut turn);
        session.turn = turn;
        session.apply();
        if shared.protected.load(SeqCst) {
            session.release();
        }
    }
}

impl Session {
    fn release(&mut self) {
        if let Some(mark) = self.mark {
            let mut turn = std::mem::take(&mut self.turn);
            self.dialect.on_released(mark, Release::Protected, &mut turn);
            self.turn = turn;
            self.apply();
        }
    }

    fn apply(&mut self) {
        let _ = self.mirror.write_all(self.turn.sent(Side::Mirror));
        let _ = self.primary.write_all(self.turn.sent(Side::Primary));
        self.mark = self.turn.marks().last().map(|mark| mark.mark).or(self.mark);
        self.injected += self.turn.counts().1;
        for note in self.turn.notes() {
            if let onwire::gate::dialect::Note::Warning(text) = note {
                self.warnings.push(text.clone());
            }
        }
        self.turn.clear();
    }
}
