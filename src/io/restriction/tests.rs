//! What is given up is given up for the whole process, so each test runs in a process of its own.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Instant;

use super::*;
use crate::io::sd_notify::SdNotify;

/// Says that this process is for one test alone.
const ALONE: &str = "ONWIRE_TEST_RESTRICTED";

/// Whether this process is for the calling test alone. If not, starts one that is, and waits until it has passed.
pub(crate) fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{:?}: {said}", output.status);
    false
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn is_denied<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// By thread name, the lines of its status in `/proc`.
fn threads() -> BTreeMap<String, BTreeMap<String, String>> {
    let of_thread = |entry: io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(entry.unwrap().path().join("status")).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        let lines: BTreeMap<_, _> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        (lines["Name"].clone(), lines)
    };
    fs::read_dir("/proc/self/task").unwrap().map(of_thread).collect()
}

#[test]
fn files_outside_are_denied_and_those_of_a_reload_are_not() {
    if !is_alone("io::restriction::tests::files_outside_are_denied_and_those_of_a_reload_are_not") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let directories = ["config", "linked", "run", "outside"].map(|name| home.path().join(name));
    directories.iter().for_each(|directory| fs::create_dir(directory).unwrap());
    let [config, linked, run, outside] = directories;
    for directory in [&config, &linked, &outside] {
        fs::write(directory.join("a.yaml"), "text").unwrap();
        fs::write(directory.join("later.key"), "text").unwrap();
    }
    std::os::unix::fs::symlink(linked.join("a.yaml"), config.join("link.yaml")).unwrap();
    let open_before = fs::File::create(outside.join("log")).unwrap();
    let old_socket = UnixListener::bind(run.join("old.sock")).unwrap();
    let restrictions = restrict(&Needs {
        files: vec![config.join("a.yaml"), config.join("link.yaml")],
        sockets: vec![run.join("old.sock")],
        ..Needs::default()
    });
    let files = restrictions.files.clone().unwrap_or_else(|| panic!("{:?}", restrictions.missing));
    assert!(files.landlock > 0);
    assert_eq!(files.readable, [config.canonicalize().unwrap(), linked.canonicalize().unwrap()]);

    for name in ["a.yaml", "later.key", "link.yaml"] {
        assert_eq!(fs::read_to_string(config.join(name)).unwrap(), "text", "{name}");
    }
    assert!(is_denied(fs::read_to_string(outside.join("a.yaml"))));
    assert!(is_denied(fs::read_dir("/")) && is_denied(fs::read_to_string("/etc/passwd")));
    assert!(is_denied(fs::write(config.join("a.yaml"), "other")) && is_denied(fs::write(config.join("new"), "")));
    assert!(is_denied(fs::remove_file(config.join("a.yaml"))) && is_denied(fs::create_dir(run.join("new"))));
    assert!(is_denied(UnixListener::bind(config.join("new.sock"))));
    io::Write::write_all(&mut &open_before, b"what is open stays so").unwrap();
    fs::remove_file(run.join("old.sock")).unwrap();
    UnixListener::bind(run.join("old.sock")).unwrap();
    drop(old_socket);

    assert_eq!(restrictions.advice(&config.join("missing.key")), None);
    let advice = restrictions.advice(&outside.join("a.yaml")).unwrap();
    assert!(advice.contains("outside/a.yaml is outside") && advice.contains("restart onwire"), "{advice}");
    assert!(restrictions.advice(&config.join("../outside/a.yaml")).is_some());
}

#[test]
fn privileges_and_programs_are_gone_for_every_thread_and_threads_still_start() {
    if !is_alone("io::restriction::tests::privileges_and_programs_are_gone_for_every_thread_and_threads_still_start") {
        return;
    }
    let (end_older, older_ends) = channel::<()>();
    let (end_bare, bare_ends) = channel::<()>();
    let start = |name: &str, ends: std::sync::mpsc::Receiver<()>| {
        thread::Builder::new().name(name.to_owned()).spawn(move || ends.recv()).unwrap()
    };
    let older = start("older", older_ends);
    let bare = without_privileges(|| start("bare", bare_ends));
    // The thread is known by its name once it runs.
    while !["older", "bare"].iter().all(|name| threads().contains_key(*name)) {
        thread::yield_now();
    }
    let needs = Needs { readable: vec!["/proc".into()], capabilities: CapabilitySet::NET_ADMIN, ..Needs::default() };
    let restrictions = restrict(&needs);
    assert_eq!(restrictions.missing, Vec::<String>::new());
    let kept: &[&str] = if is_root() { &["CAP_NET_ADMIN"] } else { &[] };
    assert_eq!(restrictions.capabilities, kept);
    let (end_younger, younger_ends) = channel::<()>();
    let younger = start("younger", younger_ends);
    while !threads().contains_key("younger") {
        thread::yield_now();
    }

    const NONE: &str = "0000000000000000";
    let net_admin = if is_root() { "0000000000001000" } else { NONE };
    let threads = threads();
    for status in threads.values() {
        // The filter and this flag reach even threads that are older and were not started without privileges.
        assert_eq!((&status["NoNewPrivs"][..], &status["Seccomp"][..]), ("1", "2"), "{status:?}");
    }
    for (name, left) in [("bare", NONE), ("younger", net_admin)] {
        let sets = ["CapEff", "CapPrm"].map(|set| &threads[name][set][..]);
        assert_eq!(sets, [left; 2], "{name}");
        assert_eq!(["CapInh", "CapAmb"].map(|set| &threads[name][set][..]), [NONE; 2], "{name}");
        if is_root() {
            assert_eq!(threads[name]["CapBnd"], NONE, "{name}");
        }
    }

    assert!(restrictions.refused_system_calls > 60);
    let no_permission =
        |result: libc::c_long| (result, io::Error::last_os_error().raw_os_error()) == (-1, Some(libc::EPERM));
    // SAFETY: calls without arguments, or with such as the kernel refuses anyway.
    unsafe {
        assert!(no_permission(libc::syscall(libc::SYS_execve, 0, 0, 0)));
        assert!(no_permission(libc::syscall(libc::SYS_bpf, 0, 0, 0)));
        assert!(no_permission(libc::syscall(libc::SYS_io_uring_setup, 0, 0)));
        assert!(no_permission(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER)));
        assert!(no_permission(libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0)));
        #[cfg(target_arch = "x86_64")]
        assert!(no_permission(libc::syscall(0x4000_0000 | libc::SYS_getpid)));
    }
    assert!(is_denied(Command::new("true").spawn()));
    for (end, thread) in [(end_older, older), (end_bare, bare), (end_younger, younger)] {
        drop(end);
        assert!(thread.join().unwrap().is_err(), "it ended because it was asked to");
    }
}

#[test]
fn files_of_another_user_stay_readable_for_root() {
    if !is_alone("io::restriction::tests::files_of_another_user_stay_readable_for_root") || !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("a.key");
    fs::write(&key, "text").unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&key, Some(12345), None).unwrap();
    let restrictions = restrict(&Needs { files: vec![key.clone()], ..Needs::default() });
    assert_eq!(restrictions.capabilities, ["CAP_DAC_READ_SEARCH"]);
    assert_eq!(fs::read_to_string(&key).unwrap(), "text");
    assert!(is_denied(fs::OpenOptions::new().write(true).open(&key)));
}

#[test]
fn what_listens_to_sd_notify_is_still_told() {
    if !is_alone("io::restriction::tests::what_listens_to_sd_notify_is_still_told") {
        return;
    }
    let name = format!("onwire-restricted-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let (sender, receiver) = channel();
    let listener = UnixDatagram::bind_addr(&address).unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = [0; 64];
        receiver.recv().unwrap();
        let count = listener.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    });
    let mut notify = SdNotify::connect(format!("@{name}").as_ref(), None, Instant::now()).unwrap();
    restrict(&Needs::default());
    notify.ready("well");
    sender.send(()).unwrap();
    assert_eq!(reader.join().unwrap(), "READY=1\nSTATUS=well\n");
}

#[test]
fn without_privileges_the_action_runs_once_and_its_panic_is_passed_on() {
    assert_eq!(without_privileges(capabilities::names), Vec::<String>::new());
    let panic = std::panic::catch_unwind(|| without_privileges(|| panic!("as intended")));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"as intended"));
    assert!(fs::read_dir("/").is_ok(), "this thread can do as before");
}

#[test]
fn without_landlock_there_is_no_advice() {
    assert_eq!(Restrictions::default().advice(Path::new("/etc/shadow")), None);
}
