//! The client: subscribe, wait until bytes are protected, ask for flushes and barriers.
//!
//! [`Client`] is blocking, with one socket and no threads; [`Core`] is the same without socket and clock, for event loops
//! and tests. Neither has a default that means yes: what is not known to be protected is not.
//!
//! Start with `core`, then `receive` (what comes) and `watch` (what it means for one flow); `blocking` adds the socket.

mod blocking;
mod core;
mod losses;
mod receive;
mod requests;
mod sequence;
mod status;
#[cfg(test)]
mod tests;
mod violations;
mod watch;

pub use self::blocking::{Client, LocalFlow, Waited};
pub use self::core::{Core, Wish};
pub use self::requests::Outcome;
pub use self::status::{Reason, Status};
