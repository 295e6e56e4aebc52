//! Tests of what a client calls protected, and for how long, with a real publisher.

use std::time::{Duration, Instant};

use super::{Core, Reason, Status, Wish};
use crate::envelope::{self, Direction, Envelope};
use crate::message::{Event, Flow, FlowKey, GoneReason, Header, Level, Message, Range, Subscribed, Violation};
use crate::pair::{EPOCH, LEASE, Pair, YES, flow, home, key};
use crate::publisher::Limits;

/// The client counts its lease from the request, not from the answer: the publisher keeps the subscription as long.
#[test]
fn a_client_trusts_nothing_after_its_lease_even_if_heartbeats_arrive() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pair = Pair::new(start);
    pair.publisher.publish_flow(&flow(1, 100), start);
    pair.client.watch(flow(1, 0).key, start);
    // Each datagram takes 50 ms. The lease counts from the first request.
    let asked = pair.requests(start);
    pair.deliver_requests(&asked, at(50));
    let challenge = pair.answers(at(50));
    pair.deliver_answers(&challenge, at(100));
    let again = pair.requests(at(100));
    pair.deliver_requests(&again, at(150));
    let granted = pair.answers(at(150));
    pair.deliver_answers(&granted, at(200));
    let lookup = pair.requests(at(200));
    pair.deliver_requests(&lookup, at(200));
    pair.assert_trusts_until(at(200), start + LEASE);
}

#[test]
fn a_renewed_lease_counts_from_its_request() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pair = Pair::watching(start);
    pair.lose_requests_until(start, at(245));
    assert!(pair.requests(at(249)).is_empty());
    let renewal = pair.requests(at(250));
    assert!(!renewal.is_empty());
    pair.deliver_requests(&renewal, at(300));
    let granted = pair.answers(at(300));
    pair.deliver_answers(&granted, at(350));
    pair.assert_trusts_until(at(350), at(250) + LEASE);
}

#[test]
fn a_client_without_heartbeats_trusts_nothing_after_a_lease_even_if_it_is_renewed() {
    let start = Instant::now();
    let ends = start + LEASE;
    let mut pair = Pair::watching(start);
    let mut now = start;
    while now < ends {
        // All but the grants is lost.
        pair.answers(now);
        let requests = pair.requests(now);
        pair.deliver_requests(&requests, now);
        let grants = pair.answers(now);
        pair.deliver_answers(&grants, now);
        now += Duration::from_millis(5);
    }
    let last = ends - Duration::from_millis(1);
    assert_eq!((pair.status(100, last), pair.status(100, ends)), (YES, Status::Pending(Reason::NoContact)));
}

/// Loses the message at 201 ms and its repetitions until 302 ms; the next heartbeat arrives.
fn lose_all_but_the_next_heartbeat(
    pair: &mut Pair,
    start: Instant,
    change: impl FnOnce(&mut Pair, Instant),
) -> Instant {
    let at = |ms| start + Duration::from_millis(ms);
    pair.lose_requests_until(at(100), at(200));
    assert!(!pair.client.is_stale());
    change(pair, at(201));
    [201, 202, 206, 226, 302].into_iter().for_each(|ms| drop(pair.answers(at(ms))));
    assert_eq!(pair.status(100, at(402)), YES, "the client cannot know");
    let heartbeat = pair.answers(at(402));
    assert_eq!(heartbeat.len(), 1);
    pair.messages();
    pair.deliver_answers(&heartbeat, at(402));
    assert!(matches!(pair.messages()[..], [Message::Heartbeat(_)]));
    at(402)
}

/// The client asks for what it missed a moment later, in case the datagram was only late.
fn catch_up(pair: &mut Pair, now: Instant) -> Instant {
    drop(pair.requests(now));
    let later = now + Duration::from_millis(20);
    pair.exchange(later);
    assert!(!pair.client.is_stale());
    later
}

/// A heartbeat repeats the number of the last notification.
#[test]
fn a_lost_last_notification_is_noticed_by_the_next_heartbeat_and_asked_for() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let now = lose_all_but_the_next_heartbeat(&mut pair, start, |pair, now| {
        pair.publisher.publish_flow(&flow(2, 10), now);
    });
    assert!(pair.client.is_stale());
    catch_up(&mut pair, now);
    let got = pair.messages();
    assert!(got.iter().any(|message| matches!(message, Message::Flow(it) if it.instance == 2)), "{got:?}");
}

#[test]
fn a_lost_notification_is_noticed_by_the_next_one() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let [now, next] = [50, 51].map(|ms| start + Duration::from_millis(ms));
    pair.publisher.publish_flow(&flow(2, 10), now);
    drop(pair.answers(now));
    pair.publisher.publish_flow(&flow(3, 10), next);
    let second = pair.answers(next);
    pair.deliver_answers(&second, next);
    assert!(pair.client.is_stale());
}

#[test]
fn an_unknown_violation_is_noticed_by_its_count_and_no_claim_is_trusted_until_it_is_known() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let now = lose_all_but_the_next_heartbeat(&mut pair, start, |pair, now| {
        pair.publisher.publish_violation(0, &[], now);
    });
    assert_eq!(pair.status(100, now), Status::Pending(Reason::Violated));
    let now = catch_up(&mut pair, now);
    assert_eq!(pair.status(100, now), YES, "the violation did not affect this flow");
    // A violation that arrives at once does not affect other flows.
    pair.publisher.publish_violation(0, &[], now);
    let violation = pair.answers(now);
    pair.deliver_answers(&violation, now);
    assert_eq!(pair.status(100, now), YES);
}

/// Carries datagrams both ways for `millis` ms and returns the end of that time.
fn exchange_for(pair: &mut Pair, from: Instant, millis: u64) -> Instant {
    (0..=millis).step_by(5).for_each(|ms| pair.exchange(from + Duration::from_millis(ms)));
    from + Duration::from_millis(millis)
}

/// With more losses at once than the publisher keeps messages for, the affected flows report the losses themselves.
#[test]
fn losses_that_were_forgotten_before_they_were_sent_do_not_end_trust_for_ever() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let lossy = flow(2, 100);
    pair.publisher.publish_flow(&lossy, start);
    pair.client.watch(lossy.key, start);
    let now = exchange_for(&mut pair, start, 50);
    let range = Range { key: lossy.key, instance: lossy.instance, start: 50, end: 60 };
    (0..1000).for_each(|_| pair.publisher.publish_violation(0, &[range], now));
    let now = exchange_for(&mut pair, now, 300);
    assert_eq!(pair.status(100, now), YES);
    let status = |offset| pair.client.status(&lossy.key, offset, Level::OnWire, now);
    assert_eq!((status(50), status(100)), (YES, Status::Pending(Reason::Violated)));
    assert!(!pair.client.is_stale());
}

/// Gone flows are forgotten during the dump, and older changes have lower versions than those flows had.
#[test]
fn a_dump_of_many_pages_ends_although_flows_come_and_go() {
    let start = Instant::now();
    let mut pair = Pair::with(Limits { gone: 40, ..Limits::default() }, start);
    (1..=300).for_each(|port| pair.publisher.publish_flow(&flow(port, 100), start));
    // After 15 s all repetitions are over.
    let start = start + Duration::from_secs(15);
    (0..15_000).step_by(5).for_each(|ms| drop(pair.answers(start - Duration::from_millis(15_000 - ms))));
    let mut next = 1000;
    let mut come_and_go = |pair: &mut Pair, count: u16, now| {
        for port in next..next + count {
            pair.publisher.publish_flow(&flow(port, 100), now);
            pair.publisher.publish_flow(&Flow { event: Event::Gone(GoneReason::Closed), ..flow(port, 100) }, now);
        }
        next += count;
    };
    come_and_go(&mut pair, 100, start);
    let mut now = start;
    for _ in 0..20 {
        now += Duration::from_millis(5);
        let requests = pair.requests(now);
        pair.deliver_requests(&requests, now);
        let answers = pair.answers(now);
        pair.deliver_answers(&answers, now);
        come_and_go(&mut pair, 2, now);
    }
    let received = pair.messages();
    let is_received = |port: u16| {
        received.iter().any(|message| matches!(message, Message::Flow(it) if it.instance == u64::from(port)))
    };
    assert!((1..=300).all(is_received));
    let requests = pair.publisher.counters().requests;
    exchange_for(&mut pair, now, 100);
    assert!(pair.client.is_complete() && pair.publisher.counters().requests <= requests + 3, "the client keeps asking");
}

/// A sealed datagram of the publisher.
fn sealed(sender: u64, message: &Message, header: Header) -> Vec<u8> {
    let mut datagram = vec![0; envelope::LEN];
    message.emit(header, &mut datagram);
    let envelope = Envelope { direction: Direction::Notification, key: 1, sender, receiver: 7, counter: 5000 };
    key(1).seal(&envelope, &mut datagram);
    datagram
}

#[test]
fn a_violation_counts_before_the_flow_itself_reports_it() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    let ranges = vec![Range { key: flow(1, 0).key, instance: 1, start: 40, end: 60 }];
    let violation = Message::Violation(Violation { number: 1, peer: 0, ranges });
    pair.deliver_answers(&[sealed(EPOCH, &violation, Header { flags: 0, seq: 2, port: 0 })], now);
    assert_eq!((pair.status(40, now), pair.status(41, now)), (YES, Status::Pending(Reason::Violated)));
}

#[test]
fn a_run_that_was_not_asked_cannot_grant() {
    let now = Instant::now();
    let mut pair = Pair::new(now);
    assert_eq!(pair.requests(now).len(), 1);
    let granted = Subscribed { lease: LEASE, heartbeat: Duration::from_millis(100), violations: 0 };
    // The number and the port of its only request.
    let header = Header { flags: 0, seq: 1, port: 1 };
    pair.deliver_answers(&[sealed(EPOCH + 1, &Message::Subscribed(granted), header)], now);
    assert!(!pair.client.has_contact(now));
    let later = now + Duration::from_millis(30);
    pair.exchange(later);
    assert!(pair.client.has_contact(later), "the control");
}

/// Replayed heartbeats and grants would keep a dead contact alive.
#[test]
fn replayed_datagrams_do_not_prolong_the_contact() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pair = Pair::new(start);
    let mut recorded = Vec::new();
    for ms in 0..150 {
        let requests = pair.requests(at(ms));
        pair.deliver_requests(&requests, at(ms));
        let answers = pair.answers(at(ms));
        pair.deliver_answers(&answers, at(ms));
        recorded.extend(answers);
    }
    let last = pair.client.last_received();
    assert!(last >= Some(at(100)) && recorded.len() > 3);
    pair.deliver_answers(&recorded, at(400));
    assert_eq!(pair.client.last_received(), last);
}

/// The lease has ended, and the same client subscribes again to the same run of the publisher.
fn subscribe_again(pair: &mut Pair, now: Instant) {
    assert!(pair.answers(now - Duration::from_millis(1)).is_empty(), "its lease has ended");
    pair.exchange(now);
    assert!(pair.client.has_contact(now) && !pair.client.is_stale());
}

#[test]
fn a_new_subscription_counts_from_1_and_a_lost_notification_is_noticed() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    for port in 10..60 {
        pair.publisher.publish_flow(&flow(port, 10), start);
        pair.exchange(start);
    }
    let now = start + Duration::from_secs(3);
    subscribe_again(&mut pair, now);
    pair.publisher.publish_flow(&flow(2, 10), now);
    drop(pair.answers(now));
    pair.publisher.publish_flow(&flow(3, 10), now);
    let second = pair.answers(now);
    pair.deliver_answers(&second, now);
    assert!(pair.client.is_stale());
}

#[test]
fn changes_between_two_subscriptions_are_asked_for() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let next = Flow { instance: 2, ..flow(1, 5000) };
    let now = start + Duration::from_secs(3);
    drop(pair.answers(now - Duration::from_secs(1)));
    pair.publisher.publish_flow(&next, now - Duration::from_millis(800));
    subscribe_again(&mut pair, now);
    assert_eq!(pair.status(101, now), Status::Never(Reason::OtherConnection));
}

#[test]
fn the_number_of_watched_flows_is_bounded() {
    let now = Instant::now();
    let mut pair = Pair::new(now);
    let key = |number: u32| FlowKey::tcp((number.to_be_bytes(), 1).into(), ([10, 2, 0, 1], 80).into());
    pair.client.watches.extend((0..65_536).map(|number| (key(number), super::watch::Watch::new(key(number)))));
    assert!(!pair.client.watch(key(70_000), now));
    assert!(pair.client.watch(key(5), now), "this flow is watched already");
}

/// A program that connects again from the same port looks the flow up again; the answer about the earlier connection
/// may still be in flight.
#[test]
fn an_answer_to_an_earlier_watch_does_not_count_for_the_next_connection() {
    let start = Instant::now();
    let later = start + Duration::from_millis(1);
    let mut pair = Pair::watching(start);
    pair.client.watch(flow(1, 0).key, start);
    let earlier = pair.requests(start);
    pair.deliver_requests(&earlier, start);
    let answer = pair.answers(start);
    pair.client.watch(flow(1, 0).key, later);
    pair.deliver_answers(&answer, later);
    assert_eq!(pair.status(100, later), Status::Pending(Reason::UnknownFlow));
    pair.exchange(later);
    assert_eq!(pair.status(100, later), YES);
}

#[test]
fn datagrams_for_another_run_of_the_client_are_ignored() {
    let start = Instant::now();
    let later = start + Duration::from_millis(100);
    let mut pair = Pair::watching(start);
    let mut other = Core::new(key(1), Wish::default(), 8, start);
    let mut out = Vec::new();
    // An earlier run of the client, from the same port.
    for _ in 0..3 {
        while other.poll_datagram(&mut out, start) {
            pair.publisher.handle_datagram(home(), &out, start);
        }
        pair.answers(start).iter().for_each(|datagram| other.handle_datagram(datagram, start));
    }
    assert!(other.has_contact(start));
    let answers = pair.answers(later);
    assert_eq!(answers.len(), 2);
    let last = |pair: &Pair| pair.client.last_received();
    let before = last(&pair);
    let of_other: Vec<_> = answers.into_iter().filter(|datagram| datagram[16] == 8).collect();
    assert_eq!(of_other.len(), 1);
    pair.deliver_answers(&of_other, later);
    assert_eq!(last(&pair), before);
}

/// Carries datagrams until the client has contact, and nothing that it asks for afterwards.
fn subscribe_only(pair: &mut Pair, now: Instant) {
    for _ in 0..2 {
        let requests = pair.requests(now);
        pair.deliver_requests(&requests, now);
        let answers = pair.answers(now);
        pair.deliver_answers(&answers, now);
    }
    assert!(pair.client.has_contact(now));
}

#[test]
fn a_client_that_moves_to_another_key_keeps_its_claims_and_hears_nothing_under_the_old_key() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    pair.client.move_to(key(2), 99, now);
    assert_eq!((pair.status(100, now), pair.client.run()), (Status::Pending(Reason::NoContact), None));
    pair.publisher.publish_flow(&flow(1, 150), now);
    let under_the_old = pair.answers(now);
    assert!(!under_the_old.is_empty());
    pair.deliver_answers(&under_the_old, now);
    assert_eq!(pair.status(100, now), Status::Pending(Reason::NoContact));
    subscribe_only(&mut pair, now);
    assert_eq!(pair.status(100, now), Status::Pending(Reason::UnknownFlow), "it has not looked the flow up yet");
    pair.exchange(now);
    assert_eq!(pair.status(100, now), YES, "claims stand");
    assert_eq!((pair.status(150, now), pair.status(151, now)), (YES, Status::Pending(Reason::Deadline)));
}

/// The same run answers as before: it may have counted a violation while the client had no subscription.
#[test]
fn after_a_move_no_claim_counts_before_what_was_violated_meanwhile_is_known() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    pair.client.move_to(key(2), 99, now);
    pair.publisher.publish_violation(0, &[Range { key: flow(1, 0).key, instance: 1, start: 40, end: 60 }], now);
    pair.publisher.publish_flow(&Flow { violated: Some(40), ..flow(1, 100) }, now);
    // What the publisher still sends to the old subscription is lost.
    drop(pair.answers(now));
    subscribe_only(&mut pair, now);
    let pending = [Status::Pending(Reason::UnknownFlow); 2];
    assert_eq!([40, 41].map(|offset| pair.status(offset, now)), pending);
    // The dump comes whole before the answer about the flow.
    let requests = pair.requests(now);
    assert!(requests.len() > 1);
    for request in requests.into_iter().rev() {
        assert_eq!([40, 41].map(|offset| pair.status(offset, now)), pending);
        pair.deliver_requests(&[request], now);
        let answers = pair.answers(now);
        pair.deliver_answers(&answers, now);
    }
    pair.exchange(now);
    assert_eq!((pair.status(40, now), pair.status(41, now)), (YES, Status::Pending(Reason::Violated)));
}

#[test]
fn a_flow_that_is_gone_from_one_publisher_is_asked_for_at_the_next() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    pair.publisher.publish_flow(&Flow { event: Event::Gone(GoneReason::Idle), ..flow(1, 100) }, now);
    let answers = pair.answers(now);
    pair.deliver_answers(&answers, now);
    assert_eq!(pair.status(101, now), Status::Never(Reason::Gone(GoneReason::Idle)));
    pair.client.move_to(key(2), 99, now);
    pair.publisher = Pair::watching(now).publisher;
    pair.publisher.publish_flow(&flow(1, 120), now);
    let later = exchange_for(&mut pair, now, 50);
    assert_eq!(pair.status(120, later), YES);
}
