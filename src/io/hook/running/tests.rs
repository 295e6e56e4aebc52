//! Each test ends processes of its own by the list of its children, so it runs in a process of its own.

use super::*;
use crate::io::restriction::tests::is_alone;
use rustix::process::getrlimit;

/// Runs a script of the shell to its end.
fn run(script: &str, limit: Duration) -> End {
    let began = Instant::now();
    let arguments = ["-c".to_owned(), script.to_owned()];
    let variables = [("ONWIRE_EVENT", "link".to_owned())];
    let mut running =
        Running::start(Path::new("/bin/sh"), &arguments, b"{\"event\":\"link\"}", &variables, limit, began).unwrap();
    loop {
        if let Some(end) = running.poll(Instant::now()) {
            return end;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{running:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Processes of this system with this word in their command line, but ours.
fn processes_with(word: &str) -> usize {
    let own = getpid().as_raw_nonzero().to_string();
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let lines = entries.filter(|name| *name != own).filter_map(|name| fs::read(format!("/proc/{name}/cmdline")).ok());
    lines.filter(|line| line.windows(word.len()).any(|bytes| bytes == word.as_bytes())).count()
}

/// Waits until no process has this word in its command line: the kernel ends what was killed in its own time.
fn until_none(word: &str) {
    let began = Instant::now();
    while processes_with(word) > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "{} processes are left", processes_with(word));
        std::thread::sleep(Duration::from_millis(5));
    }
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_program_gets_its_facts_and_a_plain_environment_and_its_end_is_known() {
    if !is_alone("io::hook::running::tests::a_program_gets_its_facts_and_a_plain_environment_and_its_end_is_known") {
        return;
    }
    let end = run("cat; echo; echo $ONWIRE_EVENT $PATH; pwd; echo no >&2; env | grep -c CARGO; exit 3", SOON);
    let output = String::from_utf8_lossy(&end.output);
    assert_eq!(output, format!("{{\"event\":\"link\"}}\nlink {PATH}\n/\nno\n0\n"));
    assert_eq!((end.code, end.signal, end.is_overdue, end.left), (Some(3), None, false, 0));
    let end = run("kill -9 $$", SOON);
    assert_eq!((end.code, end.signal, end.is_overdue), (None, Some(9), false));
    // It does not read its input, and closes its output before it ends.
    assert_eq!(run("exec >&- 2>&- <&-; sleep 0.05", SOON).code, Some(0));
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error() {
    if !is_alone("io::hook::running::tests::a_program_that_cannot_be_executed_is_an_error") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hook");
    fs::write(&file, "no program").unwrap();
    for program in [Path::new("/nonexistent"), directory.path(), &file] {
        assert!(Running::start(program, &[], b"", &[], SOON, Instant::now()).is_err(), "{}", program.display());
    }
    assert_eq!(end_orphans(), 0);
}

#[test]
fn a_program_that_never_ends_is_asked_to_and_then_ended() {
    if !is_alone("io::hook::running::tests::a_program_that_never_ends_is_asked_to_and_then_ended") {
        return;
    }
    let limit = Duration::from_millis(200);
    let end = run("trap 'echo asked; exit 7' TERM; while :; do sleep 0.01; done", limit);
    assert_eq!((end.code, end.is_overdue), (Some(7), true), "it may clean up");
    // The shell may add a word about its `sleep`.
    assert!(end.output.ends_with(b"asked\n") && end.took >= limit && end.took < limit + GRACE, "{end:?}");
    let end = run("trap '' TERM; while :; do sleep 0.01; done", limit);
    assert_eq!((end.signal, end.is_overdue), (Some(9), true));
    assert!(end.took >= limit + GRACE, "{end:?}");
}

#[test]
fn output_is_kept_in_part_and_a_program_that_always_writes_holds_up_nothing() {
    if !is_alone("io::hook::running::tests::output_is_kept_in_part_and_a_program_that_always_writes_holds_up_nothing") {
        return;
    }
    let end = run("exec yes 0123456789", Duration::from_millis(300));
    assert!(end.is_overdue && end.took < Duration::from_secs(5), "{end:?}");
    assert_eq!(end.output.len(), OUTPUT_MAX);
    assert!(end.output.starts_with(b"0123456789\n0123") && end.output_left_out > 100_000, "{}", end.output_left_out);
}

#[test]
fn nothing_that_a_program_starts_outlives_it() {
    if !is_alone("io::hook::running::tests::nothing_that_a_program_starts_outlives_it") {
        return;
    }
    confine().unwrap();
    let mark = format!("91.{}", std::process::id());
    // In its group; in a session of its own; and in one of its own behind a parent that has ended.
    let script = format!(
        "sleep {mark} & setsid sleep {mark} & setsid sh -c 'sleep {mark} & sleep {mark} & exit' & sleep 0.3; exit 0"
    );
    let end = run(&script, SOON);
    assert_eq!((end.code, end.left), (Some(0), 0));
    assert!(end.took < Duration::from_secs(10), "its output is not waited for: {end:?}");
    until_none(&mark);
}

#[test]
fn a_program_that_forks_for_ever_is_ended_with_all_of_its_processes() {
    if !is_alone("io::hook::running::tests::a_program_that_forks_for_ever_is_ended_with_all_of_its_processes") {
        return;
    }
    confine().unwrap();
    let mark = format!("92.{}", std::process::id());
    // Each process starts two more and waits; some leave their group. The number is bounded here too: root may start any number.
    let script = format!(
        "f() {{ [ $1 -le 0 ] && exec sleep {mark}; f $(($1 - 1)) & setsid sh -c 'sleep {mark} & exec sleep {mark}' & f $(($1 - 1)) & \
         wait; }}; f 5"
    );
    let end = run(&script, Duration::from_secs(2));
    assert_eq!((end.is_overdue, end.left), (true, 0));
    until_none(&mark);
}

#[test]
fn programs_have_no_privilege_and_bounds() {
    if !is_alone("io::hook::running::tests::programs_have_no_privilege_and_bounds") {
        return;
    }
    confine().unwrap();
    let end = run("grep -E '^(Cap(Eff|Prm|Inh|Bnd|Amb)|NoNewPrivs):' /proc/self/status; ulimit -u; ulimit -c", SOON);
    let output = String::from_utf8(end.output).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(output.contains(&format!("{set}:\t0000000000000000\n")), "{output}");
    }
    assert!(output.contains("NoNewPrivs:\t1\n") && output.ends_with("\n0\n"), "{output}");
    let processes = getrlimit(Resource::Nproc);
    assert_eq!((processes.current, processes.maximum), (Some(PROCESSES_MAX), Some(PROCESSES_MAX)));
}
