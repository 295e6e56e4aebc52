//! How long a proof of the round trip is valid, and when the link is trusted because of it.
//!
//! A proof is a report in which the peer echoes our clock; its age counts from the moment our own report was written.
//! It is valid for three times the least round trip, at least [`PROOF_FLOOR`] and at most a cap. The cap is needed
//! because an attacker on the path can lengthen the round trip by holding datagrams; he must not control how long the
//! link stays trusted after he cuts it. So the link is trusted for no longer than the cap after our last datagram that
//! arrived.
//!
//! A link that loses trust must prove itself for longer each time. Other reasons against trust are not known here.

use std::time::{Duration, Instant};

/// A proof is valid for at least this long, which is five report intervals: a shorter time could not keep a link up.
pub const PROOF_FLOOR: Duration = Duration::from_millis(100);
/// A proof is valid for at most this long unless configured otherwise: three round trips of 200 ms.
pub const TRUST_MAX: Duration = Duration::from_millis(600);
/// Consecutive proofs needed before an untrusted link is trusted: a link that comes and goes is not up.
const PROOFS_WANTED: u32 = 3;
/// When trust is first lost, proofs must come for this long before it returns; each further loss doubles the time, up
/// to [`PROBATION_MAX`].
const PROBATION: Duration = Duration::from_millis(100);
/// Trust always returns after this time without a gap in the proofs.
const PROBATION_MAX: Duration = Duration::from_secs(2);
/// Each time the link was trusted for this long without a break, the probation is halved.
const FORGIVEN_IN: Duration = Duration::from_secs(10);
/// Due reports wake the lane at least every 20 ms. If [`Trust::holds`] was not called for this long, this host stood
/// still: proofs have expired, but not by a fault of the link.
const STANDSTILL: Duration = Duration::from_millis(60);

/// Trust in one link.
#[derive(Debug)]
pub(super) struct Trust {
    max: Duration,
    least_rtt: Duration,
    /// When the newest of our reports that is known to have arrived was written.
    proven_at: Option<Instant>,
    /// Since when proofs have come without a gap, and how many.
    row: Option<(Instant, u32)>,
    trusted_since: Option<Instant>,
    /// How long proofs must have come before the link is trusted.
    probation: Duration,
    looked_at: Option<Instant>,
    /// The end of this host's last standstill.
    stood_until: Option<Instant>,
}

impl Trust {
    /// No trust yet; a proof is never valid for longer than `max`.
    pub fn new(max: Duration) -> Self {
        Self {
            max,
            least_rtt: Duration::ZERO,
            proven_at: None,
            row: None,
            trusted_since: None,
            probation: Duration::ZERO,
            looked_at: None,
            stood_until: None,
        }
    }

    /// A report has proven that our datagram written at `proven_at` arrived and was answered.
    pub fn on_proof(&mut self, proven_at: Option<Instant>, least_rtt: Option<Duration>, now: Instant) {
        // After a gap, counting starts again.
        self.holds(now);
        self.least_rtt = least_rtt.unwrap_or(self.least_rtt);
        if proven_at > self.proven_at {
            self.proven_at = proven_at;
            let (since, proofs) = self.row.unwrap_or((now, 0));
            self.row = Some((since, proofs.saturating_add(1)));
        }
        // A proof that is already expired when it comes restores nothing.
        self.holds(now);
    }

    /// The peer has restarted: nothing is proven for the new run. The link is not at fault.
    pub fn on_new_run(&mut self) {
        self.proven_at = None;
        self.least_rtt = Duration::ZERO;
        self.row = None;
        self.trusted_since = None;
    }

    /// Datagrams go to another address: that path is not proven. A path that keeps changing counts as a link that comes
    /// and goes.
    pub fn on_new_path(&mut self, now: Instant) {
        self.end_row(now);
        self.on_new_run();
    }

    /// Whether the link is trusted.
    pub fn holds(&mut self, now: Instant) -> bool {
        if self.looked_at.is_none_or(|at| now.saturating_duration_since(at) > STANDSTILL) {
            self.stood_until = Some(now);
        }
        self.looked_at = Some(now);
        if !self.is_proven(now) {
            self.end_row(now);
        } else if self.trusted_since.is_none()
            && self.row.is_some_and(|(since, proofs)| {
                proofs >= PROOFS_WANTED && now.saturating_duration_since(since) >= self.probation
            })
        {
            self.trusted_since = Some(now);
        }
        self.trusted_since.is_some()
    }

    /// When that changes if no input comes.
    pub fn deadlines(&self) -> [Option<Instant>; 2] {
        // One microsecond later: at the deadline itself the proof would still be valid.
        let ends = self.proven_at.map(|at| at + self.life() + Duration::from_micros(1));
        let begins = self.row.filter(|_| self.trusted_since.is_none()).map(|(since, _)| since + self.probation);
        [ends, begins]
    }

    fn end_row(&mut self, now: Instant) {
        self.row = None;
        let Some(since) = self.trusted_since.take() else { return };
        if self.stood_until > self.proven_at {
            return;
        }
        let forgiven = now.saturating_duration_since(since).as_secs() / FORGIVEN_IN.as_secs();
        let left = self.probation.as_micros() as u64 >> forgiven.min(63);
        self.probation = (Duration::from_micros(left) * 2).clamp(PROBATION, PROBATION_MAX);
    }

    fn life(&self) -> Duration {
        (3 * self.least_rtt).max(PROOF_FLOOR).min(self.max)
    }

    fn is_proven(&self, now: Instant) -> bool {
        self.proven_at.is_some_and(|at| now.saturating_duration_since(at) <= self.life())
    }
}

#[cfg(test)]
mod tests;
