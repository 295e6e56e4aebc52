//! How long a proof of the round trip is good, and when the link is trusted because of it.
//!
//! A proof is a report in which the peer echoes our clock; its age counts from the moment our own report was written. It is
//! good for three of the least round trips, at least [`PROOF_FLOOR`] and at most a cap: whoever stands on the path and holds
//! datagrams makes the round trip longer, and must not choose how long a link is trusted that he then cuts. So nothing is
//! trusted for longer than the cap after the last datagram of ours that arrived.
//!
//! A link that was trusted and is no more must prove itself for longer each time. What else spoils trust is not known here.

use std::time::{Duration, Instant};

/// A proof of the round trip is good for at least this long: less than five reports could not keep a link up.
pub const PROOF_FLOOR: Duration = Duration::from_millis(100);
/// And for no longer than this, if nothing else is configured: three round trips of 200 ms.
pub const TRUST_MAX: Duration = Duration::from_millis(600);
/// Proofs in a row before a link that was not trusted is trusted: one that comes and goes is not up.
const PROOFS_WANTED: u32 = 3;
/// When trust was lost for the first time, proofs must have come for this long before it returns; then for twice as long
/// each time, up to [`PROBATION_MAX`].
const PROBATION: Duration = Duration::from_millis(100);
/// Trust always returns after so long a time without a gap in the proofs.
const PROBATION_MAX: Duration = Duration::from_secs(2);
/// Each time the link was trusted for so long without a break, half of that is forgiven.
const FORGIVEN_IN: Duration = Duration::from_secs(10);
/// Reports that are due wake whoever keeps this, at least every 20 ms. If nobody has looked for so long, this host stood
/// still: proofs have become old meanwhile, but not by a fault of the link.
const STANDSTILL: Duration = Duration::from_millis(60);

/// Trust in one link.
#[derive(Debug)]
pub(super) struct Trust {
    max: Duration,
    least_rtt: Duration,
    /// When our newest report was written that is known to have arrived.
    proven_at: Option<Instant>,
    /// When proofs began to come without a gap, and how many have come.
    row: Option<(Instant, u32)>,
    trusted_since: Option<Instant>,
    /// For how long proofs must have come.
    probation: Duration,
    looked_at: Option<Instant>,
    /// The end of this host's last standstill.
    stood_until: Option<Instant>,
}

impl Trust {
    /// None; a proof is never good for longer than `max`.
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

    /// A report has shown that a datagram of ours written at `proven_at` arrived and was answered.
    pub fn on_proof(&mut self, proven_at: Option<Instant>, least_rtt: Option<Duration>, now: Instant) {
        // Proofs that were interrupted begin anew.
        self.holds(now);
        self.least_rtt = least_rtt.unwrap_or(self.least_rtt);
        if proven_at > self.proven_at {
            self.proven_at = proven_at;
            let (since, proofs) = self.row.unwrap_or((now, 0));
            self.row = Some((since, proofs.saturating_add(1)));
        }
        // One that comes when it is too old already restores nothing.
        self.holds(now);
    }

    /// The peer was started anew: nothing is proven of that run. It is no fault of the link.
    pub fn on_new_run(&mut self) {
        self.proven_at = None;
        self.least_rtt = Duration::ZERO;
        self.row = None;
        self.trusted_since = None;
    }

    /// Datagrams go to another address: nothing is proven of that path. One that is moved to and fro is a link that comes
    /// and goes.
    pub fn on_new_path(&mut self, now: Instant) {
        self.end_row(now);
        self.on_new_run();
    }

    /// The link is trusted.
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

    /// When that changes if nothing comes.
    pub fn deadlines(&self) -> [Option<Instant>; 2] {
        // One step beyond, or the look at the deadline would find the proof good still.
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
