//! One client and one publisher, for tests of both. Nothing is sent over a network: each test carries the datagrams
//! itself, and loses or delays some of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::{Core, Reason, Status, Wish};
use super::envelope::{Key, KeyRing};
use super::message::{Event, Filter, Flow, FlowKey, Level, Message, Origin, Positions};
use super::publisher::{Limits, Publisher};

/// The lease that the client asks for.
pub(super) const LEASE: Duration = Duration::from_secs(1);
/// The publisher's epoch.
pub(super) const EPOCH: u64 = 42;
/// Protected at level `on_wire`.
pub(super) const YES: Status = Status::Protected { level: Level::OnWire };

/// A key whose id gives its bytes.
pub(super) fn key(id: u16) -> Key {
    Key::new(id, &[id as u8; 32]).unwrap()
}

/// The client's address.
pub(super) fn home() -> SocketAddr {
    ([10, 1, 0, 1], 4000).into()
}

/// A flow whose instance number is its port.
pub(super) fn flow(port: u16, on_wire: u64) -> Flow {
    Flow {
        key: FlowKey::tcp(([10, 1, 0, 1], port).into(), ([10, 2, 0, 1], 80).into()),
        instance: port.into(),
        peer: 0,
        event: Event::Protected,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(1),
        positions: Positions { on_wire: Some(on_wire), ..Positions::default() },
        violated: None,
        packets: None,
        cookie: None,
        block: None,
        survives_burst: 0,
    }
}

/// One client and one publisher, which knows the keys 1 and 2.
pub(super) struct Pair {
    pub(super) publisher: Publisher,
    pub(super) client: Core,
}

impl Pair {
    /// A pair that has exchanged no datagram yet.
    pub(super) fn new(now: Instant) -> Self {
        Self::with(Limits::default(), now)
    }

    /// A pair whose publisher has these limits; the client keeps every message.
    pub(super) fn with(limits: Limits, now: Instant) -> Self {
        let mut keys = KeyRing::new();
        [1, 2].into_iter().for_each(|id| keys.insert(key(id)).unwrap());
        let publisher = Publisher::new(keys, limits, EPOCH, &[3; 32], now);
        let wish = Wish { lease: LEASE, ..Wish::following(Filter::default(), false) };
        Self { publisher, client: Core::new(key(1), wish, 7, now) }
    }

    /// A pair whose client watches a flow with 100 protected bytes.
    pub(super) fn watching(now: Instant) -> Self {
        let mut pair = Self::new(now);
        pair.publisher.publish_flow(&flow(1, 100), now);
        pair.client.watch(flow(1, 0).key, now);
        pair.exchange(now);
        assert_eq!(pair.status(100, now), YES);
        pair
    }

    /// The datagrams that the client sends now.
    pub(super) fn requests(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let mut out = Vec::new();
        while self.client.poll_datagram(&mut out, now) {
            sent.push(out.clone());
        }
        sent
    }

    /// The datagrams that the publisher sends now.
    pub(super) fn answers(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        self.publisher.handle_timeout(now);
        self.publisher.poll_datagrams(1000, now, |_, bytes| {
            sent.push(bytes.to_vec());
            true
        });
        sent
    }

    /// Delivers the client's datagrams to the publisher.
    pub(super) fn deliver_requests(&mut self, requests: &[Vec<u8>], now: Instant) {
        requests.iter().for_each(|datagram| self.publisher.handle_datagram(home(), datagram, now));
    }

    /// Delivers the publisher's datagrams to the client.
    pub(super) fn deliver_answers(&mut self, answers: &[Vec<u8>], now: Instant) {
        answers.iter().for_each(|datagram| self.client.handle_datagram(datagram, now));
    }

    /// Carries datagrams both ways, often enough that neither side has more to send.
    pub(super) fn exchange(&mut self, now: Instant) {
        for _ in 0..10 {
            let requests = self.requests(now);
            self.deliver_requests(&requests, now);
            let answers = self.answers(now);
            self.deliver_answers(&answers, now);
        }
    }

    /// Delivers the publisher's datagrams until `until`; the client's requests are lost.
    pub(super) fn lose_requests_until(&mut self, from: Instant, until: Instant) {
        let mut now = from;
        while now < until {
            self.requests(now);
            let answers = self.answers(now);
            self.deliver_answers(&answers, now);
            now += Duration::from_millis(5);
        }
    }

    /// What the client reports about its flow.
    pub(super) fn status(&self, offset: u64, now: Instant) -> Status {
        self.client.status(&flow(1, 0).key, offset, Level::OnWire, now)
    }

    /// The client calls the flow protected until `ends` and no longer, although heartbeats arrive all the time.
    pub(super) fn assert_trusts_until(&mut self, from: Instant, ends: Instant) {
        let last = ends - Duration::from_millis(1);
        self.lose_requests_until(from, last);
        assert!(self.client.has_contact(last), "before its end");
        assert_eq!(self.status(100, last), YES);
        assert!(self.client.last_received().unwrap() + Duration::from_millis(120) > last, "heartbeats still arrive");
        assert!(!self.client.has_contact(ends), "after its end");
        assert_eq!(self.status(100, ends), Status::Pending(Reason::NoContact));
    }

    /// The messages that the client received since the last call.
    pub(super) fn messages(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.client.poll_message()).collect()
    }
}
