//! A caller that has connected to a gate and sent nothing yet: the gate has not connected to the server for it.
//!
//! Probes of a port (health checks, scanners) connect and leave. MariaDB and MySQL count each one against the host it
//! came from, here the gate's, and refuse that host after `max_connect_errors` of them: the mirror too. So the gate
//! connects to the server only when the caller has sent something or, if the server sends first, when the caller has
//! stayed for a moment. This module does not know the server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::kinds::FirstSender;
use super::leg::{Leg, Peeked};
use super::status::{ConnectionStatus, Totals};
use crate::config::units::show_duration;

/// How long a caller must stay before the gate connects to a server that sends first. Probes are gone by then.
pub const SILENT_WAIT: Duration = Duration::from_millis(250);
/// The series of probes has ended when none came for this long.
const QUIET: Duration = Duration::from_secs(300);

/// What to do with an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrivalAction {
    /// Nothing: it stays.
    Stays,
    /// Connect to the server.
    Enters,
    /// The caller has left and sent nothing.
    Left,
    /// The caller has sent nothing for too long.
    Overdue,
}

/// A caller that has sent nothing yet.
pub struct Arrival {
    number: u64,
    client: SocketAddr,
    leg: Leg,
    since: Instant,
    /// When the gate connects to the server although the caller has sent nothing; none: the caller must send first.
    enters: Option<Instant>,
    overdue: Instant,
    patience: Duration,
}

impl Arrival {
    /// `client` has connected. If the caller must send first, it is dropped when it has sent nothing for `patience`.
    pub fn new(
        number: u64,
        (client, leg): (SocketAddr, Leg),
        first: FirstSender,
        patience: Duration,
        now: Instant,
    ) -> Arrival {
        let enters = match first {
            FirstSender::Caller => None,
            FirstSender::Server => Some(now + SILENT_WAIT),
            FirstSender::Either => Some(now),
        };
        Arrival { number, client, leg, since: now, enters, overdue: now + patience, patience }
    }

    /// Its socket.
    pub fn leg(&mut self) -> &mut Leg {
        &mut self.leg
    }

    /// What to do with it at `now`.
    pub fn intent(&mut self, now: Instant) -> ArrivalAction {
        if self.leg.is_broken() {
            return ArrivalAction::Left;
        }
        match self.leg.peek() {
            Peeked::Bytes => return ArrivalAction::Enters,
            Peeked::End => return ArrivalAction::Left,
            Peeked::Nothing => {}
        }
        match self.enters {
            Some(at) if now >= at => ArrivalAction::Enters,
            None if now >= self.overdue => ArrivalAction::Overdue,
            _ => ArrivalAction::Stays,
        }
    }

    /// When to call [`Arrival::intent`] again if no event comes.
    pub fn poll_timeout(&self) -> Instant {
        self.enters.unwrap_or(self.overdue)
    }

    /// Its number, the caller's address, its socket, and when it was accepted.
    pub fn enter(self) -> (u64, SocketAddr, Leg, Instant) {
        (self.number, self.client, self.leg, self.since)
    }

    /// The caller's address.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The log message for an overdue arrival.
    pub fn message(&self) -> String {
        let patience = show_duration(self.patience);
        format!("{} was let go: it said nothing within {patience} (start_timeout)", self.client)
    }

    /// Its counters.
    pub fn counts(&self) -> Totals {
        Totals { connections: 1, ..Totals::default() }
    }

    /// For the status.
    pub fn status(&self, now: Instant) -> ConnectionStatus {
        ConnectionStatus {
            number: self.number,
            client: self.client,
            phase: "silent".to_owned(),
            age_s: now.saturating_duration_since(self.since).as_secs_f64(),
            ..ConnectionStatus::nothing(self.client)
        }
    }
}

/// Probes of one port: the first is logged, then the end of the series.
#[derive(Debug, Default)]
pub struct Probes {
    count: u64,
    last: Option<Instant>,
    logged_late: bool,
}

impl Probes {
    /// `client` has connected and left without sending anything. Returns the log message, if one is due.
    pub fn on_probe(&mut self, client: SocketAddr, upstream: SocketAddr, now: Instant) -> Option<String> {
        self.count += 1;
        self.last = Some(now);
        (self.count == 1).then(|| {
            format!(
                "{client} connected and left without a word, as health checks do: {upstream} is not connected to for that. \
                 Others are counted (`probes` in status) and not told one by one"
            )
        })
    }

    /// `client` has left without sending anything, after the gate had connected to a server that sends first.
    pub fn on_late_probe(&mut self, client: SocketAddr, upstream: SocketAddr, now: Instant) -> Option<String> {
        self.count += 1;
        self.last = Some(now);
        let told = std::mem::replace(&mut self.logged_late, true);
        (!told).then(|| {
            format!(
                "{client} was greeted by {upstream} and left without a word: a mirror that insists on TLS, which this gate does not \
                 offer (set MASTER_SSL=0, SOURCE_SSL=0), or a health check that stays for more than {} ms (let it close at once). \
                 The server counts it as a failed connection of this gate, and refuses the gate after `max_connect_errors` of \
                 them without a good one between",
                SILENT_WAIT.as_millis()
            )
        })
    }

    /// When the end of the series is to be logged.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.last.map(|last| last + QUIET)
    }

    /// The log message for the end of the series, once no probe came for a while.
    pub fn poll_end(&mut self, now: Instant) -> Option<String> {
        self.poll_timeout().filter(|end| now >= *end)?;
        let Probes { count, .. } = std::mem::take(self);
        Some(format!(
            "no one connects and leaves without a word any more: there were {count}, the last {} s ago",
            QUIET.as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> SocketAddr {
        ([192, 0, 2, 1], 5).into()
    }

    #[test]
    fn probes_are_logged_once_and_so_is_their_end() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let upstream = ([192, 0, 2, 2], 3306).into();
        let mut probes = Probes::default();
        assert!(probes.on_probe(client(), upstream, start).unwrap().contains("192.0.2.1:5 connected and left"));
        for s in 1..200 {
            assert_eq!(probes.on_probe(client(), upstream, at(s)), None);
        }
        assert!(probes.on_late_probe(client(), upstream, at(200)).unwrap().contains("max_connect_errors"));
        assert_eq!(probes.on_late_probe(client(), upstream, at(201)), None);
        assert_eq!(probes.poll_timeout(), Some(at(501)));
        assert_eq!(probes.poll_end(at(500)), None);
        assert!(probes.poll_end(at(501)).unwrap().contains("there were 202"));
        assert_eq!((probes.poll_timeout(), probes.poll_end(at(9000))), (None, None));
        assert!(probes.on_probe(client(), upstream, at(9000)).is_some(), "the next series is logged again");
    }

    #[test]
    fn the_side_that_sends_first_decides_when_the_server_is_connected_to() {
        use std::io::Write as _;
        let start = Instant::now();
        let patience = Duration::from_secs(30);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let arrive = |first| {
            let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (near, from) = listener.accept().unwrap();
            near.set_nonblocking(true).unwrap();
            let leg = Leg::accepted(mio::net::TcpStream::from_std(near));
            (far, Arrival::new(1, (from, leg), first, patience, start))
        };
        let look = |arrival: &mut Arrival, after: Duration| {
            arrival.leg().on_ready(true, true);
            arrival.intent(start + after)
        };
        let moment = Duration::from_millis(1);
        for (first, at_once, at_last, when) in [
            (FirstSender::Caller, ArrivalAction::Stays, ArrivalAction::Overdue, patience),
            (FirstSender::Server, ArrivalAction::Stays, ArrivalAction::Enters, SILENT_WAIT),
            (FirstSender::Either, ArrivalAction::Enters, ArrivalAction::Enters, Duration::ZERO),
        ] {
            let (mut far, mut silent) = arrive(first);
            assert_eq!(look(&mut silent, Duration::ZERO), at_once, "{first:?}");
            assert_eq!((silent.poll_timeout(), look(&mut silent, when)), (start + when, at_last), "{first:?}");
            if when > moment {
                assert_eq!(look(&mut silent, when - moment), ArrivalAction::Stays, "{first:?}");
            }
            far.write_all(b"x").unwrap();
            assert_eq!(look(&mut silent, moment), ArrivalAction::Enters, "{first:?}: a byte");
            let (far, mut gone) = arrive(first);
            drop(far);
            assert_eq!(look(&mut gone, moment), ArrivalAction::Left, "{first:?}");
        }
    }
}
