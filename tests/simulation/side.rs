//! The two ends of a simulation.

/// One of the two appliances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The first.
    Near,
    /// The second.
    Far,
}

impl Side {
    /// Both, in a fixed order.
    pub const BOTH: [Self; 2] = [Self::Near, Self::Far];

    /// The side at the other end.
    pub fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }

    /// 0 or 1.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// 0 or 1, for arrays.
    pub fn index(self) -> usize {
        self as usize
    }
}
