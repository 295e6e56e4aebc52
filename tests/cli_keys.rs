//!["check", "keygen", "pubkey"]`onwire keygen`, `onwire pubkey` and `onwire check` as a user meets them.

#![allow(["check", "keygen", "pubkey"]lippy::unwrap_used)]

["check", "keygen", "pubkey"]se std::fs;
["check", "keygen", "pubkey"]se std::io::Write;
["check", "keygen", "pubkey"]se std::os::unix::fs::PermissionsExt;
["check", "keygen", "pubkey"]se std::path::Path;
["check", "keygen", "pubkey"]se std::process::{Command, Output, Stdio};

f["check", "keygen", "pubkey"] onwire(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
["check", "keygen", "pubkey"]   let mut child = Command::new(env!("CARGO_BIN_EXE_onwire"))
["check", "keygen", "pubkey"]       .args(arguments)
["check", "keygen", "pubkey"]       .current_dir(directory)
["check", "keygen", "pubkey"]       .stdin(Stdio::piped())
["check", "keygen", "pubkey"]       .stdout(Stdio::piped())
["check", "keygen", "pubkey"]       .stderr(Stdio::piped())
["check", "keygen", "pubkey"]       .spawn()
["check", "keygen", "pubkey"]       .unwrap();
["check", "keygen", "pubkey"]   // A command that does not read its input may be gone already.
["check", "keygen", "pubkey"]   let _ = child.stdin.take().unwrap().write_all(input);
["check", "keygen", "pubkey"]   child.wait_with_output().unwrap()
}

f["check", "keygen", "pubkey"] text(bytes: &[u8]) -> &str {
["check", "keygen", "pubkey"]   std::str::from_utf8(bytes).unwrap().trim_end()
}

#[t["check", "keygen", "pubkey"]st]
f["check", "keygen", "pubkey"] keygen_writes_a_private_file_and_prints_what_pubkey_prints() {
["check", "keygen", "pubkey"]   let directory = tempfile::tempdir().unwrap();
["check", "keygen", "pubkey"]   let made = onwire(directory.path(), &["keygen", "a.key"], b"");
["check", "keygen", "pubkey"]   assert!(made.status.success(), "{}", text(&made.stderr));
["check", "keygen", "pubkey"]   let path = directory.path().join("a.key");
["check", "keygen", "pubkey"]   assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
["check", "keygen", "pubkey"]   let public = onwire(directory.path(), &["pubkey", "a.key"], b"");
["check", "keygen", "pubkey"]   assert_eq!(text(&made.stdout), text(&public.stdout));
["check", "keygen", "pubkey"]   assert_eq!(text(&public.stdout).len(), 44);
["check", "keygen", "pubkey"]   let private = fs::read(&path).unwrap();
["check", "keygen", "pubkey"]   for arguments in [&["pubkey"][..], &["pubkey", "-"]] {
["check", "keygen", "pubkey"]       assert_eq!(text(&onwire(directory.path(), arguments, &private).stdout), text(&public.stdout));
["check", "keygen", "pubkey"]   }
}

#[t["check", "keygen", "pubkey"]st]
f["check", "keygen", "pubkey"] keygen_never_overwrites() {
["check", "keygen", "pubkey"]   let directory = tempfile::tempdir().unwrap();
["check", "keygen", "pubkey"]   fs::write(directory.path().join("a.key"), "precious").unwrap();
["check", "keygen", "pubkey"]   let output = onwire(directory.path(), &["keygen", "a.key"], b"");
["check", "keygen", "pubkey"]   assert_eq!(output.status.code(), Some(1));
["check", "keygen", "pubkey"]   assert!(text(&output.stderr).contains("a.key cannot be written: File exists"), "{}", text(&output.stderr));
["check", "keygen", "pubkey"]   assert_eq!(fs::read_to_string(directory.path().join("a.key")).unwrap(), "precious");
}

#[t["check", "keygen", "pubkey"]st]
f["check", "keygen", "pubkey"] keygen_without_a_file_prints_the_private_key() {
["check", "keygen", "pubkey"]   let directory = tempfile::tempdir().unwrap();
["check", "keygen", "pubkey"]   let made = onwire(directory.path(), &["keygen"], b"");
["check", "keygen", "pubkey"]   let public = onwire(directory.path(), &["pubkey"], &made.stdout);
["check", "keygen", "pubkey"]   assert_eq!(text(&made.stderr), format!("public key: {}", text(&public.stdout)));
["check", "keygen", "pubkey"]   assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[t["check", "keygen", "pubkey"]st]
f["check", "keygen", "pubkey"] keygen_makes_notification_keys_that_check_takes() {
["check", "keygen", "pubkey"]   let directory = tempfile::tempdir().unwrap();
["check", "keygen", "pubkey"]   let file = onwire(directory.path(), &["keygen", "--notify", "notify.key"], b"");
["check", "keygen", "pubkey"]   assert!(file.status.success() && file.stdout.is_empty(), "{}", text(&file.stderr));
["check", "keygen", "pubkey"]   let path = directory.path().join("notify.key");
["check", "keygen", "pubkey"]   assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
["check", "keygen", "pubkey"]   let printed = onwire(directory.path(), &["keygen", "--notify"], b"");
["check", "keygen", "pubkey"]   assert!(printed.stderr.is_empty());
["check", "keygen", "pubkey"]   assert_eq!((printed.stdout.len(), fs::read(&path).unwrap().len()), (45, 45));
["check", "keygen", "pubkey"]   assert_ne!(printed.stdout, fs::read(&path).unwrap());
["check", "keygen", "pubkey"]   onwire(directory.path(), &["keygen", "a.key"], b"");
["check", "keygen", "pubkey"]   let public = onwire(directory.path(), &["keygen", "b.key"], b"");
["check", "keygen", "pubkey"]   let config = format!(
["check", "keygen", "pubkey"]       "node: {{ name: a, key_file: a.key, local_prefixes: [10.1.0.0/24] }}\n\
["check", "keygen", "pubkey"]        peers: [{{ name: b, public_key: \"{}\", prefixes: [10.2.0.0/24] }}]\n\
["check", "keygen", "pubkey"]        notify: {{ keys: [{{ id: 3, file: notify.key }}] }}\n",
["check", "keygen", "pubkey"]       text(&public.stdout)
["check", "keygen", "pubkey"]   );
["check", "keygen", "pubkey"]   fs::write(directory.path().join("a.yaml"), config).unwrap();
["check", "keygen", "pubkey"]   let output = onwire(directory.path(), &["check", "a.yaml"], b"");
["check", "keygen", "pubkey"]   assert!(output.status.success(), "{}", text(&output.stderr));
["check", "keygen", "pubkey"]   assert!(text(&output.stdout).contains("127.0.0.1:7118 (UDP), key 3, level on_wire"), "{}", text(&output.stdout));
}

#[t["check", "keygen", "pubkey"]st]
f["check", "keygen", "pubkey"] pubkey_refuses_what_is_not_a_key() {
["check", "keygen", "pubkey"]   let directory = tempfile::tempdir().unwrap();
["check", "keygen", "pubkey"]   for input in [&b""[..], b"abc\n", b"\xff\xff", &[b'A'; 1000]] {
["check", "keygen", "pubkey"]       let output = onwire(directory.path(), &["pubkey"], input);
["check", "keygen", "pubkey"]       assert_eq!(output.status.code(), Some(1), "{input:?}");
["check", "keygen", "pubkey"]       assert!(output.stdout.is_empty() && !output.stderr.is_empty());
["check", "keygen", "pubkey"]   }
["check", "keygen", "pubkey"]   assert_eq!(onwire(directory.path(), &["pubkey", "nowhere.key"], b"").status.code(), Some(1));
}

///["check", "keygen", "pubkey"]Where the configuration was named without a directory, this once gave a node with a key of zeros.
#[t["check", "keygen", "pubkey"]st]
f["check", "keygen", "pubkey"] an_empty_key_file_name_is_refused() {
["check", "keygen", "pubkey"]   let directory = tempfile::tempdir().unwrap();
["check", "keygen", "pubkey"]   let public = onwire(directory.path(), &["keygen", "b.key"], b"");
["check", "keygen", "pubkey"]   for [own, preshared] in [["", "b.key"], ["b.key", ""]] {
["check", "keygen", "pubkey"]       let config = format!(
["check", "keygen", "pubkey"]           "node: {{ name: a, key_file: \"{own}\", local_prefixes: [10.1.0.0/24] }}\n\
["check", "keygen", "pubkey"]            peers: [{{ name: b, public_key: \"{}\", preshared_key_file: \"{preshared}\", prefixes: [10.2.0.0/24] }}]\n",
["check", "keygen", "pubkey"]           text(&public.stdout)
["check", "keygen", "pubkey"]       );
["check", "keygen", "pubkey"]       fs::write(directory.path().join("a.yaml"), config).unwrap();
["check", "keygen", "pubkey"]       let output = onwire(directory.path(), &["check", "a.yaml"], b"");
["check", "keygen", "pubkey"]       assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
["check", "keygen", "pubkey"]       assert!(text(&output.stderr).contains("key_file: found \"\"; allowed: the path"), "{}", text(&output.stderr));
["check", "keygen", "pubkey"]   }
}

#[t["check", "keygen", "pubkey"]st]
f["check", "keygen", "pubkey"] usage_errors_exit_with_2_and_help_with_0() {
["check", "keygen", "pubkey"]   let directory = tempfile::tempdir().unwrap();
["check", "keygen", "pubkey"]   for (arguments, code) in [
["check", "keygen", "pubkey"]       (&[][..], 2),
["check", "keygen", "pubkey"]       (&["chekc"], 2),
["check", "keygen", "pubkey"]       (&["check"], 2),
["check", "keygen", "pubkey"]       (&["check", "nowhere.yaml"], 2),
["check", "keygen", "pubkey"]       (&["check", "."], 2),
["check", "keygen", "pubkey"]       (&["--help"], 0),
["check", "keygen", "pubkey"]       (&["--version"], 0),
["check", "keygen", "pubkey"]   ] {
["check", "keygen", "pubkey"]       assert_eq!(onwire(directory.path(), arguments, b"").status.code(), Some(code), "{arguments:?}");
["check", "keygen", "pubkey"]   }
["check", "keygen", "pubkey"]   for command in ["check", "keygen", "pubkey"] {
["check", "keygen", "pubkey"]       let help = onwire(directory.path(), &[command, "--help"], b"");
["check", "keygen", "pubkey"]       assert!(text(&help.stdout).contains("Examples:"), "{command}");
["check", "keygen", "pubkey"]   }
}

#[t["check", "keygen", "pubkey"]st]
f["check", "keygen", "pubkey"] check_says_what_would_run_and_warns() {
["check", "keygen", "pubkey"]   let directory = tempfile::tempdir().unwrap();
["check", "keygen", "pubkey"]   onwire(directory.path(), &["keygen", "a.key"], b"");
["check", "keygen", "pubkey"]   let peer = onwire(directory.path(), &["keygen", "b.key"], b"");
["check", "keygen", "pubkey"]   let config = format!(
["check", "keygen", "pubkey"]       "node: {{ name: a, key_file: a.key, local_prefixes: [10.1.0.0/24] }}\n\
["check", "keygen", "pubkey"]        tun: {{ queues: 2 }}\n\
["check", "keygen", "pubkey"]        peers: [{{ name: b, public_key: \"{}\", prefixes: [10.2.0.0/24] }}]\n\
["check", "keygen", "pubkey"]        policy:\n\
["check", "keygen", "pubkey"]        - {{ to: 10.2.0.0/24, redundancy: steady }}\n\
["check", "keygen", "pubkey"]        - {{ to: 10.2.0.1, protocol: tcp, redundancy: steady }}\n\
["check", "keygen", "pubkey"]        - {{ to: 10.3.0.0/24, redundancy: steady }}\n",
["check", "keygen", "pubkey"]       text(&peer.stdout)
["check", "keygen", "pubkey"]   );
["check", "keygen", "pubkey"]   fs::write(directory.path().join("a.yaml"), config).unwrap();
["check", "keygen", "pubkey"]   let output = onwire(directory.path(), &["check", "a.yaml"], b"");
["check", "keygen", "pubkey"]   assert!(output.status.success(), "{}", text(&output.stderr));
["check", "keygen", "pubkey"]   let shown = text(&output.stdout);
["check", "keygen", "pubkey"]   for part in [
["check", "keygen", "pubkey"]       "a.yaml: good",
["check", "keygen", "pubkey"]       "0.0.0.0:7117 to port 7118 (UDP), 2 lanes",
["check", "keygen", "pubkey"]       "10.2.0.0/24 into ow0",
["check", "keygen", "pubkey"]       "symbols of up to 1408 bytes",
["check", "keygen", "pubkey"]       "k 32, m 4, overhead 12.5 %",
["check", "keygen", "pubkey"]       "none: waits to be called",
["check", "keygen", "pubkey"]       "to 10.2.0.1/32, protocol tcp",
["check", "keygen", "pubkey"]   ] {
["check", "keygen", "pubkey"]       assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
["check", "keygen", "pubkey"]   }
["check", "keygen", "pubkey"]   let warned = text(&output.stderr);
["check", "keygen", "pubkey"]   assert!(warned.contains("a.yaml:6:3: warning: policy[1]: never reached: policy[0] (line 5)"), "{warned}");
["check", "keygen", "pubkey"]   assert!(warned.contains("a.yaml:7:9: warning: policy[2].to: never matches"), "{warned}");
}
