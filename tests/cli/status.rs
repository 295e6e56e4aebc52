//! `onwire status` over sockets that say what the test wants: which processes it finds, what it says of them, its exit
//! codes, and documents of other releases.

use std::os::unix::net::UnixListener;
use std::process::Output;

use serde_json::{Value, json};

use crate::processes::{Sockets, appliance, earlier_appliance, earlier_gates, gates};
use crate::schema_check::assert_valid;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn all_processes_are_shown_and_no_stale_socket_is_chosen() {
    let sockets = Sockets::new();
    sockets.serve("ithaca.sock", Some(appliance("ithaca", &[("syracuse", "up")])));
    sockets.serve("gate.sock", Some(gates(true, "up")));
    sockets.leave("aegina.sock");
    std::fs::write(sockets.path("notes.sock"), "no socket").unwrap();
    std::fs::write(sockets.path("ithaca.ctl"), "another file").unwrap();
    let output = sockets.run(&["status"]);
    let text = stdout(&output);
    assert_eq!((code(&output), stderr(&output)), (Some(0), String::new()));
    for part in [
        "ithaca: running",
        "peer syracuse: up for 1 h 2 min at 192.0.2.2:7117",
        "\ngates: running",
        "heard for 1 min 1 s",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = sockets.run(&["status", "-v"]);
    let skipped = stderr(&output);
    assert!(skipped.contains("aegina.sock: nothing listens") && skipped.contains("notes.sock"), "{skipped}");
    assert!(!skipped.contains("ithaca"), "{skipped}");

    let shown = json_of(&sockets.run(&["status", "--json"]));
    assert_eq!((&shown["schema_version"], shown["appliances"].as_array().unwrap().len()), (&json!(1), 1));
    assert_eq!(shown["appliances"][0]["socket"], json!(sockets.path("ithaca.sock")));
    assert_eq!(shown["gates"][0]["gates"][0]["name"], "ledger");
    assert_eq!(shown["unanswered"], json!([]));
    // One alone is shown as it is.
    let one = json_of(&sockets.run(&["status", "--json", "--socket", sockets.path("ithaca.sock").to_str().unwrap()]));
    assert_eq!(one, appliance("ithaca", &[("syracuse", "up")]));
}

#[test]
fn where_nothing_answers_the_exit_code_says_so_in_every_command() {
    let sockets = Sockets::new();
    let nowhere = sockets.path("nowhere.sock");
    let nowhere = nowhere.to_str().unwrap();
    std::fs::write(sockets.path("new.yaml"), "node: {}\n").unwrap();
    let new = sockets.path("new.yaml");
    let commands: [&[&str]; 6] =
        [&["status"], &["status", "--check"], &["drain"], &["reload"], &["confirm"], &["apply", new.to_str().unwrap()]];
    for is_left in [false, true] {
        if is_left {
            sockets.leave("ithaca.sock");
        }
        for arguments in commands {
            let output = sockets.run(arguments);
            let said = stderr(&output) + &stdout(&output);
            let wanted = if is_left { "nothing listens on" } else { "no appliance and no gate runs" };
            assert_eq!(code(&output), Some(3), "{arguments:?}: {said}");
            assert!(said.contains(wanted), "{arguments:?}: {said}");
            let output = sockets.run(&[arguments, &["--socket", nowhere]].concat());
            assert_eq!(code(&output), Some(3), "{arguments:?}: {output:?}");
            let said = stderr(&output) + &stdout(&output);
            let wanted = match arguments[0] {
                "apply" | "confirm" => "no appliance of this version is running with this control socket",
                _ => "nothing is running with this status socket",
            };
            assert!(said.contains(wanted), "{arguments:?}: {said}");
        }
    }
    assert_eq!(code(&sockets.run(&["status", "--socket", "a", "--config", "b"])), Some(2));
    assert_eq!(code(&sockets.run(&["status", "--config", "no-such-file.yaml"])), Some(2));
    // Several appliances: a command for one of them asks which.
    for node in ["one", "two"] {
        sockets.serve(&format!("{node}.sock"), Some(appliance(node, &[])));
    }
    sockets.serve("gate.sock", Some(gates(true, "up")));
    let output = sockets.run(&["drain"]);
    assert_eq!(code(&output), Some(2), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("one.sock") && said.contains("two.sock") && !said.contains("gate.sock"), "{said}");
    assert!(!said.contains("ithaca.sock"), "a socket that was left is no choice: {said}");
    // Gates have nothing to drain.
    let output = sockets.run(&["drain", "--socket", sockets.path("gate.sock").to_str().unwrap()]);
    assert!(code(&output) == Some(3) && stderr(&output).contains("it is of gates"), "{output:?}");
}

#[test]
fn a_check_says_in_a_line_and_by_its_code_whether_all_is_well() {
    let sockets = Sockets::new();
    let ithaca = sockets.serve("ithaca.sock", Some(appliance("ithaca", &[("syracuse", "up"), ("troy", "up")])));
    let gate = sockets.serve("gate.sock", Some(gates(true, "up")));
    let check = |expected: i32| {
        let output = sockets.run(&["status", "--check"]);
        assert_eq!(code(&output), Some(expected), "{output:?}");
        let shown = sockets.run(&["status", "--check", "--json"]);
        assert_eq!(code(&shown), Some(expected), "{shown:?}");
        (stdout(&output), json_of(&shown))
    };
    let (text, shown) = check(0);
    assert_eq!(text, "OK: ithaca: 2 of 2 peers up; gates: ledger\n");
    assert_eq!((&shown["ok"], &shown["problems"], &shown["schema_version"]), (&json!(true), &json!([]), &json!(1)));

    *ithaca.lock().unwrap() = Some(appliance("ithaca", &[("syracuse", "silent"), ("troy", "up")]));
    let (text, shown) = check(1);
    assert_eq!(text, "DEGRADED: ithaca: peer syracuse is silent, for 1 h 2 min\n");
    assert_eq!((&shown["ok"], &shown["problems"][0]["since"]["for_s"]), (&json!(false), &json!(3725.0)));

    *gate.lock().unwrap() = Some(gates(false, "up"));
    let (text, _) = check(1);
    assert!(
        text.starts_with("DEGRADED: 2 problems\n") && text.contains("gates: the appliance at 127.0.0.1:7118"),
        "{text}"
    );

    *ithaca.lock().unwrap() = Some(appliance("ithaca", &[("syracuse", "up")]));
    *gate.lock().unwrap() = Some(json!("something else"));
    let (text, shown) = check(3);
    assert!(text.starts_with("UNKNOWN: ") && text.contains("gate.sock"), "{text}");
    assert_eq!(shown["unanswered"].as_array().unwrap().len(), 1, "{shown}");
}

#[test]
fn a_process_that_stands_still_is_named_and_the_others_are_shown() {
    let sockets = Sockets::new();
    sockets.serve("halted.sock", None);
    // It accepts nobody, as a process that is stopped.
    let _halted = UnixListener::bind(sockets.path("stopped.sock")).unwrap();
    sockets.serve("ithaca.sock", Some(appliance("ithaca", &[("syracuse", "up")])));
    let output = sockets.run(&["status"]);
    assert_eq!(code(&output), Some(0), "{output:?}");
    assert!(stdout(&output).contains("ithaca: running"), "{output:?}");
    for name in ["halted.sock", "stopped.sock"] {
        assert!(stderr(&output).contains(name), "{output:?}");
    }
    assert!(stderr(&output).contains("it does not answer in time"), "{output:?}");
    let shown = json_of(&sockets.run(&["status", "--json"]));
    assert_eq!((shown["unanswered"].as_array().unwrap().len(), shown["appliances"].as_array().unwrap().len()), (2, 1));
}

#[test]
fn documents_of_an_earlier_release_are_shown() {
    let sockets = Sockets::new();
    let ithaca = sockets.serve("ithaca.sock", Some(earlier_appliance()));
    sockets.serve("gate.sock", Some(earlier_gates()));
    let output = sockets.run(&["status"]);
    let text = stdout(&output);
    assert_eq!((code(&output), stderr(&output)), (Some(0), String::new()));
    assert!(text.contains("peer syracuse: up at 192.0.2.2:7117"), "{text}");
    assert!(text.contains("link to syracuse: degraded (send errors)\n"), "{text}");
    assert!(!text.contains("last 10 s"), "it says no rates: {text}");
    let output = sockets.run(&["status", "--check"]);
    assert_eq!(code(&output), Some(1), "{output:?}");
    // It does not say since when.
    assert!(stdout(&output).contains("ithaca: link to syracuse is degraded (send errors)\n"), "{output:?}");

    // Whatever a release leaves out, the rest is shown.
    let paths = paths_of(&earlier_appliance(), "");
    assert!(paths.len() > 150, "{paths:?}");
    for path in paths {
        let mut document = earlier_appliance();
        let (parent, key) = path.rsplit_once('/').unwrap();
        document.pointer_mut(parent).and_then(Value::as_object_mut).unwrap().remove(key);
        let read = serde_json::from_value::<onwire::appliance::status::Status>(document);
        assert!(read.is_ok(), "without {path}: {read:?}");
    }
    for path in paths_of(&earlier_gates(), "") {
        let mut document = earlier_gates();
        let (parent, key) = path.rsplit_once('/').unwrap();
        document.pointer_mut(parent).and_then(Value::as_object_mut).unwrap().remove(key);
        let read = serde_json::from_value::<onwire::gate::status::Status>(document);
        assert!(read.is_ok(), "without {path}: {read:?}");
    }
    // And what a later release adds is no obstacle.
    let mut later = earlier_appliance();
    (later["schema_version"], later["novel"], later["peers"][0]["novel"]) = (json!(9), json!({}), json!([1]));
    *ithaca.lock().unwrap() = Some(later);
    let output = sockets.run(&["status"]);
    assert!(code(&output) == Some(0) && stdout(&output).contains("peer syracuse: up"), "{output:?}");
}

/// The pointers of all fields.
fn paths_of(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| {
                let path = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                std::iter::once(path.clone()).chain(paths_of(field, &path)).collect::<Vec<_>>()
            })
            // Prefixes are keys of a map: without one there is one less.
            .filter(|path| !path.contains('~'))
            .collect(),
        Value::Array(elements) => elements
            .iter()
            .enumerate()
            .flat_map(|(number, element)| paths_of(element, &format!("{at}/{number}")))
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn what_onwire_itself_writes_of_a_host_is_as_its_schema_says() {
    let read = |document: Value| serde_json::from_value::<onwire::appliance::status::Status>(document).unwrap();
    let now = serde_json::to_value(read(earlier_appliance())).unwrap();
    assert_valid("appliance-status", &now);
    let gates: onwire::gate::status::Status = serde_json::from_value(earlier_gates()).unwrap();
    let gates = serde_json::to_value(gates).unwrap();
    assert_valid("gate-status", &gates);
    let sockets = Sockets::new();
    sockets.serve("ithaca.sock", Some(now));
    sockets.serve("gate.sock", Some(gates));
    sockets.serve("odd.sock", Some(json!("odd")));
    assert_valid("status", &json_of(&sockets.run(&["status", "--json"])));
}

#[test]
fn nothing_is_concluded_from_what_a_document_does_not_say() {
    let sockets = Sockets::new();
    let drained = || {
        let mut document = earlier_appliance();
        document["peers"][0]["arrived"]["heard_ms_ago"] = json!(60_000.0);
        document["peers"][0]["arrived"]["silent_ms"] = json!(60_000.0);
        document["peers"][0]["arrived"]["flows"] = json!([{
            "source": "10.1.0.1:5432", "destination": "10.2.0.1:9", "from_syn": true, "bytes": 9, "sequence": 9,
            "highest": 9, "missing": [], "missing_for_ms": null, "acknowledged": 9, "kept": 0,
        }]);
        document
    };
    let ithaca = sockets.serve("ithaca.sock", Some(drained()));
    let drain = |document: Value| {
        *ithaca.lock().unwrap() = Some(document);
        sockets.run(&["drain", "--timeout", "1s"])
    };
    let output = drain(drained());
    assert!(code(&output) == Some(0) && stdout(&output).contains(": complete"), "{output:?}");
    for path in [
        "arrived/heard_ms_ago",
        "arrived/quiet_after_ms",
        "arrived/waiting_blocks",
        "arrived/unfinished",
        "arrived/lost",
        "arrived/refused_ms_ago",
        "arrived/flows",
        "arrived/flows/0/bytes",
        "arrived/flows/0/missing",
        "arrived/flows/0/acknowledged",
    ] {
        let mut document = drained();
        let (parent, key) = path.rsplit_once('/').unwrap();
        document
            .pointer_mut(&format!("/peers/0/{parent}"))
            .and_then(Value::as_object_mut)
            .unwrap()
            .remove(key)
            .unwrap();
        let output = drain(document);
        assert!(code(&output) == Some(3) && stderr(&output).contains(&format!("`{key}`")), "{path}: {output:?}");
        assert!(!stdout(&output).contains("complete"), "{path}: {output:?}");
    }
    let without_lanes = |mut document: Value| {
        document["tun"].as_object_mut().unwrap().remove("queues");
        document
    };
    assert_eq!(code(&drain(without_lanes(drained()))), Some(3));
    let mut nothing_arrived = drained();
    nothing_arrived["peers"][0]["arrived"] = Value::Null;
    let output = drain(nothing_arrived);
    assert!(code(&output) == Some(1) && stdout(&output).contains("incomplete"), "{output:?}");

    // A later form may mean something else by the same words.
    let mut later = drained();
    later["schema_version"] = json!(2);
    let output = drain(later);
    assert!(code(&output) == Some(3) && stderr(&output).contains("its schema_version is 2"), "{output:?}");
    let mut well = appliance("ithaca", &[("syracuse", "up")]);
    *ithaca.lock().unwrap() = Some(well.clone());
    assert_eq!(code(&sockets.run(&["status", "--check"])), Some(0));
    well["schema_version"] = json!(2);
    *ithaca.lock().unwrap() = Some(well);
    let output = sockets.run(&["status", "--check"]);
    assert!(code(&output) == Some(3) && stdout(&output).starts_with("UNKNOWN: "), "{output:?}");
    assert!(stdout(&output).contains("its schema_version is 2"), "{output:?}");
}
