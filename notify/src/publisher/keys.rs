//! The keys of subscribers change while the publisher runs.

use super::Publisher;
use crate::envelope::KeyRing;

impl Publisher {
    /// Takes these keys in place of those before. Subscriptions under a key that is gone, or that has another secret now, end: their
    /// holders hear nothing more, and claim nothing once their trust runs out.
    pub fn set_keys(&mut self, keys: KeyRing) {
        let is_kept = |id: u16| match (self.keys.find(id), keys.find(id)) {
            (Some(before), Some(after)) => before.is_same(after),
            _ => false,
        };
        let before = self.sessions.len();
        self.sessions.retain(|session| is_kept(session.key));
        self.counters.leases_ended += (before - self.sessions.len()) as u64;
        self.unsubscribed.retain(|(sender, ..)| is_kept(sender.key));
        self.keys = keys;
    }
}
