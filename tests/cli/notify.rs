//! `onwire watch`, `onwire wait` and `onwire flows`, run as a user runs them: real connections on the loopback, and a
//! publisher that sends what the test orders.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::appliance::{Appliance, Order, secret};
use crate::tshark::tshark;
use onwire::config::key_file;
use onwire::notify::client::Client;
use onwire::notify::message::*;
use onwire::tunnel::keys::PrivateKey;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// An appliance, and the key file that its users have.
struct Publishing {
    appliance: Appliance,
    folder: tempfile::TempDir,
}

impl Publishing {
    fn start(address: &str) -> Publishing {
        let folder = tempfile::tempdir().unwrap();
        key_file::write(&folder.path().join("notify.key"), &secret().to_text()).unwrap();
        Publishing { appliance: Appliance::at(address.parse().unwrap(), 42), folder }
    }

    fn publish(&self, order: Order) {
        self.appliance.order(order);
    }

    fn publish_flow(&self, flow: Flow) {
        self.publish(Order::Flow(Box::new(flow)));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onwire"));
        command.args(arguments).env("ONWIRE_NOTIFY", self.appliance.address.to_string());
        command.env("ONWIRE_NOTIFY_KEY", self.path("notify.key"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same again while a busy machine gives them no contact within a short timeout.
    fn run_in_contact(&self, arguments: &[&str]) -> Output {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let output = self.run(arguments);
            if code(&output) != Some(3) || Instant::now() > deadline {
                return output;
            }
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

/// What `onwire flows --json` shows.
fn flows_of(output: &Output) -> Vec<Value> {
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["schema_version"], 1, "{shown}");
    shown["flows"].as_array().expect("flows are a list").clone()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn link(state: LinkState, reason: StateReason) -> Order {
    Order::State(Peer { id: 1, name: Some("syracuse".into()), state, reason })
}

fn flow(key: FlowKey, on_wire: Option<u64>) -> Flow {
    Flow {
        key,
        instance: 1,
        peer: 1,
        event: Event::Protected,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(1),
        positions: Positions { on_wire, ..Positions::default() },
        violated: None,
        packets: None,
        cookie: None,
        block: Some((32, 4)),
        survives_burst: 0,
    }
}

/// A connection whose far end reads nothing: part of the bytes written is not acknowledged.
struct Stuffed {
    stream: TcpStream,
    other: TcpStream,
    key: FlowKey,
    written: u64,
    to: String,
}

fn stuffed() -> Stuffed {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    let (other, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(count) = stream.write(&[7; 100_000]) {
        written += count as u64;
    }
    assert_eq!(Client::flow_of(&stream).unwrap().written, written);
    let key = Client::flow_of(&stream).unwrap().key;
    Stuffed { stream, other, key, written, to: at.to_string() }
}

#[test]
fn wait_returns_when_every_byte_is_protected_and_not_one_earlier() {
    let appliance = Publishing::start("127.0.0.1:0");
    let sent = stuffed();
    appliance.publish(link(LinkState::Up, StateReason::None));
    appliance.publish_flow(flow(sent.key, Some(sent.written - 1)));
    let short = ["wait", "--to", &sent.to, "--timeout", "300ms"];
    let output = appliance.run_in_contact(&short);
    assert_eq!(code(&output), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("not protected within 300ms"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("  1 of "), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());

    let mut child =
        appliance.command(&["wait", "--to", &sent.to]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "a byte is missing");
    appliance.publish_flow(flow(sent.key, Some(sent.written)));
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), Some(0));
    assert!(text(&output.stdout).starts_with("protected (on_wire): "), "{}", text(&output.stdout));

    // The appliance offers no higher level than this one.
    let output =
        appliance.run_in_contact(&["wait", "--to", &sent.to, "--timeout", "300ms", "--level", "acked", "--json"]);
    assert_eq!(code(&output), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["protected"], &told["flows"][0]["bytes"]), (&Value::from(false), &Value::from(sent.written)));
    assert_eq!(told["flows"][0]["reason"], "the appliance can say no more than on_wire");
    drop(sent.stream);
}

#[test]
fn wait_prints_the_reason_when_bytes_are_not_protected() {
    let appliance = Publishing::start("127.0.0.1:0");
    let sent = stuffed();
    let arguments = ["wait", "--to", &sent.to, "--timeout", "300ms"];
    let said = |wanted: &str| {
        let output = appliance.run_in_contact(&arguments);
        let words = text(&output.stderr).to_owned();
        assert!(code(&output) == Some(1) && words.contains(wanted), "{wanted}:\n{words}");
    };
    said("the appliance has not seen this flow");
    appliance.publish(link(LinkState::Degraded, StateReason::NoReports));
    appliance.publish_flow(flow(sent.key, Some(10)));
    said("the link is degraded: no reports");
    appliance.publish_flow(flow(sent.key, Some(sent.written)));
    appliance.publish(Order::Violation(1, Range { key: sent.key, instance: 1, start: 0, end: 5 }));
    said("lost on the path");
    // The same addresses, and more than this socket has taken.
    appliance.publish_flow(Flow { instance: 2, ..flow(sent.key, Some(sent.written + 1)) });
    said("another connection");
}

#[test]
fn wait_without_an_appliance_ends_with_3_and_with_acknowledged_bytes_with_0() {
    let appliance = Publishing::start("127.0.0.1:0");
    let unused = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut sent = stuffed();
    let arguments = ["wait", "--notify", &unused, "--to", &sent.to, "--timeout", "20s"];
    let begin = Instant::now();
    let output = appliance.run(&arguments);
    assert_eq!(code(&output), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&format!("{unused} does not answer")), "{}", text(&output.stderr));
    assert!(begin.elapsed() < Duration::from_secs(15), "it need not wait for the whole timeout");

    sent.other.read_exact(&mut vec![0; sent.written as usize]).unwrap();
    let output = appliance.run(&arguments);
    assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("protected (acked): "), "{}", text(&output.stdout));
}

#[test]
fn wait_demands_that_an_interruption_is_survived_or_does_not_wait_for_late_repair() {
    let appliance = Publishing::start("127.0.0.1:0");
    let sent = stuffed();
    appliance.publish(link(LinkState::Up, StateReason::None));
    let promise = |on_wire, survives_burst| {
        let positions = Positions { early: Some(sent.written), on_wire: Some(on_wire), ..Positions::default() };
        appliance.publish_flow(Flow { positions, survives_burst, ..flow(sent.key, None) });
    };
    let wait = |more: &[&str]| appliance.run(&[&["wait", "--to", &sent.to, "--timeout", "2s"][..], more].concat());
    promise(sent.written - 1, 2000);
    let output = wait(&["--survive-burst", "0ms"]);
    assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("protected (early): "), "{}", text(&output.stdout));
    for more in [&[][..], &["--survive-burst", "2ms"]] {
        let output = wait(more);
        assert_eq!(code(&output), Some(1), "late repair of a byte has not left: {more:?}");
        assert!(text(&output.stderr).contains("  1 of "), "{}", text(&output.stderr));
    }

    promise(sent.written, 2000);
    for more in [&[][..], &["--survive-burst", "2ms"]] {
        let output = wait(more);
        assert_eq!(code(&output), Some(0), "{more:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with("protected (on_wire): "), "{}", text(&output.stdout));
    }
    let output = wait(&["--survive-burst", "2001us"]);
    let words = text(&output.stderr);
    assert_eq!(code(&output), Some(1), "{words}");
    assert!(words.contains("promises to survive an interruption of 2ms, not a longer one"), "{words}");
    assert!(words.contains("  = raise `survive_burst` of their profile under `redundancy`"), "{words}");
    let told: Value = serde_json::from_slice(&wait(&["--survive-burst", "2001us", "--json"]).stdout).unwrap();
    let flow = &told["flows"][0];
    assert_eq!((&told["protected"], &flow["survives_burst_us"]), (&json!(false), &json!(2000)), "{told}");
    // Only what the far end has acknowledged.
    assert!(flow["protected"].as_u64().unwrap() < sent.written, "{told}");

    // There is one way to say it.
    for (arguments, wanted) in [
        (&["--level", "early"][..], "--survive-burst 0ms"),
        (&["--level", "acked", "--survive-burst", "2ms"], "cannot be used with"),
        (&["--survive-burst", "2"], "2ms"),
    ] {
        let output = wait(arguments);
        assert_eq!(code(&output), Some(2));
        assert!(text(&output.stderr).contains(wanted), "{}", text(&output.stderr));
    }
}

#[test]
fn late_repair_and_its_promise_are_shown_where_a_profile_has_them() {
    let appliance = Publishing::start("127.0.0.1:0");
    let key = |port: u16| FlowKey::tcp(([10, 1, 0, 1], port).into(), ([10, 2, 0, 1], 5432).into());
    appliance.publish_flow(flow(key(1), Some(500)));
    let plain = appliance.run(&["flows"]);
    assert!(!text(&plain.stdout).contains("early") && !text(&plain.stdout).contains("survives"), "{plain:?}");
    let positions = Positions { early: Some(7777), on_wire: Some(500), ..Positions::default() };
    let late = Flow { instance: 2, positions, survives_burst: 1500, ..flow(key(2), None) };
    appliance.publish_flow(late);
    let output = appliance.run(&["flows"]);
    for part in ["early", "survives", "7,777", "1500us"] {
        assert!(text(&output.stdout).contains(part), "{part}: {}", text(&output.stdout));
    }
    let told = flows_of(&appliance.run(&["flows", "--json"]));
    let shown: Vec<_> =
        told.iter().map(|flow| (&flow["early"], &flow["on_wire"], &flow["survives_burst_us"])).collect();
    assert_eq!(shown, [(&Value::Null, &json!(500), &json!(0)), (&json!(7777), &json!(500), &json!(1500))]);
    let output = appliance.run(&["watch", "--count", "3", "--for", "10s"]);
    let line = text(&output.stdout).lines().find(|line| line.contains(":2 ")).unwrap_or_default().to_owned();
    assert!(line.contains("on_wire 500  early 7,777") && line.contains("survives 1500us"), "{output:?}");
}

/// Checks what `wait` prints about a host, and its exit code; its message must contain `wanted`.
fn nothing_to_wait_for(appliance: &Publishing, to: &str, open: usize, wanted: &str) {
    for option in [&[][..], &["--require"]] {
        let output = appliance.run(&[&["wait", "--to", to][..], option].concat());
        let words = text(&output.stderr);
        assert_eq!((code(&output), output.stdout.is_empty()), (Some(4), true), "{option:?}: {words}");
        assert!(words.contains(wanted) && words.contains("--allow-none"), "{wanted}:\n{words}");
    }
    let output = appliance.run(&["wait", "--to", to, "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(code(&output), Some(4));
    let fields = (&told["protected"], &told["flows"], &told["open"], &told["level"]);
    assert_eq!(fields, (&json!(false), &json!([]), &json!(open), &Value::Null), "{told}");
    assert!(told["reason"].as_str().unwrap().contains(wanted), "{told}");

    let output = appliance.run(&["wait", "--to", to, "--allow-none"]);
    assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("nothing to wait for: "), "{}", text(&output.stdout));
    let output = appliance.run(&["wait", "--to", to, "--allow-none", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &told["protected"]), (Some(0), &json!(false)), "nothing is protected either");
}

#[test]
fn wait_does_not_succeed_when_there_is_nothing_to_wait_for() {
    let appliance = Publishing::start("127.0.0.1:0");
    appliance.publish(link(LinkState::Up, StateReason::None));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    nothing_to_wait_for(&appliance, &to, 0, "no open TCP connection of this host goes to");

    let mut stream = TcpStream::connect(&to).unwrap();
    let (mut other, _) = listener.accept().unwrap();
    nothing_to_wait_for(&appliance, &to, 1, "has sent nothing");

    // A connection that has ended was acknowledged; a script that asks now does not mean it.
    stream.write_all(b"all of it arrives").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    other.read_to_end(&mut Vec::new()).unwrap();
    drop(other);
    stream.read_to_end(&mut Vec::new()).unwrap();
    drop(stream);
    let output = appliance.run(&["wait", "--to", &to]);
    assert_eq!(code(&output), Some(4), "{output:?}");
    assert!(text(&output.stderr).contains("ended, and what has ended is not counted"), "{output:?}");
}

#[test]
fn wait_does_not_succeed_when_the_appliance_knows_only_other_connections() {
    let appliance = Publishing::start("127.0.0.1:0");
    appliance.publish(link(LinkState::Up, StateReason::None));
    let (sent, other) = (stuffed(), stuffed());
    appliance.publish_flow(flow(other.key, Some(u64::MAX / 2)));
    let output = appliance.run_in_contact(&["wait", "--to", &sent.to, "--timeout", "400ms"]);
    assert_eq!(code(&output), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("has not seen this flow"), "{output:?}");
    // An empty list of flows is printed as such.
    for (arguments, wanted) in
        [(&["flows", "--to", &sent.to][..], "no flows"), (&["flows", "--to", &sent.to, "--json"], "\"flows\": []\n}")]
    {
        let output = appliance.run(arguments);
        assert!(code(&output) == Some(0) && text(&output.stdout).ends_with(wanted), "{output:?}");
    }
}

#[test]
fn flows_are_shown_as_received_and_a_violated_one_stands_out() {
    let appliance = Publishing::start("127.0.0.1:0");
    let key = |port: u16| FlowKey::tcp(([10, 1, 0, 1], port).into(), ([10, 2, 0, 1], 5432).into());
    appliance.publish(link(LinkState::Up, StateReason::None));
    for port in 1..=200 {
        appliance.publish_flow(Flow { cookie: (port == 7).then_some(99), ..flow(key(port), Some(1_000_000)) });
    }
    let other =
        FlowKey { protocol: 17, source: "[fd00::1]:53".parse().unwrap(), destination: "[fd00::2]:53".parse().unwrap() };
    appliance.publish_flow(Flow { origin: Origin::Middle, packets: Some(3), ..flow(other, Some(12)) });
    appliance.publish(Order::Violation(1, Range { key: key(9), instance: 1, start: 40, end: 60 }));
    // The publisher sends one per turn of its loop; the violation comes last.
    let deadline = Instant::now() + Duration::from_secs(30);
    let told = loop {
        let output = appliance.run(&["flows", "--json"]);
        assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
        let told = flows_of(&output);
        if told.iter().any(|flow| !flow["violated"].is_null()) || Instant::now() > deadline {
            break told;
        }
    };
    assert_eq!(told.len(), 201);
    let of = |source: &str| told.iter().find(|flow| flow["source"] == source).unwrap();
    assert_eq!((&of("10.1.0.1:7")["cookie"], &of("10.1.0.1:9")["violated"]), (&Value::from(99), &Value::from(40)));
    assert_eq!(
        (&of("[fd00::1]:53")["origin"], &of("[fd00::1]:53")["packets"]),
        (&Value::from("middle"), &Value::from(3))
    );
    assert_eq!(
        (&of("10.1.0.1:9")["peer_name"], &of("10.1.0.1:9")["link_state"]),
        (&Value::from("syracuse"), &Value::from("up"))
    );

    let output = appliance.run(&["flows", "--to", "10.2.0.1:5432"]);
    let table = text(&output.stdout);
    assert_eq!(table.matches("10.1.0.1:").count(), 200, "{table}");
    assert!(table.contains("VIOLATED from 40") && table.contains("1,000,000") && !table.contains("fd00"), "{table}");
    assert_eq!(text(&appliance.run(&["flows", "--to", "10.9.9.9"]).stdout), "no flows");
}

#[test]
fn watch_shows_each_change_once_and_captures_all_datagrams() {
    // The port that the dissector knows, at an address that no other test uses.
    let appliance = Publishing::start("127.71.18.1:7118");
    let key = FlowKey::tcp("10.1.0.1:4000".parse().unwrap(), "10.2.0.1:5432".parse().unwrap());
    let hidden = FlowKey::tcp("10.1.0.1:4001".parse().unwrap(), "10.2.0.9:80".parse().unwrap());
    appliance.publish(link(LinkState::Up, StateReason::None));
    appliance.publish_flow(Flow { event: Event::New, ..flow(key, None) });
    let capture = appliance.path("notify.pcap");
    let arguments = ["watch", "--json", "--blocks", "--to", "10.2.0.1", "--for", "3s", "--pcap"];
    let mut command = appliance.command(&arguments);
    let child = command.arg(&capture).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    appliance.publish_flow(flow(hidden, Some(1)));
    appliance.publish_flow(flow(key, Some(65_536)));
    let range = Range { key, instance: 1, start: 0, end: 100 };
    let block =
        Block { peer: 1, lane: 0, profile: 0, sbn: 91, k: 32, m: 4, level: Some(Level::OnWire), ranges: vec![range] };
    appliance.publish(Order::Block(block));
    appliance.publish(Order::Violation(1, Range { start: 40, end: 60, ..range }));
    appliance.publish(link(LinkState::Degraded, StateReason::Violation));
    std::thread::sleep(Duration::from_millis(500));
    appliance.publish(Order::Silence);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), Some(0));

    let lines: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let contact = kinds("contact");
    assert_eq!(contact.iter().map(|line| line["contact"].clone()).collect::<Vec<_>>(), [true, false]);
    assert!(contact.iter().all(|line| line["epoch"] == "000000000000002a"), "{contact:?}");
    // A lease is one second, and was renewed at most a quarter second before the last heartbeat.
    assert!(contact[1]["silent_s"].as_f64().unwrap() >= 0.5, "{contact:?}");
    let positions: Vec<&Value> = kinds("flow").iter().map(|line| &line["on_wire"]).collect();
    assert_eq!(positions[..2], [&Value::Null, &Value::from(65_536)], "{lines:#?}");
    // The violation also changes the flow; nothing is repeated.
    assert_eq!(kinds("flow").len(), 3, "{lines:#?}");
    assert_eq!(kinds("flow")[2]["violated"], 40);
    assert_eq!(kinds("violation").len(), 1);
    assert_eq!(
        (&kinds("violation")[0]["ranges"][0]["start"], &kinds("block")[0]["sbn"]),
        (&Value::from(40), &Value::from(91))
    );
    let links: Vec<&str> = kinds("link").iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(links, ["up", "degraded"]);
    assert!(lines.iter().all(|line| line["at_s"].as_f64().unwrap() > 1e9 && line["schema_version"] == 1));

    let decoded = tshark(&capture, &["-T", "fields", "-e", "ip.src", "-e", "_ws.col.Info", "-e", "_ws.malformed"]);
    let info: Vec<&str> = decoded.lines().collect();
    assert!(info.len() > 10 && info.iter().all(|line| line.starts_with("127.71.18.1\t")), "{decoded}");
    for kind in ["CHALLENGE", "SUBSCRIBE", "FLOW", "BLOCK", "VIOLATION", "STATE", "HEARTBEAT"] {
        assert!(decoded.contains(kind), "{kind} is not in:\n{decoded}");
    }
    assert!(info.iter().all(|line| line.ends_with('\t')), "malformed:\n{decoded}");
    let checks = [
        "-o",
        "udp.check_checksum:TRUE",
        "-o",
        "ip.check_checksum:TRUE",
        "-Y",
        "udp.checksum.status == 0 or ip.checksum.status == 0",
    ];
    assert_eq!(tshark(&capture, &checks), "", "checksums that are wrong");
}

#[test]
fn watch_counts_its_lines_and_reports_an_appliance_that_does_not_answer() {
    let appliance = Publishing::start("127.0.0.1:0");
    appliance.publish(link(LinkState::Up, StateReason::None));
    let output = appliance.run(&["watch", "--count", "2"]);
    assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert!(
        lines.len() == 2 && lines[0].contains("contact with 127.0.0.1") && lines[1].ends_with("link to syracuse  up"),
        "{lines:?}"
    );

    let unused = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = appliance.run(&["watch", "--notify", &unused, "--for", "1s"]);
    assert_eq!(code(&output), Some(3));
    assert!(text(&output.stdout).contains("count nothing as protected"), "{}", text(&output.stdout));
    let output = appliance.run(&["flows", "--key-id", "2"]);
    assert_eq!(code(&output), Some(3), "{}", text(&output.stdout));
}

#[test]
fn the_file_of_an_appliance_or_of_gates_says_whom_to_ask() {
    let appliance = Publishing::start("127.0.0.1:0");
    let write = |name: &str, text: String| {
        std::fs::write(appliance.path(name), text).unwrap();
        appliance.path(name).display().to_string()
    };
    let address = appliance.appliance.address;
    let gates = write(
        "gate.yaml",
        format!(
            "notify: {{ address: \"{address}\", key_file: notify.key }}\n\
             gates: [{{ kind: tcp, listen: 127.0.0.1:9000, upstream: 127.0.0.2:9000 }}]\n"
        ),
    );
    let key = |seed| PrivateKey::generate(&mut StdRng::seed_from_u64(seed));
    key_file::write(&appliance.path("own.key"), &key(1).to_text()).unwrap();
    let node = |name: &str, notify: &str| {
        write(
            name,
            format!(
                "node: {{ name: own, key_file: own.key, local_prefixes: [10.1.0.0/16] }}\n{notify}\
                 peers: [{{ name: far, public_key: \"{}\", prefixes: [10.2.0.0/16] }}]\n",
                key(2).public_key()
            ),
        )
    };
    let everywhere = format!("0.0.0.0:{}", address.port());
    let keys = "keys: [{ id: 7, file: notify.key }, { id: 1, file: notify.key }]";
    let file = node("node.yaml", &format!("notify: {{ listen: \"{everywhere}\", {keys} }}\n"));
    let silent = node("silent.yaml", "");
    // The environment says something else: a file that is named counts more, an option most.
    let run = |arguments: &[&str]| {
        let mut command = appliance.command(arguments);
        command.env("ONWIRE_NOTIFY", "127.0.0.1:1").env("ONWIRE_NOTIFY_KEY", "nowhere.key").output().unwrap()
    };
    let own_key = appliance.path("notify.key").display().to_string();
    let (address, open) = (address.to_string(), "localhost:1");
    for (arguments, ends) in [
        (&["flows", "--config", &gates][..], 0),
        (&["flows", "--config", &file, "--key-id", "1"], 0),
        (&["flows", "--config", &file], 3),
        (&["flows", "--config", &file, "--key-id", "1", "--notify", open], 3),
        (&["flows", "--config", &file, "--key-id", "4"], 2),
        (&["flows", "--config", &silent], 2),
        (&["flows", "--notify", &address], 2),
        (&["flows", "--notify", &address, "--key", &own_key], 0),
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), Some(ends), "{arguments:?}: {}", text(&output.stderr));
    }
    let told = |arguments: &[&str]| text(&run(arguments).stderr).to_owned();
    assert!(told(&["flows", "--config", &file, "--key-id", "4"]).contains("it has no key 4; it has 7, 1"));
    assert!(told(&["flows", "--config", &silent]).contains("it has no `notify`"));
}

#[test]
fn a_wrong_command_line_is_reported_with_exit_code_2() {
    let appliance = Publishing::start("127.0.0.1:0");
    std::fs::write(appliance.path("open.key"), secret().to_text().as_str()).unwrap();
    std::fs::set_permissions(appliance.path("open.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let open = appliance.path("open.key").display().to_string();
    for (arguments, wanted) in [
        (&["wait"][..], "--to"),
        (&["wait", "--to", "10.2.0.1:ssh"], "allowed: HOST"),
        (&["wait", "--to", "no-such-host.invalid"], "cannot resolve"),
        (&["wait", "--to", "10.2.0.1", "--level", "sent"], "allowed: queued"),
        (&["wait", "--to", "10.2.0.1", "--timeout", "30"], "add the unit"),
        (&["watch", "--key", "nowhere.key"], "onwire keygen --notify nowhere.key"),
        (&["watch", "--key", &open], "has mode 0644"),
        (&["watch", "--protocol", "tpc"], "allowed: tcp"),
        (&["watch", "--pcap", "/nowhere/a.pcap"], "cannot write /nowhere/a.pcap"),
        (&["flows", "--notify", "here"], "invalid"),
        (&["flows", "--key-id", "0"], "0 is not in"),
    ] {
        let output = appliance.run(arguments);
        assert_eq!(code(&output), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(wanted), "{arguments:?}: {}", text(&output.stderr));
    }
    for command in ["watch", "wait", "flows"] {
        let help = appliance.run(&[command, "--help"]);
        assert!(text(&help.stdout).contains("Examples:") && text(&help.stdout).contains("Exit codes:"), "{command}");
    }
}
