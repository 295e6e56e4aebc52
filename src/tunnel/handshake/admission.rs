//! Which initiations are computed: the cryptography of one costs as much as a thousand checks of mac1.
//!
//! Anyone who knows this node's public key can make a right mac1, with any source address. So while more come than are
//! computed without further proof, this node is *under load*: it computes nothing for an initiation without a valid
//! [cookie](super::cookie), and answers it with one, which only the owner of the source address receives. What has a
//! cookie is limited by source, so that one host has no more than its share, and then by number. The addresses of peers
//! have numbers of their own: strangers with cookies leave them room.
//!
//! Memory: one entry for each source that was computed for within the last quarter of a second, at most as many as the
//! limits by number let in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::limit::RateLimit;

/// Handshake datagrams per second whose mac1 is checked, and the same in one burst.
const CHECKED: (u32, u32) = (100_000, 1024);
/// Initiations that are computed without a cookie. More are a load.
pub(super) const WITHOUT_COOKIE: (u32, u32) = (200, 50);
/// Initiations with a cookie that are computed: from the addresses of peers, and from all others.
const WITH_COOKIE: (u32, u32) = (200, 50);
/// The same from one source: an IPv4 address, or 64 bits of an IPv6 address.
const OF_SOURCE: (u32, u32) = (20, 5);
/// Cookies sent to the addresses of peers. Each costs lane 0 a system call.
const COOKIES_TO_PEERS: (u32, u32) = (1000, 64);
/// Cookies sent to all others.
const COOKIES_TO_OTHERS: (u32, u32) = (5000, 128);
/// The load lasts for this long after what showed it.
const LOAD_LASTS: Duration = Duration::from_secs(1);
/// The end of a load is told when there was none for this long.
const CALM_AFTER: Duration = Duration::from_secs(30);
/// So many sources are remembered before idle ones are looked for.
const SOURCES_KEPT: usize = 512;

/// What to do with an initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Compute it.
    Compute,
    /// Answer with a cookie, and compute nothing.
    SendCookie,
    /// Drop it.
    Drop,
}

/// What is known of the sender of an initiation before anything is computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub address: IpAddr,
    /// It is the address of a peer.
    pub is_of_peer: bool,
    /// It has proved that it receives at this address.
    pub has_cookie: bool,
}

/// The limits of a node, and whether it is under load.
pub(super) struct Admission {
    checked: RateLimit,
    without_cookie: RateLimit,
    /// Of peers' addresses, and of others.
    with_cookie: [RateLimit; 2],
    cookies: [RateLimit; 2],
    sources: HashMap<IpAddr, RateLimit>,
    loaded_until: Option<Instant>,
    /// The load was told, and not yet its end.
    is_told: bool,
}

impl Admission {
    /// Nothing has come yet.
    pub fn new(now: Instant) -> Self {
        let limit = |(per_second, burst)| RateLimit::new(per_second, burst, now);
        Self {
            checked: limit(CHECKED),
            without_cookie: limit(WITHOUT_COOKIE),
            with_cookie: [limit(WITH_COOKIE), limit(WITH_COOKIE)],
            cookies: [limit(COOKIES_TO_PEERS), limit(COOKIES_TO_OTHERS)],
            sources: HashMap::new(),
            loaded_until: None,
            is_told: false,
        }
    }

    /// Whether to look at one more datagram at all.
    pub fn may_check(&mut self, now: Instant) -> bool {
        self.checked.allow(now)
    }

    /// What to do with an initiation whose mac1 is right.
    pub fn decide(&mut self, sender: Sender, now: Instant) -> Decision {
        let class = usize::from(!sender.is_of_peer);
        if sender.has_cookie {
            return match self.may_compute(source(sender.address), class, now) {
                true => Decision::Compute,
                false => Decision::Drop,
            };
        }
        if !self.without_cookie.allow(now) {
            self.loaded_until = Some(now + LOAD_LASTS);
        }
        if !self.is_loaded(now) {
            Decision::Compute
        } else if self.cookies[class].allow(now) {
            Decision::SendCookie
        } else {
            Decision::Drop
        }
    }

    fn may_compute(&mut self, source: IpAddr, class: usize, now: Instant) -> bool {
        let is_within_share = self.sources.get_mut(&source).is_none_or(|limit| limit.allow(now));
        if !is_within_share || !self.with_cookie[class].allow(now) {
            return false;
        }
        if self.sources.len() >= SOURCES_KEPT {
            self.sources.retain(|_, limit| !limit.is_idle(now));
        }
        self.sources.entry(source).or_insert_with(|| {
            let mut limit = RateLimit::new(OF_SOURCE.0, OF_SOURCE.1, now);
            limit.allow(now);
            limit
        });
        true
    }

    fn is_loaded(&self, now: Instant) -> bool {
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// Whether a load has begun (`true`) or is over since the last call that returned something.
    pub fn poll_news(&mut self, now: Instant) -> Option<bool> {
        let is_over = self.calm_at().is_some_and(|calm_at| calm_at <= now);
        if is_over {
            self.loaded_until = None;
        }
        let is_loaded = self.loaded_until.is_some();
        (std::mem::replace(&mut self.is_told, is_loaded) != is_loaded).then_some(is_loaded)
    }

    /// When the end of a load is to be told.
    pub fn calm_at(&self) -> Option<Instant> {
        self.loaded_until.map(|until| until + CALM_AFTER)
    }

    /// How many sources are remembered.
    #[cfg(test)]
    pub fn sources(&self) -> usize {
        self.sources.len()
    }
}

/// What shares a limit: one host of IPv4, one network of IPv6, where a host chooses its address.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(four) => IpAddr::V4(four),
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sender(address: impl Into<IpAddr>, is_of_peer: bool, has_cookie: bool) -> Sender {
        Sender { address: address.into(), is_of_peer, has_cookie }
    }

    /// Fifty are computed; the next one begins a load.
    fn loaded(now: Instant) -> Admission {
        let mut admission = Admission::new(now);
        for _ in 0..WITHOUT_COOKIE.1 {
            assert_eq!(admission.decide(sender([192, 0, 2, 1], false, false), now), Decision::Compute);
        }
        assert_eq!(admission.decide(sender([192, 0, 2, 1], false, false), now), Decision::SendCookie);
        admission
    }

    #[test]
    fn under_load_nothing_is_computed_without_a_cookie_until_a_second_is_over() {
        let start = Instant::now();
        let mut admission = loaded(start);
        assert_eq!(admission.poll_news(start), Some(true));
        assert_eq!(admission.poll_news(start), None);
        // The limit alone would let some of these pass.
        for ms in 1..1000 {
            let decision = admission.decide(sender([192, 0, 2, 1], false, false), start + ms * MS);
            assert_ne!(decision, Decision::Compute, "after {ms} ms");
        }
        let calm = admission.loaded_until.unwrap();
        assert_eq!(admission.decide(sender([192, 0, 2, 1], false, false), calm), Decision::Compute);
        assert_eq!(admission.poll_news(calm + CALM_AFTER - MS), None);
        assert_eq!(admission.calm_at(), Some(calm + CALM_AFTER));
        assert_eq!(admission.poll_news(calm + CALM_AFTER), Some(false));
        assert_eq!((admission.calm_at(), admission.poll_news(calm + CALM_AFTER)), (None, None));
    }

    #[test]
    fn one_source_has_its_share_and_others_have_theirs() {
        let start = Instant::now();
        let mut admission = loaded(start);
        let mut computed = |address: IpAddr, tries: u32, now| {
            (0..tries).filter(|_| admission.decide(sender(address, false, true), now) == Decision::Compute).count()
        };
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(computed([192, 0, 2, 1].into(), 100, start), 5);
        assert_eq!(computed(six("::ffff:192.0.2.1"), 100, start), 0, "the same host");
        assert_eq!(computed([192, 0, 2, 2].into(), 100, start), 5);
        assert_eq!(computed(six("2001:db8::1"), 100, start), 5);
        assert_eq!(computed(six("2001:db8::2"), 100, start), 0, "the same network");
        assert_eq!(computed(six("2001:db8:0:1::1"), 100, start), 5);
        let later = start + 1000 * MS;
        let over_a_second: usize = (0..1000).map(|ms| computed([192, 0, 2, 1].into(), 1, later + ms * MS)).sum();
        assert!((20..=25).contains(&over_a_second), "{over_a_second} a second");
    }

    #[test]
    fn many_strangers_with_cookies_leave_room_for_peers_and_take_little_memory() {
        let start = Instant::now();
        let mut admission = loaded(start);
        let (mut computed, mut most) = (0, 0);
        for number in 0..200_000_u32 {
            let now = start + number * MS / 20;
            let stranger = sender(Ipv4Addr::from_bits(0x0a00_0000 + number), false, true);
            computed += u32::from(admission.decide(stranger, now) == Decision::Compute);
            most = most.max(admission.sources());
        }
        let end = start + 10_000 * MS;
        assert!((1900..=2060).contains(&computed), "{computed} computed in ten seconds");
        assert!(most <= SOURCES_KEPT + 1, "{most} sources remembered");
        assert_eq!(admission.decide(sender([192, 0, 2, 9], true, true), end), Decision::Compute);
    }

    #[test]
    fn cookies_are_limited_and_strangers_take_none_from_peers() {
        let start = Instant::now();
        let mut admission = loaded(start);
        let mut sent = |is_of_peer: bool, tries: u32| {
            let mut decide = |_: &u32| admission.decide(sender([192, 0, 2, 1], is_of_peer, false), start);
            (0..tries).filter(|it| decide(it) == Decision::SendCookie).count()
        };
        // One was sent already.
        assert_eq!(sent(false, 10_000), COOKIES_TO_OTHERS.1 as usize - 1);
        assert_eq!(sent(true, 10_000), COOKIES_TO_PEERS.1 as usize);
    }

    #[test]
    fn no_more_datagrams_are_looked_at_than_a_core_bears() {
        let start = Instant::now();
        let mut admission = Admission::new(start);
        let looked = (0..1_000_000).filter(|at| admission.may_check(start + *at * MS / 1000)).count();
        assert!((100_000..=101_100).contains(&looked), "{looked} of a million in a second");
    }
}
