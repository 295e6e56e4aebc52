//! What a report of a peer told, for whoever follows the blocks that were sent to it.

use std::time::{Duration, Instant};

use crate::wire::report::{LostRun, Progress};

/// The news in one or more reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// When the newest datagram of ours was sent that the peer has shown it received: both directions worked then.
    pub proven_at: Option<Instant>,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// How far each profile's blocks have come.
    pub progress: Vec<Progress>,
    /// Blocks given up. Each is named before `progress` passes it.
    pub lost: Vec<LostRun>,
}
