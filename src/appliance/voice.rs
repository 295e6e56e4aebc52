//! How a lane speaks to subscribers: lane 0 through the herald it has, the others through lane 0.
//!
//! Between lanes there are bounded channels and wakers. What does not fit waits where it came from: positions are
//! cumulative, so a lane that cannot speak for a moment has less to say afterwards, not more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Instant;

use mio::Waker;

use super::herald::Herald;
use super::told::Told;
use crate::notify::message::FlowKey;

/// Messages that may wait for lane 0.
const TOLD_MAX: usize = 4096;
/// Errands that may wait for a lane.
const ERRANDS_MAX: usize = 256;

/// What lane 0 asks of another for a subscriber.
#[derive(Clone, Copy, Debug)]
pub enum Errand {
    /// Put a cookie on a flow.
    Register(FlowKey, u64),
    /// Close the open blocks.
    Flush,
    /// Tell when everything read so far is protected.
    Barrier(u64),
    /// Tell of each block from now on, or no longer.
    Blocks(bool),
}

/// How lane 0 reaches another lane.
#[derive(Debug)]
pub struct Colleague {
    errands: SyncSender<Errand>,
    /// What did not fit; nothing more is asked until it does.
    stuck: VecDeque<Errand>,
    waker: Arc<Waker>,
}

impl Colleague {
    /// Sends what waits, as much as fits. False if the lane has ended; what waits for it is forgotten then.
    fn send(&mut self) -> bool {
        let mut is_sent = false;
        while let Some(&errand) = self.stuck.front() {
            match self.errands.try_send(errand) {
                Ok(()) => is_sent = true,
                Err(TrySendError::Full(_)) => break,
                Err(TrySendError::Disconnected(_)) => {
                    self.stuck.clear();
                    return false;
                }
            }
            self.stuck.pop_front();
        }
        !is_sent || self.waker.wake().is_ok()
    }
}

/// A lane's way to subscribers.
#[derive(Debug)]
pub enum Voice {
    /// The lane with the port.
    Herald {
        /// The port.
        herald: Box<Herald>,
        /// What other lanes have to tell.
        told: Receiver<Told>,
        /// The other lanes.
        colleagues: Vec<Colleague>,
        /// All of them have ended, and everything that they had to tell was heard.
        heard_all: bool,
    },
    /// Any other.
    Relay {
        /// To lane 0.
        told: SyncSender<Told>,
        /// Wakes lane 0.
        waker: Arc<Waker>,
        /// From lane 0.
        errands: Receiver<Errand>,
        /// What did not fit; nothing is added but what belongs to the same notice.
        stuck: VecDeque<Told>,
        /// Something was put into the channel since lane 0 was woken.
        unwoken: bool,
    },
}

impl Voice {
    /// The voices of all lanes, whose wakers these are.
    pub fn of_lanes(herald: Herald, wakers: &[Arc<Waker>]) -> Vec<Self> {
        let (tell, told) = sync_channel(TOLD_MAX);
        let mut colleagues = Vec::new();
        let mut relays = Vec::new();
        for waker in wakers.iter().skip(1) {
            let (send, errands) = sync_channel(ERRANDS_MAX);
            colleagues.push(Colleague { errands: send, stuck: VecDeque::new(), waker: Arc::clone(waker) });
            let (told, waker) = (tell.clone(), Arc::clone(&wakers[0]));
            relays.push(Self::Relay { told, waker, errands, stuck: VecDeque::new(), unwoken: false });
        }
        let mut voices = vec![Self::Herald { herald: Box::new(herald), told, colleagues, heard_all: false }];
        voices.append(&mut relays);
        voices
    }

    /// The port, on lane 0.
    pub fn herald(&self) -> Option<&Herald> {
        match self {
            Self::Herald { herald, .. } => Some(herald),
            Self::Relay { .. } => None,
        }
    }

    /// The port, on lane 0.
    pub fn herald_mut(&mut self) -> Option<&mut Herald> {
        match self {
            Self::Herald { herald, .. } => Some(herald),
            Self::Relay { .. } => None,
        }
    }

    /// There is room for another message.
    pub fn can_tell(&mut self) -> bool {
        let Self::Relay { told, stuck, unwoken, .. } = self else { return true };
        while let Some(waiting) = stuck.pop_front() {
            match told.try_send(waiting) {
                Ok(()) => *unwoken = true,
                Err(TrySendError::Full(waiting)) => {
                    stuck.push_front(waiting);
                    return false;
                }
                // Lane 0 has ended, and the appliance with it.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
        true
    }

    /// Takes a message; call it while there [is room](Self::can_tell).
    pub fn tell(&mut self, message: Told, now: Instant) {
        match self {
            Self::Herald { herald, .. } => herald.tell(message, now),
            Self::Relay { stuck, .. } if !stuck.is_empty() => stuck.push_back(message),
            Self::Relay { told, stuck, unwoken, .. } => match told.try_send(message) {
                Ok(()) => *unwoken = true,
                Err(TrySendError::Full(message)) => stuck.push_back(message),
                Err(TrySendError::Disconnected(_)) => {}
            },
        }
    }

    /// Passes on what other lanes have told, or wakes the lane that will.
    pub fn pass_on(&mut self, now: Instant) {
        match self {
            Self::Herald { herald, told, heard_all, .. } => loop {
                match told.try_recv() {
                    Ok(message) => herald.tell(message, now),
                    Err(ended) => {
                        *heard_all = ended == TryRecvError::Disconnected;
                        break;
                    }
                }
            },
            Self::Relay { waker, unwoken, .. } => {
                if std::mem::take(unwoken) {
                    // A waker that fails has no poll any more: the appliance ends.
                    let _ = waker.wake();
                }
            }
        }
    }

    /// Nothing more has to be told through this voice: what is stuck has gone, and nobody else speaks through it.
    pub fn is_done(&mut self) -> bool {
        match self {
            Self::Herald { heard_all, .. } => *heard_all,
            Self::Relay { .. } => self.can_tell(),
        }
    }

    /// What lane 0 wants of this lane.
    pub fn poll_errand(&mut self) -> Option<Errand> {
        match self {
            Self::Herald { .. } => None,
            Self::Relay { errands, .. } => errands.try_recv().ok(),
        }
    }

    /// Sends the other lanes on an errand; tells how many will not get it, because they have ended.
    pub fn send_all(&mut self, errand: Errand) -> usize {
        let Self::Herald { colleagues, .. } = self else { return 0 };
        let mut ended = 0;
        for colleague in colleagues {
            colleague.stuck.push_back(errand);
            ended += usize::from(!colleague.send());
        }
        ended
    }

    /// Every lane has been sent on every errand so far. Until then no other is to be begun: what was promised to a subscriber is
    /// not dropped, and what waits is bounded.
    pub fn can_ask(&mut self) -> bool {
        let Self::Herald { colleagues, .. } = self else { return true };
        for colleague in colleagues.iter_mut() {
            colleague.send();
        }
        colleagues.iter().all(|colleague| colleague.stuck.is_empty())
    }

    /// Other lanes that an errand reaches.
    pub fn colleagues(&self) -> usize {
        match self {
            Self::Herald { colleagues, .. } => colleagues.len(),
            Self::Relay { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::herald::HeraldSettings;
    use crate::notify::envelope::KeyRing;
    use crate::protect::{LinkState, StateReason};

    fn settings(lanes: usize) -> HeraldSettings {
        HeraldSettings {
            listen: ([127, 0, 0, 1], 0).into(),
            keys: KeyRing::default(),
            peers: vec!["syracuse".to_owned()],
            lanes,
            epoch: 1,
            secret: [0; 32],
        }
    }

    #[test]
    fn what_a_busy_lane_is_asked_for_waits_and_is_not_dropped() {
        let (poll, now) = (mio::Poll::new().unwrap(), Instant::now());
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let herald = Herald::open(settings(3), now).unwrap();
        let mut voices = Voice::of_lanes(herald, &vec![waker; 3]);
        let (mut busy, mut port) = (voices.pop().unwrap(), voices.remove(0));
        let barriers = |voice: &mut Voice| {
            let errand = || voice.poll_errand();
            let ids = std::iter::from_fn(errand).map(|errand| match errand {
                Errand::Barrier(id) => id,
                other => panic!("{other:?}"),
            });
            ids.collect::<Vec<u64>>()
        };
        for id in 0..=ERRANDS_MAX as u64 {
            assert!(port.can_ask(), "{id}");
            assert_eq!(port.send_all(Errand::Barrier(id)), 0);
            barriers(&mut voices[0]);
        }
        assert!(!port.can_ask(), "one lane has not got the last");
        let mut got = barriers(&mut busy);
        assert!(port.can_ask());
        got.append(&mut barriers(&mut busy));
        assert!(got.iter().copied().eq(0..=ERRANDS_MAX as u64), "all, in their order");
        drop(busy);
        assert_eq!(port.send_all(Errand::Flush), 1);
        assert!(port.can_ask(), "who has ended is not waited for");
    }

    #[test]
    fn the_port_closed_before_the_last_words_of_another_lane() {
        let (poll, now) = (mio::Poll::new().unwrap(), Instant::now());
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        for lanes in [1, 2] {
            let wakers = vec![waker.clone(); lanes];
            let mut voices = Voice::of_lanes(Herald::open(settings(lanes), now).unwrap(), &wakers);
            let mut port = voices.remove(0);
            port.pass_on(now);
            assert_eq!(port.is_done(), lanes == 1, "{lanes}");
            for mut relay in voices {
                let (state, reason) = (LinkState::Draining, StateReason::Administrator);
                relay.tell(Told::State { peer: 0, lane: 1, state, reason }, now);
                assert!(relay.is_done());
            }
            // The other lane has ended; its words wait.
            assert_eq!(port.is_done(), lanes == 1, "{lanes}");
            port.pass_on(now);
            assert!(port.is_done());
        }
    }
}
