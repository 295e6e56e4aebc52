//! The dialect for programs whose protocol the gate does not know: a cap on what a disaster can cost.
//!
//! The program that connects to the gate is the primary, who it connects to is the mirror. Bytes pass unchanged; while as
//! many as the cap allows are unprotected, none are read from the program. It injects nothing and knows no
//! acknowledgements.

use super::dialect::{Dialect, Release, Side, Turn};

/// One connection with a cap.
#[derive(Debug)]
pub struct Tcp {
    /// Bytes that may be unprotected.
    cap: u64,
    sent: u64,
    released: u64,
}

impl Tcp {
    /// At most `cap` bytes unprotected; `None`: no cap, the gate only counts.
    pub fn new(cap: Option<u64>) -> Tcp {
        Tcp { cap: cap.unwrap_or(u64::MAX), sent: 0, released: 0 }
    }
}

impl Dialect for Tcp {
    fn on_bytes(&mut self, side: Side, bytes: &[u8], turn: &mut Turn) {
        match side {
            Side::Primary => {
                turn.send(Side::Mirror, bytes);
                self.sent += bytes.len() as u64;
                turn.mark(self.sent);
            }
            Side::Mirror => turn.send(Side::Primary, bytes),
        }
    }

    fn on_released(&mut self, mark: u64, _release: Release, _turn: &mut Turn) {
        self.released = self.released.max(mark);
    }

    fn may_read(&self) -> usize {
        let unprotected = self.sent.saturating_sub(self.released);
        usize::try_from(self.cap.saturating_sub(unprotected)).unwrap_or(usize::MAX)
    }

    fn phase(&self) -> &str {
        if self.may_read() == 0 { "at the cap" } else { "open" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_cap_is_ever_unprotected() {
        let (mut tcp, mut turn) = (Tcp::new(Some(10)), Turn::default());
        assert_eq!(tcp.may_read(), 10);
        tcp.on_bytes(Side::Primary, b"1234567", &mut turn);
        assert_eq!((tcp.may_read(), turn.marks()[0].mark, turn.marks()[0].after), (3, 7, 7));
        tcp.on_bytes(Side::Mirror, b"an answer of any length", &mut turn);
        tcp.on_bytes(Side::Primary, b"890", &mut turn);
        assert_eq!((tcp.may_read(), tcp.phase()), (0, "at the cap"));
        tcp.on_released(7, Release::Protected, &mut turn);
        assert_eq!(tcp.may_read(), 7);
        tcp.on_released(3, Release::Protected, &mut turn);
        assert_eq!((tcp.may_read(), tcp.phase()), (7, "open"));
        assert_eq!(turn.sent(Side::Mirror), b"1234567890");
        assert_eq!(turn.sent(Side::Primary), b"an answer of any length");
        assert_eq!(Tcp::new(None).may_read(), usize::MAX);
    }
}
