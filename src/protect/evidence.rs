//! The evidence that a block has left this host.

/// The best available evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Transmit timestamps of the device: claimed data has left this host.
    Timestamps,
    /// The kernel took the datagrams; the configuration asks for no more. They may still be in this host.
    HandOver,
    /// As above, but because the socket provides no timestamps: the link is degraded and reports so.
    HandOverOnly,
}
