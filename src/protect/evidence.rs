//! Which evidence there is that a block has left this host.

/// The best evidence to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The device's transmit timestamps: what was called protected has left this host.
    Timestamps,
    /// Only that the kernel took the datagrams, because the configuration wants no more. They may still be in this host.
    HandOver,
    /// Only that, because the socket gives no timestamps: the link is degraded, and says so.
    HandOverOnly,
}
