//! Tests of what a client believes, and until when, beside a real publisher.

use std::time::{Duration, Instant};

use super::{Core, Reason, Status, Wish};
use crate::envelope::{self, Direction, Envelope};
use crate::message::{Event, Flow, FlowKey, GoneReason, Header, Level, Message, Range, Subscribed, Violation};
use crate::pair::{EPOCH, LEASE, Pair, YES, flow, home, key};
use crate::publisher::Limits;

/// Whoever asked counts from the moment in which it asked, not from the answer: the publisher forgets it no earlier.
#[test]
fn a_client_believes_nothing_once_its_lease_has_ended_although_it_still_hears_the_publisher() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pair = Pair::new(start);
    pair.publisher.publish_flow(&flow(1, 100), start);
    pair.client.watch(flow(1, 0).key, start);
    // Subscription, challenge and subscription again take 50 ms a way. The first try counts.
    let asked = pair.requests(start);
    pair.ask(&asked, at(50));
    let challenge = pair.answers(at(50));
    pair.tell(&challenge, at(100));
    let again = pair.requests(at(100));
    pair.ask(&again, at(150));
    let granted = pair.answers(at(150));
    pair.tell(&granted, at(200));
    let lookup = pair.requests(at(200));
    pair.ask(&lookup, at(200));
    pair.assert_believes_until(at(200), start + LEASE);
}

#[test]
fn a_renewal_counts_from_the_moment_in_which_it_was_asked_for() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pair = Pair::watching(start);
    pair.listen(start, at(245));
    assert!(pair.requests(at(249)).is_empty());
    let renewal = pair.requests(at(250));
    assert!(!renewal.is_empty());
    pair.ask(&renewal, at(300));
    let granted = pair.answers(at(300));
    pair.tell(&granted, at(350));
    pair.assert_believes_until(at(350), at(250) + LEASE);
}

#[test]
fn a_client_without_heartbeats_believes_nothing_after_a_lease_although_it_is_renewed() {
    let start = Instant::now();
    let ends = start + LEASE;
    let mut pair = Pair::watching(start);
    let mut now = start;
    while now < ends {
        // What is told but grants is lost.
        pair.answers(now);
        let requests = pair.requests(now);
        pair.ask(&requests, now);
        let grants = pair.answers(now);
        pair.tell(&grants, now);
        now += Duration::from_millis(5);
    }
    let last = ends - Duration::from_millis(1);
    assert_eq!((pair.says(100, last), pair.says(100, ends)), (YES, Status::Pending(Reason::NoContact)));
}

/// What the publisher tells at 201 ms and what repeats it until 302 ms is lost; the heartbeat after that comes.
fn lose_all_but_the_next_heartbeat(
    pair: &mut Pair,
    start: Instant,
    change: impl FnOnce(&mut Pair, Instant),
) -> Instant {
    let at = |ms| start + Duration::from_millis(ms);
    pair.listen(at(100), at(200));
    assert!(!pair.client.is_stale());
    change(pair, at(201));
    [201, 202, 206, 226, 302].into_iter().for_each(|ms| drop(pair.answers(at(ms))));
    assert_eq!(pair.says(100, at(402)), YES, "it cannot know");
    let heartbeat = pair.answers(at(402));
    assert_eq!(heartbeat.len(), 1);
    pair.told();
    pair.tell(&heartbeat, at(402));
    assert!(matches!(pair.told()[..], [Message::Heartbeat(_)]));
    at(402)
}

/// It asks for what it missed a moment later, in case that was only late.
fn catch_up(pair: &mut Pair, now: Instant) -> Instant {
    drop(pair.requests(now));
    let later = now + Duration::from_millis(20);
    pair.converse(later);
    assert!(!pair.client.is_stale());
    later
}

/// A heartbeat repeats the number of the last notification.
#[test]
fn a_last_notification_that_is_lost_is_noticed_by_the_next_heartbeat_and_asked_for() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let now = lose_all_but_the_next_heartbeat(&mut pair, start, |pair, now| {
        pair.publisher.publish_flow(&flow(2, 10), now);
    });
    assert!(pair.client.is_stale());
    catch_up(&mut pair, now);
    let told = pair.told();
    assert!(told.iter().any(|message| matches!(message, Message::Flow(it) if it.instance == 2)), "{told:?}");
}

#[test]
fn a_notification_that_is_lost_between_two_is_noticed() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let [now, next] = [50, 51].map(|ms| start + Duration::from_millis(ms));
    pair.publisher.publish_flow(&flow(2, 10), now);
    drop(pair.answers(now));
    pair.publisher.publish_flow(&flow(3, 10), next);
    let second = pair.answers(next);
    pair.tell(&second, next);
    assert!(pair.client.is_stale());
}

#[test]
fn a_violation_that_was_not_heard_of_is_noticed_by_its_count_and_nothing_is_believed_until_it_is_known() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let now = lose_all_but_the_next_heartbeat(&mut pair, start, |pair, now| {
        pair.publisher.publish_violation(0, &[], now);
    });
    assert_eq!(pair.says(100, now), Status::Pending(Reason::Violated));
    let now = catch_up(&mut pair, now);
    assert_eq!(pair.says(100, now), YES, "it was none of this flow");
    // One that is heard of at once takes nothing from anybody else.
    pair.publisher.publish_violation(0, &[], now);
    let told = pair.answers(now);
    pair.tell(&told, now);
    assert_eq!(pair.says(100, now), YES);
}

/// Carries both ways for so long.
fn converse_for(pair: &mut Pair, from: Instant, millis: u64) -> Instant {
    (0..=millis).step_by(5).for_each(|ms| pair.converse(from + Duration::from_millis(ms)));
    from + Duration::from_millis(millis)
}

/// More losses at once than the publisher keeps messages of: which flows they concern say the flows themselves.
#[test]
fn losses_that_were_forgotten_before_they_were_told_end_no_belief_for_ever() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let lossy = flow(2, 100);
    pair.publisher.publish_flow(&lossy, start);
    pair.client.watch(lossy.key, start);
    let now = converse_for(&mut pair, start, 50);
    let range = Range { key: lossy.key, instance: lossy.instance, start: 50, end: 60 };
    (0..1000).for_each(|_| pair.publisher.publish_violation(0, &[range], now));
    let now = converse_for(&mut pair, now, 300);
    assert_eq!(pair.says(100, now), YES);
    let status = |offset| pair.client.status(&lossy.key, offset, Level::OnWire, now);
    assert_eq!((status(50), status(100)), (YES, Status::Pending(Reason::Violated)));
    assert!(!pair.client.is_stale());
}

/// Flows that are gone are forgotten while it goes on, and what changed long ago has a lower version than they had.
#[test]
fn a_dump_of_many_pages_ends_although_flows_come_and_go() {
    let start = Instant::now();
    let mut pair = Pair::with(Limits { gone: 40, ..Limits::default() }, start);
    (1..=300).for_each(|port| pair.publisher.publish_flow(&flow(port, 100), start));
    // Each change is repeated for a while; then it is old.
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
        pair.ask(&requests, now);
        let answers = pair.answers(now);
        pair.tell(&answers, now);
        come_and_go(&mut pair, 2, now);
    }
    let told = pair.told();
    let is_told =
        |port: u16| told.iter().any(|message| matches!(message, Message::Flow(it) if it.instance == u64::from(port)));
    assert!((1..=300).all(is_told));
    let requests = pair.publisher.counters().requests;
    converse_for(&mut pair, now, 100);
    assert!(pair.client.is_complete() && pair.publisher.counters().requests <= requests + 3, "it asks on and on");
}

/// A datagram of the publisher as it would be sealed.
fn sealed(sender: u64, message: &Message, header: Header) -> Vec<u8> {
    let mut datagram = vec![0; envelope::LEN];
    message.emit(header, &mut datagram);
    let envelope = Envelope { direction: Direction::Notification, key: 1, sender, receiver: 7, counter: 5000 };
    key(1).seal(&envelope, &mut datagram);
    datagram
}

#[test]
fn a_violation_counts_before_the_flow_itself_tells_of_it() {
    let now = Instant::now();
    let mut pair = Pair::watching(now);
    let ranges = vec![Range { key: flow(1, 0).key, instance: 1, start: 40, end: 60 }];
    let violation = Message::Violation(Violation { number: 1, peer: 0, ranges });
    pair.tell(&[sealed(EPOCH, &violation, Header { flags: 0, seq: 2, port: 0 })], now);
    assert_eq!((pair.says(40, now), pair.says(41, now)), (YES, Status::Pending(Reason::Violated)));
}

#[test]
fn a_run_that_was_not_asked_cannot_grant() {
    let now = Instant::now();
    let mut pair = Pair::new(now);
    assert_eq!(pair.requests(now).len(), 1);
    let granted = Subscribed { lease: LEASE, heartbeat: Duration::from_millis(100), violations: 0 };
    // The number and the port of its only request.
    let header = Header { flags: 0, seq: 1, port: 1 };
    pair.tell(&[sealed(EPOCH + 1, &Message::Subscribed(granted), header)], now);
    assert!(!pair.client.has_contact(now));
    let later = now + Duration::from_millis(30);
    pair.converse(later);
    assert!(pair.client.has_contact(later), "the control");
}

/// Neither a heartbeat nor the grant itself: they would keep a contact alive that is dead.
#[test]
fn what_is_replayed_is_not_heard() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pair = Pair::new(start);
    let mut recorded = Vec::new();
    for ms in 0..150 {
        let requests = pair.requests(at(ms));
        pair.ask(&requests, at(ms));
        let answers = pair.answers(at(ms));
        pair.tell(&answers, at(ms));
        recorded.extend(answers);
    }
    let heard = pair.client.last_heard();
    assert!(heard >= Some(at(100)) && recorded.len() > 3);
    pair.tell(&recorded, at(400));
    assert_eq!(pair.client.last_heard(), heard);
}

/// The subscription has ended and begins again in the same run of the publisher, while the client went on waiting.
fn subscribe_again(pair: &mut Pair, now: Instant) {
    assert!(pair.answers(now - Duration::from_millis(1)).is_empty(), "its lease has ended");
    pair.converse(now);
    assert!(pair.client.has_contact(now) && !pair.client.is_stale());
}

#[test]
fn the_numbers_of_a_new_subscription_begin_anew_and_a_loss_among_them_is_noticed() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    for port in 10..60 {
        pair.publisher.publish_flow(&flow(port, 10), start);
        pair.converse(start);
    }
    let now = start + Duration::from_secs(3);
    subscribe_again(&mut pair, now);
    pair.publisher.publish_flow(&flow(2, 10), now);
    drop(pair.answers(now));
    pair.publisher.publish_flow(&flow(3, 10), now);
    let second = pair.answers(now);
    pair.tell(&second, now);
    assert!(pair.client.is_stale());
}

#[test]
fn what_changed_between_two_subscriptions_is_asked_for() {
    let start = Instant::now();
    let mut pair = Pair::watching(start);
    let next = Flow { instance: 2, ..flow(1, 5000) };
    let now = start + Duration::from_secs(3);
    drop(pair.answers(now - Duration::from_secs(1)));
    pair.publisher.publish_flow(&next, now - Duration::from_millis(800));
    subscribe_again(&mut pair, now);
    assert_eq!(pair.says(101, now), Status::Never(Reason::OtherConnection));
}

#[test]
fn the_number_of_watched_flows_is_bounded() {
    let now = Instant::now();
    let mut pair = Pair::new(now);
    let key = |number: u32| FlowKey::tcp((number.to_be_bytes(), 1).into(), ([10, 2, 0, 1], 80).into());
    pair.client.watches.extend((0..65_536).map(|number| (key(number), super::watch::Watch::new(key(number)))));
    assert!(!pair.client.watch(key(70_000), now));
    assert!(pair.client.watch(key(5), now), "it is watched already");
}

/// Whoever connects again from the same port asks again, and an answer about the earlier connection may still be on its way.
#[test]
fn an_answer_to_an_earlier_watch_says_nothing_about_the_next_connection() {
    let start = Instant::now();
    let later = start + Duration::from_millis(1);
    let mut pair = Pair::watching(start);
    pair.client.watch(flow(1, 0).key, start);
    let earlier = pair.requests(start);
    pair.ask(&earlier, start);
    let answer = pair.answers(start);
    pair.client.watch(flow(1, 0).key, later);
    pair.tell(&answer, later);
    assert_eq!(pair.says(100, later), Status::Pending(Reason::UnknownFlow));
    pair.converse(later);
    assert_eq!(pair.says(100, later), YES);
}

#[test]
fn what_is_told_to_another_run_of_the_client_is_not_heard() {
    let start = Instant::now();
    let later = start + Duration::from_millis(100);
    let mut pair = Pair::watching(start);
    let mut other = Core::new(key(1), Wish::default(), 8, start);
    let mut out = Vec::new();
    // An earlier run of it, from the same port.
    for _ in 0..3 {
        while other.poll_datagram(&mut out, start) {
            pair.publisher.handle_datagram(home(), &out, start);
        }
        pair.answers(start).iter().for_each(|datagram| other.handle_datagram(datagram, start));
    }
    assert!(other.has_contact(start));
    let told = pair.answers(later);
    assert_eq!(told.len(), 2);
    let heard = |pair: &Pair| pair.client.last_heard();
    let before = heard(&pair);
    let of_other: Vec<_> = told.into_iter().filter(|datagram| datagram[16] == 8).collect();
    assert_eq!(of_other.len(), 1);
    pair.tell(&of_other, later);
    assert_eq!(heard(&pair), before);
}
