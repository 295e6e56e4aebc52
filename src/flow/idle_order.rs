//! The order in which flows were last seen: three lists, each from the longest idle flow to the newest.
//!
//! The lists are linked through the slots, so moving a flow needs no search. Times and lifetimes belong to the table.

pub(super) const NONE: u32 = u32::MAX;

/// A list of flows that share a lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleClass {
    /// Both ends have sent a FIN, or one end has reset the connection.
    Closed,
    Udp,
    Tcp,
}

impl IdleClass {
    pub const ALL: [Self; 3] = [Self::Closed, Self::Udp, Self::Tcp];
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    older: u32,
    newer: u32,
}

#[derive(Debug)]
pub(super) struct Ages {
    ends: [Ends; 3],
    links: Vec<Links>,
}

impl Ages {
    pub fn new(capacity: usize) -> Self {
        Self { ends: [Ends { oldest: NONE, newest: NONE }; 3], links: Vec::with_capacity(capacity) }
    }

    pub fn oldest(&self, line: IdleClass) -> Option<u32> {
        Some(self.ends[line as usize].oldest).filter(|&slot| slot != NONE)
    }

    /// Appends a slot that is in no list.
    pub fn append(&mut self, line: IdleClass, slot: u32) {
        let at = slot as usize;
        if self.links.len() <= at {
            self.links.resize(at + 1, Links { older: NONE, newer: NONE });
        }
        let newest = std::mem::replace(&mut self.ends[line as usize].newest, slot);
        self.links[at] = Links { older: newest, newer: NONE };
        match newest {
            NONE => self.ends[line as usize].oldest = slot,
            newest => self.links[newest as usize].newer = slot,
        }
    }

    /// Removes a slot that is in `line`.
    pub fn remove(&mut self, line: IdleClass, slot: u32) {
        let Links { older, newer } = self.links[slot as usize];
        match older {
            NONE => self.ends[line as usize].oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.ends[line as usize].newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_three_lists(steps in prop::collection::vec((0u32..12, 0usize..4), 1..200)) {
            let mut ages = Ages::new(0);
            let mut model: [Vec<u32>; 3] = Default::default();
            for (slot, to) in steps {
                for line in IdleClass::ALL {
                    let list = &mut model[line as usize];
                    if let Some(at) = list.iter().position(|&candidate| candidate == slot) {
                        list.remove(at);
                        ages.remove(line, slot);
                    }
                }
                if let Some(&line) = IdleClass::ALL.get(to) {
                    model[line as usize].push(slot);
                    ages.append(line, slot);
                }
                for line in IdleClass::ALL {
                    let mut found = Vec::new();
                    let mut next = ages.ends[line as usize].oldest;
                    while next != NONE {
                        found.push(next);
                        next = ages.links[next as usize].newer;
                    }
                    prop_assert_eq!(&found, &model[line as usize]);
                }
            }
        }
    }
}
