//! What stands in front of the messages of each datagram: who made it, for whom, which one it is, and the proof.
//!
//! ```text
//!  0       4         5       6        8              16               24        32    48
//!  | magic | version | flags | key id | sender epoch | receiver epoch | counter | tag | messages ...
//! ```
//!
//! All numbers little-endian. `tag` is the first 16 bytes of HMAC-SHA256 over bytes 0..32 and the messages. An epoch is
//! a random number that is not 0 and is drawn at each start, of a publisher and of a client alike. The receiver's epoch ties each
//! datagram to one run of one receiver: what was recorded for another client, or for an earlier run, opens and is then
//! refused. Only a client's first datagram, which cannot know the publisher's epoch, has 0 there. Bit 0 of `flags` says
//! that the publisher made it, so that no datagram can be sent back to whom it came from.
//!
//! Whether a counter was seen before is decided by [`super::replay`], after opening. Nothing is encrypted.

use ring::hmac;

/// The first bytes of each datagram.
pub const MAGIC: [u8; 4] = *b"OWNT";
/// The version of the envelope.
pub const VERSION: u8 = 1;
/// Bytes in front of the messages.
pub const LEN: usize = 48;
/// Keys a ring holds.
pub const MAX_KEYS: usize = 16;
/// Bytes of a secret, at the least.
pub const MIN_SECRET: usize = 16;

const TAG: usize = 32;
const FROM_PUBLISHER: u8 = 1;

/// Who made a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A client: requests.
    Request,
    /// The publisher: notifications and answers.
    Notification,
}

/// What an envelope says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who made it.
    pub direction: Direction,
    /// Which key.
    pub key: u16,
    /// The maker's run.
    pub sender: u64,
    /// The run it is meant for; 0 in a client's first datagram.
    pub receiver: u64,
    /// Never twice from one sender to one receiver.
    pub counter: u64,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// Too short, or not this protocol, or another version of it.
    #[error("not a datagram of this protocol")]
    NotOurs,
    /// Made by the other kind of sender.
    #[error("a datagram of the other direction")]
    Direction,
    /// No such key.
    #[error("sealed with a key that is not in use here")]
    UnknownKey,
    /// The proof is wrong.
    #[error("the authentication is wrong")]
    Tag,
}

/// A secret cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too little to be a secret.
    #[error("a notification key of {found} bytes: at least {MIN_SECRET} random bytes are needed")]
    Short {
        /// Bytes found.
        found: usize,
    },
    /// The ring is full.
    #[error("more than {MAX_KEYS} notification keys: remove one")]
    TooMany,
    /// The number is taken.
    #[error("two notification keys have the id {id}: give each its own")]
    Duplicate {
        /// The number.
        id: u16,
    },
}

/// A shared secret and its number.
#[derive(Clone, Debug)]
pub struct Key {
    id: u16,
    secret: hmac::Key,
}

impl Key {
    /// A key from random bytes. Who holds it can forge to all others who hold it: give each subscriber its own.
    pub fn new(id: u16, secret: &[u8]) -> Result<Key, KeyError> {
        match secret.len() {
            found @ ..MIN_SECRET => Err(KeyError::Short { found }),
            _ => Ok(Key { id, secret: hmac::Key::new(hmac::HMAC_SHA256, secret) }),
        }
    }

    /// Its number.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The proof, truncated.
    fn tag(&self, head: &[u8], messages: &[u8]) -> [u8; LEN - TAG] {
        let mut hmac = hmac::Context::with_key(&self.secret);
        hmac.update(head);
        hmac.update(messages);
        let whole = hmac.sign();
        let mut tag = [0; LEN - TAG];
        tag.copy_from_slice(&whole.as_ref()[..LEN - TAG]);
        tag
    }

    /// Fills in the first [`LEN`] bytes of `datagram`, which has room for them in front of the messages.
    pub fn seal(&self, envelope: &Envelope, datagram: &mut [u8]) {
        let Some((head, messages)) = datagram.split_at_mut_checked(LEN) else {
            debug_assert!(false, "no room for the envelope");
            return;
        };
        head[0..4].copy_from_slice(&MAGIC);
        head[4] = VERSION;
        head[5] = match envelope.direction {
            Direction::Request => 0,
            Direction::Notification => FROM_PUBLISHER,
        };
        head[6..8].copy_from_slice(&self.id.to_le_bytes());
        head[8..16].copy_from_slice(&envelope.sender.to_le_bytes());
        head[16..24].copy_from_slice(&envelope.receiver.to_le_bytes());
        head[24..32].copy_from_slice(&envelope.counter.to_le_bytes());
        let tag = self.tag(&head[..TAG], messages);
        head[TAG..].copy_from_slice(&tag);
    }
}

/// The keys of a publisher, or of a client that changes from one to the next.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: Vec<Key>,
}

impl KeyRing {
    /// No key: opens nothing.
    pub fn new() -> KeyRing {
        KeyRing::default()
    }

    /// Takes a key in.
    pub fn insert(&mut self, key: Key) -> Result<(), KeyError> {
        if self.find(key.id).is_some() {
            return Err(KeyError::Duplicate { id: key.id });
        }
        if self.keys.len() == MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        self.keys.push(key);
        Ok(())
    }

    /// The key with this number.
    pub fn find(&self, id: u16) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Checks a datagram from `direction`; gives what the envelope says and the messages.
    pub fn open<'a>(&self, direction: Direction, datagram: &'a [u8]) -> Result<(Envelope, &'a [u8]), Forged> {
        let (head, messages) = datagram.split_first_chunk::<LEN>().ok_or(Forged::NotOurs)?;
        if head[0..4] != MAGIC || head[4] != VERSION {
            return Err(Forged::NotOurs);
        }
        let claimed = match head[5] {
            0 => Direction::Request,
            FROM_PUBLISHER => Direction::Notification,
            // Reserved bits mean something that this version would not obey.
            _ => return Err(Forged::NotOurs),
        };
        if claimed != direction {
            return Err(Forged::Direction);
        }
        let id = u16::from_le_bytes([head[6], head[7]]);
        let key = self.find(id).ok_or(Forged::UnknownKey)?;
        if !equal(&key.tag(&head[..TAG], messages), &head[TAG..]) {
            return Err(Forged::Tag);
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (sender, receiver, counter) = (number(8), number(16), number(24));
        if sender == 0 {
            return Err(Forged::NotOurs);
        }
        Ok((Envelope { direction, key: id, sender, receiver, counter }, messages))
    }
}

/// Compares without telling by its duration where two tags differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVELOPE: Envelope =
        Envelope { direction: Direction::Notification, key: 7, sender: 11, receiver: 12, counter: 13 };

    fn ring() -> KeyRing {
        let mut ring = KeyRing::new();
        ring.insert(Key::new(7, &[1; 32]).unwrap()).unwrap();
        ring.insert(Key::new(8, &[2; 32]).unwrap()).unwrap();
        ring
    }

    fn sealed() -> Vec<u8> {
        let mut datagram = vec![0; LEN];
        datagram.extend_from_slice(b"messages");
        ring().find(7).unwrap().seal(&ENVELOPE, &mut datagram);
        datagram
    }

    #[test]
    fn a_sealed_datagram_opens_once_more_as_it_was() {
        let datagram = sealed();
        assert_eq!(ring().open(Direction::Notification, &datagram), Ok((ENVELOPE, &b"messages"[..])));
    }

    #[test]
    fn no_changed_bit_and_no_cut_opens() {
        let datagram = sealed();
        for bit in 0..datagram.len() * 8 {
            let mut forged = datagram.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(ring().open(Direction::Notification, &forged).is_err(), "bit {bit}");
        }
        for len in 0..datagram.len() {
            assert!(ring().open(Direction::Notification, &datagram[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_datagram_opens_in_its_own_direction_only() {
        assert_eq!(ring().open(Direction::Request, &sealed()), Err(Forged::Direction));
    }

    /// What this version does not know, and a sender that is nobody, are not obeyed even where the seal is good.
    #[test]
    fn reserved_bits_and_nobody_do_not_open_though_sealed_with_the_key() {
        let key = Key::new(7, &[1; 32]).unwrap();
        for (at, byte) in [(5, 2), (5, 3), (5, 0x80), (4, 2), (8, 0)] {
            let mut datagram = sealed();
            datagram[at] = byte;
            let (head, messages) = datagram.split_at(LEN);
            let tag = key.tag(&head[..TAG], messages);
            datagram[TAG..LEN].copy_from_slice(&tag);
            assert_eq!(ring().open(Direction::Notification, &datagram), Err(Forged::NotOurs), "byte {at}: {byte}");
        }
    }

    #[test]
    fn keys_are_kept_apart() {
        let mut other = KeyRing::new();
        other.insert(Key::new(8, &[1; 32]).unwrap()).unwrap();
        assert_eq!(other.open(Direction::Notification, &sealed()), Err(Forged::UnknownKey));
        let mut same_id = KeyRing::new();
        same_id.insert(Key::new(7, &[3; 32]).unwrap()).unwrap();
        assert_eq!(same_id.open(Direction::Notification, &sealed()), Err(Forged::Tag));
        assert_eq!(Key::new(1, &[0; 15]).unwrap_err(), KeyError::Short { found: 15 });
        assert_eq!(same_id.insert(Key::new(7, &[4; 32]).unwrap()), Err(KeyError::Duplicate { id: 7 }));
    }
}
