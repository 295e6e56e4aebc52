//! The cryptography of the handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, as in WireGuard, by `snow`.
//!
//! The initiator knows the responder's key and proves its own identity in the first message. The second message proves
//! the responder and mixes in the preshared key. No timers, no indices, no policy here. `None` means that the bytes are
//! not authentic, or that the operating system gave no randomness.

use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::resolver::WipingResolver;
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
    Builder::with_resolver(params, Box::new(WipingResolver))
        .local_private_key(local.as_bytes())
        .ok()?
        .prologue(PROLOGUE)
        .ok()
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
    use snow::Error;
    use snow::params::{CipherChoice, DHChoice, HashChoice};
    use snow::resolvers::{CryptoResolver, DefaultResolver};
    use snow::types::{Cipher, Dh, Hash, Random};

    use crate::tunnel::curve::low_order_points;

    /// A node that a library without our checks and wiping runs, as releases before these do.
    fn plain(local: &PrivateKey) -> Builder<'_> {
        let builder = Builder::new(PATTERN.parse().unwrap()).local_private_key(local.as_bytes()).unwrap();
        builder.prologue(PROLOGUE).unwrap()
    }

    #[test]
    fn an_earlier_release_understands_and_is_understood() {
        let mut random = StdRng::seed_from_u64(6);
        let (a, b) = (PrivateKey::generate(&mut random), PrivateKey::generate(&mut random));
        let psk = PresharedKey::generate(&mut random);
        // Theirs begins.
        let public = b.public_key();
        let builder = plain(&a).remote_public_key(public.as_bytes()).unwrap();
        let mut theirs = builder.psk(PSK_PLACE, psk.as_bytes()).unwrap().build_initiator().unwrap();
        let first = write(&mut theirs, b"from a").unwrap();
        let (second, ours) = ReceivedInitiation::listen(&b, &first).unwrap().answer(&psk, b"from b").unwrap();
        assert_eq!(read(&mut theirs, &second).unwrap(), b"from b");
        assert_eq!(RawKeys::split(&mut theirs).sealing, ours.opening);
        // Ours begins.
        let (mut call, first) = PendingInitiation::place(&a, &b.public_key(), &psk, b"from a").unwrap();
        let mut theirs = plain(&b).psk(PSK_PLACE, psk.as_bytes()).unwrap().build_responder().unwrap();
        assert_eq!(read(&mut theirs, &first).unwrap(), b"from a");
        let second = write(&mut theirs, b"from b").unwrap();
        assert_eq!(call.finish(&second).unwrap().1.sealing, RawKeys::split(&mut theirs).opening);
    }

    /// An attacker whose key pairs are a point of low order and nothing: every shared secret is zero.
    struct LowOrder([u8; 32]);

    impl Dh for LowOrder {
        fn name(&self) -> &'static str {
            "25519"
        }

        fn pub_len(&self) -> usize {
            32
        }

        fn priv_len(&self) -> usize {
            32
        }

        fn set(&mut self, _: &[u8]) {}

        fn generate(&mut self, _: &mut dyn Random) -> Result<(), Error> {
            Ok(())
        }

        fn pubkey(&self) -> &[u8] {
            &self.0
        }

        fn privkey(&self) -> &[u8] {
            &[0; 32]
        }

        fn dh(&self, _: &[u8], out: &mut [u8]) -> Result<(), Error> {
            out[..32].fill(0);
            Ok(())
        }
    }

    impl CryptoResolver for LowOrder {
        fn resolve_rng(&self) -> Option<Box<dyn Random>> {
            DefaultResolver.resolve_rng()
        }

        fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
            Some(Box::new(Self(self.0)))
        }

        fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
            DefaultResolver.resolve_hash(choice)
        }

        fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
            DefaultResolver.resolve_cipher(choice)
        }
    }

    #[test]
    fn an_initiation_without_any_secret_is_refused() {
        let b = PrivateKey::generate(&mut StdRng::seed_from_u64(7));
        let public = b.public_key();
        for point in low_order_points() {
            let builder = Builder::with_resolver(PATTERN.parse().unwrap(), Box::new(LowOrder(point)));
            let builder = builder.local_private_key(&[1; 32]).unwrap().prologue(PROLOGUE).unwrap();
            let builder = builder.remote_public_key(public.as_bytes()).unwrap();
            let mut attacker = builder.psk(PSK_PLACE, &[0; 32]).unwrap().build_initiator().unwrap();
            let first = write(&mut attacker, b"without a secret").unwrap();
            // Without the check it passes, as from a peer that is configured with that point.
            let mut unchecked = plain(&b).build_responder().unwrap();
            assert!(read(&mut unchecked, &first).is_some(), "the attack is one: {point:02x?}");
            assert!(ReceivedInitiation::listen(&b, &first).is_none(), "{point:02x?}");
        }
    }

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
