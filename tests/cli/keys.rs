//! `onwire keygen`, `onwire pubkey` and `onwire check`, run as a user runs them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn onwire(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_onwire"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

#[test]
fn keygen_writes_a_private_file_and_prints_what_pubkey_prints() {
    let directory = tempfile::tempdir().unwrap();
    let made = onwire(directory.path(), &["keygen", "a.key"], b"");
    assert!(made.status.success(), "{}", text(&made.stderr));
    let path = directory.path().join("a.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let public = onwire(directory.path(), &["pubkey", "a.key"], b"");
    assert_eq!(text(&made.stdout), text(&public.stdout));
    assert_eq!(text(&public.stdout).len(), 44);
    let private = fs::read(&path).unwrap();
    for arguments in [&["pubkey"][..], &["pubkey", "-"]] {
        assert_eq!(text(&onwire(directory.path(), arguments, &private).stdout), text(&public.stdout));
    }
}

#[test]
fn keygen_never_overwrites() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.key"), "precious").unwrap();
    let output = onwire(directory.path(), &["keygen", "a.key"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("a.key cannot be written: File exists"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(directory.path().join("a.key")).unwrap(), "precious");
}

#[test]
fn keygen_without_a_file_prints_the_private_key() {
    let directory = tempfile::tempdir().unwrap();
    let made = onwire(directory.path(), &["keygen"], b"");
    let public = onwire(directory.path(), &["pubkey"], &made.stdout);
    assert_eq!(text(&made.stderr), format!("public key: {}", text(&public.stdout)));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn keygen_makes_notification_keys_that_check_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let file = onwire(directory.path(), &["keygen", "--notify", "notify.key"], b"");
    assert!(file.status.success() && file.stdout.is_empty(), "{}", text(&file.stderr));
    let path = directory.path().join("notify.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let printed = onwire(directory.path(), &["keygen", "--notify"], b"");
    assert!(printed.stderr.is_empty());
    assert_eq!((printed.stdout.len(), fs::read(&path).unwrap().len()), (45, 45));
    assert_ne!(printed.stdout, fs::read(&path).unwrap());
    onwire(directory.path(), &["keygen", "a.key"], b"");
    let public = onwire(directory.path(), &["keygen", "b.key"], b"");
    let config = format!(
        "node: {{ name: a, key_file: a.key, local_prefixes: [10.1.0.0/24] }}\n\
         peers: [{{ name: b, public_key: \"{}\", prefixes: [10.2.0.0/24] }}]\n\
         notify: {{ keys: [{{ id: 3, file: notify.key }}] }}\n",
        text(&public.stdout)
    );
    fs::write(directory.path().join("a.yaml"), config).unwrap();
    let output = onwire(directory.path(), &["check", "a.yaml"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("127.0.0.1:7118 (UDP), key 3, level on_wire"), "{}", text(&output.stdout));
}

#[test]
fn pubkey_refuses_input_that_is_no_key() {
    let directory = tempfile::tempdir().unwrap();
    for input in [&b""[..], b"abc\n", b"\xff\xff", &[b'A'; 1000]] {
        let output = onwire(directory.path(), &["pubkey"], input);
        assert_eq!(output.status.code(), Some(1), "{input:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    assert_eq!(onwire(directory.path(), &["pubkey", "nowhere.key"], b"").status.code(), Some(1));
}

/// An empty name must not become the directory of the configuration, and give a node with a key of zeros.
#[test]
fn an_empty_key_file_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let public = onwire(directory.path(), &["keygen", "b.key"], b"");
    for [own, preshared] in [["", "b.key"], ["b.key", ""]] {
        let config = format!(
            "node: {{ name: a, key_file: \"{own}\", local_prefixes: [10.1.0.0/24] }}\n\
             peers: [{{ name: b, public_key: \"{}\", preshared_key_file: \"{preshared}\", prefixes: [10.2.0.0/24] }}]\n",
            text(&public.stdout)
        );
        fs::write(directory.path().join("a.yaml"), config).unwrap();
        let output = onwire(directory.path(), &["check", "a.yaml"], b"");
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
        assert!(text(&output.stderr).contains("key_file: found \"\"; allowed: the path"), "{}", text(&output.stderr));
    }
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, code) in [
        (&[][..], 2),
        (&["chekc"], 2),
        (&["check"], 2),
        (&["check", "nowhere.yaml"], 2),
        (&["check", "."], 2),
        (&["--help"], 0),
        (&["--version"], 0),
    ] {
        assert_eq!(onwire(directory.path(), arguments, b"").status.code(), Some(code), "{arguments:?}");
    }
    for command in ["check", "keygen", "pubkey", "watch", "wait", "flows"] {
        let help = onwire(directory.path(), &[command, "--help"], b"");
        assert!(text(&help.stdout).contains("Examples:"), "{command}");
    }
}

#[test]
fn check_prints_what_would_run_and_warns() {
    let directory = tempfile::tempdir().unwrap();
    onwire(directory.path(), &["keygen", "a.key"], b"");
    let peer = onwire(directory.path(), &["keygen", "b.key"], b"");
    let config = format!(
        "node: {{ name: a, key_file: a.key, local_prefixes: [10.1.0.0/24] }}\n\
         tun: {{ queues: 2 }}\n\
         peers: [{{ name: b, public_key: \"{}\", prefixes: [10.2.0.0/24] }}]\n\
         policy:\n\
         - {{ to: 10.2.0.0/24, redundancy: steady }}\n\
         - {{ to: 10.2.0.1, protocol: tcp, redundancy: steady }}\n\
         - {{ to: 10.3.0.0/24, redundancy: steady }}\n",
        text(&peer.stdout)
    );
    fs::write(directory.path().join("a.yaml"), config).unwrap();
    let output = onwire(directory.path(), &["check", "a.yaml"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for part in [
        "a.yaml: good",
        "0.0.0.0:7117 to port 7118 (UDP), 2 lanes",
        "10.2.0.0/24 into ow0",
        "symbols of up to 1408 bytes",
        "k 32, m 4, overhead 12.5 %",
        "none: waits to be called",
        "to 10.2.0.1/32, protocol tcp",
    ] {
        assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }
    let warned = text(&output.stderr);
    assert!(warned.contains("a.yaml:6:3: warning: policy[1]: never reached: policy[0] (line 5)"), "{warned}");
    assert!(warned.contains("a.yaml:7:9: warning: policy[2].to: never matches"), "{warned}");
}

/// Two good files of one appliance; the second has what `edit` makes of the first.
fn two_files(directory: &Path, edit: impl Fn(&str) -> String) {
    onwire(directory, &["keygen", "a.key"], b"");
    let peer = onwire(directory, &["keygen", "b.key"], b"");
    let config = format!(
        "node: {{ name: a, key_file: a.key, local_prefixes: [10.1.0.0/24] }}\n\
         tun: {{ queues: 1 }}\n\
         peers: [{{ name: b, public_key: \"{}\", prefixes: [10.2.0.0/24] }}]\n",
        text(&peer.stdout).trim()
    );
    fs::write(directory.join("old.yaml"), &config).unwrap();
    fs::write(directory.join("new.yaml"), edit(&config)).unwrap();
}

#[test]
fn check_of_two_files_says_what_a_reload_takes_over() {
    let directory = tempfile::tempdir().unwrap();
    two_files(directory.path(), |old| old.replace("10.2.0.0/24]", "10.2.0.0/24, 10.3.0.0/24]"));
    let reload = onwire(directory.path(), &["check", "old.yaml", "new.yaml"], b"");
    assert_eq!(reload.status.code(), Some(0), "{}", text(&reload.stderr));
    let expected = "old.yaml -> new.yaml: both good, 1 difference\n  peers[b].prefixes  changed  with a reload";
    assert_eq!(text(&reload.stdout), expected);
    let same = onwire(directory.path(), &["check", "new.yaml", "new.yaml"], b"");
    assert!(same.status.success() && text(&same.stdout).contains("no difference"), "{}", text(&same.stdout));
    let directory = tempfile::tempdir().unwrap();
    two_files(directory.path(), |old| old.replace("queues: 1", "queues: 2"));
    let restart = onwire(directory.path(), &["check", "old.yaml", "new.yaml"], b"");
    assert_eq!(restart.status.code(), Some(1));
    assert!(text(&restart.stdout).contains("tun.queues  changed  NEEDS A RESTART"), "{}", text(&restart.stdout));
    fs::write(directory.path().join("old.yaml"), "nodes: 1\n").unwrap();
    fs::write(directory.path().join("new.yaml"), "peer: 1\n").unwrap();
    let both = onwire(directory.path(), &["check", "old.yaml", "new.yaml"], b"");
    assert_eq!(both.status.code(), Some(2));
    let said = text(&both.stderr);
    assert!(said.contains("old.yaml:1") && said.contains("new.yaml:1"), "all errors of both: {said}");
}

#[test]
fn check_reads_standard_input_as_if_it_lay_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    two_files(directory.path(), str::to_owned);
    let config = fs::read(directory.path().join("old.yaml")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let place = directory.path().join("rendered.yaml");
    let place = place.to_str().unwrap();
    let good = onwire(elsewhere.path(), &["check", "-", "--as", place], &config);
    assert!(good.status.success(), "{}", text(&good.stderr));
    assert!(text(&good.stdout).starts_with(&format!("{place}: good")), "{}", text(&good.stdout));
    let lost = onwire(elsewhere.path(), &["check", "-"], &config);
    assert_eq!(lost.status.code(), Some(2), "the key file is not here");
    assert!(text(&lost.stderr).contains("node.key_file"), "{}", text(&lost.stderr));
    let compared =
        onwire(elsewhere.path(), &["check", place.replace("rendered", "old").as_str(), "-", "--as", place], &config);
    assert_eq!(compared.status.code(), Some(0), "{}", text(&compared.stderr));
    let twice = onwire(elsewhere.path(), &["check", "-", "-"], &config);
    assert_eq!(twice.status.code(), Some(2));
}

#[test]
fn a_file_of_the_other_kind_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("gate.yaml"), "notify: { key_file: none.key }\ngates: []\n").unwrap();
    fs::write(directory.path().join("node.yaml"), "node: { name: ithaca }\npeers: []\n").unwrap();
    for (arguments, says) in [
        (&["run", "--config", "gate.yaml"][..], "found a file of gates\n  = `onwire gate --config gate.yaml` runs it"),
        (&["run", "gate.yaml"], "found a file of gates\n  = `onwire gate --config gate.yaml` runs it"),
        (&["gate", "--config", "node.yaml"], "found an appliance's file\n  = `onwire run --config node.yaml` runs it"),
    ] {
        let refused = onwire(directory.path(), arguments, b"");
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        let errors = text(&refused.stderr);
        assert!(errors.contains(says) && !errors.contains("unknown key"), "{arguments:?}: {errors}");
    }
    // JSON is YAML too, and has no key at the begin of a line.
    fs::write(directory.path().join("gate.json"), r#"{"notify": {"key_file": "none.key"}, "gates": []}"#).unwrap();
    for arguments in [&["check", "gate.yaml"][..], &["check", "--config", "gate.yaml"], &["check", "gate.json"]] {
        let checked = onwire(directory.path(), arguments, b"");
        assert!(text(&checked.stderr).contains("gates: "), "it is checked as what it is: {}", text(&checked.stderr));
    }
    for arguments in [&["run"][..], &["check"], &["run", "node.yaml", "--config", "node.yaml"]] {
        assert_eq!(onwire(directory.path(), arguments, b"").status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_directory_for_a_key_that_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["keygen", "none/a.key"][..], &["keygen", "--notify", "none/a.key"]] {
        let refused = onwire(directory.path(), arguments, b"");
        assert_eq!(refused.status.code(), Some(1));
        let errors = text(&refused.stderr);
        assert!(errors.ends_with("= make its directory first: mkdir -p none"), "{errors}");
    }
}
