//! The cryptography of the handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, as in WireGuard, by `snow`.
//!
//! The initiator knows the responder's key and proves its own identity in the first message. The second message proves
//! the responder and mixes in the preshared key. No timers, no indices, no policy here. `None` means that the bytes are
//! not authentic, or that the operating system gave no randomness.

use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::tunnel::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::wire::handshake::MAX_LEN;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Both ends hash it in: it names the protocol and the version of the handshake itself.
const PROLOGUE: &[u8] = b"onwire handshake 1";
/// The place of psk2: the end of the second message.
const PSK_PLACE: u8 = 2;

/// The keys of the two directions as one end sees them, wiped when dropped.
pub(super) struct RawKeys {
    pub sealing: Zeroizing<[u8; 32]>,
    pub opening: Zeroizing<[u8; 32]>,
}

impl RawKeys {
    fn split(state: &mut HandshakeState) -> Self {
        let (from_initiator, from_responder) = state.dangerously_get_raw_split();
        let (from_initiator, from_responder) = (Zeroizing::new(from_initiator), Zeroizing::new(from_responder));
        if state.is_initiator() {
            Self { sealing: from_initiator, opening: from_responder }
        } else {
            Self { sealing: from_responder, opening: from_initiator }
        }
    }
}

fn builder(local: &PrivateKey) -> Option<Builder<'_>> {
    let params = PATTERN.parse().ok()?;
    Builder::new(params).local_private_key(local.as_bytes()).ok()?.prologue(PROLOGUE).ok()
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Option<Vec<u8>> {
    let mut message = vec![0; MAX_LEN];
    let length = state.write_message(payload, &mut message).ok()?;
    message.truncate(length);
    Some(message)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Option<Vec<u8>> {
    let mut payload = vec![0; message.len()];
    let length = state.read_message(message, &mut payload).ok()?;
    payload.truncate(length);
    Some(payload)
}

/// An initiation that waits for its response.
pub(super) struct PendingInitiation(HandshakeState);

impl PendingInitiation {
    /// Begins a handshake with the owner of `remote`; also returns the first message.
    pub fn place(
        local: &PrivateKey,
        remote: &PublicKey,
        preshared: &PresharedKey,
        payload: &[u8],
    ) -> Option<(Self, Vec<u8>)> {
        let builder = builder(local)?.remote_public_key(remote.as_bytes()).ok()?;
        let mut state = builder.psk(PSK_PLACE, preshared.as_bytes()).ok()?.build_initiator().ok()?;
        let message = write(&mut state, payload)?;
        Some((Self(state), message))
    }

    /// Reads the second message. A forged one changes nothing: the genuine one can still come.
    pub fn finish(&mut self, message: &[u8]) -> Option<(Vec<u8>, RawKeys)> {
        let payload = read(&mut self.0, message)?;
        Some((payload, RawKeys::split(&mut self.0)))
    }
}

/// An authentic initiation, read but not answered.
pub(super) struct ReceivedInitiation {
    state: HandshakeState,
    /// The initiator, proven.
    pub caller: PublicKey,
    /// What the initiator sealed into its message.
    pub payload: Vec<u8>,
}

impl ReceivedInitiation {
    /// Reads a first message.
    pub fn listen(local: &PrivateKey, message: &[u8]) -> Option<Self> {
        let mut state = builder(local)?.build_responder().ok()?;
        let payload = read(&mut state, message)?;
        let caller = PublicKey::from_bytes(state.get_remote_static()?.try_into().ok()?);
        Some(Self { state, caller, payload })
    }

    /// Writes the second message.
    pub fn answer(mut self, preshared: &PresharedKey, payload: &[u8]) -> Option<(Vec<u8>, RawKeys)> {
        self.state.set_psk(usize::from(PSK_PLACE), preshared.as_bytes()).ok()?;
        let message = write(&mut self.state, payload)?;
        Some((message, RawKeys::split(&mut self.state)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn both_ends_hold_the_same_keys_and_a_forged_response_changes_nothing() {
        let mut random = StdRng::seed_from_u64(5);
        let (a, b) = (PrivateKey::generate(&mut random), PrivateKey::generate(&mut random));
        let psk = PresharedKey::generate(&mut random);
        let (mut call, first) = PendingInitiation::place(&a, &b.public_key(), &psk, b"from a").unwrap();
        let received = ReceivedInitiation::listen(&b, &first).unwrap();
        assert_eq!((received.caller, received.payload.as_slice()), (a.public_key(), &b"from a"[..]));
        let (second, at_b) = received.answer(&psk, b"from b").unwrap();
        for bit in 0..second.len() * 8 {
            let mut forged = second.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            // X25519 ignores the top bit of a point, but the transcript does not.
            assert!(call.finish(&forged).is_none(), "bit {bit}");
        }
        assert!(call.finish(b"").is_none());
        let (payload, at_a) = call.finish(&second).unwrap();
        assert_eq!(payload, b"from b");
        assert_eq!((at_a.sealing, at_a.opening), (at_b.opening, at_b.sealing));
        assert!(call.finish(&second).is_none(), "a response counts once");
    }
}
