//! The emulator's process: two TUN devices, one thread per direction, and the control socket.
//!
//! It is a process of its own, not threads of the lab: its processor time can be measured separately, it keeps running
//! in a busy scenario, and a user can control it by hand. It ends when its standard input ends, so it never outlives a
//! lab that crashed. It opens the two devices in the namespace it is started in; its starter moves them to where they
//! are the uplinks. Each direction owns its [`Link`]; commands reach it through a channel.

use std::{
    io::{self, Read, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{
    control,
    direction::{DirectionHandle, Request},
    impairment::Impairment,
    interruptions::Window,
    link::Link,
    train::{Pool, Train},
};
use crate::{
    io::{
        cpu,
        timer::Timer,
        tun::{Tun, TunOptions},
    },
    wire::virtio::VirtioHeader,
};

/// The emulator's start options.
#[derive(Clone, Debug)]
pub struct EmulatorOptions {
    /// Names of the two devices; `forth` goes from the first to the second.
    pub devices: [String; 2],
    /// MTU of both devices.
    pub mtu: u32,
    /// Where to listen for commands.
    pub control: PathBuf,
    /// Seed of both directions.
    pub seed: u64,
    /// Properties of the two directions, forth and back.
    pub impairments: [Impairment; 2],
}

/// Runs until standard input ends. Prints `ready` once the devices exist and the control socket listens.
pub fn run(options: EmulatorOptions) -> io::Result<()> {
    let open = |name: &str| -> io::Result<Arc<Tun>> {
        let options = TunOptions { mtu: options.mtu, ..TunOptions::default() };
        let tun = Tun::open(name, options)?.into_iter().next();
        tun.map(Arc::new).ok_or_else(|| io::Error::other("the TUN gave no queue"))
    };
    let [near, far] = [open(&options.devices[0])?, open(&options.devices[1])?];
    let [forth, back] = options.impairments;
    let forth = start(near.clone(), far.clone(), Link::new(forth, options.seed))?;
    // Two directions with the same seed would lose a request and its answer together.
    let back = start(far, near, Link::new(back, options.seed ^ 0x9e37_79b9_7f4a_7c15))?;
    control::listen(&options.control, [forth, back])?;
    println!("ready");
    io::stdout().flush()?;
    let mut nothing = [0; 64];
    while io::stdin().read(&mut nothing)? > 0 {}
    let _ = std::fs::remove_file(&options.control);
    Ok(())
}

fn start(from: Arc<Tun>, to: Arc<Tun>, link: Link) -> io::Result<DirectionHandle> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let timer = Timer::new()?;
    poll.registry().register(&mut SourceFd(&from.as_raw_fd()), TUN, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
    let (requests, inbox) = mpsc::channel();
    let direction = Direction { from, to, link, poll, timer, inbox };
    thread::Builder::new().name("wan".to_owned()).spawn(move || {
        if let Err(error) = direction.run() {
            eprintln!("onwire-lab wan: a direction stopped: {error}");
        }
    })?;
    Ok(DirectionHandle::new(requests, waker))
}

const TUN: Token = Token(0);
const TIMER: Token = Token(1);
const WAKER: Token = Token(2);
/// Trains read in one turn before the due ones leave.
const TURN: usize = 32;
/// In this number of turns more trains are read than a device's queue holds. The bound keeps a sender that never pauses
/// from delaying a change for ever.
const TURNS_BEFORE_CHANGE: usize = 64;

/// How long before an interruption the thread stops sleeping.
const AWAKE: Duration = Duration::from_millis(4);

struct Direction {
    from: Arc<Tun>,
    to: Arc<Tun>,
    link: Link,
    poll: Poll,
    timer: Timer,
    inbox: Receiver<Request>,
}

impl Direction {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        let mut buffer = vec![0; Pool::LARGE];
        let mut looked_at = None;
        let mut is_first = false;
        loop {
            if !self.answer(&mut buffer)? {
                return Ok(());
            }
            let dry = self.read(&mut buffer)?;
            let now = Instant::now();
            // What comes while the thread sleeps wakes it; what comes while it does not run, although it wants to, waits.
            if let Some(looked_at) = looked_at.take() {
                self.link.interruptions().on_gap(looked_at, now, AWAKE);
            }
            self.write(now);
            if !dry {
                continue;
            }
            self.timer.set(self.link.poll_timeout(), now)?;
            // Around an interruption the thread does not sleep, so that it reads each train when it arrives.
            let is_near = self.link.interruptions().is_near(now, AWAKE);
            if is_near != is_first {
                // Other programs of a busy machine must not keep it from seeing the interruption; where that is not
                // allowed, more interruptions are found unseen.
                let _ = cpu::run_first(is_near);
                is_first = is_near;
            }
            let wait = is_near.then_some(Duration::ZERO);
            looked_at = wait.map(|_| now);
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if events.iter().any(|event| event.token() == TIMER) {
                self.timer.acknowledge()?;
            }
        }
    }

    /// Answers the requests in the channel; `false` if no more can come.
    fn answer(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            match self.inbox.try_recv() {
                // The caller may be gone; then the answer is dropped.
                Ok(Request::Counters(answer_to)) => drop(answer_to.send(self.link.counters())),
                Ok(Request::Set(changes, answer_to)) => {
                    // Datagrams that were sent before the change get the old properties.
                    for _ in 0..TURNS_BEFORE_CHANGE {
                        if self.read(buffer)? {
                            break;
                        }
                    }
                    let mut impairment = self.link.impairment().clone();
                    let changed = changes.iter().try_for_each(|(key, value)| impairment.set(key, value));
                    let answer = match changed {
                        Ok(()) => {
                            let description = impairment.describe();
                            self.link.set_impairment(impairment);
                            Ok(description)
                        }
                        Err(error) => Err(error.to_string()),
                    };
                    drop(answer_to.send(answer));
                }
                Ok(Request::Interrupt(from, until, answer_to)) => {
                    // What has been read already cannot be lost any more.
                    let late = Instant::now().saturating_duration_since(from);
                    let window =
                        Window { from: from + late, until: until + late, swallowed: 0, unseen: Duration::ZERO };
                    self.link.interruptions().add(window.from, window.until);
                    let _ = answer_to.send(window);
                }
                Ok(Request::LoseNext(count, bytes, answer_to)) => {
                    self.link.lose_next(count, bytes);
                    let _ = answer_to.send(());
                }
                Ok(Request::Interruptions(answer_to)) => {
                    drop(answer_to.send(self.link.interruptions().all().collect()))
                }
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    /// Reads trains until the device is empty or the turn is over; `true` if it is empty.
    fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        for _ in 0..TURN {
            let mut header = [0; VirtioHeader::LEN];
            let length = match self.from.read(&mut header, buffer) {
                Ok(0) => return Ok(true),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let header = VirtioHeader::from_native(header);
            let mut packet = self.link.buffer(length);
            if length > Pool::SMALL {
                // Large packets are swapped with the read buffer instead of copied.
                packet.resize(Pool::LARGE, 0);
                std::mem::swap(&mut packet, buffer);
                packet.truncate(length);
            } else {
                packet.extend_from_slice(&buffer[..length]);
            }
            // Each train has its own time: an interruption begins between two of them.
            self.link.handle_train(Train { header, packet }, Instant::now());
        }
        Ok(false)
    }

    fn write(&mut self, now: Instant) {
        while let Some(train) = self.link.poll_train(now) {
            if self.to.write(&train.header.to_native(), &train.packet).is_err() {
                self.link.on_refused(&train);
            }
            self.link.recycle(train);
        }
    }
}
