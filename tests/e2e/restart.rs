//! Either side restarts while data flows: the transfer completes and nothing is delivered twice.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    appliance::{Appliance, Pair},
    datagrams::{Sink, Stream},
    streams,
    testbed::{MIRROR, PRIMARY, Testbed},
};

/// Ends and restarts the appliance that `choose` selects, during a transfer and a steady stream in each direction.
fn restart(choose: for<'p, 'g> fn(&'p mut Pair<'g>) -> &'p mut Appliance<'g>, go: fn(&mut Appliance<'_>)) {
    let testbed = Testbed::emulated("delay 5ms");
    let mut pair = Pair::start(&testbed, &[]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let sinks = [Sink::listen(&mirror, MIRROR[0]), Sink::listen(&primary, PRIMARY[1])];
    let interval = Duration::from_millis(4);
    let streams = [
        Stream::begin(&primary, sinks[0].address, 500, interval),
        Stream::begin(&mirror, sinks[1].address, 500, interval),
    ];
    thread::scope(|scope| {
        // Takes at least three seconds.
        let copy = scope.spawn(|| {
            let rest = Duration::from_millis(40);
            streams::copy_paced(&primary, &mirror, MIRROR[0], 3, 5_000_000, rest)
        });
        thread::sleep(Duration::from_millis(800));
        for sink in &sinks {
            assert!(sink.wait_for(20), "{} datagrams came to {}: {}", sink.count(), sink.address, last_hops(&testbed));
        }
        let appliance = choose(&mut pair);
        go(appliance);
        thread::sleep(Duration::from_millis(300));
        let back = Instant::now();
        appliance.start();
        for (sink, direction) in sinks.iter().zip(["forth", "back"]) {
            let deadline = back + Duration::from_secs(10);
            let healed = loop {
                if let Some(when) = sink.arrived().when.into_iter().find(|when| *when > back) {
                    break when - back;
                }
                assert!(Instant::now() < deadline, "{direction}: no datagram for ten seconds after the restart");
                thread::sleep(Duration::from_millis(5));
            };
            println!("{direction}: healed {healed:?} after the process was started");
            assert!(healed < Duration::from_secs(3), "{direction}: {healed:?}");
        }
        copy.join().unwrap();
    });
    let sent = streams.map(Stream::end);
    thread::sleep(Duration::from_millis(100));
    for (sink, sent) in sinks.iter().zip(sent) {
        let arrived = sink.arrived();
        arrived.assert_once();
        assert!(
            arrived.times.len() as u64 <= sent && arrived.times.len() as u64 > sent / 2,
            "{} of {sent}",
            sink.count()
        );
    }
    pair.wait_up();
}

/// The state of the kernels at the sites, to explain a datagram that an appliance delivered and that did not arrive.
fn last_hops(testbed: &Testbed) -> String {
    let look = "ip -6 neigh; ip -6 addr; grep -v '\\b0$' /proc/net/snmp6";
    let of =
        |node: &str| format!("--- {node}\n{}", testbed.run(node, &["sh", "-c", look]).unwrap_or_else(|error| error));
    ["primary", "ithaca", "syracuse", "mirror"].map(of).join("\n")
}

#[test]
fn a_transfer_survives_a_kill_of_the_near_side() {
    restart(|pair| &mut pair.ithaca, |appliance| appliance.kill());
}

#[test]
fn a_transfer_survives_a_kill_of_the_far_side() {
    restart(|pair| &mut pair.syracuse, |appliance| appliance.kill());
}

#[test]
fn a_transfer_survives_a_restart_of_the_near_side() {
    restart(|pair| &mut pair.ithaca, |appliance| assert!(appliance.terminate().0.success()));
}

#[test]
fn a_transfer_survives_a_restart_of_the_far_side() {
    restart(|pair| &mut pair.syracuse, |appliance| assert!(appliance.terminate().0.success()));
}
