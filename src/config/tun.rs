//! `tun`: the device that packets enter and leave by. Does not create it.

/// The TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tun {
    /// Interface name, 1 to 15 characters.
    pub name: String,
    /// Inner MTU in bytes; independent of the path's, because packets are cut into symbols.
    pub mtu: u16,
    /// Which back-end reads it.
    pub offload: Offload,
    /// Lanes: TUN queues, UDP sockets and threads; 1 to 16.
    pub queues: u16,
    /// The device's transmit queue in packets or super-packets; `None` leaves the kernel's default.
    pub txqueuelen: Option<u32>,
}

/// The TUN back-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Super-packets where the kernel has them.
    Auto,
    /// The simple back-end: one packet a read, any kernel.
    Off,
}
