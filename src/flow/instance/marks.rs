//! Boolean properties of a flow in one byte, because every packet touches it.

/// A set of the marks below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FlowFlags(u8);

impl FlowFlags {
    /// Everything before offset 0 is protected or acknowledged, or there was nothing.
    pub const ANCHORED: u8 = 1;
    /// The local end has sent its FIN.
    pub const SENT_FIN: u8 = 2;
    /// The other end has sent its FIN.
    pub const RECEIVED_FIN: u8 = 4;
    /// One end has reset the connection.
    pub const BROKEN_OFF: u8 = 8;
    /// Packets of the previous connection may still come.
    pub const HAS_PREVIOUS: u8 = 16;
    /// A SYN was sent that the other end has not answered.
    pub const SYN_WAITS: u8 = 32;

    #[inline]
    pub fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    /// Sets or clears all of `marks`.
    #[inline]
    pub fn set(&mut self, marks: u8, is_set: bool) {
        self.0 = if is_set { self.0 | marks } else { self.0 & !marks };
    }

    /// A copy with `marks` set or cleared.
    pub fn with(mut self, marks: u8, is_set: bool) -> Self {
        self.set(marks, is_set);
        self
    }
}
