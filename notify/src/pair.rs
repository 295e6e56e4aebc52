//! One client and one publisher, for tests of both: nothing is sent anywhere. Each test carries the datagrams itself, and loses
//! or delays those it wants.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::{Core, Reason, Status, Wish};
use super::envelope::{Key, KeyRing};
use super::message::{Event, Filter, Flow, FlowKey, Level, Message, Origin, Positions};
use super::publisher::{Limits, Publisher};

/// What the client asks for.
pub(super) const LEASE: Duration = Duration::from_secs(1);
/// The run of the publisher.
pub(super) const EPOCH: u64 = 42;
/// Protected by leaving.
pub(super) const YES: Status = Status::Protected { level: Level::OnWire };

/// A key of programs.
pub(super) fn key(id: u16) -> Key {
    Key::new(id, &[id as u8; 32]).unwrap()
}

/// Where the client is.
pub(super) fn home() -> SocketAddr {
    ([10, 1, 0, 1], 4000).into()
}

/// A flow whose instance is its port.
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
    }
}

/// One client and one publisher, which knows the keys 1 and 2.
pub(super) struct Pair {
    pub(super) publisher: Publisher,
    pub(super) client: Core,
}

impl Pair {
    /// A pair that does not know itself yet.
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

    /// A pair in which the client watches a flow of which 100 bytes are protected.
    pub(super) fn watching(now: Instant) -> Self {
        let mut pair = Self::new(now);
        pair.publisher.publish_flow(&flow(1, 100), now);
        pair.client.watch(flow(1, 0).key, now);
        pair.converse(now);
        assert_eq!(pair.says(100, now), YES);
        pair
    }

    /// What the client wants to send.
    pub(super) fn requests(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let mut out = Vec::new();
        while self.client.poll_datagram(&mut out, now) {
            sent.push(out.clone());
        }
        sent
    }

    /// What the publisher wants to send.
    pub(super) fn answers(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        self.publisher.handle_timeout(now);
        self.publisher.poll_datagrams(1000, now, |_, bytes| {
            sent.push(bytes.to_vec());
            true
        });
        sent
    }

    /// Gives the publisher what the client asked.
    pub(super) fn ask(&mut self, requests: &[Vec<u8>], now: Instant) {
        requests.iter().for_each(|datagram| self.publisher.handle_datagram(home(), datagram, now));
    }

    /// Gives the client what the publisher told.
    pub(super) fn tell(&mut self, answers: &[Vec<u8>], now: Instant) {
        answers.iter().for_each(|datagram| self.client.handle_datagram(datagram, now));
    }

    /// Carries both ways until both are content.
    pub(super) fn converse(&mut self, now: Instant) {
        for _ in 0..10 {
            let requests = self.requests(now);
            self.ask(&requests, now);
            let answers = self.answers(now);
            self.tell(&answers, now);
        }
    }

    /// Carries what the publisher tells until `until`; of what the client asks nothing arrives.
    pub(super) fn listen(&mut self, from: Instant, until: Instant) {
        let mut now = from;
        while now < until {
            self.requests(now);
            let answers = self.answers(now);
            self.tell(&answers, now);
            now += Duration::from_millis(5);
        }
    }

    /// What the client says of its flow.
    pub(super) fn says(&self, offset: u64, now: Instant) -> Status {
        self.client.status(&flow(1, 0).key, offset, Level::OnWire, now)
    }

    /// Until `ends`, and no longer, the client believes what it was told; heartbeats come all the time.
    pub(super) fn assert_believes_until(&mut self, from: Instant, ends: Instant) {
        let last = ends - Duration::from_millis(1);
        self.listen(from, last);
        assert!(self.client.has_contact(last), "before its end");
        assert_eq!(self.says(100, last), YES);
        assert!(self.client.last_heard().unwrap() + Duration::from_millis(120) > last, "it still hears the publisher");
        assert!(!self.client.has_contact(ends), "after its end");
        assert_eq!(self.says(100, ends), Status::Pending(Reason::NoContact));
    }

    /// What the client was told since the last time.
    pub(super) fn told(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.client.poll_message()).collect()
    }
}
