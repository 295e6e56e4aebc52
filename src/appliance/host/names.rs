//! Resolves the names of endpoints in the background: a name server that does not answer delays nothing else.
//!
//! A name is resolved at the start, and again while its peer is not reachable, because its address may have changed: one
//! second after it fell silent, then after twice the time each, up to `RETRY_LONGEST`. Each query has its own thread,
//! because the system's resolver blocks; each name has at most one query at a time.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::tunnel::PeerId;

/// The first query for a peer that is not reachable is followed by another after this time, which doubles each time ...
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// ... up to this limit.
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Resolves a name: returns its addresses, or why it has none.
pub type Resolve = dyn Fn(&str) -> Result<Vec<SocketAddr>, String> + Send + Sync;

/// Uses the system's resolver.
pub fn ask_system(name: &str) -> Result<Vec<SocketAddr>, String> {
    name.to_socket_addrs().map(Iterator::collect).map_err(|error| error.to_string())
}

#[derive(Debug)]
struct Name {
    peer: PeerId,
    /// Host and port.
    text: String,
    is_pending: bool,
    next: Instant,
    delay: Duration,
    /// Something comes from the peer: its address is right.
    is_reachable: bool,
}

impl Name {
    fn new(peer: PeerId, text: String, now: Instant) -> Self {
        Self { peer, text, is_pending: false, next: now, delay: RETRY_FIRST, is_reachable: false }
    }
}

/// The result of a query.
#[derive(Debug)]
pub struct Answer {
    /// The peer whose endpoint it is.
    pub peer: PeerId,
    /// Host and port, as asked for.
    pub text: String,
    /// Its addresses, or why there are none.
    pub found: Result<Vec<SocketAddr>, String>,
}

/// The names of all peers that have one.
pub struct Names {
    names: Vec<Name>,
    resolve: Arc<Resolve>,
    wake: Arc<dyn Fn() + Send + Sync>,
    answers: Receiver<Answer>,
    answer: Sender<Answer>,
}

impl Names {
    /// Resolves all names at once. `wake` is called when there is an answer.
    pub fn new(
        names: impl IntoIterator<Item = (PeerId, String)>,
        resolve: Arc<Resolve>,
        wake: Arc<dyn Fn() + Send + Sync>,
        now: Instant,
    ) -> Self {
        let name = |(peer, text)| Name::new(peer, text, now);
        let (answer, answers) = channel();
        Self { names: names.into_iter().map(name).collect(), resolve, wake, answers, answer }
    }

    /// These are the names from now on. One that is new is resolved at once.
    pub fn reload(&mut self, names: impl IntoIterator<Item = (PeerId, String)>, now: Instant) {
        let names: Vec<_> = names.into_iter().collect();
        self.names.retain(|name| names.iter().any(|(peer, text)| (name.peer, &name.text) == (*peer, text)));
        for (peer, text) in names {
            if !self.names.iter().any(|name| name.peer == peer) {
                self.names.push(Name::new(peer, text, now));
            }
        }
    }

    /// The peer becomes reachable, or is not any more.
    pub fn set_reachable(&mut self, peer: PeerId, is_reachable: bool, now: Instant) {
        for name in self.names.iter_mut().filter(|name| name.peer == peer && name.is_reachable != is_reachable) {
            name.is_reachable = is_reachable;
            // The known address is tried first.
            (name.next, name.delay) = (now + RETRY_FIRST, RETRY_FIRST);
        }
    }

    /// Starts the queries that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for name in &mut self.names {
            if name.is_pending || name.is_reachable || name.next > now {
                continue;
            }
            let (peer, text) = (name.peer, name.text.clone());
            let (resolve, wake, answer) = (Arc::clone(&self.resolve), Arc::clone(&self.wake), self.answer.clone());
            let ask = move || {
                // The receiver may be gone.
                let found = resolve(&text);
                let _ = answer.send(Answer { peer, text, found });
                wake();
            };
            // Without a thread, the query is tried again later.
            name.is_pending = std::thread::Builder::new().name("resolver".to_owned()).spawn(ask).is_ok();
            name.next = now + name.delay;
        }
    }

    /// The next answer, if there is one. An answer for a name that a reload has replaced is dropped, and one for a peer
    /// that has become reachable meanwhile: its address is right, and the answer's may be old.
    pub fn poll_answer(&mut self, now: Instant) -> Option<Answer> {
        loop {
            let answer = self.answers.try_recv().ok()?;
            let asked = |name: &&mut Name| (name.peer, &name.text) == (answer.peer, &answer.text);
            let Some(name) = self.names.iter_mut().find(asked) else { continue };
            name.is_pending = false;
            if name.is_reachable {
                continue;
            }
            name.next = now + name.delay;
            name.delay = (name.delay * 2).min(RETRY_LONGEST);
            return Some(answer);
        }
    }

    /// When the next query is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.names.iter().filter(|name| !name.is_pending && !name.is_reachable).map(|name| name.next).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Waits for the answer of a thread that is not held up.
    fn answer(names: &mut Names, now: Instant) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match names.poll_answer(now) {
                Some(answer) => return answer,
                None if Instant::now() > deadline => panic!("no answer"),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    #[test]
    fn a_name_that_does_not_resolve_delays_no_other() {
        let start = Instant::now();
        let (gate, held) = channel::<()>();
        let held = Mutex::new(held);
        let resolve = move |name: &str| match name {
            "slow:1" => held.lock().unwrap().recv().map(|()| vec![]).map_err(|_| "given up".to_owned()),
            "none:1" => Err("not known".to_owned()),
            _ => Ok(vec![SocketAddr::from(([192, 0, 2, 7], 1))]),
        };
        let names = ["slow:1", "none:1", "good:1"].into_iter().enumerate();
        let names = names.map(|(number, name)| (PeerId(number as u16), name.to_owned()));
        let mut names = Names::new(names, Arc::new(resolve), Arc::new(|| {}), start);
        names.handle_timeout(start);
        let mut found = [answer(&mut names, start), answer(&mut names, start)];
        found.sort_by_key(|answer| answer.peer.0);
        assert_eq!((found[0].peer, found[0].found.clone()), (PeerId(1), Err("not known".to_owned())));
        assert_eq!(found[1].peer, PeerId(2));
        // A name with a pending query gets no other; one that failed does, later and later.
        let mut asked_at = Vec::new();
        let mut now = start;
        for _ in 0..7 {
            let due = names.poll_timeout().unwrap();
            asked_at.push((due - now).as_secs());
            now = due;
            names.set_reachable(PeerId(2), true, now);
            names.handle_timeout(now);
            assert_eq!(answer(&mut names, now).peer, PeerId(1));
        }
        assert_eq!(asked_at, [1, 2, 4, 8, 16, 30, 30]);
        names.set_reachable(PeerId(2), false, now);
        assert_eq!(names.poll_timeout(), Some(now + RETRY_FIRST), "a peer that is not reachable may have moved");
        drop(gate);
        assert_eq!(answer(&mut names, now).found, Err("given up".to_owned()));
    }

    #[test]
    fn a_silent_peer_is_asked_for_within_seconds_again_and_again() {
        let start = Instant::now();
        let resolve = |_: &str| Ok(vec![SocketAddr::from(([192, 0, 2, 7], 1))]);
        let mut names = Names::new([(PeerId(0), "good:1".to_owned())], Arc::new(resolve), Arc::new(|| {}), start);
        for _ in 0..2 {
            names.set_reachable(PeerId(0), true, start);
            assert_eq!(names.poll_timeout(), None, "a peer that is reachable has the right address");
            names.set_reachable(PeerId(0), false, start);
            let mut now = start;
            let asked_after = [0; 7].map(|_| {
                let due = names.poll_timeout().unwrap();
                let waited = (due - now).as_secs();
                now = due;
                names.handle_timeout(now);
                assert!(answer(&mut names, now).found.is_ok());
                waited
            });
            assert_eq!(asked_after, [1, 1, 2, 4, 8, 16, 30]);
        }
    }

    /// A name whose query waits until the gate is dropped; then `before:1` is 192.0.2.1, and all else 192.0.2.2. The
    /// receiver hears of each answer.
    fn held(start: Instant) -> (Names, Sender<()>, Receiver<()>) {
        let (gate, held) = channel::<()>();
        let held = Mutex::new(held);
        let resolve = move |name: &str| {
            if name == "before:1" {
                let _ = held.lock().unwrap().recv();
            }
            Ok(vec![SocketAddr::from(([192, 0, 2, if name == "before:1" { 1 } else { 2 }], 1))])
        };
        let (woken, answered) = channel();
        let woken = Mutex::new(woken);
        let wake = move || {
            let _ = woken.lock().unwrap().send(());
        };
        let mut names = Names::new([(PeerId(0), "before:1".to_owned())], Arc::new(resolve), Arc::new(wake), start);
        names.handle_timeout(start);
        (names, gate, answered)
    }

    #[test]
    fn an_answer_for_a_name_that_was_replaced_is_dropped() {
        let start = Instant::now();
        let (mut names, gate, answered) = held(start);
        names.reload([(PeerId(0), "after:1".to_owned())], start);
        drop(gate);
        answered.recv_timeout(Duration::from_secs(20)).unwrap();
        names.handle_timeout(start);
        assert_eq!(answer(&mut names, start).text, "after:1");
    }

    #[test]
    fn an_answer_for_a_peer_that_has_become_reachable_is_dropped() {
        let start = Instant::now();
        let (mut names, gate, answered) = held(start);
        names.set_reachable(PeerId(0), true, start);
        drop(gate);
        answered.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(names.poll_answer(start).is_none(), "its address is right");
        names.set_reachable(PeerId(0), false, start);
        names.handle_timeout(start + RETRY_FIRST);
        assert_eq!(answer(&mut names, start).text, "before:1", "it is asked for again");
    }

    #[test]
    fn the_system_resolver_answers() {
        assert!(ask_system("localhost:7117").unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(ask_system("no-such-host.invalid:7117").is_err());
    }
}
