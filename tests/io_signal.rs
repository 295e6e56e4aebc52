//! Signals reach the program as events, and the second interrupt ends it.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use onwire::io::signal::{PendingSignals, Signal};
use rustix::process::{Pid, Signal as Number, kill_process};

const CHILD: &str = "ONWIRE_TEST_SIGNAL_CHILD";

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints each signal as it comes, until it is killed or 20 seconds have passed.
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

#[test]
fn signals_are_told_apart_and_the_second_interrupt_exits() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let mut process = Guard(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signals_are_told_apart_and_the_second_interrupt_exits", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let pid = Pid::from_child(&process.0);
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let mut told = || {
        let found =
            lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.split_once("signal: ")?.1.to_owned()));
        found.expect("the child ended")
    };
    assert_eq!(told(), "ready");
    for (number, name) in
        [(Number::TERM, "Terminate"), (Number::HUP, "HangUp"), (Number::USR1, "User1"), (Number::INT, "Interrupt")]
    {
        kill_process(pid, number).unwrap();
        assert_eq!(told(), name);
    }
    kill_process(pid, Number::INT).unwrap();
    let status = process.0.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
}
