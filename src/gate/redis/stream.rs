//! Offsets of a replication stream: what was sent, what is protected, what the replica has really processed, and what the
//! primary was told. Numbers only; it neither reads nor writes commands.

/// The stream behind a snapshot or a `+CONTINUE`.
#[derive(Debug)]
pub(super) struct Stream {
    base: u64,
    sent: u64,
    protected: u64,
    real: Option<u64>,
    told: u64,
}

impl Stream {
    /// The stream whose first byte has the offset `base` + 1.
    pub(super) fn new(base: u64) -> Self {
        Self { base, sent: base, protected: base, real: None, told: 0 }
    }

    /// So many more bytes go to the replica; the offset of the last.
    pub(super) fn on_sent(&mut self, len: usize) -> u64 {
        self.sent = self.sent.saturating_add(len as u64);
        self.sent
    }

    /// The replica says that it has processed everything up to `offset`; what to tell the primary. None when that cannot
    /// be, so that our offsets are not the replica's.
    pub(super) fn on_real(&mut self, offset: u64) -> Option<u64> {
        if !(self.base..=self.sent).contains(&offset) {
            return None;
        }
        self.real = self.real.max(Some(offset));
        self.told = self.told.max(offset).max(self.protected);
        Some(self.told)
    }

    /// Up to where the primary was told what the replica has not said itself, if it was.
    pub(super) fn spoken(&self) -> Option<u64> {
        self.real.filter(|real| self.told > *real).map(|_| self.told)
    }

    /// The replica has said how far it is.
    pub(super) fn is_heard(&self) -> bool {
        self.real.is_some()
    }

    /// Everything up to `offset` may be acknowledged; what to tell the primary now, if it is news.
    ///
    /// Nothing before the replica's first own word: until then it may still be loading, or refuse what it was sent.
    pub(super) fn on_released(&mut self, offset: u64) -> Option<u64> {
        self.protected = self.protected.max(offset.min(self.sent));
        if self.real.is_none() || self.protected <= self.told {
            return None;
        }
        self.told = self.protected;
        Some(self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_is_told_the_higher_of_the_two_and_never_less_than_before() {
        let mut stream = Stream::new(100);
        assert_eq!(stream.on_sent(50), 150);
        assert_eq!(stream.on_released(120), None, "before the replica's first word");
        assert_eq!(stream.spoken(), None);
        assert_eq!(stream.on_real(100), Some(120), "raised to what is protected");
        assert_eq!(stream.spoken(), Some(120));
        assert_eq!(stream.on_released(120), None, "no news");
        assert_eq!(stream.on_released(140), Some(140));
        assert_eq!(stream.on_released(130), None, "not lower");
        assert_eq!(stream.on_real(110), Some(140), "not lower");
        assert_eq!(stream.on_real(145), Some(145));
        assert_eq!(stream.on_released(u64::MAX), Some(150), "not beyond what was sent");
        assert_eq!(stream.on_real(150), Some(150));
        assert_eq!(stream.spoken(), None, "its own word");
    }

    #[test]
    fn a_real_offset_outside_the_stream_is_refused() {
        for offset in [0, 99, 151, u64::MAX] {
            let mut stream = Stream::new(100);
            stream.on_sent(50);
            assert_eq!(stream.on_real(offset), None, "{offset}");
            assert_eq!(stream.on_released(150), None, "{offset} is no first word");
        }
    }
}
