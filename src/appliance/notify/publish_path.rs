//! The path of notifications from a lane to the notification port: lane 0 has the port, the other lanes send to lane 0.
//! Requests of subscribers go the other way.
//!
//! Between lanes there are bounded channels and wakers. What does not fit waits at its sender. Positions are
//! cumulative, so a lane that cannot publish for a moment has less to publish afterwards, not more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Instant;

use mio::Waker;

use crate::appliance::notify::notification::LaneNotification;
use crate::appliance::notify::port::NotifyPort;
use crate::notify::message::FlowKey;

/// Notifications that may wait for lane 0.
pub(super) const NOTIFICATIONS_MAX: usize = 4096;
/// Requests that may wait for a lane.
const REQUESTS_MAX: usize = 256;

/// A request of lane 0 to another lane, for a subscriber.
#[derive(Clone, Copy, Debug)]
pub enum LaneRequest {
    /// Put a cookie on a flow.
    Register(FlowKey, u64),
    /// Close the open blocks.
    Flush,
    /// Answer when everything read so far is protected, or never will be.
    Barrier(u64),
    /// Publish each block from now on, or no longer.
    Blocks(bool),
}

/// Lane 0's end of the channel to another lane.
#[derive(Debug)]
pub struct OtherLane {
    requests: SyncSender<LaneRequest>,
    /// Requests that did not fit; no other request is sent before them.
    unsent: VecDeque<LaneRequest>,
    waker: Arc<Waker>,
}

impl OtherLane {
    /// Sends the waiting requests, as many as fit. `false` if the lane has ended; its waiting requests are dropped.
    fn send(&mut self) -> bool {
        let mut is_sent = false;
        while let Some(&request) = self.unsent.front() {
            match self.requests.try_send(request) {
                Ok(()) => is_sent = true,
                Err(TrySendError::Full(_)) => break,
                Err(TrySendError::Disconnected(_)) => {
                    self.unsent.clear();
                    return false;
                }
            }
            self.unsent.pop_front();
        }
        !is_sent || self.waker.wake().is_ok()
    }
}

/// A lane's path to the notification port.
#[derive(Debug)]
pub enum PublishPath {
    /// On the lane with the port.
    Port {
        /// The port.
        port: Box<NotifyPort>,
        /// Notifications of the other lanes.
        notifications: Receiver<LaneNotification>,
        /// The other lanes.
        other_lanes: Vec<OtherLane>,
        /// All other lanes have ended, and everything from them is published.
        others_done: bool,
    },
    /// On any other lane.
    Relay {
        /// To lane 0.
        notifications: SyncSender<LaneNotification>,
        /// Wakes lane 0.
        waker: Arc<Waker>,
        /// From lane 0.
        requests: Receiver<LaneRequest>,
        /// Notifications that did not fit.
        unsent: VecDeque<LaneNotification>,
        /// Something was sent since lane 0 was last woken.
        wake_pending: bool,
    },
}

impl PublishPath {
    /// The paths of all lanes. `wakers` are the lanes' wakers, in order.
    pub fn of_lanes(port: NotifyPort, wakers: &[Arc<Waker>]) -> Vec<Self> {
        let (to_port, notifications) = sync_channel(NOTIFICATIONS_MAX);
        let mut other_lanes = Vec::new();
        let mut relays = Vec::new();
        for waker in wakers.iter().skip(1) {
            let (send, requests) = sync_channel(REQUESTS_MAX);
            other_lanes.push(OtherLane { requests: send, unsent: VecDeque::new(), waker: Arc::clone(waker) });
            let (notifications, waker) = (to_port.clone(), Arc::clone(&wakers[0]));
            relays.push(Self::Relay { notifications, waker, requests, unsent: VecDeque::new(), wake_pending: false });
        }
        let mut publish_paths =
            vec![Self::Port { port: Box::new(port), notifications, other_lanes, others_done: false }];
        publish_paths.append(&mut relays);
        publish_paths
    }

    /// The port, on lane 0.
    pub fn port(&self) -> Option<&NotifyPort> {
        match self {
            Self::Port { port, .. } => Some(port),
            Self::Relay { .. } => None,
        }
    }

    /// The port, on lane 0.
    pub fn port_mut(&mut self) -> Option<&mut NotifyPort> {
        match self {
            Self::Port { port, .. } => Some(port),
            Self::Relay { .. } => None,
        }
    }

    /// There is room for another notification.
    pub fn can_publish(&mut self) -> bool {
        let Self::Relay { notifications, unsent, wake_pending, .. } = self else { return true };
        while let Some(waiting) = unsent.pop_front() {
            match notifications.try_send(waiting) {
                Ok(()) => *wake_pending = true,
                Err(TrySendError::Full(waiting)) => {
                    unsent.push_front(waiting);
                    return false;
                }
                // Lane 0 has ended, and the appliance with it.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
        true
    }

    /// Takes a notification. Call it only while there [is room](Self::can_publish).
    pub fn publish(&mut self, message: LaneNotification, now: Instant) {
        match self {
            Self::Port { port, .. } => port.publish(message, now),
            Self::Relay { unsent, .. } if !unsent.is_empty() => unsent.push_back(message),
            Self::Relay { notifications, unsent, wake_pending, .. } => match notifications.try_send(message) {
                Ok(()) => *wake_pending = true,
                Err(TrySendError::Full(message)) => unsent.push_back(message),
                Err(TrySendError::Disconnected(_)) => {}
            },
        }
    }

    /// Publishes what other lanes have sent, or wakes lane 0 if this lane has sent something.
    pub fn forward(&mut self, now: Instant) {
        match self {
            Self::Port { port, notifications, others_done, .. } => loop {
                match notifications.try_recv() {
                    Ok(message) => port.publish(message, now),
                    Err(ended) => {
                        *others_done = ended == TryRecvError::Disconnected;
                        break;
                    }
                }
            },
            Self::Relay { waker, wake_pending, .. } => {
                if std::mem::take(wake_pending) {
                    // Waking fails only if lane 0's poll is gone: the appliance ends.
                    let _ = waker.wake();
                }
            }
        }
    }

    /// No notification is left: none waits here, and no other lane publishes through this one.
    pub fn is_done(&mut self) -> bool {
        match self {
            Self::Port { others_done, .. } => *others_done,
            Self::Relay { .. } => self.can_publish(),
        }
    }

    /// Something waits in this lane: for room in the channel, or for lane 0 to be woken.
    pub fn has_unsent(&self) -> bool {
        match self {
            Self::Port { .. } => false,
            Self::Relay { unsent, wake_pending, .. } => !unsent.is_empty() || *wake_pending,
        }
    }

    /// The next request of lane 0.
    pub fn poll_request(&mut self) -> Option<LaneRequest> {
        match self {
            Self::Port { .. } => None,
            Self::Relay { requests, .. } => requests.try_recv().ok(),
        }
    }

    /// Sends a request to the other lanes. Returns how many will not get it because they have ended.
    pub fn send_all(&mut self, request: LaneRequest) -> usize {
        let Self::Port { other_lanes, .. } = self else { return 0 };
        let mut ended = 0;
        for other_lane in other_lanes {
            other_lane.unsent.push_back(request);
            ended += usize::from(!other_lane.send());
        }
        ended
    }

    /// Every lane has every request so far. Until then no other request may begin: so a request that was acknowledged
    /// to a subscriber is never dropped, and the waiting requests are bounded.
    pub fn can_request(&mut self) -> bool {
        let Self::Port { other_lanes, .. } = self else { return true };
        for other_lane in other_lanes.iter_mut() {
            other_lane.send();
        }
        other_lanes.iter().all(|other_lane| other_lane.unsent.is_empty())
    }

    /// How many other lanes there are.
    pub fn other_lanes(&self) -> usize {
        match self {
            Self::Port { other_lanes, .. } => other_lanes.len(),
            Self::Relay { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::notify::port::NotifyPortSettings;
    use crate::notify::envelope::KeyRing;
    use crate::notify::message::{Level, LinkState, StateReason};
    use crate::protect::Notification;

    fn settings(lanes: usize) -> NotifyPortSettings {
        NotifyPortSettings {
            listen: ([127, 0, 0, 1], 0).into(),
            keys: KeyRing::default(),
            peers: vec!["syracuse".to_owned()],
            lanes,
            epoch: 1,
            secret: [0; 32],
        }
    }

    #[test]
    fn a_request_to_a_busy_lane_waits_and_is_not_dropped() {
        let (poll, now) = (mio::Poll::new().unwrap(), Instant::now());
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let port = NotifyPort::open(settings(3), now).unwrap();
        let mut publish_paths = PublishPath::of_lanes(port, &vec![waker; 3]);
        let (mut busy, mut port) = (publish_paths.pop().unwrap(), publish_paths.remove(0));
        let barriers = |publish_path: &mut PublishPath| {
            let request = || publish_path.poll_request();
            let ids = std::iter::from_fn(request).map(|request| match request {
                LaneRequest::Barrier(id) => id,
                other => panic!("{other:?}"),
            });
            ids.collect::<Vec<u64>>()
        };
        for id in 0..=REQUESTS_MAX as u64 {
            assert!(port.can_request(), "{id}");
            assert_eq!(port.send_all(LaneRequest::Barrier(id)), 0);
            barriers(&mut publish_paths[0]);
        }
        assert!(!port.can_request(), "one lane has not got the last request");
        let mut got = barriers(&mut busy);
        assert!(port.can_request());
        got.append(&mut barriers(&mut busy));
        assert!(got.iter().copied().eq(0..=REQUESTS_MAX as u64), "all, in their order");
        drop(busy);
        assert_eq!(port.send_all(LaneRequest::Flush), 1);
        assert!(port.can_request(), "a lane that has ended is not waited for");
    }

    #[test]
    fn the_port_is_not_done_before_the_last_notification_of_another_lane() {
        let (poll, now) = (mio::Poll::new().unwrap(), Instant::now());
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        for lanes in [1, 2] {
            let wakers = vec![waker.clone(); lanes];
            let mut publish_paths = PublishPath::of_lanes(NotifyPort::open(settings(lanes), now).unwrap(), &wakers);
            let mut port = publish_paths.remove(0);
            port.forward(now);
            assert_eq!(port.is_done(), lanes == 1, "{lanes}");
            for mut relay in publish_paths {
                let notification = Notification::State(LinkState::Draining, StateReason::Administrator);
                relay.publish(LaneNotification { peer: 0, lane: 1, level: Level::OnWire, notification }, now);
                assert!(relay.is_done());
            }
            // The other lane has ended; its notification waits.
            assert_eq!(port.is_done(), lanes == 1, "{lanes}");
            port.forward(now);
            assert!(port.is_done());
        }
    }
}
