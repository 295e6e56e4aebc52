//! The lab's testbed in real namespaces: it starts, the emulator's counters are exact, and nothing stays behind.
//!
//! Needs root and the programs `ip` and `sysctl`; without them the tests fail with a message.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use onwire::{
    io::{
        namespace::NetworkNamespace,
        udp::{UdpOptions, UdpSocket},
    },
    lab::{
        monotonic::Monotonic,
        trace::need_programs,
        wan::control::{Remote, Truth},
    },
};

/// A lab of the executable; dropping it ends it.
struct Lab {
    child: Child,
    run: String,
    wan: Remote,
}

impl Lab {
    /// Starts the `shell` scenario on the topology without appliances.
    fn start() -> Self {
        need_programs(&["ip", "sysctl"]).unwrap_or_else(|error| panic!("{error}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_onwire-lab"));
        command.args(["shell", "--topology", "plain", "--seconds", "60"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut output = child.stdout.take().unwrap();
        let mut byte = [0];
        while !said.contains("Ctrl-C takes it down") {
            assert_eq!(output.read(&mut byte).unwrap(), 1, "the lab ended early (is this test run as root?): {said}");
            said.push(char::from(byte[0]));
        }
        // The output is read to its end, so that a full pipe does not stop the lab.
        thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let run = format!("ow-{}", child.id());
        let directory = std::env::temp_dir().join(format!("onwire-lab-{run}-shell"));
        Self { child, wan: Remote::new(directory.join("wan.sock")), run }
    }

    fn node(&self, name: &str) -> NetworkNamespace {
        NetworkNamespace::named(&format!("{}-{name}", self.run)).unwrap()
    }

    fn namespaces(&self) -> Vec<String> {
        let names = std::fs::read_dir("/run/netns").unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with(&format!("{}-", self.run))).collect()
    }

    fn directory(&self) -> PathBuf {
        std::env::temp_dir().join(format!("onwire-lab-{}-shell", self.run))
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// The emulator's counters when nothing is in flight any more.
    fn settled(&self) -> Truth {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let truth = self.wan.truth().unwrap();
            if truth.forth.in_flight + truth.back.in_flight == 0 || Instant::now() > deadline {
                assert!(truth.forth.balanced() && truth.back.balanced(), "{truth:?}");
                return truth;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal("-TERM");
            let _ = self.child.wait();
        }
    }
}

#[test]
fn a_signal_ends_the_lab_and_leaves_nothing() {
    let _alone = crate::alone();
    for signal in ["-INT", "-TERM"] {
        let mut lab = Lab::start();
        assert_eq!(lab.namespaces().len(), 5);
        lab.signal(signal);
        assert!(lab.child.wait().unwrap().success());
        assert!(lab.namespaces().is_empty());
        assert!(!lab.directory().exists());
    }
}

#[test]
fn the_next_run_removes_the_remains_of_a_crash() {
    let _alone = crate::alone();
    let mut dead = Lab::start();
    dead.signal("-KILL");
    dead.child.wait().unwrap();
    assert_eq!(dead.namespaces().len(), 5);
    drop(Lab::start());
    assert!(dead.namespaces().is_empty());
    assert!(!dead.directory().exists());
}

#[test]
fn tcp_transfers_every_byte_over_a_hostile_wan() {
    let _alone = crate::alone();
    let lab = Lab::start();
    for setting in ["delay 2ms", "loss 0.3%", "duplicate 1%", "corrupt 0.2%", "reorder 1%, reorder_delay 1ms"] {
        lab.wan.tell(&format!("set {setting}")).unwrap();
    }
    for address in ["10.2.0.1:0", "[fd00:2::1]:0"] {
        let address: SocketAddr = address.parse().unwrap();
        let listener = lab.node("mirror").run(|| TcpListener::bind(address).unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        let mut sender = lab.node("primary").run(|| TcpStream::connect(at).unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let data: Vec<u8> = (0..8_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let sent = data.clone();
        let sending = thread::spawn(move || sender.write_all(&sent).unwrap());
        let mut arrived = Vec::new();
        receiver.read_to_end(&mut arrived).unwrap();
        sending.join().unwrap();
        assert!(arrived == data, "{} of {} bytes arrived, or others", arrived.len(), data.len());
    }
    let forth = lab.settled().forth;
    assert!(forth.trains < forth.entered / 2, "super-packets arrive whole at the emulator: {forth:?}");
    assert!(forth.lost.chance > 0 && forth.duplicated > 0 && forth.corrupted > 0 && forth.reordered > 0, "{forth:?}");
    assert_eq!(forth.lost.refused, 0, "the kernel takes every piece that the emulator cuts");
}

#[test]
fn the_counters_are_exact_for_trains_of_datagrams() {
    let _alone = crate::alone();
    let lab = Lab::start();
    lab.wan.tell("set delay 2ms, loss 2%, duplicate 1%").unwrap();
    let bind = |node: &str, address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        lab.node(node).run(|| UdpSocket::bind(address, UdpOptions::default()).unwrap()).unwrap()
    };
    let mut sender = bind("ithaca", "192.0.2.1:7117");
    let mut receiver = bind("syracuse", "192.0.2.2:7117");
    let before = lab.settled();
    let (mut sent, mut arrived) = (0u64, 0u64);
    let mut buffer = vec![0; 66_000];
    let mut receive = |arrived: &mut u64| {
        while let Some(train) = receiver.recv_train(&mut buffer).unwrap() {
            for datagram in buffer[..train.len].chunks(train.segment) {
                assert_eq!(datagram.len(), 1448);
                assert!(datagram.iter().all(|byte| *byte == datagram[0]), "a datagram that was cut wrongly");
                *arrived += 1;
            }
        }
    };
    for _ in 0..500 {
        let train: Vec<u8> = (0..40u8).flat_map(|at| [at; 1448]).collect();
        let outcome = sender.send_train(receiver_address(), &train, 1448);
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        sent += (outcome.sent / 1448) as u64;
        thread::sleep(Duration::from_micros(300));
        receive(&mut arrived);
    }
    let truth = lab.settled().since(&before).forth;
    thread::sleep(Duration::from_millis(20));
    receive(&mut arrived);
    // The kernel's own neighbour and multicast messages may add a few.
    assert!(truth.entered.abs_diff(sent) <= 10, "{sent} sent: {truth:?}");
    assert!(truth.delivered.abs_diff(arrived) <= 10, "{arrived} arrived: {truth:?}");
    assert!((200..800).contains(&truth.lost.total()), "{truth:?}");
}

fn receiver_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 2], 7117))
}

#[test]
fn a_blackhole_drops_datagrams_in_flight_and_a_cut_does_not() {
    let _alone = crate::alone();
    let lab = Lab::start();
    lab.wan.tell("set delay 300ms").unwrap();
    let socket = lab.node("ithaca").run(|| std::net::UdpSocket::bind("192.0.2.1:0").unwrap()).unwrap();
    let receiver = lab.node("syracuse").run(|| std::net::UdpSocket::bind("192.0.2.2:9000").unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
    let mut byte = [0; 8];
    for (passage, arrives) in [("open", true), ("cut", true), ("blackhole", false)] {
        lab.wan.tell("open").unwrap();
        socket.send_to(&[1], "192.0.2.2:9000").unwrap();
        thread::sleep(Duration::from_millis(50));
        lab.wan.tell(passage).unwrap();
        let found = receiver.recv(&mut byte).is_ok();
        assert_eq!(found, arrives, "{passage}");
    }
    let error = lab.wan.tell("set los 1%").unwrap_err().to_string();
    assert!(error.contains("did you mean \"loss\""), "{error}");
}

#[test]
fn an_interruption_loses_what_enters_within_its_window() {
    const LENGTH: Duration = Duration::from_millis(2);
    let _alone = crate::alone();
    let lab = Lab::start();
    lab.wan.tell("set delay 5ms").unwrap();
    let socket = lab.node("ithaca").run(|| std::net::UdpSocket::bind("192.0.2.1:0").unwrap()).unwrap();
    let receiver = lab.node("syracuse").run(|| std::net::UdpSocket::bind("192.0.2.2:9000").unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut misjudged = Vec::new();
    for _ in 0..9 {
        let window = lab.wan.interrupt(LENGTH, Duration::from_millis(10)).unwrap();
        let clock = Monotonic::now();
        let [from, until] = [window.from_ns, window.until_ns].map(|at| clock.to_instant(at));
        assert!((until - from).abs_diff(LENGTH) < Duration::from_micros(1));
        while Instant::now() + LENGTH < from {
            std::hint::spin_loop();
        }
        let mut sent = Vec::new();
        while Instant::now() < until + LENGTH {
            let begin = Instant::now();
            socket.send_to(&(sent.len() as u32).to_be_bytes(), "192.0.2.2:9000").unwrap();
            sent.push(begin);
            thread::sleep(Duration::from_micros(20));
        }
        let (mut arrived, mut number) = (vec![false; sent.len()], [0; 4]);
        while let Ok(4) = receiver.recv(&mut number) {
            arrived[u32::from_be_bytes(number) as usize] = true;
        }
        let missing = arrived.iter().filter(|arrived| !**arrived).count() as u64;
        let told = lab.wan.look_at(&window).unwrap();
        // The kernel's own messages may add a few.
        assert!((missing..missing + 4).contains(&told.swallowed), "{told:?}, {missing} missing of {}", sent.len());
        for (at, arrived) in sent.iter().zip(&arrived) {
            assert!(*arrived || *at < until, "sent {:?} behind the end and lost", *at - until);
        }
        // A packet is read a little after it was sent: some that were sent before the beginning are lost, and some that were sent
        // before the end arrive.
        let wrongly = |(at, arrived): (&Instant, &bool)| (*arrived == (from..until).contains(at)).then_some(*at);
        let late = sent.iter().zip(&arrived).filter_map(wrongly);
        let edge = |at: Instant| if at < from { from - at } else { until.saturating_duration_since(at) };
        misjudged.push(late.map(edge).max().unwrap_or_default());
    }
    misjudged.sort();
    println!("the furthest misjudged packet of each window was this far from its edge: {misjudged:?}");
    assert!(misjudged[misjudged.len() / 2] < Duration::from_millis(1), "{misjudged:?}");
}

#[test]
fn a_number_of_long_datagrams_is_lost_exactly() {
    let _alone = crate::alone();
    let lab = Lab::start();
    let socket = lab.node("ithaca").run(|| std::net::UdpSocket::bind("192.0.2.1:0").unwrap()).unwrap();
    let before = lab.settled();
    lab.wan.tell("lose forth 3 longer 500B").unwrap();
    for length in [10, 1000, 20, 1000, 1000, 1000, 30] {
        socket.send_to(&vec![7; length], "192.0.2.2:9000").unwrap();
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(lab.settled().since(&before).forth.lost.chance, 3);
}
