//! What an appliance tells its service manager, and when: read from the socket that `NOTIFY_SOCKET` names.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{appliance::Pair, reload::reload, testbed::Testbed};

/// No healthy run reaches it.
const SOON: Duration = Duration::from_secs(60);

/// The service manager's end. It always reads, so that nothing is lost to a full socket.
struct Listener {
    told: Receiver<String>,
    variable: String,
}

impl Listener {
    fn open(testbed: &Testbed) -> Self {
        let path = testbed.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (tell, told) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = socket.recv(&mut bytes) {
                if tell.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self { told, variable: format!("NOTIFY_SOCKET={}", path.display()) }
    }

    fn next(&self) -> String {
        self.told.recv_timeout(SOON).unwrap_or_else(|error| panic!("nothing is told: {error}"))
    }

    /// The next datagram with these words; others are skipped.
    fn wait(&self, words: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let told = self.next();
            if told.contains(words) {
                return told;
            }
            assert!(Instant::now() < deadline, "never {words:?}, but {told:?}");
        }
    }

    /// Everything that was told and not read.
    fn rest(&self) -> Vec<String> {
        self.told.try_iter().collect()
    }
}

#[test]
fn the_service_manager_hears_that_it_is_ready_alive_reloads_and_stops() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::prepare(&testbed, &[]);
    let listener = Listener::open(&testbed);
    pair.ithaca.start_with(&[&listener.variable, "WATCHDOG_USEC=300000"]);
    // The first word comes when the routes are there.
    let first = listener.next();
    let routes = testbed.run("ithaca", &["ip", "route", "show", "proto", "117"]).unwrap();
    assert_eq!(first, "READY=1\nSTATUS=0 of 1 peers up\n");
    assert!(routes.contains("10.2.0.0/24"), "{routes}");
    listener.wait("WATCHDOG=1");
    pair.syracuse.start();
    pair.wait_up();
    listener.wait("STATUS=1 of 1 peers up\n");
    for _ in 0..5 {
        listener.wait("WATCHDOG=1");
    }

    pair.ithaca.configure(&[("/log", json!({ "level": "debug" }))]);
    assert_eq!(reload(&pair.ithaca).0, Some(0));
    let began = listener.wait("RELOADING=1\n");
    let time = began.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
    assert!(time.is_some_and(|time| time > 0), "{began}");
    let ended = listener.wait("READY=1\n");
    assert!(ended.contains("STATUS=1 of 1 peers up; reloaded: log.level"), "{ended}");
    fs::write(&pair.ithaca.config, "{}").unwrap();
    assert_eq!(reload(&pair.ithaca).0, Some(1));
    listener.wait("RELOADING=1\n");
    let ended = listener.wait("READY=1\n");
    assert!(ended.contains("STATUS=1 of 1 peers up; not reloaded: "), "{ended}");

    pair.ithaca.ask_to_stop();
    let stopping = listener.wait("STOPPING=1\n");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
    let (exit, output) = pair.ithaca.terminate();
    assert!(exit.success(), "{output}");
    assert_eq!(listener.rest(), Vec::<String>::new(), "after that it is no more alive");
}

#[test]
fn an_appliance_that_stands_still_gives_no_sign_of_life() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::prepare(&testbed, &[]);
    let listener = Listener::open(&testbed);
    pair.ithaca.start_with(&[&listener.variable, "WATCHDOG_USEC=300000"]);
    listener.wait("WATCHDOG=1");
    pair.ithaca.set_halted(true);
    let stands = || fs::read_to_string(format!("/proc/{}/status", pair.ithaca.id())).unwrap().contains("State:\tT");
    let deadline = Instant::now() + SOON;
    while !stands() {
        assert!(Instant::now() < deadline, "it was asked to stand still");
        thread::sleep(Duration::from_millis(1));
    }
    // The state is that of one thread; the others follow at once.
    thread::sleep(Duration::from_millis(100));
    listener.rest();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(listener.rest(), Vec::<String>::new());
    pair.ithaca.set_halted(false);
    listener.wait("WATCHDOG=1");
}
