//! Which descriptors of a lane may have more. This file reads none of them.

/// Descriptors that may have more. They are edge-triggered: a flag stays set until a read finds nothing.
#[derive(Debug)]
pub struct Readiness {
    /// The TUN.
    pub tun: bool,
    /// The socket, to read from.
    pub udp: bool,
    /// The socket takes more: the last send did not fill its buffer.
    pub sendable: bool,
    /// Commands of the control thread.
    pub commands: bool,
    /// The error queue may hold something.
    pub errors: bool,
}

impl Readiness {
    /// All readable: no event reports what came before the descriptors were watched.
    pub fn at_start() -> Self {
        Self { tun: true, udp: true, sendable: true, commands: true, errors: false }
    }
}
