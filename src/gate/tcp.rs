//! The dialect for programs whose protocol the gate does not know: a cap on how many bytes a disaster can cost.
//!
//! The program that connects to the gate is the primary, the server it connects to is the mirror. Bytes pass unchanged;
//! while the cap's number of bytes is unprotected, no more are read from the program. This dialect injects nothing and
//! knows no acknowledgements.
//!
//! Bytes count as unprotected until the next mark is protected: the cap is never exceeded, and at most a sixteenth of
//! it is counted late.

use super::dialect::{Dialect, Release, Side, Turn};

/// Most bytes between two marks.
const MOST_STEP: u64 = 16 * 1024;

/// One connection with a cap.
#[derive(Debug)]
pub struct Tcp {
    /// Bytes that may be unprotected.
    cap: u64,
    /// Offsets that are multiples of it are marked.
    step: u64,
    sent: u64,
    released: u64,
}

impl Tcp {
    /// At most `cap` bytes unprotected; `None`: no cap, the gate only counts.
    pub fn new(cap: Option<u64>) -> Tcp {
        let cap = cap.unwrap_or(u64::MAX);
        Tcp { cap, step: (cap / 16).clamp(1, MOST_STEP), sent: 0, released: 0 }
    }
}

impl Dialect for Tcp {
    fn on_bytes(&mut self, side: Side, bytes: &[u8], turn: &mut Turn) {
        match side {
            Side::Primary => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let to_next = self.step - self.sent % self.step;
                    let (piece, behind) = rest.split_at(rest.len().min(usize::try_from(to_next).unwrap_or(usize::MAX)));
                    turn.send(Side::Mirror, piece);
                    self.sent += piece.len() as u64;
                    turn.mark(self.sent);
                    rest = behind;
                }
            }
            Side::Mirror => turn.send(Side::Primary, bytes),
        }
    }

    fn on_released(&mut self, mark: u64, _release: Release, _turn: &mut Turn) {
        self.released = self.released.max(mark);
    }

    fn gives_early(&self) -> bool {
        false
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
        assert_eq!((tcp.may_read(), turn.marks().last().map(|last| (last.mark, last.after))), (3, Some((7, 7))));
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

    #[test]
    fn marks_are_close_enough_to_continue_before_everything_is_protected() {
        let (mut tcp, mut turn) = (Tcp::new(Some(1600)), Turn::default());
        tcp.on_bytes(Side::Primary, &[7; 250], &mut turn);
        tcp.on_bytes(Side::Primary, &[8; 100], &mut turn);
        let marks: Vec<_> = turn.marks().iter().map(|it| (it.mark, it.after)).collect();
        assert_eq!(marks, [(100, 100), (200, 200), (250, 250), (300, 300), (350, 350)]);
    }
}
