//! Cookies: numbers by which subscribers recognise their flows.

use std::time::Instant;

use thiserror::Error;

use super::key::{FlowKey, PackedKey};
use super::state::FlowId;
use super::table::FlowTable;

/// No more cookies can be kept for flows that do not exist yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{limit} flows that do not exist yet have a cookie, and no more can be kept; register when the connection is made"
)]
pub struct TooManyCookies {
    /// The limit.
    pub limit: usize,
}

impl FlowTable {
    /// Sets a subscriber's cookie for the 5-tuple. It appears in all reports of the current and later instances.
    ///
    /// For a flow that does not exist yet, the cookie is kept for `Limits::udp_idle` and applied when its first
    /// packet is sent. A later cookie replaces it. Returns the flow if it exists.
    pub fn register(&mut self, key: &FlowKey, cookie: u64, now: Instant) -> Result<Option<FlowId>, TooManyCookies> {
        let packed = PackedKey::new(key);
        if let Some(slot) = self.find_slot(&packed)
            && let Some(flow) = self.flow_mut(slot)
        {
            flow.set_cookie(cookie);
            return Ok(Some(flow.id));
        }
        let limit = self.limits.cookies;
        if self.cookies.len() >= limit && !self.cookies.contains_key(&packed) {
            let life = self.limits.udp_idle;
            self.cookies.retain(|_, (_, since)| now.saturating_duration_since(*since) < life);
            if self.cookies.len() >= limit {
                return Err(TooManyCookies { limit });
            }
        }
        self.cookies.insert(packed, (cookie, now));
        Ok(None)
    }
}
