//! `onwire wait`, `flows` and `watch` beside a running appliance, about real sockets: every byte is counted.

use std::{io::Write, net::TcpStream};

use onwire::notify::{client::Client, message::LinkState};
use serde_json::{Value, json};

use crate::{
    datagrams::{Sink, datagram, sender},
    protected_site::{
        Background, client, connect, listener, notifying_pair, protected, run, text, wait_link, wait_until,
        write_protected,
    },
    testbed::{MIRROR, Testbed},
};

/// The single JSON value that a command printed.
fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The number of bytes written into a connection so far.
fn written(stream: &TcpStream) -> u64 {
    Client::flow_of(stream).unwrap().written
}

#[test]
fn wait_returns_before_data_reaches_the_mirror_and_otherwise_names_the_reason() {
    // An acknowledgement arrives after a round trip of 1.2 seconds.
    let testbed = Testbed::emulated("delay 600ms");
    let (mut pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut streams = MIRROR.map(|at| connect(&testbed, listener(&testbed, at)));
    for (stream, at) in streams.iter_mut().zip(MIRROR) {
        let mut levels = Vec::new();
        for round in 1..=5 {
            stream.write_all(&vec![round; 3001 * usize::from(round)]).unwrap();
            let output = run(&testbed, &["wait", "--to", at, "--json"]);
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
            let answer = json_of(&output);
            assert_eq!(answer["flows"].as_array().unwrap().len(), 1, "{answer}");
            let flow = &answer["flows"][0];
            assert_eq!((&flow["bytes"], &flow["missing"]), (&json!(written(stream)), &json!(0)), "{answer}");
            levels.push(answer["level"].as_str().unwrap().to_owned());
        }
        // Now and then a busy machine takes as long as the mirror.
        assert!(levels.iter().any(|level| level == "on_wire"), "{at}: {levels:?}");
    }
    let output = run(&testbed, &["wait", "--to", MIRROR[1], "--level", "acked"]);
    assert!(text(&output.stdout).starts_with("protected (acked): 45,015 bytes of 1 connection"), "{output:?}");

    testbed.wan().tell("blackhole").unwrap();
    wait_link(&mut client, LinkState::Degraded);
    streams[0].write_all(&[9; 1234]).unwrap();
    let arguments = ["wait", "--to", MIRROR[0], "--timeout", "1s"];
    let output = run(&testbed, &arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let words = text(&output.stderr);
    assert!(words.contains("not protected within 1s") && words.contains("the link is degraded: no reports"), "{words}");
    assert!(words.contains("  1,234 of 46,249 bytes are not protected"), "{words}");
    let output = run(&testbed, &["wait", "--to", MIRROR[1], "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(0), "what is acknowledged needs no link: {output:?}");

    testbed.wan().tell("open").unwrap();
    wait_link(&mut client, LinkState::Up);
    assert_eq!(run(&testbed, &["wait", "--to", MIRROR[0]]).status.code(), Some(0));

    pair.ithaca.kill();
    streams[0].write_all(&[9; 77]).unwrap();
    let output = run(&testbed, &["wait", "--to", MIRROR[0], "--timeout", "10s"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).contains("the appliance at 10.1.0.254:7118 does not answer"), "{output:?}");
}

#[test]
fn flows_counts_the_bytes_of_tcp_and_the_packets_of_udp() {
    let testbed = Testbed::emulated("delay 2ms");
    let (_pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut expected = Vec::new();
    let mut kept = Vec::new();
    for (number, at) in (1..).zip(MIRROR) {
        for _ in 0..3 {
            let mut stream = connect(&testbed, listener(&testbed, at));
            // An odd number, and more than any super-packet holds.
            write_protected(&mut client, &mut stream, &vec![7; 100_001 * number]);
            let flow = Client::flow_of(&stream).unwrap();
            assert_eq!(flow.written, 100_001 * number as u64);
            expected.push((flow.key.source.to_string(), "tcp", flow.written, Value::Null));
            kept.push(stream);
        }
        let sink = Sink::listen(&testbed.node("mirror"), at);
        let socket = sender(&testbed.node("primary"), sink.address);
        for sent in 1..=40 {
            socket.send(&datagram(sent, 500)).unwrap();
            assert!(sink.wait_for(sent as usize));
        }
        expected.push((socket.local_addr().unwrap().to_string(), "udp", 40 * 500, json!(40)));
    }
    // Everything was answered or has arrived, so all of it has left; at most the notification is still in flight.
    let shown = |arguments: &[&str]| -> Vec<Value> {
        let output = run(&testbed, arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_value(json_of(&output)["flows"].clone()).unwrap()
    };
    let flows = shown(&["flows", "--json"]);
    assert_eq!(flows.len(), expected.len(), "{flows:#?}");
    for (source, protocol, bytes, packets) in &expected {
        let port = source.rsplit(':').next().unwrap();
        let is_it = |flow: &&Value| {
            flow["protocol"] == *protocol && flow["source"].as_str().unwrap().ends_with(&format!(":{port}"))
        };
        let flow = flows.iter().find(is_it).unwrap_or_else(|| panic!("{source} in {flows:#?}"));
        assert_eq!((&flow["on_wire"], &flow["packets"]), (&json!(bytes), packets), "{flow:#}");
        assert_eq!((&flow["origin"], &flow["level"]), (&json!("start"), &json!("on_wire")), "{flow:#}");
        assert_eq!((&flow["peer_name"], &flow["link_state"]), (&json!("syracuse"), &json!("up")), "{flow:#}");
        assert_eq!(&flow["violated"], &Value::Null, "{flow:#}");
    }
    assert_eq!(shown(&["flows", "--json", "--to", MIRROR[1]]).len(), 4);
    for stream in &kept {
        protected(&mut client, stream);
    }
}

#[test]
fn watch_shows_the_events_of_a_flow_and_of_the_link() {
    let testbed = Testbed::emulated("delay 2ms");
    let (pair, secret) = notifying_pair(&testbed, &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let watch = Background::start(&testbed, &["watch", "--json", "--protocol", "tcp", "--for", "40s"]);
    let six = Background::start(&testbed, &["watch", "--json", "--count", "6"]);
    let to = listener(&testbed, MIRROR[0]);
    // `watch` runs once the appliance has three subscribers.
    wait_until(&mut client, "three subscribers", |_| {
        pair.ithaca.status().notify.is_some_and(|notify| notify.subscribers == 3)
    });
    let mut stream = connect(&testbed, to);
    let mut total = 0;
    for size in [200, 30_000, 1] {
        write_protected(&mut client, &mut stream, &vec![1; size]);
        total += size;
    }
    let source = stream.local_addr().unwrap().to_string();
    drop(stream);
    testbed.wan().tell("blackhole").unwrap();
    wait_link(&mut client, LinkState::Degraded);
    testbed.wan().tell("open").unwrap();
    wait_link(&mut client, LinkState::Up);
    assert_eq!(six.objects().len(), 6, "as many lines as were asked for");
    let lines = watch.objects();
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let flow: Vec<_> = of("flow").into_iter().filter(|line| line["source"] == *source).collect();
    assert_eq!(flow[0]["event"], "new", "{flow:#?}");
    let events: Vec<_> = flow.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events.iter().filter(|event| **event == "gone").count(), 1, "{events:?}");
    assert_eq!(
        (flow.last().unwrap()["event"].as_str(), &flow.last().unwrap()["gone_reason"]),
        (Some("gone"), &json!("closed"))
    );
    let positions: Vec<u64> = flow.iter().filter_map(|line| line["on_wire"].as_u64()).collect();
    assert!(positions.is_sorted() && positions.last() == Some(&(total as u64)), "{positions:?}");
    assert!(flow.iter().all(|line| line["instance"] == flow[0]["instance"]), "{flow:#?}");
    let links: Vec<_> = of("link").iter().map(|line| line["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        (links.first().map(String::as_str), links.last().map(String::as_str)),
        (Some("up"), Some("up")),
        "{links:?}"
    );
    let degraded = of("link").into_iter().find(|line| line["state"] == "degraded").expect("it was degraded");
    assert_eq!(degraded["reason"], "no reports");
}
