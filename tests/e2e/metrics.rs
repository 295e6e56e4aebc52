//! The metrics port of a running appliance: its documents, real Prometheus, callers that misbehave beside traffic, reloads.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use onwire::{io::namespace::NetworkNamespace, lab::trace::need_programs};
use serde_json::{Value, json};

use crate::{
    appliance::{Appliance, Pair},
    datagrams::{Sink, Stream},
    protected_site::{PORT, client, connection, make_key, notify, wait_link, write_protected},
    reload::reload,
    streams,
    testbed::{MIRROR, ONWIRE, Testbed},
};

/// Where the appliance at the primary's site answers: reached from the primary too.
const APPLIANCE: &str = "10.1.0.254:9718";
const SOON: Duration = Duration::from_secs(30);

fn metrics() -> (&'static str, Value) {
    ("/metrics", json!({ "listen": APPLIANCE }))
}

/// Sends this from a node; returns the whole answer.
fn request(node: &NetworkNamespace, to: &str, text: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    node.run(exchange).unwrap()
}

/// The status line and the body of what is at a path.
fn ask(node: &NetworkNamespace, to: &str, path: &str) -> (String, String) {
    let answer = request(node, to, &format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n")).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The value of the only series that begins so.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series}:\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits until `check` finds something.
fn until<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(found) => return found,
            Err(_) if start.elapsed() < SOON => thread::sleep(Duration::from_millis(100)),
            Err(last) => panic!("not within {SOON:?}: {what}: {last}"),
        }
    }
}

/// The paths of all keys of a document.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            found.insert(format!("{path}.{name}"));
            keys(value, &format!("{path}.{name}"), found);
        }),
        Value::Array(values) => values.iter().for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn the_documents_say_what_the_appliance_does() {
    let testbed = Testbed::perfect();
    let primary = testbed.node("primary");
    let secret = make_key(&testbed);
    let mut pair = Pair::start_each(&testbed, &[metrics(), notify(&testbed, "on_wire")], &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, onwire::notify::message::LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut client, &mut stream, &[7; 100_000]);
    thread::sleep(Duration::from_millis(600));
    let (head, text) = ask(&primary, APPLIANCE, "/metrics");
    assert_eq!(head, "HTTP/1.1 200 OK");
    assert!(text.ends_with("\n# EOF\n"));
    assert_eq!(value(&text, "onwire_peer_state{peer=\"syracuse\",state=\"up\"}"), 1.0);
    assert_eq!(value(&text, "onwire_protection_violations_total{peer=\"syracuse\"}"), 0.0);
    assert!(value(&text, "onwire_protection_protected_blocks_total{peer=\"syracuse\"}") > 0.0);
    assert!(value(&text, "onwire_sent_packet_bytes_total{peer=\"syracuse\"}") >= 100_000.0);
    assert!(value(&text, "onwire_cpu_seconds_total") > 0.0);

    let health = || ask(&primary, APPLIANCE, "/healthz");
    until("health", || (health().1 == "ok\n").then_some(()).ok_or_else(|| health().1));
    let status: Value = serde_json::from_str(&ask(&primary, APPLIANCE, "/status.json").1).unwrap();
    let socket = pair.ithaca.socket.to_str().unwrap();
    let command: Value =
        serde_json::from_str(&testbed.command(&[ONWIRE, "status", "--json", "--socket", socket])).unwrap();
    let mut shapes = [BTreeSet::new(), BTreeSet::new()];
    keys(&status, "", &mut shapes[0]);
    keys(&command, "", &mut shapes[1]);
    // Reasons that never occurred are left out, and one may occur between the two; rates of what was not yet counted are null.
    shapes.iter_mut().for_each(|paths| paths.retain(|path| !path.contains("drops.") && !path.contains("rates.")));
    assert_eq!(shapes[0], shapes[1]);
    assert_eq!(status["epoch"], command["epoch"]);

    pair.syracuse.kill();
    let degraded = until("503", || match health() {
        (head, body) if head.starts_with("HTTP/1.1 503 ") => Ok(body),
        (head, _) => Err(head),
    });
    assert!(degraded.contains("syracuse"), "{degraded}");

    let known = ask(&primary, APPLIANCE, "/nothing");
    assert!(known.0.starts_with("HTTP/1.1 404 ") && known.1.contains("/status.json"), "{known:?}");
    let (exit, output) = pair.ithaca.terminate();
    assert!(exit.success(), "{output}");
    assert!(output.contains(&format!("metrics at http://{APPLIANCE}/metrics")), "{output}");
    assert!(output.contains("which other hosts may reach"), "{output}");
}

/// Prometheus itself, in the primary's namespace; it ends with the test.
struct Prometheus<'g> {
    testbed: &'g Testbed,
    _process: onwire::lab::process::Process,
}

impl<'g> Prometheus<'g> {
    const WEB: &'static str = "127.0.0.1:9090";

    fn start(testbed: &'g Testbed, targets: &[&str]) -> Self {
        need_programs(&["prometheus", "promtool"]).unwrap_or_else(|error| panic!("{error}"));
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/config/monitoring/onwire-alerts.yaml");
        let config = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [{ "job_name": "onwire", "static_configs": [{ "targets": targets }] }],
        });
        let file = testbed.directory().join("prometheus.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let option = |name: &str, value: &str| format!("--{name}={value}");
        let data = testbed.directory().join("prometheus");
        let words = [
            "prometheus".to_owned(),
            option("config.file", file.to_str().unwrap()),
            option("storage.tsdb.path", data.to_str().unwrap()),
            option("web.listen-address", Self::WEB),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Self { testbed, _process: testbed.start("primary", "prometheus", &words) }
    }

    /// What its API has at a path.
    fn api(&self, path: &str) -> Result<Value, String> {
        let text = format!("GET /api/v1/{path} HTTP/1.0\r\n\r\n");
        let answer = request(&self.testbed.node("primary"), Self::WEB, &text).map_err(|error| error.to_string())?;
        let body = answer.split_once("\r\n\r\n").ok_or(answer.clone())?.1;
        let value: Value = serde_json::from_str(body).map_err(|_| answer.clone())?;
        if value["status"] == "success" { Ok(value["data"].clone()) } else { Err(answer) }
    }

    /// The values of all series that an expression has.
    fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.api(&format!("query?query={escaped}"))?;
        let series = data["result"].as_array().ok_or("no result")?;
        Ok(series.iter().map(|it| it["value"][1].as_str().unwrap().parse().unwrap()).collect())
    }

    fn until(&self, expression: &str, is_so: impl Fn(&[f64]) -> bool) -> Vec<f64> {
        until(expression, || {
            let found = self.query(expression)?;
            if is_so(&found) { Ok(found) } else { Err(format!("{found:?}")) }
        })
    }
}

#[test]
fn prometheus_scrapes_an_appliance_and_a_gate_under_load_and_raises_the_alerts() {
    let testbed = Testbed::perfect();
    make_key(&testbed);
    let mut pair = Pair::start_each(&testbed, &[metrics(), notify(&testbed, "on_wire")], &[]);
    let (gate, key) = ("127.0.0.1:9719", testbed.directory().join("notify.key"));
    let listen = ["--listen", "127.0.0.1:9000", "--upstream", "10.2.0.1:9000", "--max-unprotected", "1MiB"];
    let status = testbed.directory().join("gate.sock");
    let more =
        ["--notify", PORT, "--key", key.to_str().unwrap(), "--metrics", gate, "--status", status.to_str().unwrap()];
    let mut process = testbed.start("primary", "gate", &[&[ONWIRE, "gate", "tcp"], &listen[..], &more].concat());
    process.wait_for_output("listening", SOON).unwrap_or_else(|error| panic!("{error}"));
    let prometheus = Prometheus::start(&testbed, &[APPLIANCE, gate]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));

    prometheus.until("up", |found| found == [1.0, 1.0]);
    streams::copy(&primary, &mirror, MIRROR[0], 4, 2_000_000);
    prometheus.until("onwire_sent_packet_bytes_total", |found| found.iter().any(|bytes| *bytes >= 8e6));
    prometheus.until("onwire_gate_appliance_contact", |found| found == [1.0]);
    prometheus.until("onwire_protection_state{state=\"up\"}", |found| found == [1.0]);
    // What is documented as a counter or a gauge is one for Prometheus too, with its unit and its meaning.
    let metadata = prometheus.api("metadata").unwrap();
    for (name, metric) in metadata.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("onwire_")) {
        let known = [onwire::appliance::metrics::described(), onwire::gate::metrics::described()].concat();
        let described = known.iter().find(|it| it.name == *name || it.name == format!("{name}_total"));
        let described = described.unwrap_or_else(|| panic!("{name} is not described"));
        assert_eq!(
            (&metric[0]["type"], &metric[0]["help"]),
            (&json!(described.kind), &json!(described.help)),
            "{name}"
        );
    }
    // Every rule was evaluated, none is broken, and none has fired.
    until("rules", || {
        let rules = prometheus.api("rules")?;
        let groups = rules["groups"].as_array().unwrap();
        let rules: Vec<&Value> = groups.iter().flat_map(|it| it["rules"].as_array().unwrap()).collect();
        assert!(rules.len() > 20);
        match rules.iter().find(|rule| rule["health"] != "ok") {
            Some(rule) => Err(rule.to_string()),
            None => Ok(()),
        }
    });
    assert_eq!(prometheus.query("ALERTS{alertstate=\"firing\"}").unwrap(), Vec::<f64>::new());

    pair.syracuse.kill();
    prometheus.until("ALERTS{alertname=\"OnwirePeerDown\"}", |found| found == [1.0]);
    // The gate hears it from the appliance.
    prometheus.until("onwire_gate_link_state{state=\"up\"}", |found| found == [0.0]);
    pair.ithaca.kill();
    prometheus.until("up == 0", |found| found.len() == 1);
    prometheus.until("ALERTS{alertname=\"OnwireGateWithoutAppliance\"}", |found| found == [1.0]);
}

#[test]
fn the_linter_of_prometheus_finds_nothing() {
    need_programs(&["promtool"]).unwrap_or_else(|error| panic!("{error}"));
    let testbed = Testbed::perfect();
    let primary = testbed.node("primary");
    make_key(&testbed);
    let redundancy = json!({ "steady": { "repair": { "residual": 1e-6, "survive_burst": "1ms" } } });
    let changes = [metrics(), notify(&testbed, "on_wire"), ("/redundancy", redundancy)];
    let _pair = Pair::start_each(&testbed, &changes, &[changes[2].clone()]);
    streams::copy(&primary, &testbed.node("mirror"), MIRROR[0], 1, 500_000);
    let answer = request(&primary, APPLIANCE, "GET /metrics HTTP/1.1\r\nAccept: text/plain\r\n\r\n").unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(body.contains("onwire_plan_overhead_ratio{"), "{body}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!((output.status.code(), &*said), (Some(0), ""));
}

/// The memory of a process that is in use, in kB, and its descriptors.
fn uses(appliance: &Appliance<'_>) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", appliance.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (memory, std::fs::read_dir(format!("/proc/{}/fd", appliance.id())).unwrap().count())
}

#[test]
fn callers_that_misbehave_cost_no_packet_and_no_memory_and_delay_no_scrape() {
    let testbed = Testbed::perfect();
    let pair = Pair::start_each(&testbed, &[metrics()], &[]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    assert!(ask(&primary, APPLIANCE, "/metrics").1.ends_with("# EOF\n"));
    let before = uses(&pair.ithaca);
    let sink = Sink::listen(&mirror, MIRROR[0]);
    let stream = Stream::begin(&primary, sink.address, 900, Duration::from_micros(500));
    let to: SocketAddr = APPLIANCE.parse().unwrap();
    let send = |text: &str| {
        primary
            .run(|| {
                let mut stream = TcpStream::connect_timeout(&to, SOON).unwrap();
                stream.set_nodelay(true).unwrap();
                // Whoever is refused may find the connection closed.
                let _ = stream.write_all(text.as_bytes());
                stream
            })
            .unwrap()
    };
    // More hang than there are places, some readers stop, some say nonsense, some leave.
    let hanging: Vec<_> = (0..150).map(|_| send("GET /metrics HTTP/1.1\r\nX: ")).collect();
    let stopped: Vec<_> = (0..40).map(|_| send("GET /status.json HTTP/1.1\r\n\r\n")).collect();
    // What is behind the longest head is thrown away up to 64 KiB: this caller still reads why it is refused.
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(40_000));
    for text in [&*long, "\0\0\0\0", "POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n", "GET", ""] {
        (0..20).for_each(|_| drop(send(text)));
    }
    let start = Instant::now();
    assert!(ask(&primary, APPLIANCE, "/metrics").1.ends_with("# EOF\n"), "a scrape among those that hang");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    thread::scope(|scope| {
        let scrapes: Vec<_> = (0..100).map(|_| scope.spawn(|| ask(&primary, APPLIANCE, "/metrics"))).collect();
        for scrape in scrapes {
            let (head, body) = scrape.join().unwrap();
            assert!(head == "HTTP/1.1 200 OK" && body.ends_with("# EOF\n"), "{head}");
        }
    });
    for (text, status) in [(&*long, "431"), ("POST / HTTP/1.1\r\n\r\n", "405"), ("nonsense\r\n\r\n", "400")] {
        let answer = request(&primary, APPLIANCE, text).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let sent = stream.end();
    assert!(sink.wait_for(sent as usize), "{} of {sent} arrived", sink.count());
    sink.arrived().assert_once();
    assert_eq!(pair.ithaca.status().tun.tx_dropped, Some(0));
    // All of them lose their places in time.
    until("descriptors", || {
        let (memory, descriptors) = uses(&pair.ithaca);
        assert!(memory < before.0 + 16 * 1024, "{memory} kB, {} before", before.0);
        (descriptors <= before.1).then_some(()).ok_or_else(|| format!("{descriptors}, {} before", before.1))
    });
    drop((hanging, stopped));
}

#[test]
fn a_reload_opens_moves_and_closes_the_port_or_changes_nothing() {
    let testbed = Testbed::perfect();
    let primary = testbed.node("primary");
    let mut pair = Pair::start(&testbed, &[]);
    let is_open = |address: &str| request(&primary, address, "GET /healthz HTTP/1.1\r\n\r\n").is_ok();
    let at = |address: &str| ("/metrics", json!({ "listen": address }));
    assert!(!is_open(APPLIANCE));
    let steps: [(Option<&str>, &str); 4] = [
        (Some(APPLIANCE), "metrics added"),
        (Some("10.1.0.254:9720"), "metrics.listen changed"),
        (Some(APPLIANCE), "metrics.listen changed"),
        (None, "metrics removed"),
    ];
    for (address, expected) in steps {
        pair.ithaca.configure(address.map(at).as_slice());
        assert_eq!(reload(&pair.ithaca).1, format!("reloaded: {expected}\n"));
        for one in [APPLIANCE, "10.1.0.254:9720"] {
            assert_eq!(is_open(one), address == Some(one), "{one} after {expected}");
        }
    }
    // Somebody else has the port: nothing changes, also of what else is in the file.
    let taken: SocketAddr = APPLIANCE.parse().unwrap();
    let other = testbed.node("ithaca").run(|| std::net::TcpListener::bind(taken).unwrap()).unwrap();
    pair.ithaca.configure(&[at(APPLIANCE), ("/log", json!({ "level": "debug" }))]);
    let (code, said) = reload(&pair.ithaca);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("metrics.listen") && said.contains("nothing has changed"), "{said}");
    drop(other);
    assert_eq!(reload(&pair.ithaca).1, "reloaded: metrics added, log.level changed\n");
    // All addresses have this one too, so the new socket cannot be opened beside it.
    pair.ithaca.configure(&[at("0.0.0.0:9718"), ("/log", json!({ "level": "debug" }))]);
    let (code, said) = reload(&pair.ithaca);
    assert_eq!((code, said.contains("cannot change while onwire runs: metrics.listen")), (Some(1), true), "{said}");
    assert!(is_open(APPLIANCE) && testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
    let (exit, output) = pair.ithaca.terminate();
    assert!(exit.success(), "{output}");
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_the_remedy() {
    let testbed = Testbed::perfect();
    let pair = Pair::prepare(&testbed, &[metrics()]);
    let taken: SocketAddr = APPLIANCE.parse().unwrap();
    let _other = testbed.node("ithaca").run(|| std::net::TcpListener::bind(taken).unwrap()).unwrap();
    let config = pair.ithaca.config.to_str().unwrap();
    let said = testbed.run("ithaca", &["sh", "-c", &format!("{ONWIRE} run {config} 2>&1; echo code $?")]).unwrap();
    assert!(said.contains("cannot listen on 10.1.0.254:9718 for metrics") && said.contains("code 1"), "{said}");
    assert!(said.contains("choose another in `metrics.listen`"), "{said}");
    let links = testbed.run("ithaca", &["ip", "-o", "link"]).unwrap();
    assert!(!links.contains("ow0"), "nothing is left behind: {links}");
}
