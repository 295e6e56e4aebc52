//! All flows reported again: after an overflow of events, and before a violation of a forgotten block.

use super::*;

/// Sends one packet of a UDP flow from this port, in block 0.
fn flow_from(bench: &mut Bench, port: u16) {
    let mut datagram = samples::udp(10);
    datagram[..2].copy_from_slice(&port.to_be_bytes());
    bench.packet = samples::ipv4(UDP, &[], &datagram);
    bench.view = PacketView::parse(&bench.packet).unwrap();
    bench.packet(0);
}

#[test]
fn all_flows_are_reported_again_after_more_news_than_may_wait() {
    let mut bench = Bench::up();
    // More new flows than the table keeps events for, while nothing is read.
    let flows = 5_000;
    (1..=flows).for_each(|port| flow_from(&mut bench, port));
    let mut reported = std::collections::HashSet::new();
    let mut again = 0;
    for notification in bench.notifications() {
        if let Notification::Flow { state, event, .. } = notification {
            reported.insert(state.id);
            again += usize::from(event == Event::Protected);
        }
    }
    assert_eq!((reported.len(), again), (usize::from(flows), usize::from(flows)));
}

#[test]
fn all_flows_are_reported_before_a_violation_of_a_forgotten_block() {
    let mut bench = Bench::tcp();
    bench.leave(0);
    fill(&mut bench, 1);
    flow_from(&mut bench, 1);
    bench.notifications();
    bench.hear(vec![run(0, 1, 0)], 0, 1);
    let reported = bench.notifications();
    let at = reported.iter().position(|it| matches!(it, Notification::Violation(_))).expect("a violation");
    let (before, Notification::Violation(lost)) = (&reported[..at], &reported[at]) else { panic!("{reported:?}") };
    assert!(lost.forgotten, "{lost:?}");
    for state in bench.protection.flows().flows() {
        let is_report = |it: &&Notification| matches!(it, Notification::Flow { state: of, .. } if of.id == state.id);
        assert!(before.iter().any(|it| is_report(&it)), "{:?} is not reported: {reported:?}", state.id);
    }
}

#[test]
fn the_beginning_of_a_flow_never_follows_a_newer_report_of_it() {
    let mut bench = Bench::up();
    (1..=5_000).for_each(|port| flow_from(&mut bench, port));
    // A reader that stops in the midst of the refresh, while another flow begins.
    while !matches!(bench.protection.poll_notification(), Some(Notification::Flow { event: Event::Protected, .. })) {}
    flow_from(&mut bench, 6_000);
    let newest = bench.protection.flows().flows().map(|state| state.id).max_by_key(|id| id.instance()).unwrap();
    let mut events = Vec::new();
    for notification in bench.notifications() {
        match notification {
            Notification::Flow { state, event, .. } if state.id == newest => events.push(event),
            _ => {}
        }
    }
    assert_eq!(events, [Event::New, Event::Protected]);
}
