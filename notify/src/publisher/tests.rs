//! Tests of the publisher: which requests it accepts, what it remembers and how much of it, and how losses reach a
//! subscriber.

use std::time::{Duration, Instant};

use super::{Asked, HEARTBEAT, Limits};
use crate::client::{Core, Outcome, Wish};
use crate::envelope::{self, Direction, Envelope, KeyRing};
use crate::message::{
    Done, Event, Filter, Flow, GoneReason, Level, LinkState, Message, Messages, Peer, Positions, Range, Request,
    StateReason, Subscribed,
};
use crate::pair::{EPOCH, Pair, flow, home, key};

/// A sealed datagram of requests, with any key, epochs and counter.
fn sealed(requests: &[Request], (id, sender, receiver, counter): (u16, u64, u64, u64)) -> Vec<u8> {
    let mut datagram = vec![0; envelope::LEN];
    for (number, request) in (1000..).zip(requests) {
        request.emit(number, 9, &mut datagram);
    }
    let envelope = Envelope { direction: Direction::Request, key: id, sender, receiver, counter };
    key(id).seal(&envelope, &mut datagram);
    datagram
}

/// A datagram of one request with this number.
fn numbered(request: Request, seq: u32, counter: u64) -> Vec<u8> {
    let mut datagram = vec![0; envelope::LEN];
    request.emit(seq, 9, &mut datagram);
    let envelope = Envelope { direction: Direction::Request, key: 1, sender: 7, receiver: EPOCH, counter };
    key(1).seal(&envelope, &mut datagram);
    datagram
}

fn gone(port: u16) -> Flow {
    Flow { event: Event::Gone(GoneReason::Closed), ..flow(port, 10) }
}

fn link(id: u32, state: LinkState) -> Peer {
    Peer { id, name: Some(format!("site-{id}").into()), state, reason: StateReason::None }
}

/// The messages in datagrams of the publisher.
fn messages(datagrams: &[Vec<u8>]) -> Vec<Message> {
    let mut keys = KeyRing::new();
    keys.insert(key(1)).unwrap();
    let opened = datagrams.iter().map(|datagram| keys.open(Direction::Notification, datagram).unwrap().1);
    opened.flat_map(Messages::new).map(|raw| Message::parse(&raw.unwrap()).unwrap()).collect()
}

/// The end of a page that the client asks for; `meanwhile` runs between the request and the answer.
fn page(pair: &mut Pair, since: u64, now: Instant, meanwhile: impl FnOnce(&mut Pair)) -> Done {
    pair.exchange(now);
    let page = Request::GetFlows { since, begun: None, count: 48, filter: Filter::default() };
    let counter = pair.publisher.counters().requests + 3000;
    pair.publisher.handle_datagram(home(), &sealed(&[page], (1, 7, EPOCH, counter)), now);
    meanwhile(pair);
    let received = messages(&pair.answers(now));
    let mut ends = received.iter().filter_map(|message| match message {
        Message::Done(done) => Some(*done),
        _ => None,
    });
    ends.next().expect("a page has an end")
}

#[test]
fn a_session_is_bound_to_its_address_its_key_and_both_epochs() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    let own = (1, 7, EPOCH, 1000);
    let elsewhere = ([10, 1, 0, 2], home().port()).into();
    let rows = [
        (elsewhere, own),
        (([10, 1, 0, 1], 4001).into(), own),
        (home(), (2, 7, EPOCH, 1001)),
        (home(), (1, 8, EPOCH, 1002)),
        (home(), (1, 7, 0, 1003)),
        (home(), (1, 7, EPOCH + 1, 1004)),
    ];
    for (from, names) in rows {
        let before = pair.publisher.counters().not_subscribed;
        pair.publisher.handle_datagram(from, &sealed(&[Request::Flush], names), now);
        assert_eq!(pair.publisher.counters().not_subscribed, before + 1, "{from} {names:?}");
        assert_eq!(pair.publisher.poll_asked(), None, "{from} {names:?}");
    }
    pair.publisher.handle_datagram(home(), &sealed(&[Request::Flush], own), now);
    assert_eq!(pair.publisher.poll_asked(), Some(Asked::Flush), "the control");
}

#[test]
fn heartbeats_tell_of_all_links_in_turn_however_many_there_are() {
    let mut now = Instant::now();
    let mut pair = Pair::watching(now);
    for links in [5, 32, 80] {
        (0..links).for_each(|id| pair.publisher.publish_state(&link(id, LinkState::Up), now));
        pair.exchange(now);
        let mut told = Vec::new();
        for _ in 0..5 {
            now += HEARTBEAT;
            let received = messages(&pair.answers(now));
            let beats = received.iter().filter_map(|message| match message {
                Message::Heartbeat(heartbeat) => Some(heartbeat.peers.iter().map(|peer| peer.id).collect::<Vec<_>>()),
                _ => None,
            });
            let beat: Vec<u32> = beats.flatten().collect();
            assert_eq!(beat.len(), (links as usize).min(32), "one heartbeat");
            told.extend(beat);
        }
        let due: Vec<u32> = (0..links).cycle().take(told.len()).collect();
        let begins = told[0];
        assert_eq!(told, due.iter().map(|id| (id + begins) % links).collect::<Vec<_>>(), "{links}");
        pair.exchange(now);
        assert_eq!(pair.client.peers().count(), links as usize);
    }
}

#[test]
fn each_barrier_has_its_own_answer() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    let [first, second] = [0; 2].map(|_| pair.client.request(Request::Barrier, now).unwrap());
    pair.exchange(now);
    let asked: Vec<_> = std::iter::from_fn(|| pair.publisher.poll_asked()).collect();
    let [Asked::Barrier { id: one }, Asked::Barrier { id: two }] = asked[..] else { panic!("{asked:?}") };
    pair.publisher.publish_barrier(two, Some(Level::OnWire));
    pair.exchange(now);
    assert_eq!(pair.client.poll_outcome(first), None);
    assert_eq!(pair.client.poll_outcome(second), Some(Outcome::Barrier(Some(Level::OnWire))));
    pair.publisher.publish_barrier(one, None);
    pair.exchange(now);
    assert_eq!(pair.client.poll_outcome(first), Some(Outcome::Barrier(None)));
}

#[test]
fn a_loss_of_no_known_flow_counts_and_is_sent_once() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    pair.messages();
    pair.publisher.publish_violation(3, &[], now);
    pair.exchange(now + Duration::from_millis(100));
    let received = pair.messages();
    let violations =
        received.iter().filter(|message| matches!(message, Message::Violation(it) if it.ranges.is_empty()));
    assert_eq!(violations.count(), 1, "{received:?}");
    assert!(
        received.iter().any(|message| matches!(message, Message::Heartbeat(it) if it.violations == 1)),
        "{received:?}"
    );
}

#[test]
fn a_loss_violates_a_flow_if_it_is_of_its_instance_and_not_acknowledged() {
    let now = Instant::now();
    let mut pair = Pair::new(now);
    let positions = Positions { on_wire: Some(100), acked: Some(60), ..Positions::default() };
    pair.publisher.publish_flow(&Flow { positions, ..flow(5, 0) }, now);
    let key = flow(5, 0).key;
    // An earlier instance, one acknowledged, one that is not, one above it.
    for (instance, start, end, violated) in
        [(4, 70, 90, None), (5, 30, 60, None), (5, 50, 90, Some(50)), (5, 95, 99, Some(50))]
    {
        pair.publisher.publish_violation(0, &[Range { key, instance, start, end }], now);
        let entry = pair.publisher.flows.get(&key).and_then(|slot| pair.publisher.log.value(*slot));
        assert!(
            matches!(entry, Some(super::Entry::Flow(flow)) if flow.violated == violated),
            "{start} to {end}: {entry:?}"
        );
    }
}

#[test]
fn a_gone_flow_does_not_come_back() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    pair.messages();
    pair.publisher.publish_flow(&gone(1), now);
    pair.publisher.publish_flow(&flow(1, 5000), now);
    pair.exchange(now);
    let received = pair.messages();
    let is_gone = |message: &Message| match message {
        Message::Flow(flow) => flow.event == gone(1).event && flow.positions.on_wire == Some(100),
        _ => true,
    };
    assert!(
        received.iter().any(|message| matches!(message, Message::Flow(_))) && received.iter().all(is_gone),
        "{received:?}"
    );
    assert_eq!(pair.publisher.counters().stale_updates, 1);
}

/// Otherwise a client would never learn that a flow is gone if the publisher has forgotten it meanwhile.
#[test]
fn a_page_since_a_forgotten_or_future_version_holds_everything() {
    let now = Instant::now();
    let mut pair = Pair::with(Limits { gone: 1, ..Limits::default() }, now);
    [1, 2].into_iter().for_each(|port| pair.publisher.publish_flow(&flow(port, 10), now));
    let since = |pair: &mut Pair, since| page(pair, since, now, |_| {}).since;
    let head = pair.publisher.log.version();
    assert_eq!(since(&mut pair, head), head, "the control");
    pair.publisher.publish_flow(&gone(1), now);
    let between = pair.publisher.log.version();
    pair.publisher.publish_flow(&gone(2), now);
    assert_eq!(pair.publisher.gone.len(), 1, "the first was forgotten");
    assert_eq!(since(&mut pair, head), 0);
    assert_eq!(since(&mut pair, between), between);
    assert_eq!(since(&mut pair, u64::MAX), 0);
}

/// A client takes everything up to `notified` as received, so later notifications must have higher numbers.
#[test]
fn a_page_ends_at_the_version_and_the_notification_of_its_request() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    let (notified, head) = (pair.publisher.sessions[0].seq, pair.publisher.log.version());
    // Both flows change after the request, and are notified.
    let done = page(&mut pair, 0, now, |pair| {
        pair.publisher.publish_flow(&flow(1, 500), now);
        pair.publisher.publish_flow(&flow(2, 10), now);
    });
    assert_eq!((done.notified, done.head, done.version, done.count), (notified, head, head, 0));
}

#[test]
fn a_granted_lease_stays_within_its_limits() {
    let now = Instant::now();
    for (asked, granted) in [(1, 500), (700, 700), (3_600_000, 60_000)] {
        let mut pair = Pair::new(now);
        let wish = Wish { lease: Duration::from_millis(asked), follow: true, ..Wish::default() };
        pair.client = Core::new(key(1), wish, 9, now);
        pair.exchange(now);
        let granted = Duration::from_millis(granted);
        let ends = now + granted;
        pair.publisher.handle_timeout(ends - Duration::from_millis(1));
        assert_eq!(pair.publisher.subscribers().count(), 1);
        pair.publisher.handle_timeout(ends);
        assert_eq!(pair.publisher.subscribers().count(), 0, "{asked}");
        let received = pair.messages();
        let is_received =
            |message: &Message| matches!(message, Message::Subscribed(Subscribed { lease, .. }) if *lease == granted);
        assert!(received.is_empty() || received.iter().any(is_received), "{received:?}");
    }
}

#[test]
fn the_requests_of_a_subscriber_are_bounded() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    let before = pair.publisher.counters();
    pair.publisher.handle_datagram(home(), &sealed(&[Request::Barrier; 10], (1, 7, EPOCH, 1000)), now);
    assert_eq!(pair.publisher.counters().requests, before.requests + 4, "requests in one datagram");
    // Each with another number: another barrier, another registration.
    for counter in 0..600 {
        let request = if counter % 2 == 0 {
            Request::Barrier
        } else {
            Request::Register { key: flow(1, 0).key, cookie: counter }
        };
        pair.publisher.handle_datagram(home(), &numbered(request, 2000 + counter as u32, 1001 + counter), now);
        assert!(pair.publisher.sessions[0].answers.len() <= 16 && pair.publisher.sessions[0].barriers.len() <= 16);
    }
    assert_eq!(pair.publisher.asked.len(), 256);
    assert!(pair.publisher.counters().refused > before.refused);
    let page = Request::GetFlows { since: 0, begun: None, count: 1, filter: Filter::default() };
    for counter in 0..100 {
        pair.publisher.handle_datagram(home(), &numbered(page, 3000, 2000 + counter), now);
    }
    assert_eq!(pair.publisher.sessions[0].pages.len(), 1, "one page that is asked for again and again");
    let before = pair.publisher.counters().excess;
    for counter in 0..100 {
        pair.publisher.handle_datagram(home(), &numbered(page, 4000 + counter as u32, 3000 + counter), now);
    }
    assert_eq!((pair.publisher.sessions[0].pages.len(), pair.publisher.counters().excess), (64, before + 37));
    assert_eq!(pair.publisher.poll_excessive(), Some((home(), 1)));
    assert_eq!(pair.publisher.poll_excessive(), None);
}

#[test]
fn subscribers_at_one_address_are_bounded_whatever_their_keys() {
    let now = Instant::now();
    let mut pair = Pair::new(now);
    for port in 0..100 {
        let from = (home().ip(), port).into();
        let mut client = Core::new(key(1 + port % 2), Wish::default(), u64::from(port) + 1, now);
        let mut out = Vec::new();
        for _ in 0..3 {
            while client.poll_datagram(&mut out, now) {
                pair.publisher.handle_datagram(from, &out, now);
            }
            pair.publisher.poll_datagrams(1000, now, |to, bytes| {
                if to == from {
                    client.handle_datagram(bytes, now);
                }
                true
            });
        }
    }
    assert_eq!(pair.publisher.subscribers().count(), Limits::default().subscribers_per_address);
}

#[test]
fn the_memory_of_the_publisher_is_bounded() {
    let now = Instant::now();
    let limits = Limits { flows: 8, gone: 4, violations: 5, ..Limits::default() };
    let mut pair = Pair::with(limits, now);
    for port in 0..100 {
        pair.publisher.publish_flow(&flow(port, 10), now);
        pair.publisher.publish_violation(0, &[], now);
    }
    assert_eq!((pair.publisher.flows.len(), pair.publisher.violations.len()), (8, 5));
    assert_eq!(pair.publisher.counters().flows_refused, 92);
    (0..100).for_each(|port| pair.publisher.publish_flow(&gone(port), now));
    assert_eq!(pair.publisher.gone.len(), 4);
    // Gone flows make room.
    let refused = pair.publisher.counters().flows_refused;
    pair.publisher.publish_flow(&flow(200, 10), now);
    assert_eq!(pair.publisher.counters().flows_refused, refused);
    assert!(pair.publisher.flows.len() <= 8, "{}", pair.publisher.flows.len());
}

#[test]
fn an_entry_forgotten_before_it_was_sent_leaves_a_gap_in_the_numbers() {
    let start = Instant::now();
    let limits = Limits { gone: 4, violations: 5, ..Limits::default() };
    for (count, is_missed) in [(4, false), (6, true)] {
        let is_stale = |pair: &mut Pair, now| {
            let received = pair.answers(now);
            pair.deliver_answers(&received, now);
            pair.client.is_stale()
        };
        let mut pair = Pair::with(limits, start);
        pair.exchange(start);
        (0..count).for_each(|_| pair.publisher.publish_violation(0, &[], start));
        assert_eq!(is_stale(&mut pair, start), is_missed, "{count} violations");

        let mut pair = Pair::with(limits, start);
        (0..count).for_each(|port| pair.publisher.publish_flow(&flow(port, 10), start));
        pair.exchange(start);
        (0..count).for_each(|port| pair.publisher.publish_flow(&gone(port), start));
        assert_eq!(is_stale(&mut pair, start), is_missed, "{count} flows that are gone");
    }
}

#[test]
fn a_subscription_ends_with_its_key_and_others_go_on() {
    let now = Instant::now();
    let ring = |ids: &[u16], other: bool| {
        let mut keys = KeyRing::new();
        for &id in ids {
            let own = if other { crate::envelope::Key::new(id, &[99; 32]).unwrap() } else { key(id) };
            keys.insert(own).unwrap();
        }
        keys
    };
    for (keys, is_kept) in [(ring(&[1, 9], false), true), (ring(&[9], false), false), (ring(&[1, 9], true), false)] {
        let mut pair = Pair::watching(now);
        pair.publisher.publish_flow(&flow(4000, 10), now);
        pair.publisher.set_keys(keys);
        assert_eq!(pair.publisher.subscribers().count(), usize::from(is_kept));
        assert_eq!(pair.answers(now).is_empty(), !is_kept, "nothing is sent under a key that is gone");
    }
}
