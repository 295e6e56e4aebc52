//! What a service manager is told: that the process runs, reloads, stops, how it is, and that it is alive.
//!
//! The protocol of `sd_notify(3)`: a datagram of lines to the socket that `NOTIFY_SOCKET` names. Without that variable
//! every call returns at once. Nothing waits: a sign of life that finds no room is lost, anything else is sent again.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How often the line about the state is looked at, at most.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// When to look again after a sign of life that was due and did not come.
const AGAIN: Duration = Duration::from_millis(100);

/// The connection to the service manager. Its owner calls [`alive`](Self::alive) and
/// [`wants_status`](Self::wants_status) once a turn, and wakes for [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct SdNotify {
    /// `None`: nobody is told.
    to: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixDatagram,
    /// How often signs of life are expected, and when the next is due; `None`: nobody waits for any.
    life: Option<(Duration, Instant)>,
    shown: String,
    /// What found no room and must be known: it is sent again at the next turn.
    unsent: Option<String>,
    next_look: Instant,
    /// A look was wanted before its time.
    wants_look: bool,
}

impl SdNotify {
    /// As the environment says. Opens the socket now: later the process may not be able to.
    ///
    /// # Errors
    /// There is a service manager, and it cannot be reached.
    pub fn open(now: Instant) -> io::Result<Self> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(Self::nobody()) };
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_for_us = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|time| *time > 0 && is_for_us).map(Duration::from_micros);
        Self::connect(&name, watchdog, now)
    }

    /// Tells nobody anything.
    pub fn nobody() -> Self {
        Self { to: None }
    }

    /// `name` is a path, or `@` and the name of an abstract socket. With `watchdog` the process must give a sign of life
    /// that often.
    pub(super) fn connect(name: &OsStr, watchdog: Option<Duration>, now: Instant) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        // A third: two may be lost or late.
        let life = watchdog.map(|time| (time / 3, now));
        let to = Connection { socket, life, shown: String::new(), unsent: None, next_look: now, wants_look: false };
        Ok(Self { to: Some(to) })
    }

    /// The set-up is complete, or a reload has ended; `status` is the line about the state.
    pub fn ready(&mut self, status: &str) {
        self.send_with_status("READY=1", status);
    }

    /// The process reads its configuration again; [`ready`](Self::ready) follows.
    pub fn reloading(&mut self) {
        if let Some(to) = &mut self.to {
            let now = clock_gettime(ClockId::Monotonic);
            let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
            to.send_surely(format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading\n"));
        }
    }

    /// The process ends, and needs at most `within` for that.
    pub fn stopping(&mut self, within: Duration) {
        let lines = format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", within.as_micros());
        self.send_with_status(&lines, "stopping");
    }

    /// The process does its work: gives a sign of life, if one is due.
    pub fn alive(&mut self, now: Instant) {
        if let Some(to) = &mut self.to
            && let Some((every, due)) = &mut to.life
            && *due <= now
        {
            *due = now + *every;
            to.send("WATCHDOG=1\n");
        }
    }

    /// Whether it is time for the line about the state, once a second at most: then call [`show`](Self::show). Sends what
    /// found no room before.
    pub fn wants_status(&mut self, now: Instant) -> bool {
        let Some(to) = &mut self.to else { return false };
        if let Some(lines) = to.unsent.take() {
            to.send_surely(lines);
        }
        to.wants_look = now < to.next_look;
        if !to.wants_look {
            to.next_look = now + STATUS_EVERY;
        }
        !to.wants_look
    }

    /// Tells the line about the state, where it has changed.
    pub fn show(&mut self, status: &str) {
        if let Some(to) = &mut self.to {
            let status = one_line(status);
            if status != to.shown && to.send(&format!("STATUS={status}\n")) {
                to.shown = status;
            }
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let to = self.to.as_ref()?;
        // A sign of life that is due and does not come must not keep its owner from sleeping.
        let life = to.life.map(|(_, due)| if due > now { due } else { now + AGAIN });
        let look = to.wants_look.then_some(to.next_look);
        let again = to.unsent.as_ref().map(|_| now + AGAIN);
        [life, look, again].into_iter().flatten().min()
    }

    fn send_with_status(&mut self, lines: &str, status: &str) {
        if let Some(to) = &mut self.to {
            to.shown = one_line(status);
            to.send_surely(format!("{lines}\nSTATUS={}\n", to.shown));
        }
    }
}

impl Connection {
    /// True if the service manager has it, or will never take anything: the log would repeat that for ever.
    fn send(&self, lines: &str) -> bool {
        !self.socket.send(lines.as_bytes()).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// What waits from before is older, and is not sent any more.
    fn send_surely(&mut self, lines: String) {
        self.unsent = (!self.send(&lines)).then_some(lines);
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Listener {
        socket: UnixDatagram,
        _directory: tempfile::TempDir,
    }

    impl Listener {
        fn open(watchdog: Option<Duration>, now: Instant) -> (Self, SdNotify) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            let notify = SdNotify::connect(path.as_os_str(), watchdog, now).unwrap();
            (Self { socket, _directory: directory }, notify)
        }

        fn heard(&self) -> Vec<String> {
            let mut bytes = [0; 4096];
            let datagrams =
                std::iter::from_fn(|| self.socket.recv(&mut bytes).ok().map(|count| bytes[..count].to_vec()));
            datagrams.map(|datagram| String::from_utf8(datagram).unwrap()).collect()
        }
    }

    #[test]
    fn a_sign_of_life_is_given_three_times_as_often_as_expected_and_only_when_asked() {
        let start = Instant::now();
        let (listener, mut notify) = Listener::open(Some(Duration::from_secs(9)), start);
        for second in 0..10 {
            notify.alive(start + Duration::from_secs(second));
        }
        assert_eq!(listener.heard(), vec!["WATCHDOG=1\n"; 4], "at 0, 3, 6 and 9 seconds");
        let late = start + Duration::from_secs(20);
        assert_eq!(notify.poll_timeout(start + Duration::from_secs(10)), Some(start + Duration::from_secs(12)));
        assert_eq!(notify.poll_timeout(late), Some(late + AGAIN), "it was due, and its owner does not spin");
        assert!(listener.heard().is_empty());
    }

    #[test]
    fn what_found_no_room_is_not_sent_after_what_is_newer() {
        let start = Instant::now();
        let (listener, mut notify) = Listener::open(Some(Duration::from_secs(9)), start);
        let fill = |notify: &mut SdNotify| while notify.to.as_mut().unwrap().send("WATCHDOG=1\n") {};
        fill(&mut notify);
        notify.reloading();
        while !listener.heard().is_empty() {}
        notify.ready("1 of 1 peers up");
        assert!(notify.wants_status(start));
        assert_eq!(listener.heard(), ["READY=1\nSTATUS=1 of 1 peers up\n"]);
        fill(&mut notify);
        notify.ready("0 of 1 peers up");
        while !listener.heard().is_empty() {}
        assert_eq!(notify.poll_timeout(start), Some(start + AGAIN));
        notify.wants_status(start);
        assert_eq!(listener.heard(), ["READY=1\nSTATUS=0 of 1 peers up\n"], "what must be known comes later");
    }

    #[test]
    fn the_state_is_one_line_and_is_told_when_it_has_changed_and_not_more_often_than_once_a_second() {
        let start = Instant::now();
        let (listener, mut notify) = Listener::open(None, start);
        notify.ready("0 of 1 peers up");
        assert_eq!(listener.heard(), ["READY=1\nSTATUS=0 of 1 peers up\n"]);
        assert_eq!(notify.poll_timeout(start), None);
        for (milliseconds, peers, is_held, told) in [
            (0, 0, false, None),
            (10, 1, true, None),
            (999, 1, true, None),
            (1000, 1, false, Some("STATUS=1 of 1 peers up\n")),
            (2000, 1, false, None),
        ] {
            let now = start + Duration::from_millis(milliseconds);
            if notify.wants_status(now) {
                notify.show(&format!("{peers} of 1\npeers up"));
            }
            assert_eq!(listener.heard(), Vec::from_iter(told), "{milliseconds}");
            assert_eq!(notify.poll_timeout(now), is_held.then_some(start + STATUS_EVERY), "{milliseconds}");
        }
    }

    #[test]
    fn what_finds_no_room_is_sent_again_but_for_signs_of_life() {
        let start = Instant::now();
        let (listener, mut notify) = Listener::open(Some(Duration::from_secs(3)), start);
        while notify.to.as_ref().unwrap().send("FULL\n") {}
        notify.ready("well");
        notify.alive(start);
        assert_eq!(notify.poll_timeout(start), Some(start + AGAIN));
        assert!(notify.wants_status(start));
        notify.show("changed");
        assert!(listener.heard().iter().all(|lines| lines == "FULL\n"));
        assert!(notify.wants_status(start + STATUS_EVERY));
        notify.show("changed");
        assert_eq!(listener.heard(), ["READY=1\nSTATUS=well\n", "STATUS=changed\n"]);
        assert_eq!(notify.poll_timeout(start), Some(start + STATUS_EVERY), "of the sign of life");
    }

    #[test]
    fn reloading_and_stopping_say_when_and_how_long() {
        let start = Instant::now();
        let (listener, mut notify) = Listener::open(None, start);
        notify.reloading();
        notify.ready("reloaded");
        notify.stopping(Duration::from_secs(3));
        let heard = listener.heard();
        let time = heard[0].lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
        assert!(heard[0].starts_with("RELOADING=1\n") && time.is_some_and(|time| time > 0), "{heard:?}");
        assert_eq!(
            heard[1..],
            ["READY=1\nSTATUS=reloaded\n", "STOPPING=1\nEXTEND_TIMEOUT_USEC=3000000\nSTATUS=stopping\n"]
        );
    }

    #[test]
    fn an_abstract_socket_is_reached_and_nobody_is_told_without_a_socket() {
        let name = format!("onwire-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let now = Instant::now();
        SdNotify::connect(format!("@{name}").as_ref(), None, now).unwrap().ready("well");
        let mut bytes = [0; 64];
        let count = listener.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"READY=1\nSTATUS=well\n");
        let mut nobody = SdNotify::nobody();
        nobody.ready("");
        nobody.alive(now);
        assert!(!nobody.wants_status(now));
        assert_eq!(nobody.poll_timeout(now), None);
        assert!(SdNotify::connect("/nowhere/notify".as_ref(), None, now).is_err());
    }
}
