//! Numbers of peers and profiles when a configuration follows another while an appliance runs.
//!
//! Datagrams, notifications and counts name peers and profiles by number, so what is known keeps its number. What is gone stays
//! in the lists: a removed peer without prefixes, a removed profile without repair that nothing names.

use super::changes::is_same_peer;
use super::{Config, Peer, PolicyRule, Profile, Repair};
use crate::notify::publisher::MAX_PEERS;

/// More profiles have no number.
const PROFILES_MAX: usize = 256;

impl Config {
    /// This configuration with the numbers that `before` has given out.
    ///
    /// # Errors
    /// There are no numbers left; only a restart gives them out anew.
    pub fn renumbered_after(mut self, before: &Self) -> Result<Self, String> {
        let (profiles, number_of) = profiles(&before.profiles, std::mem::take(&mut self.profiles))?;
        let renumber = |number: u8| number_of.get(usize::from(number)).copied().unwrap_or(number);
        for peer in &mut self.peers {
            peer.redundancy = renumber(peer.redundancy);
        }
        let renumbered = self.policy.iter().map(|rule| PolicyRule { redundancy: renumber(rule.redundancy), ..*rule });
        self.policy = renumbered.collect();
        self.peers = peers(&before.peers, std::mem::take(&mut self.peers))?;
        self.profiles = profiles;
        Ok(self)
    }
}

/// The profiles, and the number of each of `new`.
fn profiles(before: &[Profile], new: Vec<Profile>) -> Result<(Vec<Profile>, Vec<u8>), String> {
    // What is gone has no target that could be missed.
    let mut all: Vec<_> = before.iter().map(|known| Profile { repair: Repair::None, ..known.clone() }).collect();
    let mut numbers = Vec::new();
    for profile in new {
        let at = all.iter().position(|known| known.name == profile.name).unwrap_or(all.len());
        let number = u8::try_from(at).map_err(|_| {
            format!("there were more than {PROFILES_MAX} different profiles since the start: restart to use others")
        })?;
        numbers.push(number);
        match all.get_mut(at) {
            Some(known) => *known = profile,
            None => all.push(profile),
        }
    }
    Ok((all, numbers))
}

/// What stays as it was at the start of a peer.
fn has_same_symbols(known: &Peer, new: &Peer) -> bool {
    let fixed = |peer: &Peer| (peer.path.mtu, peer.path.ecn, peer.path.dscp);
    fixed(known) == fixed(new)
}

fn peers(before: &[Peer], mut new: Vec<Peer>) -> Result<Vec<Peer>, String> {
    let mut all = Vec::new();
    for known in before {
        // One that comes back with another path has another size of symbols: it gets another number. One that is still here
        // under another of its keys keeps that number.
        let is_here = |new: &Peer| before.iter().any(|other| !other.is_removed && is_same_peer(other, new));
        let fits = |new: &Peer| !known.is_removed || has_same_symbols(known, new) && !is_here(new);
        let now = new.iter().position(|new| is_same_peer(known, new) && fits(new));
        all.push(match now {
            Some(at) => new.remove(at),
            None => Peer { is_removed: true, prefixes: Vec::new(), endpoint: None, ..known.clone() },
        });
    }
    all.append(&mut new);
    match all.len() {
        ..=MAX_PEERS => Ok(all),
        _ => Err(format!("there were more than {MAX_PEERS} different peers since the start: restart to use others")),
    }
}
