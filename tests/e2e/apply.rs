//! A candidate that a running appliance follows: kept once it is confirmed, gone by itself otherwise, and never half of it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use onwire::{
    appliance::{
        control::request::{Request, control_socket},
        status::candidate::CandidateState,
    },
    config::sha256,
    io::request_socket,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    appliance::{Appliance, Changes, Pair},
    datagrams::{Sink, Stream},
    testbed::{MIRROR, ONWIRE, Testbed},
};

/// Runs `onwire COMMAND` for the appliance without a terminal; its exit code and everything that it says.
pub fn onwire(appliance: &Appliance<'_>, words: &[&str]) -> (Option<i32>, String) {
    let output = command(appliance, words).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), said)
}

fn command(appliance: &Appliance<'_>, words: &[&str]) -> Command {
    let mut command = Command::new(ONWIRE);
    command.args(words).arg("--socket").arg(&appliance.socket).stdin(Stdio::null());
    command
}

/// Writes a candidate to a directory of its own, which the appliance need not read.
pub fn candidate(testbed: &Testbed, name: &str, text: &str) -> PathBuf {
    let directory = testbed.directory().join("candidates");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Where the last candidate of the appliance stands.
pub fn state(appliance: &Appliance<'_>) -> Option<CandidateState> {
    appliance.status().configuration.candidate.map(|candidate| candidate.state)
}

fn wait_for(appliance: &Appliance<'_>, state: CandidateState) {
    appliance.wait(&format!("{state:?}"), |status| {
        status.configuration.candidate.as_ref().is_some_and(|candidate| candidate.state == state)
    });
}

fn more_repair() -> (&'static str, Value) {
    ("/redundancy", json!({ "steady": { "block_symbols": 32, "repair": { "fixed": 9 } } }))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_confirmed_candidate_is_followed_and_becomes_the_file() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::prepare(&testbed, &[]);
    // The file is behind a symbolic link, and belongs to somebody else.
    let real = testbed.directory().join("real.yaml");
    fs::rename(&pair.ithaca.config, &real).unwrap();
    symlink("real.yaml", &pair.ithaca.config).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&real, Some(65_534), Some(65_534)).unwrap();
    pair.run();
    let before = text(&real);
    // A relative key is found where the configuration is, not where the candidate is.
    let mut value: Value = serde_json::from_str(&before).unwrap();
    value["node"]["key_file"] = json!("ithaca.key");
    value["redundancy"] = more_repair().1;
    let new = format!("{value:#}\n# a comment\n");
    let file = candidate(&testbed, "new.yaml", &new);
    let file = file.to_str().unwrap();

    let (code, said) = onwire(&pair.ithaca, &["apply", file, "--confirm-within", "10min"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("unconfirmed: redundancy.steady changed") && said.contains("goes back in 600s"), "{said}");
    let configuration = pair.ithaca.status().configuration;
    let shown = configuration.candidate.unwrap();
    assert_eq!((shown.state, shown.before_sha256), (CandidateState::Unconfirmed, sha256(&before)));
    assert!((500.0..=600.0).contains(&shown.goes_back_in_s.unwrap()), "{:?}", shown.goes_back_in_s);
    assert_eq!((configuration.sha256, Path::new(&configuration.file)), (sha256(&new), &*pair.ithaca.config));
    let (_, status) = onwire(&pair.ithaca, &["status"]);
    assert!(status.contains("candidate: unconfirmed, goes back in "), "{status}");
    assert_eq!(text(&real), before, "it is not confirmed");

    // Nothing else is followed meanwhile.
    let other = candidate(&testbed, "other.yaml", &pair.ithaca.text(&[("/log", json!({ "level": "debug" }))]));
    for words in [&["reload"][..], &["apply", other.to_str().unwrap()]] {
        let (code, said) = onwire(&pair.ithaca, words);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("unconfirmed") && said.contains("onwire confirm --reject"), "{said}");
    }
    let (code, said) = onwire(&pair.ithaca, &["confirm"]);
    assert_eq!((code, said.starts_with("confirmed: ")), (Some(0), true), "{said}");
    assert_eq!(text(&real), new);
    let kept = fs::metadata(&real).unwrap();
    assert_eq!(kept.permissions().mode() & 0o7777, 0o640);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&kept), 65_534);
    assert_eq!(fs::read_link(&pair.ithaca.config).unwrap(), Path::new("real.yaml"));
    assert_eq!(state(&pair.ithaca), Some(CandidateState::Saved));
    assert_eq!(onwire(&pair.ithaca, &["confirm"]).0, Some(0), "it may be repeated");
    assert_eq!(onwire(&pair.ithaca, &["confirm", "--reject"]).0, Some(1), "it is too late for that");
    assert_eq!(onwire(&pair.ithaca, &["reload"]), (Some(0), "reloaded: nothing has changed\n".to_owned()));
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
    // Without a time it is kept at once.
    let (code, said) = onwire(&pair.ithaca, &["apply", other.to_str().unwrap()]);
    assert_eq!((code, text(&real)), (Some(0), text(&other)), "{said}");
    let names = fs::read_dir(testbed.directory()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".new")).count(), 0, "nothing is left beside the file");
    pair.ithaca.terminate();
    pair.ithaca.start();
    pair.wait_up();
    assert_eq!(pair.ithaca.status().configuration.sha256, sha256(&text(&other)), "a restart runs the same");
}

#[test]
fn what_is_not_confirmed_goes_back_by_itself_and_loses_nothing() {
    let testbed = Testbed::perfect();
    // On a busy machine a lane may not run for a second: no packet is lost for that.
    let long_queue = ("/tun/txqueuelen", json!(10_000));
    let pair = Pair::start(&testbed, std::slice::from_ref(&long_queue));
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let before = text(&pair.ithaca.config);
    let file = candidate(&testbed, "new.yaml", &pair.ithaca.text(&[long_queue, more_repair()]));
    let sink = Sink::listen(&mirror, MIRROR[0]);
    let stream = Stream::begin(&primary, sink.address, 900, Duration::from_millis(5));
    for round in 0..3 {
        let start = Instant::now();
        let within = if round == 1 { "10min" } else { "2s" };
        let (code, said) = onwire(&pair.ithaca, &["apply", file.to_str().unwrap(), "--confirm-within", within]);
        assert_eq!(code, Some(0), "{said}");
        let followed = Instant::now();
        if round == 1 {
            let (code, said) = onwire(&pair.ithaca, &["confirm", "--reject"]);
            assert_eq!((code, &said[..]), (Some(0), "went back\n"));
        }
        // SIGHUP is refused meanwhile, and does not lengthen the time.
        let id = Pid::from_raw(pair.ithaca.id() as i32).unwrap();
        kill_process(id, Signal::HUP).unwrap();
        wait_for(&pair.ithaca, CandidateState::WentBack);
        if round != 1 {
            assert!(start.elapsed() >= Duration::from_secs(2), "it went back after {:?}", start.elapsed());
        }
        // It is asked each 20 ms; the rest is for a busy machine.
        assert!(followed.elapsed() < Duration::from_secs(8), "it went back after {:?}", followed.elapsed());
        let status = pair.ithaca.status();
        assert_eq!(status.configuration.sha256, sha256(&before));
        let why = ["not confirmed in time", "rejected", "not confirmed in time"][round];
        assert_eq!(status.configuration.candidate.unwrap().text, why);
        assert_eq!(text(&pair.ithaca.config), before);
        let (code, said) = onwire(&pair.ithaca, &["confirm"]);
        assert_eq!((code, said.contains("too late")), (Some(1), true), "{said}");
    }
    let sent = stream.end();
    assert!(sink.wait_for(sent as usize), "{} of {sent} arrived", sink.count());
    sink.arrived().assert_once();
    pair.ithaca.wait_said("unconfirmed, and goes back in 2s: redundancy.steady changed");
    pair.ithaca.wait_said("went back to what was followed before the candidate: not confirmed in time");
    assert_eq!(onwire(&pair.ithaca, &["reload"]).0, Some(0), "nothing is in the way any more");
}

#[test]
fn a_candidate_that_cuts_the_peer_off_goes_back_by_itself() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let stranger = testbed.directory().join("stranger.key");
    testbed.command(&[ONWIRE, "keygen", stranger.to_str().unwrap()]);
    let public = testbed.command(&[ONWIRE, "pubkey", stranger.to_str().unwrap()]).trim().to_owned();
    for (change, is_cut) in [
        (("/peers/0/public_key", json!(public)), true),
        (("/peers/0/prefixes", json!(["10.77.0.0/24"])), true),
        // The peer's next datagram shows where it really is.
        (("/peers/0/endpoint", json!("192.0.2.99:7117")), false),
    ] {
        let file = candidate(&testbed, "new.yaml", &pair.ithaca.text(std::slice::from_ref(&change)));
        let (code, said) = onwire(&pair.ithaca, &["apply", file.to_str().unwrap(), "--confirm-within", "5s"]);
        assert_eq!(code, Some(0), "{change:?}: {said}");
        if is_cut {
            let answer = testbed.run("primary", &["ping", "-c", "1", "-W", "1", MIRROR[0]]);
            assert!(answer.is_err(), "{change:?}: {answer:?}");
        }
        wait_for(&pair.ithaca, CandidateState::WentBack);
        pair.ithaca.wait_up();
        assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"), "{change:?}");
    }
}

#[test]
fn a_broken_candidate_changes_nothing_and_all_faults_are_named() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let before = text(&pair.ithaca.config);
    let refused = |text: &str, words: &[&str]| {
        let file = candidate(&testbed, "new.yaml", text);
        let (code, said) = onwire(&pair.ithaca, &["apply", file.to_str().unwrap(), "--confirm-within", "60s"]);
        assert_eq!(code, Some(1), "{said}");
        for word in words.iter().chain(&["new.yaml", "nothing has changed"]) {
            assert!(said.contains(word), "no `{word}`: {said}");
        }
    };
    let broken = before.replace("\"tun\"", "\"tum\"").replace("10.2.0.0/24", "10.2.0.0/42");
    refused(&broken, &["tum", "prefixes[0]", "ithaca.yaml:"]);
    let key = testbed.directory().join("ithaca.key");
    refused(&before.replace(key.to_str().unwrap(), "absent.key"), &["node.key_file", "absent.key"]);
    let fixed: Changes<'_> = &[("/tun/queues", json!(2)), ("/log", json!({ "level": "debug" }))];
    refused(&pair.ithaca.text(fixed), &["cannot change while onwire runs: tun.queues"]);

    let itself = pair.ithaca.config.to_str().unwrap();
    let (code, said) = onwire(&pair.ithaca, &["apply", itself, "--confirm-within", "60s"]);
    assert_eq!((code, said.contains("is the configuration file itself")), (Some(2), true), "{said}");
    let same = candidate(&testbed, "same.yaml", &before);
    let (code, said) = onwire(&pair.ithaca, &["apply", same.to_str().unwrap()]);
    assert_eq!((code, said.contains("follows already")), (Some(0), true), "{said}");
    for time in ["0s", "0.5s", "2000min", "60"] {
        let (code, said) = onwire(&pair.ithaca, &["apply", same.to_str().unwrap(), "--confirm-within", time]);
        assert_eq!(code, Some(2), "{time}: {said}");
    }
    assert_eq!(onwire(&pair.ithaca, &["confirm"]).0, Some(1));
    assert_eq!(onwire(&pair.ithaca, &["confirm", "--reject"]).0, Some(1));
    // A file that somebody has edited and nothing follows must not be lost.
    fs::write(&pair.ithaca.config, format!("{before}\n# edited\n")).unwrap();
    let file = candidate(&testbed, "new.yaml", &pair.ithaca.text(&[more_repair()]));
    let (code, said) = onwire(&pair.ithaca, &["apply", file.to_str().unwrap()]);
    assert_eq!((code, said.contains("somebody has changed it")), (Some(1), true), "{said}");
    let status = pair.ithaca.status();
    assert_eq!((status.configuration.candidate, status.configuration.sha256), (None, sha256(&before)));
    assert!(text(&pair.ithaca.config).ends_with("# edited\n"));
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
}

#[test]
fn a_restart_goes_back_and_a_confirmation_without_a_file_is_completed_later() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    let before = text(&pair.ithaca.config);
    let new = pair.ithaca.text(&[more_repair()]);
    let file = candidate(&testbed, "new.yaml", &new);
    let words = ["apply", file.to_str().unwrap(), "--confirm-within", "10min"];
    for crashes in [true, false] {
        let (code, said) = onwire(&pair.ithaca, &words);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(pair.ithaca.status().configuration.sha256, sha256(&new));
        if crashes {
            pair.ithaca.kill();
        } else {
            let (exit, log) = pair.ithaca.terminate();
            assert!(exit.success() && log.contains("the next start runs what the file has"), "{log}");
        }
        pair.ithaca.start();
        pair.wait_up();
        let configuration = pair.ithaca.status().configuration;
        assert_eq!((configuration.sha256, configuration.candidate), (sha256(&before), None));
        assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
    }
    // A command that confirms and ends before it replaces the file.
    assert_eq!(onwire(&pair.ithaca, &words).0, Some(0));
    let control = control_socket(&pair.ithaca.socket);
    let ask = |request: Request| request_socket::ask(&control, &request.emit()).unwrap();
    let confirmed = ask(Request::Confirm { sha256: sha256(&new) });
    assert!(confirmed.contains("\"is_good\":true"), "{confirmed}");
    let lie = ask(Request::Saved { sha256: sha256(&new) });
    assert!(lie.contains("\"is_good\":false") && lie.contains("something else"), "{lie}");
    assert_eq!((state(&pair.ithaca), text(&pair.ithaca.config)), (Some(CandidateState::Confirmed), before));
    let (_, status) = onwire(&pair.ithaca, &["status"]);
    assert!(status.contains("NOT IN THE FILE"), "{status}");
    let (code, said) = onwire(&pair.ithaca, &["reload"]);
    assert_eq!((code, said.contains("is being written")), (Some(1), true), "{said}");
    assert_eq!(onwire(&pair.ithaca, &["confirm"]).0, Some(0));
    assert_eq!((state(&pair.ithaca), text(&pair.ithaca.config)), (Some(CandidateState::Saved), new));
}

#[test]
fn of_callers_at_once_one_is_followed_and_bad_callers_are_in_nobodys_way() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let control = control_socket(&pair.ithaca.socket);
    assert_eq!(fs::metadata(&control).unwrap().permissions().mode() & 0o777, 0o600);
    let mut bad: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&control).unwrap()).collect();
    bad[0].write_all(b"{\"request\":\"ap").unwrap();
    bad[1].write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut refusal = String::new();
    bad[1].read_to_string(&mut refusal).unwrap();
    assert!(refusal.contains("\"is_good\":false"), "{refusal}");

    let texts: Vec<String> = (1..7)
        .map(|repair| {
            let profile = json!({ "steady": { "block_symbols": 32, "repair": { "fixed": 8 + repair } } });
            pair.ithaca.text(&[("/redundancy", profile)])
        })
        .collect();
    let children: Vec<_> = (0..)
        .zip(&texts)
        .map(|(number, text)| {
            let file = candidate(&testbed, &format!("{number}.yaml"), text);
            let words = ["apply", file.to_str().unwrap(), "--confirm-within", "10min"];
            command(&pair.ithaca, &words).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut followed = Vec::new();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => followed.push(number),
            code => {
                let said = String::from_utf8(output.stderr).unwrap();
                assert_eq!(
                    (code, said.contains("unconfirmed") || said.contains("in between")),
                    (Some(1), true),
                    "{said}"
                );
            }
        }
    }
    let [one] = followed[..] else { panic!("{followed:?} were followed") };
    assert_eq!(pair.ithaca.status().configuration.sha256, sha256(&texts[one]));
    let confirms: Vec<_> = (0..4).map(|_| command(&pair.ithaca, &["confirm"]).spawn().unwrap()).collect();
    for mut child in confirms {
        assert!(child.wait().unwrap().success(), "all have confirmed the same");
    }
    assert_eq!((state(&pair.ithaca), text(&pair.ithaca.config)), (Some(CandidateState::Saved), texts[one].clone()));
    // A caller of the status socket sends nothing, and gets the status.
    let mut document = String::new();
    UnixStream::connect(&pair.ithaca.socket).unwrap().read_to_string(&mut document).unwrap();
    let status: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(status["configuration"]["candidate"]["state"], "saved");
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
}
