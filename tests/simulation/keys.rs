//! Session keys without a handshake, and a reader for all sealed datagrams.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use onwire::tunnel::PeerId;
use onwire::tunnel::handshake::{Established, Role};
use onwire::tunnel::hello::{Hello, PROTOCOL_VERSION};
use onwire::tunnel::seal::{Cipher, CipherSet, OpeningKey, SealingKey};
use onwire::wire::datagram::{DatagramType, HEADER_LEN, Header, count_of};
use onwire::wire::payload_id::{RepairId, SourceId};
use onwire::wire::report::Report;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::side::Side;

/// One run of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// Which side.
    pub side: Side,
    /// How often the side was restarted before.
    pub restarts: u32,
}

/// The input of one end of a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Party {
    /// Its run.
    pub run: Run,
    /// Its epoch.
    pub epoch: u64,
    /// Its symbol size.
    pub symbol_size: usize,
    /// Where it sends from.
    pub address: SocketAddr,
}

/// The opened content of a datagram.
#[derive(Clone, Debug)]
pub enum Content {
    /// A source symbol.
    Source(SourceId, Vec<u8>),
    /// A repair symbol; its bytes are not checked here.
    Repair(RepairId),
    /// A report.
    Report(Box<Report>),
}

/// A sealed datagram, opened.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The run that sealed it.
    pub from: Run,
    /// The run that can open it.
    pub to: Run,
    /// The receiver index of its session.
    pub receiver_index: u32,
    /// Its count within the session.
    pub count: u64,
    /// The content.
    pub content: Content,
}

/// All sessions.
#[derive(Default)]
pub struct Keys {
    /// By receiver index: the sealing run, the receiving run, and the opening key.
    readers: HashMap<u32, (Run, Run, OpeningKey)>,
    newest: [u32; 2],
}

impl Keys {
    /// Agrees on a session; returns what the initiator and the responder must install.
    pub fn agree(
        &mut self,
        initiator: Party,
        responder: Party,
        random: &mut SmallRng,
        now: Instant,
    ) -> [Established; 2] {
        let cipher = if random.random_bool(0.5) { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
        let keys: [[u8; 32]; 2] = random.random();
        let indices = [(); 2].map(|()| {
            loop {
                let index = random.random_range(0..1 << 24);
                if !self.readers.contains_key(&index) {
                    break index;
                }
            }
        });
        let [initiator_index, responder_index] = indices;
        self.readers.insert(responder_index, (initiator.run, responder.run, OpeningKey::new(cipher, &keys[0])));
        self.readers.insert(initiator_index, (responder.run, initiator.run, OpeningKey::new(cipher, &keys[1])));
        self.newest[initiator.run.side.index()] = initiator_index;
        self.newest[responder.run.side.index()] = responder_index;
        let established = |role, own: usize, remote: Party| Established {
            peer: PeerId(0),
            role,
            local_index: indices[own],
            remote_index: indices[1 - own],
            sealing: Arc::new(SealingKey::new(cipher, &keys[own])),
            opening: Arc::new(OpeningKey::new(cipher, &keys[1 - own])),
            remote: hello(remote),
            endpoint: remote.address.into(),
            at: now,
        };
        [established(Role::Initiator, 0, responder), established(Role::Responder, 1, initiator)]
    }

    /// The receiver index that a forger would use toward this side.
    pub fn newest_index(&self, side: Side) -> u32 {
        self.newest[side.index()]
    }

    /// Reads a datagram that a side is about to send.
    pub fn read(&self, datagram: &[u8]) -> Sealed {
        let header = Header::parse(datagram).expect("a sent datagram has a header");
        let (from, to, key) = &self.readers[&header.receiver_index];
        let mut text = datagram[HEADER_LEN..].to_vec();
        let opened = key.open(header.counter, &datagram[..HEADER_LEN], &mut text).expect("a sent datagram is sealed");
        let content = match header.datagram_type {
            DatagramType::Source => {
                let (id, symbol) = SourceId::parse(opened).expect("a sent datagram has a valid payload id");
                Content::Source(id, symbol.to_vec())
            }
            DatagramType::Repair => Content::Repair(RepairId::parse(opened).expect("as above").0),
            _ => Content::Report(Box::new(Report::parse(opened).expect("a sent report is valid"))),
        };
        let count = count_of(header.counter);
        Sealed { from: *from, to: *to, receiver_index: header.receiver_index, count, content }
    }
}

fn hello(party: Party) -> Hello {
    let symbol_size = party.symbol_size as u16;
    Hello { version: PROTOCOL_VERSION, lanes: 4, ciphers: CipherSet::preferred(), symbol_size, epoch: party.epoch }
}
