//! Signals reach the program as events, and the second interrupt ends it.
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use onwire::io::signal::{PendingSignals, Signal};
use rustix::process::{Pid, Signal as Number, kill_process};

const CHILD: &str = "ONWIRE_TEST_SIGNAL_CHILD";

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints each signal when it arrives, until it is killed or 20 seconds have passed.
fn child() {
    let (sender, receiver) = mpsc::channel();
    let pending = PendingSignals::listen(move || _ = sender.send(())).unwrap();
    println!("signal: ready");
    while receiver.recv_timeout(Duration::from_secs(20)).is_ok() {
        for signal in [Signal::Interrupt, Signal::Terminate, Signal::HangUp, Signal::User1] {
            if pending.take(signal) {
                println!("signal: {signal:?}");
            }
        }
    }
}

/// This test executable started again by `command` as a child that runs only the calling test.
struct Listener {
    process: KilledOnDrop,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    fn start(mut command: Command, test: &str) -> Self {
        command.args(["--exact", &format!("signal::{test}"), "--nocapture"]).env(CHILD, "1").stdout(Stdio::piped());
        let mut process = KilledOnDrop(command.spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let mut listener = Self { process, lines };
        assert_eq!(listener.next_line(), "ready");
        listener
    }

    fn send(&self, number: Number) {
        kill_process(Pid::from_child(&self.process.0), number).unwrap();
    }

    /// Sends a second interrupt, late enough that the kernel does not merge the two.
    fn interrupt_again(&self) {
        std::thread::sleep(Duration::from_millis(400));
        self.send(Number::INT);
    }

    fn next_line(&mut self) -> String {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        lines.find_map(|line| Some(line.split_once("signal: ")?.1.to_owned())).expect("the child ended")
    }

    /// Its exit code and the signal that ended it.
    fn wait(mut self) -> (Option<i32>, Option<i32>) {
        let status = self.process.0.wait().unwrap();
        (status.code(), status.signal())
    }
}

#[test]
fn signals_are_distinguished_and_the_second_interrupt_exits() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let command = Command::new(std::env::current_exe().unwrap());
    let mut listener = Listener::start(command, "signals_are_distinguished_and_the_second_interrupt_exits");
    for (number, name) in
        [(Number::TERM, "Terminate"), (Number::HUP, "HangUp"), (Number::USR1, "User1"), (Number::INT, "Interrupt")]
    {
        listener.send(number);
        assert_eq!(listener.next_line(), name);
    }
    listener.interrupt_again();
    assert_eq!(listener.wait(), (Some(130), None));
}

/// A shell without job control starts `onwire run &` with interrupts ignored.
#[test]
fn a_background_job_of_a_shell_that_ignores_interrupts_can_listen() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT; exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
    let mut listener = Listener::start(command, "a_background_job_of_a_shell_that_ignores_interrupts_can_listen");
    listener.send(Number::INT);
    assert_eq!(listener.next_line(), "Interrupt");
    listener.interrupt_again();
    assert_eq!(listener.wait(), (Some(130), None));
}
