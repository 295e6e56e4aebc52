//! `onwire init` and `onwire reference`, run as a user runs them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

fn onwire(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onwire")).args(arguments).current_dir(directory).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn two_inits_make_a_pair_that_check_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let there = onwire(directory.path(), &["init", "there", "--node", "syracuse"]);
    assert!(there.status.success(), "{}", text(&there.stderr));
    let key = text(&there.stdout).trim();
    let public = onwire(directory.path(), &["pubkey", "there/syracuse.key"]);
    assert_eq!(key, text(&public.stdout).trim(), "standard output is the public key and nothing else");
    assert!(text(&there.stderr).contains("3 things are left to fill in"), "{}", text(&there.stderr));

    let arguments = ["init", "here", "--node", "ithaca", "--peer", "syracuse", "--peer-key", key, "--notify"];
    let prefixes = ["--local-prefix", "10.1.0.0/24", "--peer-prefix", "10.2.0.0/24", "--peer-prefix", "fd00:2::/64"];
    let here = onwire(directory.path(), &[&arguments[..], &prefixes].concat());
    assert!(here.status.success(), "{}", text(&here.stderr));
    let next = text(&here.stderr);
    for words in ["here/ithaca.yaml: written", "onwire check here/ithaca.yaml", "systemctl enable --now onwire@ithaca"]
    {
        assert!(next.contains(words), "{words}: {next}");
    }
    // Without an endpoint on either side nobody would call: the peer's file needs one, and the file says where.
    let checked = onwire(directory.path(), &["check", "here/ithaca.yaml"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert!(fs::read_to_string(directory.path().join("here/ithaca.yaml")).unwrap().contains("# endpoint: "));

    // What is left to fill in is what `check` asks for, with the words in the file.
    let checked = onwire(directory.path(), &["check", "there/syracuse.yaml"]);
    assert_eq!(checked.status.code(), Some(2));
    let errors = text(&checked.stderr);
    for word in ["\"OUR-PREFIX\"", "\"PREFIX-OF-THE-PEER\"", "\"PUBLIC-KEY-OF-THE-PEER\"", "3 errors"] {
        assert!(errors.contains(word), "{word}: {errors}");
    }
}

#[test]
fn a_second_init_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    assert!(onwire(directory.path(), &["init", ".", "--node", "a"]).status.success());
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    let before = (read("a.yaml"), read("a.key"));
    let again = onwire(directory.path(), &["init", ".", "--node", "a"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("a.yaml exists, and is left as it is"), "{}", text(&again.stderr));
    assert!(again.stdout.is_empty());
    assert_eq!((read("a.yaml"), read("a.key")), before);
}

#[test]
fn bad_options_are_explained_and_write_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let output = onwire(directory.path(), &["init", ".", "--node", "a", "--local-prefix", "10.1.0.0/33"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(
        error.contains("node.local_prefixes[0]: found \"10.1.0.0/33\"; allowed: ")
            && error.contains("nothing was written"),
        "{error}"
    );
    let output = onwire(directory.path(), &["init", ".", "--node", "a/b"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("allowed: 1 to 63 letters"), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let output = onwire(directory.path(), &["init", "/proc/onwire", "--node", "a"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/proc/onwire cannot be made: "), "{}", text(&output.stderr));
}

#[test]
fn keys_that_root_makes_belong_to_the_owner_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let owner = fs::metadata(directory.path()).unwrap().uid();
    if owner != 0 {
        // Another user gives nothing away: all is its own.
        assert!(onwire(directory.path(), &["init", ".", "--node", "a", "--notify"]).status.success());
        assert_eq!(fs::metadata(directory.path().join("a.key")).unwrap().uid(), owner);
        return;
    }
    std::os::unix::fs::chown(directory.path(), Some(4321), Some(4322)).unwrap();
    let made = onwire(directory.path(), &["init", ".", "--node", "a", "--notify"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    for key in ["a.key", "notify.key"] {
        let metadata = fs::metadata(directory.path().join(key)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (4321, 4322, 0o600), "{key}");
    }
}

#[test]
fn the_references_are_inside_the_program_as_they_are_in_the_repository() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let cases = [
        (&["reference"][..], "config/reference.yaml"),
        (&["reference", "node"], "config/reference.yaml"),
        (&["reference", "gate"], "config/gate.yaml"),
        (&["reference", "topology"], "netns/pair.yaml"),
    ];
    for (arguments, name) in cases {
        assert_eq!(text(&onwire(directory.path(), arguments).stdout), file(name), "{arguments:?}");
    }
    let output = onwire(directory.path(), &["reference", "lab"]);
    assert_eq!(output.status.code(), Some(2));
}
