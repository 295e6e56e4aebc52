//! Proves that a subscriber receives at the address it sends from, without keeping state about it.
//!
//! A token is an HMAC over address, key, client epoch and time, under a secret of this run. Without it a recorded
//! subscription, replayed from a forged address, would aim a stream of notifications at the owner of that address.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ring::hmac;

use crate::message::Token;

/// A token is valid during the period in which it was made, and the next.
const PERIOD: Duration = Duration::from_secs(30);

/// Makes and checks tokens.
#[derive(Debug)]
pub struct Challenger {
    secret: hmac::Key,
    start: Instant,
}

/// The sender that a token is for.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The address it sends from.
    pub address: SocketAddr,
    /// Its key.
    pub key: u16,
    /// Its epoch.
    pub epoch: u64,
}

impl Challenger {
    /// `secret` is random and drawn at each start.
    pub fn new(secret: &[u8; 32], now: Instant) -> Challenger {
        Challenger { secret: hmac::Key::new(hmac::HMAC_SHA256, secret), start: now }
    }

    /// The token for a subscriber.
    pub fn token(&self, asker: &Sender, now: Instant) -> Token {
        self.token_of(asker, self.period(now))
    }

    /// Whether the subscriber's token for this period, or for the one before, is this one.
    pub fn accepts(&self, asker: &Sender, token: &Token, now: Instant) -> bool {
        let period = self.period(now);
        let earlier = period.checked_sub(1).map(|period| self.token_of(asker, period));
        // A sender that cannot see the token must guess one of 2^128: no need to hide how many bytes match.
        *token == self.token_of(asker, period) || earlier.is_some_and(|earlier| earlier == *token)
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / PERIOD.as_secs()
    }

    fn token_of(&self, asker: &Sender, period: u64) -> Token {
        let mut hmac = hmac::Context::with_key(&self.secret);
        let ip = match asker.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        hmac.update(&ip.octets());
        hmac.update(&asker.address.port().to_le_bytes());
        hmac.update(&asker.key.to_le_bytes());
        hmac.update(&asker.epoch.to_le_bytes());
        hmac.update(&period.to_le_bytes());
        let whole = hmac.sign();
        let mut token = Token::default();
        token.0.copy_from_slice(&whole.as_ref()[..16]);
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_only_for_its_sender_and_its_time() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let challenger = Challenger::new(&[7; 32], start);
        let asker = Sender { address: ([127, 0, 0, 1], 9).into(), key: 1, epoch: 2 };
        let token = challenger.token(&asker, at(29));
        assert!(challenger.accepts(&asker, &token, at(29)));
        assert!(challenger.accepts(&asker, &token, at(59)));
        assert!(!challenger.accepts(&asker, &token, at(60)));
        assert!(!challenger.accepts(&Sender { address: ([127, 0, 0, 1], 8).into(), ..asker }, &token, at(29)));
        assert!(!challenger.accepts(&Sender { address: ([127, 0, 0, 2], 9).into(), ..asker }, &token, at(29)));
        assert!(!challenger.accepts(&Sender { key: 2, ..asker }, &token, at(29)));
        assert!(!challenger.accepts(&Sender { epoch: 3, ..asker }, &token, at(29)));
        assert!(!challenger.accepts(&asker, &Token::default(), at(29)));
        assert!(!Challenger::new(&[8; 32], start).accepts(&asker, &token, at(29)));
    }
}
