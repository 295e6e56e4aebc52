//! The log lines about peers: each cause once, with its remedy, and its end.
//!
//! A session counts as established when something came under its keys. A handshake alone proves little: where nothing
//! else passes, it succeeds again and again. This file decides nothing else, and does not write the lines itself.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tracing::Level;

use crate::tunnel::PeerId;
use crate::tunnel::handshake::HandshakeDrop;

/// A peer is logged as not answering when nothing came from it for this long.
const UNANSWERED_AFTER: Duration = Duration::from_secs(5);
/// For each reason, dropped handshakes are logged for at most this many addresses. Any sender can cause
/// [`HandshakeDrop::Stranger`]; that does not hide a sender that knows our public key.
const LOGGED_DROPS_MAX: usize = 64;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How bad it is.
    pub level: Level,
    /// The peer concerned.
    pub peer: Option<PeerId>,
    /// The text.
    pub words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    Calling,
    Silent,
    Up,
    Removed,
}

#[derive(Clone, Debug)]
struct Entry {
    contact: Contact,
    /// Since when it is not up.
    since: Instant,
    /// It was logged as not answering.
    is_reported: bool,
    /// A handshake with it succeeded since.
    has_answered: bool,
    /// The address that handshakes go to.
    endpoint: Option<SocketAddr>,
    /// Why its name has no address, all causes since it had one.
    unresolved: Vec<String>,
}

impl Entry {
    fn new(endpoint: Option<SocketAddr>, now: Instant) -> Self {
        Self {
            contact: Contact::Calling,
            since: now,
            is_reported: false,
            has_answered: false,
            endpoint,
            unresolved: Vec::new(),
        }
    }

    /// That it does not answer is still to be logged.
    fn is_awaited(&self) -> bool {
        matches!(self.contact, Contact::Calling | Contact::Silent) && !self.is_reported && self.unresolved.is_empty()
    }
}

/// What is logged about all peers.
#[derive(Debug)]
pub struct PeerLog {
    peers: Vec<Entry>,
    reported_drops: Vec<(HandshakeDrop, IpAddr)>,
    lines: VecDeque<LogLine>,
}

impl PeerLog {
    /// All peers are being called; `endpoints` are their addresses, where known.
    pub fn new(endpoints: impl IntoIterator<Item = Option<SocketAddr>>, now: Instant) -> Self {
        let peers = endpoints.into_iter().map(|endpoint| Entry::new(endpoint, now));
        Self { peers: peers.collect(), reported_drops: Vec::new(), lines: VecDeque::new() }
    }

    /// Peers are called anew, by number with their addresses: they are new, or removed ones are back.
    pub fn on_called(&mut self, peer: PeerId, endpoint: Option<SocketAddr>, now: Instant) {
        let number = usize::from(peer.0);
        if self.peers.len() <= number {
            self.peers.resize(number + 1, Entry::new(None, now));
        }
        self.peers[number] = Entry::new(endpoint, now);
    }

    /// The peer's endpoint is another one, whose address is this, if it is known.
    pub fn on_endpoint(&mut self, peer: PeerId, endpoint: Option<SocketAddr>, now: Instant) {
        match self.peers.get_mut(usize::from(peer.0)) {
            // What was said about the endpoint before is not said of this one.
            Some(entry) if entry.contact == Contact::Up => entry.unresolved.clear(),
            Some(entry) if entry.contact != Contact::Removed => *entry = Entry::new(endpoint, now),
            _ => {}
        }
    }

    /// The peer is none any more: its silence is no news.
    pub fn on_removed(&mut self, peer: PeerId) {
        if let Some(entry) = self.peers.get_mut(usize::from(peer.0)) {
            entry.contact = Contact::Removed;
        }
    }

    /// A handshake with the peer has succeeded.
    pub fn on_answered(&mut self, peer: PeerId, endpoint: SocketAddr) {
        if let Some(entry) = self.peers.get_mut(usize::from(peer.0)) {
            entry.has_answered = true;
            entry.endpoint = Some(endpoint);
        }
    }

    /// Something came from the peer under the keys of a session. True if the peer was not up before.
    pub fn on_confirmed(&mut self, peer: PeerId, now: Instant) -> bool {
        let Some(entry) = self.peers.get_mut(usize::from(peer.0)).filter(|entry| entry.contact != Contact::Up) else {
            return false;
        };
        let after = match entry.contact {
            Contact::Silent => format!(", {:.1} s after it fell silent", (now - entry.since).as_secs_f64()),
            _ => String::new(),
        };
        entry.contact = Contact::Up;
        // Its name is not asked for any more.
        entry.unresolved.clear();
        let at = entry.endpoint.map_or(String::new(), |endpoint| format!(" with {endpoint}"));
        self.push_line(Level::INFO, peer, format!("session established{at}{after}"));
        true
    }

    /// The peer is silent, or its session is worn. True if it was up before.
    pub fn on_wanted(&mut self, peer: PeerId, now: Instant) -> bool {
        let Some(entry) = self.peers.get_mut(usize::from(peer.0)).filter(|entry| entry.contact == Contact::Up) else {
            return false;
        };
        (entry.contact, entry.since, entry.is_reported, entry.has_answered) = (Contact::Silent, now, false, false);
        self.push_line(Level::WARN, peer, "the peer is silent or its session is worn; calling it".to_owned());
        true
    }

    /// How many peers are up.
    pub fn up(&self) -> usize {
        self.peers.iter().filter(|entry| entry.contact == Contact::Up).count()
    }

    /// The name of the peer's endpoint has an address; `is_new`: another one than before.
    pub fn on_resolved(&mut self, peer: PeerId, endpoint: SocketAddr, is_new: bool) {
        let Some(entry) = self.peers.get_mut(usize::from(peer.0)) else { return };
        let was_unresolved = !std::mem::take(&mut entry.unresolved).is_empty();
        if is_new {
            entry.endpoint = Some(endpoint);
        }
        if was_unresolved {
            self.push_line(Level::INFO, peer, format!("its endpoint resolves again, to {endpoint}"));
        } else if is_new {
            self.push_line(Level::INFO, peer, format!("its endpoint is {endpoint}"));
        }
    }

    /// The name of the peer's endpoint has no address that can be used. Each cause is logged once until it has one.
    pub fn on_unresolved(&mut self, peer: PeerId, cause: String) {
        let Some(entry) = self.peers.get_mut(usize::from(peer.0)) else { return };
        if !entry.unresolved.contains(&cause) {
            self.lines.push_back(LogLine {
                level: Level::WARN,
                peer: Some(peer),
                words: format!("{cause}; it is asked for again, after 30 s at the latest"),
            });
            entry.unresolved.push(cause);
        }
    }

    /// The peer has proved which of its two keys it has.
    pub fn on_key(&mut self, peer: PeerId, name: &str, is_next: bool) {
        let words = match is_next {
            true => format!(
                "it uses its {name} now: write that as public_key, take next_public_key away, and reload, so that the key \
                 before is refused"
            ),
            false => format!("it uses its {name}"),
        };
        self.push_line(Level::INFO, peer, words);
    }

    /// More handshakes come than are computed without a cookie, or no more.
    pub fn on_load(&mut self, is_loaded: bool) {
        let (level, words) = match is_loaded {
            true => (
                Level::WARN,
                "more than 200 handshakes a second come: a flood, or many peers at once. Until that ends, a sender must show \
                 that it receives at its address, which takes a round trip more; peers of earlier releases cannot, and are \
                 called from here. `drops` of `onwire status` counts them; a firewall may admit only the peers' addresses",
            ),
            false => (Level::INFO, "no flood of handshakes any more"),
        };
        self.lines.push_back(LogLine { level, peer: None, words: words.to_owned() });
    }

    /// A handshake datagram from this address was dropped. Logs why, if its sender may be meant to be a peer.
    pub fn on_dropped(&mut self, reason: HandshakeDrop, from: IpAddr) {
        let words = match reason {
            HandshakeDrop::Stranger => {
                "is meant for another node: whoever sent it has another public key for this node than `onwire pubkey` shows"
            }
            HandshakeDrop::UnknownPeer => "has a key that is in none of peers[].public_key and next_public_key here",
            HandshakeDrop::NotAuthentic => {
                "cannot be opened: it has another preshared_key than we have for that peer, or was damaged"
            }
            HandshakeDrop::InsideTunnel => {
                "comes from inside peers[].prefixes, where what is sent would come back in through the tunnel: the peer must send \
                 from an address outside of them"
            }
            _ => return,
        };
        let of_reason = self.reported_drops.iter().filter(|(logged, _)| *logged == reason).count();
        if of_reason < LOGGED_DROPS_MAX && !self.reported_drops.contains(&(reason, from)) {
            self.reported_drops.push((reason, from));
            let words = format!("a handshake from {from} {words}; of this address it is not said again");
            self.lines.push_back(LogLine { level: Level::WARN, peer: None, words });
        }
    }

    /// Logs peers that have not answered for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        for at in 0..self.peers.len() {
            let entry = &mut self.peers[at];
            if !entry.is_awaited() {
                continue;
            }
            if now < entry.since + UNANSWERED_AFTER {
                continue;
            }
            entry.is_reported = true;
            let (level, words) = match (entry.has_answered, entry.endpoint) {
                (true, _) => (
                    Level::WARN,
                    "the peer answers handshakes, but nothing else of it arrives: do firewalls let all ports of its lanes and \
                     ours pass (listen, and one more for each of tun.queues), both ways?"
                        .to_owned(),
                ),
                (false, Some(endpoint)) => (
                    Level::WARN,
                    format!(
                        "the peer does not answer at {endpoint}: does onwire run there, do firewalls let UDP pass both ways, \
                         and do public_key and preshared_key fit on both sides? Its log may say which; it is called on"
                    ),
                ),
                (false, None) => {
                    (Level::INFO, "the peer has not called yet, and no endpoint says where to call it".to_owned())
                }
            };
            self.push_line(level, PeerId(at as u16), words);
        }
    }

    /// When a peer will not have answered for too long.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.peers.iter().filter(|entry| entry.is_awaited());
        waiting.map(|entry| entry.since + UNANSWERED_AFTER).min()
    }

    /// The next line to write.
    pub fn poll_line(&mut self) -> Option<LogLine> {
        self.lines.pop_front()
    }

    fn push_line(&mut self, level: Level, peer: PeerId, words: String) {
        self.lines.push_back(LogLine { level, peer: Some(peer), words });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(0);

    fn logged(log: &mut PeerLog) -> Vec<String> {
        std::iter::from_fn(|| log.poll_line()).map(|line| format!("{} {}", line.level, line.words)).collect()
    }

    fn endpoint() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 2], 7117))
    }

    #[test]
    fn a_session_is_not_logged_as_established_while_only_handshakes_pass() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut log = PeerLog::new([Some(endpoint())], start);
        for second in 0..60 {
            log.on_answered(PEER, endpoint());
            log.on_wanted(PEER, at(second));
            log.handle_timeout(at(second));
        }
        let all = logged(&mut log);
        assert!(all.len() == 1 && all[0].contains("nothing else of it arrives"), "{all:?}");
        log.on_confirmed(PEER, at(61));
        log.on_confirmed(PEER, at(62));
        assert_eq!(logged(&mut log), ["INFO session established with 192.0.2.2:7117"]);
        assert_eq!(log.poll_timeout(), None);
    }

    #[test]
    fn a_peer_that_does_not_answer_is_logged_once_and_its_return_too() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut log = PeerLog::new([Some(endpoint()), None], start);
        log.handle_timeout(at(4));
        assert_eq!(logged(&mut log), [""; 0]);
        assert_eq!(log.poll_timeout(), Some(at(5)));
        (10..100).for_each(|second| log.handle_timeout(at(second)));
        let all = logged(&mut log);
        assert!(all[0].starts_with("WARN the peer does not answer at 192.0.2.2:7117"), "{all:?}");
        assert!(all[1].starts_with("INFO the peer has not called") && all.len() == 2, "{all:?}");
        log.on_confirmed(PEER, at(101));
        log.on_wanted(PEER, at(110));
        log.on_wanted(PEER, at(111));
        log.on_confirmed(PEER, at(112));
        let all = logged(&mut log);
        assert_eq!(all[0], "INFO session established with 192.0.2.2:7117");
        assert!(all[1].starts_with("WARN the peer is silent") && all.len() == 3, "{all:?}");
        assert_eq!(all[2], "INFO session established with 192.0.2.2:7117, 2.0 s after it fell silent");
    }

    #[test]
    fn a_handshake_with_a_wrong_key_is_logged_once_for_each_address() {
        let mut log = PeerLog::new([None], Instant::now());
        let from = |last: u8| IpAddr::from([192, 0, 2, last]);
        for _ in 0..50 {
            log.on_dropped(HandshakeDrop::UnknownPeer, from(1));
            log.on_dropped(HandshakeDrop::NotAuthentic, from(1));
            log.on_dropped(HandshakeDrop::Stranger, from(2));
            log.on_dropped(HandshakeDrop::Malformed, from(3));
        }
        let all = logged(&mut log);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].contains("192.0.2.1") && all[0].contains("peers[].public_key"), "{all:?}");
        assert!(all[1].contains("preshared_key") && all[2].contains("onwire pubkey"), "{all:?}");
        (0..=255).for_each(|last| log.on_dropped(HandshakeDrop::Stranger, from(last)));
        assert_eq!(logged(&mut log).len() + 1, LOGGED_DROPS_MAX, "a flood is bounded");
        log.on_dropped(HandshakeDrop::UnknownPeer, from(9));
        assert_eq!(logged(&mut log).len(), 1, "and hides no sender that has our key");
    }

    #[test]
    fn a_name_without_an_address_is_logged_once_and_its_end_too() {
        let start = Instant::now();
        let mut log = PeerLog::new([None], start);
        let fail = |log: &mut PeerLog, cause: &str| log.on_unresolved(PEER, format!("cannot resolve: {cause}"));
        for _ in 0..9 {
            fail(&mut log, "no such name");
            fail(&mut log, "try again");
        }
        log.handle_timeout(start + Duration::from_secs(60));
        log.on_resolved(PEER, endpoint(), true);
        log.on_resolved(PEER, endpoint(), false);
        let again = "it is asked for again, after 30 s at the latest";
        let all = logged(&mut log);
        assert_eq!(all[..2], ["no such name", "try again"].map(|it| format!("WARN cannot resolve: {it}; {again}")));
        assert_eq!(all[2..], ["INFO its endpoint resolves again, to 192.0.2.2:7117"]);
        // The same address as before ends it too.
        fail(&mut log, "no such name");
        log.on_resolved(PEER, endpoint(), false);
        assert_eq!(logged(&mut log).len(), 2);
        // A peer that is up is not asked for; what fails later is another failure.
        fail(&mut log, "no such name");
        log.on_confirmed(PEER, start);
        log.on_wanted(PEER, start);
        fail(&mut log, "no such name");
        assert_eq!(logged(&mut log).len(), 4);
        log.on_resolved(PEER, SocketAddr::from(([192, 0, 2, 9], 7117)), true);
        log.on_resolved(PEER, endpoint(), true);
        assert_eq!(logged(&mut log)[1], "INFO its endpoint is 192.0.2.2:7117");
    }

    #[test]
    fn another_endpoint_is_waited_for_and_reported_as_a_new_one() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let other = SocketAddr::from(([192, 0, 2, 9], 7117));
        let mut log = PeerLog::new([Some(endpoint()), None], start);
        log.handle_timeout(at(10));
        log.on_confirmed(PeerId(1), at(10));
        assert_eq!(logged(&mut log).len(), 3);
        for peer in [PEER, PeerId(1)] {
            log.on_unresolved(peer, "cannot resolve".to_owned());
            log.on_endpoint(peer, Some(other), at(20));
        }
        assert_eq!(log.up(), 1, "a session goes on");
        logged(&mut log);
        assert_eq!(log.poll_timeout(), Some(at(25)));
        log.handle_timeout(at(25));
        let all = logged(&mut log);
        assert!(all.len() == 1 && all[0].starts_with("WARN the peer does not answer at 192.0.2.9:7117"), "{all:?}");
        log.on_unresolved(PeerId(1), "cannot resolve".to_owned());
        assert_eq!(logged(&mut log).len(), 1, "of another endpoint it is news");
        log.on_removed(PEER);
        log.on_endpoint(PEER, Some(other), at(40));
        assert_eq!(log.poll_timeout(), None);
    }

    #[test]
    fn the_key_in_use_and_a_load_are_logged_with_the_remedy() {
        let mut log = PeerLog::new([None], Instant::now());
        log.on_key(PEER, "next_public_key", true);
        log.on_key(PEER, "public_key", false);
        log.on_load(true);
        log.on_load(false);
        let all = logged(&mut log);
        assert!(all[0].starts_with("INFO it uses its next_public_key now: write that as public_key"), "{all:?}");
        assert_eq!(all[1], "INFO it uses its public_key");
        assert!(all[2].starts_with("WARN more than 200 handshakes a second") && all[3].starts_with("INFO no flood"));
    }
}
