//! What a program demands of bytes before they count as protected.

use std::time::Duration;

use crate::message::Level;

/// What must hold of bytes before they count as protected. A [`Level`] alone demands that level, and whatever the
/// profile of the flow promises.
///
/// ```
/// use std::time::Duration;
///
/// use onwire_notify::client::Need;
/// use onwire_notify::message::Level;
///
/// // Everything that the profile promises has left.
/// let promised = Need::from(Level::OnWire);
/// assert_eq!(promised.survives_burst, Duration::ZERO);
/// // The bytes survive an interruption of 2 ms at any moment: on the wire, under a profile that promises so much.
/// let long = Need::surviving(Duration::from_millis(2));
/// assert_eq!((long.level, long.survives_burst), (Level::OnWire, Duration::from_millis(2)));
/// // Single losses are survived, an interruption need not be: late repair is not waited for.
/// assert_eq!(Need::surviving(Duration::ZERO).level, Level::Early);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The lowest level that counts.
    pub level: Level,
    /// The interruption of the link that the bytes must survive, whatever moment it comes at. Bytes at
    /// [`Level::Decoded`] or [`Level::Acked`] survive any: they are at the peer.
    pub survives_burst: Duration,
}

impl Need {
    /// The bytes must survive an interruption of this length. 0: data and early repair have left, and late repair, which
    /// some profiles have for interruptions, is not waited for.
    pub fn surviving(burst: Duration) -> Need {
        let level = if burst.is_zero() { Level::Early } else { Level::OnWire };
        Need { level, survives_burst: burst }
    }
}

impl From<Level> for Need {
    fn from(level: Level) -> Need {
        Need { level, survives_burst: Duration::ZERO }
    }
}
