//! A running appliance: lanes and the control thread, where state machines and system calls meet.
//!
//! * packets: [`lane`] and its turn; `readiness`, `vigil` (when to look), `outlet` (the way into the TUN), `lateness` and
//!   `listening` (how far a lane is behind what came), [`last_hop`] (what was handed on and is not acknowledged);
//! * what is protected: `warden` (a lane's promises), `ways` (what may have dropped something), `voice` (from lane to
//!   lane), `told` (what subscribers are told), `herald` (the notification port), with `broken` and `excess` for the log;
//! * the rest: [`control`], `line` (its channels to the lanes), `setup` (from the configuration), `peering`,
//!   `names` and `peer_log` (where the peers are), [`routes`] and `uplinks` (this host), `strays` and `complaints` (what
//!   lanes say in the log);
//! * status: [`snapshot`] of a lane, [`status`] of all, [`promised`], [`arrived`] and its [`verdict`], [`desk`] (the socket).
//!
//! Start with [`lane`], whose first comment lists a turn; then [`control`], or `warden` to follow the word "protected".
//! What bytes mean and what may be called protected is decided in [`crate::tunnel`], [`crate::flow`] and
//! [`crate::protect`].

pub mod arrived;
mod broken;
mod complaints;
pub mod control;
pub mod desk;
mod excess;
mod herald;
pub mod lane;
pub mod last_hop;
mod lateness;
pub mod line;
mod listening;
mod names;
mod outlet;
mod peer_log;
mod peering;
pub mod promised;
mod readiness;
pub mod routes;
mod setup;
pub mod snapshot;
pub mod status;
mod strays;
mod told;
mod uplinks;
pub mod verdict;
mod vigil;
mod voice;
mod warden;
mod ways;
