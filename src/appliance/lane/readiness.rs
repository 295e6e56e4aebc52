//! What a lane has to look at: which of its descriptors may have more. It looks at none itself.

/// Descriptors that may have more: they are edge-triggered, so this is remembered until one says it has not.
#[derive(Debug)]
pub struct Readiness {
    /// The TUN.
    pub tun: bool,
    /// The socket, to read from.
    pub udp: bool,
    /// The last send did not meet a full buffer.
    pub sendable: bool,
    /// Commands of the control thread.
    pub commands: bool,
    /// The error queue may hold something.
    pub errors: bool,
}

impl Readiness {
    /// Whatever came before the descriptors were watched is not told again.
    pub fn at_start() -> Self {
        Self { tun: true, udp: true, sendable: true, commands: true, errors: false }
    }
}
