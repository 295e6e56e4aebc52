//! The hello: how two nodes describe themselves to each other, sealed inside the handshake, and whether they can work
//! together.
//!
//! ```text
//!  | version | lanes | ciphers | reserved | symbol size (16) | reserved (16) | epoch (64) | later additions ... |
//! ```
//!
//! Big-endian, reserved is zero. Bytes after the known ones are ignored, so that later versions can add to it. The
//! handshake decides when and to which node it is sent.

use super::seal::{Cipher, CipherSet};

/// The version of everything behind the handshake: payload ids, ADU headers, reports.
pub const PROTOCOL_VERSION: u8 = 2;

/// A node's description of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the node.
    pub version: u8,
    /// Lanes it runs; both ends need the same number.
    pub lanes: u8,
    /// Ciphers it is willing to use.
    pub ciphers: CipherSet,
    /// The largest symbol it will send, in bytes: a multiple of 64.
    pub symbol_size: u16,
    /// Random at each start: a new epoch means that the node was restarted and has forgotten everything.
    pub epoch: u64,
}

/// Why two authentic nodes cannot work together. The error text names the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatibility {
    /// The formats behind the handshake differ.
    #[error("the peer speaks protocol version {theirs}, this node {ours}; run the same onwire release at both ends")]
    Version {
        /// Of this node.
        ours: u8,
        /// Of the peer.
        theirs: u8,
    },
    /// Lanes are paired one to one.
    #[error("the peer runs {theirs} lanes, this node {ours}; set `tun.queues` to the same number at both ends")]
    Lanes {
        /// Of this node.
        ours: u8,
        /// Of the peer.
        theirs: u8,
    },
    /// No cipher in common.
    #[error("the peer offers {theirs}, this node {ours}; run the same onwire release at both ends")]
    Ciphers {
        /// Of this node.
        ours: CipherSet,
        /// Of the peer.
        theirs: CipherSet,
    },
}

impl Hello {
    /// Bytes that [`emit`](Self::emit) writes and that [`parse`](Self::parse) needs at least.
    pub const LEN: usize = 16;

    /// Reads a hello; `None` if it is too short or describes no possible node.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let &[version, lanes, ciphers, _, size_high, size_low, _, _, ref epoch @ ..] = bytes.first_chunk::<16>()?;
        let symbol_size = u16::from_be_bytes([size_high, size_low]);
        let possible = lanes > 0 && symbol_size > 0 && symbol_size % 64 == 0;
        possible.then(|| Self {
            version,
            lanes,
            ciphers: CipherSet::from_bits(ciphers),
            symbol_size,
            epoch: u64::from_be_bytes(*epoch),
        })
    }

    /// The bytes of the hello.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.version;
        bytes[1] = self.lanes;
        bytes[2] = self.ciphers.bits();
        bytes[4..6].copy_from_slice(&self.symbol_size.to_be_bytes());
        bytes[8..].copy_from_slice(&self.epoch.to_be_bytes());
        bytes
    }

    /// The cipher of a session between the two, or why none is possible. Both ends get the same result.
    pub fn agree(&self, remote: &Self) -> Result<Cipher, Incompatibility> {
        if self.version != remote.version {
            return Err(Incompatibility::Version { ours: self.version, theirs: remote.version });
        }
        if self.lanes != remote.lanes {
            return Err(Incompatibility::Lanes { ours: self.lanes, theirs: remote.lanes });
        }
        let nothing_shared = Incompatibility::Ciphers { ours: self.ciphers, theirs: remote.ciphers };
        self.ciphers.choose(remote.ciphers).ok_or(nothing_shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        version: PROTOCOL_VERSION,
        lanes: 2,
        ciphers: CipherSet::from_bits(3),
        symbol_size: 1408,
        epoch: 0x0123_4567_89ab_cdef,
    };

    #[test]
    fn later_additions_are_ignored_and_a_short_hello_is_refused() {
        let bytes = HELLO.emit();
        assert_eq!(bytes, *b"\x02\x02\x03\0\x05\x80\0\0\x01\x23\x45\x67\x89\xab\xcd\xef");
        assert_eq!(Hello::parse(&bytes), Some(HELLO));
        assert_eq!(Hello::parse(&[&bytes[..], b"more"].concat()), Some(HELLO));
        for length in 0..Hello::LEN {
            assert_eq!(Hello::parse(&bytes[..length]), None);
        }
        for impossible in
            [Hello { lanes: 0, ..HELLO }, Hello { symbol_size: 0, ..HELLO }, Hello { symbol_size: 100, ..HELLO }]
        {
            assert_eq!(Hello::parse(&impossible.emit()), None);
        }
    }

    #[test]
    fn two_nodes_agree_or_get_the_reason() {
        let aes = CipherSet::only(Cipher::Aes256Gcm);
        let chacha = CipherSet::only(Cipher::ChaCha20Poly1305);
        let rows = [
            (HELLO, HELLO, Ok(Cipher::Aes256Gcm)),
            (HELLO, Hello { ciphers: chacha, symbol_size: 1152, epoch: 1, ..HELLO }, Ok(Cipher::ChaCha20Poly1305)),
            (HELLO, Hello { version: 1, lanes: 9, ..HELLO }, Err("speaks protocol version 1, this node 2")),
            (HELLO, Hello { lanes: 1, ..HELLO }, Err("runs 1 lanes, this node 2")),
            (
                Hello { ciphers: aes, ..HELLO },
                Hello { ciphers: chacha, ..HELLO },
                Err("offers ChaCha20-Poly1305, this"),
            ),
        ];
        for (ours, theirs, wanted) in rows {
            match (ours.agree(&theirs), wanted) {
                (Ok(cipher), wanted) => {
                    assert_eq!((Ok(cipher), theirs.agree(&ours)), (wanted, Ok(cipher)));
                }
                (Err(why), Err(text)) => assert!(why.to_string().contains(text) && theirs.agree(&ours).is_err()),
                (Err(why), Ok(_)) => panic!("{why}"),
            }
        }
    }
}
