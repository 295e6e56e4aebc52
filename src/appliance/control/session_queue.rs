//! New sessions on their way to the lanes.
//!
//! A lane that is too busy for a session gets it in a later turn. Without it, the lane would drop all that comes under the
//! session, and a lane that has had none with the peer asks for none.

use crate::tunnel::PeerId;

/// What a lane has not taken yet.
#[derive(Debug)]
struct Waiting<S> {
    lane: usize,
    peer: PeerId,
    session: S,
}

/// The sessions that lanes have not taken yet: of each peer the newest, for each lane.
#[derive(Debug)]
pub struct SessionQueue<S> {
    waiting: Vec<Waiting<S>>,
}

impl<S: Clone> SessionQueue<S> {
    /// Nothing waits.
    pub fn new() -> Self {
        Self { waiting: Vec::new() }
    }

    /// A session with a peer for all lanes. One that still waits for a lane is not wanted there any more.
    pub fn push(&mut self, lanes: usize, peer: PeerId, session: &S) {
        self.waiting.retain(|waiting| waiting.peer != peer);
        self.waiting.extend((0..lanes).map(|lane| Waiting { lane, peer, session: session.clone() }));
    }

    /// Forgets what waits of other peers.
    pub fn retain(&mut self, mut is_peer: impl FnMut(PeerId) -> bool) {
        self.waiting.retain(|waiting| is_peer(waiting.peer));
    }

    /// Gives the lanes what they take; `send` is false where a lane takes nothing now. Returns how many wait.
    pub fn send(&mut self, mut send: impl FnMut(usize, &S) -> bool) -> usize {
        self.waiting.retain(|waiting| !send(waiting.lane, &waiting.session));
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_gets_the_newest_session_when_it_takes_one_again() {
        let mut queue = SessionQueue::new();
        let mut lanes = [Vec::new(), Vec::new()];
        let mut send = |queue: &mut SessionQueue<u32>, is_busy: bool| {
            let waits = queue.send(|lane, session| {
                if is_busy && lane == 1 {
                    return false;
                }
                lanes[lane].push(*session);
                true
            });
            (waits, lanes.clone())
        };
        queue.push(2, PeerId(0), &1);
        assert_eq!(send(&mut queue, true), (1, [vec![1], vec![]]));
        queue.push(2, PeerId(1), &2);
        queue.push(2, PeerId(0), &3);
        assert_eq!(send(&mut queue, true), (2, [vec![1, 2, 3], vec![]]));
        assert_eq!(send(&mut queue, false), (0, [vec![1, 2, 3], vec![2, 3]]));
        queue.push(2, PeerId(1), &4);
        queue.push(2, PeerId(0), &5);
        queue.retain(|peer| peer == PeerId(0));
        assert_eq!(send(&mut queue, false), (0, [vec![1, 2, 3, 5], vec![2, 3, 5]]), "a peer that was removed has none");
    }
}
