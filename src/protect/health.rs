//! Whether the link to a peer is good enough to claim protection: repair symbols that reach no peer protect nothing.
//!
//! The only proof that both directions work is a report in which the peer echoes our own clock. How long a proof is
//! valid, and how many are needed, is decided in [`super::trust`]. The contents of blocks are not known here.

use std::time::{Duration, Instant};

use super::trust::{TRUST_MAX, Trust};
use crate::notify::message::{LinkState, StateReason};

/// The link must be clean for this long after a violation.
const CLEAN_AFTER_VIOLATION: Duration = Duration::from_secs(1);
/// The link must be clean for this long after this host dropped or refused a datagram. An overflowing queue may also
/// drop datagrams without an error.
const CLEAN_AFTER_ERROR: Duration = Duration::from_millis(100);
/// After this many missing timestamps in a row, none are expected any more.
const MISSING_MAX: u32 = 3;

/// The health of one link.
#[derive(Debug)]
pub(super) struct Health {
    session: bool,
    draining: bool,
    trust: Trust,
    violated_at: Option<Instant>,
    error_at: Option<Instant>,
    stamps_missing: u32,
    stampless: bool,
}

impl Health {
    /// Nothing is proven yet. `stampless`: the socket provides no timestamps.
    pub fn new(stampless: bool) -> Self {
        Self {
            session: false,
            draining: false,
            trust: Trust::new(TRUST_MAX),
            violated_at: None,
            error_at: None,
            stamps_missing: 0,
            stampless,
        }
    }

    /// No proof of the round trip is valid for longer than `max`.
    pub fn limit_trust(&mut self, max: Duration) {
        self.trust = Trust::new(max);
    }

    pub fn on_session(&mut self, there_is_one: bool) {
        self.session = there_is_one;
    }

    pub fn on_drain(&mut self) {
        self.draining = true;
    }

    /// The peer has restarted: it has none of our blocks.
    pub fn on_epoch(&mut self) {
        self.trust.on_new_run();
    }

    /// Datagrams go to another address: the new path is not proven.
    pub fn on_new_path(&mut self, now: Instant) {
        self.trust.on_new_path(now);
    }

    /// A report has proven that our datagram written at `proven_at` arrived and was answered.
    pub fn on_proof(&mut self, proven_at: Option<Instant>, least_rtt: Option<Duration>, now: Instant) {
        self.trust.on_proof(proven_at, least_rtt, now);
    }

    pub fn on_violation(&mut self, now: Instant) {
        self.violated_at = Some(now);
    }

    pub fn on_error(&mut self, now: Instant) {
        self.error_at = Some(now);
    }

    pub fn on_stamp(&mut self) {
        self.stamps_missing = 0;
    }

    pub fn on_stamp_missing(&mut self) {
        self.stamps_missing = self.stamps_missing.saturating_add(1);
    }

    /// Whether blocks may be claimed as protected.
    pub fn is_healthy(&mut self, now: Instant) -> bool {
        matches!(self.state(now).0, LinkState::Up | LinkState::Draining)
    }

    /// The state of the link, and the reason if it is not up.
    pub fn state(&mut self, now: Instant) -> (LinkState, StateReason) {
        // Always called: it detects expired proofs.
        let is_trusted = self.trust.holds(now);
        let lately = |at: Option<Instant>, span| at.is_some_and(|at| now.saturating_duration_since(at) < span);
        if !self.session {
            (LinkState::Down, StateReason::NoSession)
        } else if !is_trusted {
            (LinkState::Degraded, StateReason::NoReports)
        } else if lately(self.violated_at, CLEAN_AFTER_VIOLATION) {
            (LinkState::Degraded, StateReason::Violation)
        } else if self.stampless || self.stamps_missing >= MISSING_MAX {
            (LinkState::Degraded, StateReason::NoTimestamps)
        } else if lately(self.error_at, CLEAN_AFTER_ERROR) {
            (LinkState::Degraded, StateReason::SendErrors)
        } else if self.draining {
            (LinkState::Draining, StateReason::Administrator)
        } else {
            (LinkState::Up, StateReason::None)
        }
    }

    /// When the state changes if no input comes.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let after = |at: Option<Instant>, span| at.map(|at| at + span);
        let ends = [after(self.violated_at, CLEAN_AFTER_VIOLATION), after(self.error_at, CLEAN_AFTER_ERROR)];
        ends.into_iter().chain(self.trust.deadlines()).flatten().filter(|at| *at > now).min()
    }
}
