//! Over a lossy WAN: recoverable loss is invisible to the sites, and of an unrecoverable block the complete packets are
//! delivered.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    appliance::Pair,
    datagrams::{Sink, Stream},
    streams,
    testbed::{MIRROR, PRIMARY, Testbed},
};

/// More than twelve of 76 datagrams are lost once in 250 million blocks at 2 %.
fn generous() -> [(&'static str, Value); 1] {
    [("/redundancy/steady", json!({ "block_symbols": 64, "repair": { "fixed": 12, "assume_loss": "2%" } }))]
}

#[test]
fn tcp_does_not_notice_two_percent_of_loss() {
    let testbed = Testbed::emulated("delay 5ms, loss 2%");
    let pair = Pair::start(&testbed, &generous());
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let (tcp, truth) = (testbed.tcp("primary"), testbed.wan().truth().unwrap());
    for at in MIRROR {
        streams::copy(&primary, &mirror, at, 3, 5_000_000);
    }
    let tcp = testbed.tcp("primary").since(&tcp);
    let truth = testbed.wan().truth().unwrap().since(&truth);
    assert!(truth.forth.lost.chance > 200, "the control: {truth:?}");
    for appliance in [&pair.ithaca, &pair.syracuse] {
        let received = appliance.status().peers[0].received;
        assert_eq!(received.unrecoverable_blocks, 0, "{received:?}");
    }
    // Back go a few acknowledgements with much repair: whether a source symbol of them is lost is chance.
    let received = pair.syracuse.status().peers[0].received;
    assert!(received.recovered_symbols > 0, "{received:?}");
    // Datagrams in flight between the two queries count on one side only.
    assert!(received.lost.abs_diff(truth.forth.lost.total()) < 40, "{received:?} and {truth:?}");
    // A busy machine delays an acknowledgement now and then; the WAN lost ten times as many datagrams.
    assert!(tcp.retransmitted <= 20 + tcp.sent / 500, "{tcp:?}");
}

#[test]
fn long_blocks_recover_bursts() {
    // Bursts of five on average, and 1 % of all datagrams.
    let testbed = Testbed::emulated("delay 2ms, loss bursts 0.2% 20%");
    let steady = json!({ "block_symbols": 256, "close_after": "5ms", "repair": { "fixed": 60, "assume_loss": "5%" } });
    let pair = Pair::start(&testbed, &[("/redundancy/steady", steady)]);
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 2, 8_000_000);
    let received = pair.syracuse.status().peers[0].received;
    assert!(received.recovered_symbols > 20, "{received:?}");
    assert!(received.burst_lengths[2..].iter().sum::<u64>() > 3, "runs of three and more were seen: {received:?}");
    // A burst can be longer than any code repairs; a rare one is no error.
    assert!(received.unrecoverable_blocks * 100 <= received.blocks, "{received:?}");
}

#[test]
fn nothing_arrives_twice_or_damaged_over_a_hostile_wan() {
    let hostile = "delay 3ms, jitter 1ms, loss 1%, duplicate 3%, corrupt 1%, reorder 3%, reorder_delay 2ms";
    for ordering in ["strict", "none"] {
        let testbed = Testbed::emulated(hostile);
        let mut changes = generous().to_vec();
        changes.push(("/delivery", json!({ "ordering": ordering })));
        let pair = Pair::start(&testbed, &changes);
        let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
        let sink = Sink::listen(&mirror, MIRROR[0]);
        let stream = Stream::begin(&primary, sink.address, 900, Duration::from_millis(1));
        streams::copy(&primary, &mirror, MIRROR[0], 2, 3_000_000);
        streams::copy(&mirror, &primary, PRIMARY[1], 2, 1_000_000);
        let sent = stream.end();
        assert!(sink.wait_for(sent as usize - sent as usize / 100), "{ordering}: {} of {sent} came", sink.count());
        sink.arrived().assert_once();
        assert!(pair.syracuse.drops("replayed") > 0 && pair.syracuse.drops("bad_tag") > 0);
    }
}

#[test]
fn late_datagrams_extend_the_hold_time_and_no_block_is_lost() {
    // Delayed for up to three times `hold`, and more datagrams of each block than it has repair symbols.
    let testbed = Testbed::emulated("delay 5ms, reorder 30%, reorder_delay 60ms");
    let bounded = |hold_max: &str| [("/delivery", json!({ "hold": "20ms", "hold_max": hold_max }))];
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let given_up = |pair: &Pair<'_>| {
        streams::copy(&primary, &mirror, MIRROR[0], 1, 1_000_000);
        let before = pair.syracuse.status().peers[0].received;
        streams::copy(&primary, &mirror, MIRROR[0], 1, 4_000_000);
        let after = pair.syracuse.status().peers[0].received;
        assert!(after.lost <= before.lost + 100, "what is late is not lost: {before:?}, {after:?}");
        (after.unrecoverable_blocks - before.unrecoverable_blocks, after)
    };
    let mut pair = Pair::start(&testbed, &bounded("250ms"));
    let (blocks, received) = given_up(&pair);
    assert_eq!(blocks, 0, "{received:?}");
    let hold = received.hold_ms.unwrap();
    assert!((60.0..250.0).contains(&hold), "{received:?}");
    pair.reconfigure(&bounded("20ms"), &bounded("20ms"));
    let (blocks, received) = given_up(&pair);
    assert!(blocks > 0, "the control: {received:?}");
    assert_eq!(received.hold_ms, Some(20.0));
}

#[test]
fn complete_packets_of_an_unrecoverable_block_are_delivered() {
    let testbed = Testbed::emulated("delay 2ms");
    let steady =
        json!({ "block_symbols": 32, "close_when_idle": "5ms", "close_after": "5ms", "repair": { "fixed": 1 } });
    let pair = Pair::start(&testbed, &[("/redundancy/steady", steady)]);
    testbed.wan().tell("set forth loss 30%").unwrap();
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    let stream = Stream::begin(&testbed.node("primary"), sink.address, 1000, Duration::from_micros(500));
    std::thread::sleep(Duration::from_secs(2));
    let sent = stream.end();
    std::thread::sleep(Duration::from_millis(300));
    let received = pair.syracuse.status().peers[0].received;
    assert!(received.unrecoverable_blocks > 20 && received.residual_loss > 0.2, "{received:?}");
    let arrived = sink.count() as f64 / sent as f64;
    // About 70 % arrive by themselves; without this delivery nearly every block would be lost completely.
    assert!((0.5..0.95).contains(&arrived), "{arrived} of {sent} arrived: {received:?}");
    sink.arrived().assert_once();
    // Without loss everything works again.
    testbed.wan().tell("set forth loss 0%").unwrap();
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[1], 2, 1_000_000);
}
