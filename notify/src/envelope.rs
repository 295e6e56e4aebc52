//! The envelope in front of the messages of each datagram: its sender, receiver, counter and authentication tag.
//!
//! ```text
//!  0       4         5       6        8              16               24        32    48
//!  | magic | version | flags | key id | sender epoch | receiver epoch | counter | tag | messages ...
//! ```
//!
//! All numbers are little-endian. `tag` is the first 16 bytes of HMAC-SHA256 over bytes 0..32 and the messages. An
//! epoch is a random number, not 0, that a publisher or a client draws at each start. The receiver's epoch ties each
//! datagram to one run of one receiver: a datagram recorded for another client or an earlier run opens and is then
//! refused. Only a client's first datagram has 0 there, because it cannot know the publisher's epoch. Bit 0 of `flags`
//! marks a datagram of the publisher, so that no datagram can be reflected to its sender.
//!
//! After opening, [`super::replay`] decides whether a counter was seen before. Nothing is encrypted.

use ring::hmac;

/// The first bytes of each datagram.
pub const MAGIC: [u8; 4] = *b"OWNT";
/// The version of the envelope.
pub const VERSION: u8 = 1;
/// Bytes in front of the messages.
pub const LEN: usize = 48;
/// The most keys in a ring.
pub const MAX_KEYS: usize = 16;
/// The fewest bytes of a secret.
pub const MIN_SECRET: usize = 16;

const TAG: usize = 32;
const FROM_PUBLISHER: u8 = 1;

/// Which side made a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A client: requests.
    Request,
    /// The publisher: notifications and answers.
    Notification,
}

/// The fields of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Which side made the datagram.
    pub direction: Direction,
    /// The id of the key.
    pub key: u16,
    /// The sender's epoch.
    pub sender: u64,
    /// The receiver's epoch; 0 in a client's first datagram.
    pub receiver: u64,
    /// Never repeats from one sender to one receiver.
    pub counter: u64,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// Too short, or not this protocol, or another version of it.
    #[error("not a datagram of this protocol")]
    NotOurs,
    /// Made by the other side.
    #[error("a datagram of the other direction")]
    Direction,
    /// No such key.
    #[error("sealed with a key that is not in use here")]
    UnknownKey,
    /// The tag is wrong.
    #[error("the authentication is wrong")]
    Tag,
}

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret is too short.
    #[error("a notification key of {found} bytes: at least {MIN_SECRET} random bytes are needed")]
    Short {
        /// Bytes found.
        found: usize,
    },
    /// The ring is full.
    #[error("more than {MAX_KEYS} notification keys: remove one")]
    TooMany,
    /// The id is taken.
    #[error("two notification keys have the id {id}: give each its own")]
    Duplicate {
        /// The id.
        id: u16,
    },
}

/// A shared secret and its id.
#[derive(Clone, Debug)]
pub struct Key {
    id: u16,
    secret: hmac::Key,
}

impl Key {
    /// A key from random bytes. Each holder can forge datagrams to all other holders: give each subscriber its own key.
    pub fn new(id: u16, secret: &[u8]) -> Result<Key, KeyError> {
        match secret.len() {
            found @ ..MIN_SECRET => Err(KeyError::Short { found }),
            _ => Ok(Key { id, secret: hmac::Key::new(hmac::HMAC_SHA256, secret) }),
        }
    }

    /// Its id.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Whether it has the same id and seals alike.
    pub fn is_same(&self, other: &Key) -> bool {
        self.id == other.id && self.tag(&[], &[]) == other.tag(&[], &[])
    }

    /// The truncated HMAC.
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

/// The keys of a publisher, or of a client that changes its key.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: Vec<Key>,
}

impl KeyRing {
    /// A ring without keys: it opens nothing.
    pub fn new() -> KeyRing {
        KeyRing::default()
    }

    /// Adds a key.
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

    /// The key with this id.
    pub fn find(&self, id: u16) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Checks a datagram from `direction`; returns the envelope and the messages.
    pub fn open<'a>(&self, direction: Direction, datagram: &'a [u8]) -> Result<(Envelope, &'a [u8]), Forged> {
        let (head, messages) = datagram.split_first_chunk::<LEN>().ok_or(Forged::NotOurs)?;
        if head[0..4] != MAGIC || head[4] != VERSION {
            return Err(Forged::NotOurs);
        }
        let claimed = match head[5] {
            0 => Direction::Request,
            FROM_PUBLISHER => Direction::Notification,
            // A reserved bit means something that this version does not implement.
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

/// Compares in constant time: the duration does not show where two tags differ.
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
    fn a_sealed_datagram_opens_unchanged() {
        let datagram = sealed();
        assert_eq!(ring().open(Direction::Notification, &datagram), Ok((ENVELOPE, &b"messages"[..])));
    }

    #[test]
    fn a_changed_or_cut_datagram_does_not_open() {
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

    /// Unknown flags, an unknown version and a sender epoch of 0 are refused even if the tag is right.
    #[test]
    fn reserved_bits_and_a_zero_sender_do_not_open_even_if_sealed_with_the_key() {
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
    fn a_datagram_opens_only_with_its_own_key() {
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
