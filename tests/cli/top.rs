//! `onwire top` at a terminal of its own: a pseudo-terminal, whose screen is read as a person would.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use crate::processes::{Sockets, appliance, gates};

/// How long a busy machine may take to show something.
const SOON: Duration = Duration::from_secs(30);

/// A terminal with `onwire top` on it; the program ends with it.
struct Terminal {
    child: Child,
    keyboard: File,
    /// The end that the program has: its settings can be read while this is open.
    end: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn nonzero(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

impl Terminal {
    fn start(sockets: &Sockets, arguments: &[&str], (columns, rows): (u16, u16)) -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, size(columns, rows)).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        // `setsid` makes it the controlling terminal, as a login does.
        let no_terminal_of_ours = rustix::fs::OFlags::NOCTTY.bits() as i32;
        let end = OpenOptions::new().read(true).write(true).custom_flags(no_terminal_of_ours).open(path).unwrap();
        let given = || Stdio::from(end.try_clone().unwrap());
        let mut command = std::process::Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_onwire")).args(arguments);
        command.env("ONWIRE_SOCKETS", sockets.directory()).env("TERM", "xterm-256color");
        let child = command.stdin(given()).stdout(given()).stderr(given()).spawn();
        let child = child.unwrap_or_else(|error| panic!("setsid: {error}; apt-get install util-linux"));
        let screen = Arc::new(Mutex::new(vt100::Parser::new(nonzero(rows), nonzero(columns), 0)));
        let (shown, mut output) = (Arc::clone(&screen), File::from(master.try_clone().unwrap()));
        // It ends when no program has the other end any more.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { child, keyboard: File::from(master), end, screen }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let text = self.text();
            if is_so(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "{what} is not on the screen:\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_text(&self, part: &str) -> String {
        self.wait_for(part, |text| text.contains(part))
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&self, columns: u16, rows: u16) {
        // The screen first: what the program draws then is for this size.
        self.screen.lock().unwrap().screen_mut().set_size(nonzero(rows), nonzero(columns));
        tcsetwinsize(&self.keyboard, size(columns, rows)).unwrap();
    }

    fn modes(&self) -> LocalModes {
        tcgetattr(&self.end).unwrap().local_modes
    }

    /// Waits for the end; the exit code, if it is none of a signal.
    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The terminal is as before: lines are edited and echoed, the cursor is seen, the first screen is back.
    fn assert_given_back(&self) {
        let usual = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        assert!(self.modes().contains(usual), "{:?}", self.modes());
        // What was written last may still be on its way to the screen.
        let deadline = Instant::now() + SOON;
        let is_back = || {
            let parser = self.screen.lock().unwrap();
            !parser.screen().alternate_screen() && !parser.screen().hide_cursor()
        };
        while !is_back() {
            assert!(Instant::now() < deadline, "the screen is not given back:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_ends_when_its_terminal_goes_away() {
    let sockets = Sockets::new();
    let _ithaca = sockets.serve("ithaca.sock", Some(losing(1)));
    // The shell ignores hang-ups, as `nohup` does: then the terminal alone says it.
    for before in ["", "trap '' HUP; "] {
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &format!("{before}exec {} top", env!("CARGO_BIN_EXE_onwire")), "/dev/null"]);
        command.env("ONWIRE_SOCKETS", sockets.directory()).env("TERM", "xterm-256color");
        let terminal = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut terminal = terminal.unwrap_or_else(|error| panic!("script: {error}; apt-get install bsdutils"));
        let mut shown = [0; 4096];
        assert!(terminal.stdout.as_mut().unwrap().read(&mut shown).unwrap() > 0, "it shows something");
        let children = format!("/proc/{0}/task/{0}/children", terminal.id());
        let children = std::fs::read_to_string(children).unwrap();
        let top: u32 = children.split_whitespace().next().expect("`script` runs it").parse().unwrap();
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        let deadline = Instant::now() + SOON;
        let runs = || std::fs::read_to_string(format!("/proc/{top}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            assert!(Instant::now() < deadline, "process {top} goes on without a terminal ({before:?})");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An appliance after so many seconds, which loses a tenth of what it sends.
fn losing(second: u64) -> Value {
    let mut document = appliance("ithaca", &[("syracuse", "up"), ("troy", "silent")]);
    document["uptime_s"] = json!(second);
    document["peers"][0]["peer_report"] =
        json!({ "datagrams": 9_000 * second, "lost": 1_000 * second, "recovered_symbols": 950 * second });
    document["peers"][0]["rates"] = json!({
        "over_s": 10.0,
        "sent": { "adu_bytes_per_second": 12_500_000.0, "overhead": 0.173 },
        "received": { "adu_bytes_per_second": 1_000.0 },
        "peer_report": { "raw_loss": 0.1 },
    });
    document
}

#[test]
fn the_screen_shows_peers_curves_and_gates_at_every_size() {
    let sockets = Sockets::new();
    let ithaca = sockets.serve("ithaca.sock", Some(losing(1)));
    // It ends with the test program.
    std::thread::spawn(move || {
        for second in 2.. {
            *ithaca.lock().unwrap() = Some(losing(second));
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let gate = sockets.serve("gate.sock", Some(gates(true, "up")));
    sockets.leave("aegina.sock");
    let mut terminal = Terminal::start(&sockets, &["top", "--interval", "200ms"], (80, 24));
    terminal.wait_for_text("syracuse");
    // Some columns of the curves.
    std::thread::sleep(Duration::from_secs(2));
    let text = terminal.wait_for_text("loss to syracuse 10 %");
    for part in
        ["ithaca, 1 gate", "PEER", "up 62m", "silent", "40.5ms", "12.5 MB", "17%", "rebuilt there 950 symbols/s", "█"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    for part in ["GATE", "ledger", "250ms", "4.1 kB", "1 PROBLEM", "peer troy is silent, for 1 h 2 min", "q quit"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!terminal.modes().contains(LocalModes::ICANON), "keys come one by one");
    show(&text, "80x24");

    terminal.resize(20, 10);
    let text = terminal.wait_for("a small screen", |text| text.contains("syracuse") && !text.contains("12.5 MB"));
    assert!(text.contains("onwire 1 PROBLEM") && text.contains("troy") && text.contains("q quit"), "{text}");
    assert!(text.lines().count() <= 10 && text.lines().all(|line| line.chars().count() <= 20), "{text}");
    show(&text, "20x10");
    for (columns, rows) in [(1, 1), (5, 2), (20, 3)] {
        terminal.resize(columns, rows);
        std::thread::sleep(Duration::from_millis(300));
        assert!(terminal.child.try_wait().unwrap().is_none(), "it ended at {columns}x{rows}");
    }
    terminal.resize(200, 60);
    let text = terminal.wait_for("a large screen", |text| text.contains("EARLY ACKS") && text.contains("LOST BL"));
    show(&text, "200x60");

    // Another peer is chosen, and what the gates say changes.
    terminal.press("j");
    terminal.wait_for_text("loss to troy");
    terminal.press("\u{1b}[A");
    terminal.wait_for_text("loss to syracuse");
    *gate.lock().unwrap() = Some(gates(false, "up"));
    terminal.wait_for_text("2 PROBLEMS");
    // Paused, it shows what it showed.
    terminal.press("p");
    terminal.wait_for_text("PAUSED");
    *gate.lock().unwrap() = Some(gates(true, "up"));
    std::thread::sleep(Duration::from_millis(600));
    assert!(terminal.text().contains("2 PROBLEMS"));
    terminal.press("p");
    terminal.wait_for("the present", |text| text.contains("1 PROBLEM") && !text.contains("PAUSED"));
    terminal.press("f");
    terminal.wait_for_text("onwire top --flows");
    terminal.press("q");
    assert_eq!(terminal.end(), Some(0));
    terminal.assert_given_back();
}

/// For who runs the test with `--nocapture`: what the screen shows.
fn show(text: &str, size: &str) {
    println!("--- {size}\n{text}\n---");
}

#[test]
fn the_terminal_is_given_back_after_a_signal_and_processes_may_come_and_go() {
    for (signal, code) in [(Some(Signal::TERM), Some(0)), (Some(Signal::HUP), Some(0)), (None, Some(0))] {
        let sockets = Sockets::new();
        let mut terminal = Terminal::start(&sockets, &["top", "--interval", "200ms"], (80, 24));
        terminal.wait_for_text("no appliance and no gate runs");
        sockets.serve("ithaca.sock", Some(appliance("ithaca", &[("syracuse", "up")])));
        terminal.wait_for_text("onwire OK  ithaca");
        // One that stands still stops neither the screen nor the keys.
        sockets.serve("halted.sock", None);
        terminal.wait_for_text("it does not answer in time");
        match signal {
            Some(signal) => {
                rustix::process::kill_process(rustix::process::Pid::from_child(&terminal.child), signal).unwrap();
            }
            // Ctrl-C is a key there.
            None => terminal.press("\u{3}"),
        }
        assert_eq!(terminal.end(), code, "{signal:?}");
        terminal.assert_given_back();
    }
}

#[test]
fn without_a_terminal_it_says_so() {
    let sockets = Sockets::new();
    let output = sockets.run(&["top"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("this is no terminal; `onwire status`") && output.stdout.is_empty(), "{said}");
    for interval in ["0s", "100ms", "61s", "x"] {
        assert_eq!(sockets.run(&["top", "--interval", interval]).status.code(), Some(2), "{interval}");
    }
}
