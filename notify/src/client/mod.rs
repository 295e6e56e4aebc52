//! The client: it subscribes, waits until bytes are protected, and asks for flushes and barriers.
//!
//! [`Client`] blocks; it has one socket and no threads. [`Core`] is the same without socket and clock, for event loops
//! and tests. No default means "protected": bytes that are not known to be protected are not.
//!
//! Start with `core`, then `receive` (incoming datagrams) and `watch` (one flow and the `claims` about it); [`Need`] is
//! what a program demands; `blocking` adds the socket.

mod blocking;
mod claims;
mod core;
mod early_losses;
mod losses;
mod need;
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
pub use self::need::Need;
pub use self::requests::Outcome;
pub use self::status::{Reason, Status};
