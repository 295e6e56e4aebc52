//! Finds the slot of a flow by the hash of its key: linear probing in a table that is at most half full.
//!
//! It holds no keys: the caller compares. It grows with the flows that there are, since a few flows in a large table
//! would be a cache miss each. A removed entry leaves no tombstone, so that any number of flows may come and go without
//! the table being rebuilt: it grows only when there are more at a time than ever before.

const VACANT: u32 = u32::MAX;

const LEN_MIN: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    slot: u32,
}

impl Entry {
    const VACANT: Self = Self { hash: 0, slot: VACANT };
}

#[derive(Debug)]
pub(super) struct Index {
    entries: Vec<Entry>,
    used: usize,
}

impl Index {
    pub fn new() -> Self {
        Self { entries: vec![Entry::VACANT; LEN_MIN], used: 0 }
    }

    fn mask(&self) -> usize {
        self.entries.len() - 1
    }

    /// The slot with this hash of which `matches` is true.
    #[inline]
    pub fn find(&self, hash: u32, matches: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask();
        loop {
            let entry = self.entries[at];
            if entry.slot == VACANT {
                return None;
            }
            if entry.hash == hash && matches(entry.slot) {
                return Some(entry.slot);
            }
            at = (at + 1) & self.mask();
        }
    }

    pub fn insert(&mut self, hash: u32, slot: u32) {
        self.used += 1;
        if 2 * self.used > self.entries.len() {
            let grown = vec![Entry::VACANT; 2 * self.entries.len()];
            for entry in std::mem::replace(&mut self.entries, grown) {
                if entry.slot != VACANT {
                    self.place(entry);
                }
            }
        }
        self.place(Entry { hash, slot });
    }

    fn place(&mut self, entry: Entry) {
        let mut at = entry.hash as usize & self.mask();
        while self.entries[at].slot != VACANT {
            at = (at + 1) & self.mask();
        }
        self.entries[at] = entry;
    }

    /// Takes `slot` out and moves what was pushed behind it one step nearer to its place.
    pub fn remove(&mut self, hash: u32, slot: u32) {
        let mask = self.mask();
        let mut hole = hash as usize & mask;
        while self.entries[hole].slot != slot {
            if self.entries[hole].slot == VACANT {
                return;
            }
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.entries[at];
            if entry.slot == VACANT {
                break;
            }
            let home = entry.hash as usize & mask;
            // It may move only if its home is not behind the hole.
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.entries[hole] = entry;
                hole = at;
            }
        }
        self.entries[hole].slot = VACANT;
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u32..16, 0u32..80), 1..400)) {
            let mut index = Index::new();
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (hash, slot) in steps {
                // Hashes that collide and wrap around the end of the table.
                let hash = hash + 56;
                match model.remove(&slot) {
                    Some(old) => index.remove(old, slot),
                    None => {
                        model.insert(slot, hash);
                        index.insert(hash, slot);
                    }
                }
                for (&slot, &hash) in &model {
                    prop_assert_eq!(index.find(hash, |candidate| candidate == slot), Some(slot));
                }
                prop_assert_eq!(index.entries.iter().filter(|entry| entry.slot != VACANT).count(), model.len());
            }
        }
    }
}
