//! What a lane believes of its link when it was kept from looking at the clock.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use onwire::notify::{
    client::Client,
    message::{Level, LinkState, Message},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    ground::{Ground, MIRROR},
    promises_site::{client, follower, telling, wait_link},
};

/// Each halts the lane somewhere else in its work.
const TRIALS: u32 = 6;

#[test]
fn a_lane_that_stood_still_in_the_middle_of_its_work_claims_nothing_of_a_link_that_died_meanwhile() {
    let ground = Ground::emulated("delay 5ms");
    let (pair, secret) = telling(&ground, &[]);
    let mut state = client(&ground, &secret);
    let mut blocks = follower(&ground, &secret);
    let _flood = Flood::start(&ground);
    let id = Pid::from_raw(pair.ithaca.id() as i32).unwrap();
    for trial in 0..TRIALS {
        wait_link(&mut state, LinkState::Up);
        let end = Instant::now() + Duration::from_secs(10);
        while claims(&mut blocks, Duration::from_millis(50)) == 0 {
            assert!(Instant::now() < end, "nothing is called protected before");
        }
        ground.wan().tell("blackhole").unwrap();
        thread::sleep(Duration::from_micros(u64::from(trial) * 700));
        kill_process(id, Signal::STOP).unwrap();
        // Longer than any proof is good for. What was told before is read meanwhile.
        claims(&mut blocks, Duration::from_millis(900));
        kill_process(id, Signal::CONT).unwrap();
        assert_eq!(claims(&mut blocks, Duration::from_millis(200)), 0, "trial {trial}");
        ground.wan().tell("open").unwrap();
    }
}

/// Blocks that are called protected in this time.
fn claims(client: &mut Client, time: Duration) -> usize {
    let end = Instant::now() + time;
    let mut count = 0;
    while Instant::now() < end {
        if let Some(Message::Block(block)) = client.next_message(end).unwrap() {
            count += usize::from(block.level >= Some(Level::OnWire));
        }
    }
    count
}

/// Datagrams from the primary to the mirror, so many that the lane is at work most of the time.
struct Flood {
    is_over: Arc<AtomicBool>,
    flooding: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(ground: &Ground) -> Self {
        let socket = ground.node("primary").run(|| UdpSocket::bind("10.1.0.1:0").unwrap()).unwrap();
        socket.connect((MIRROR[0], 9)).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let flooding = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // Nobody listens there, and nobody minds.
                (0..40).for_each(|_| drop(socket.send(&[7; 1200])));
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { is_over, flooding: Some(flooding) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(flooding) = self.flooding.take() {
            let _ = flooding.join();
        }
    }
}
