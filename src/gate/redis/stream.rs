//! Offsets of a replication stream: what was sent, what is protected, what the replica has processed, and what was
//! acknowledged to the primary. Numbers only; this module neither reads nor writes commands.

/// The stream after a snapshot or a `+CONTINUE`.
#[derive(Debug)]
pub(super) struct Stream {
    base: u64,
    sent: u64,
    protected: u64,
    real: Option<u64>,
    acknowledged: u64,
}

impl Stream {
    /// The stream whose first byte has the offset `base` + 1.
    pub(super) fn new(base: u64) -> Self {
        Self { base, sent: base, protected: base, real: None, acknowledged: 0 }
    }

    /// `len` more bytes go to the replica. Returns the offset of the last one.
    pub(super) fn on_sent(&mut self, len: usize) -> u64 {
        self.sent = self.sent.saturating_add(len as u64);
        self.sent
    }

    /// The replica reports that it has processed everything up to `offset`. Returns the offset to send to the primary;
    /// none if the report is impossible, so that our offsets are not the replica's.
    pub(super) fn on_real(&mut self, offset: u64) -> Option<u64> {
        if !(self.base..=self.sent).contains(&offset) {
            return None;
        }
        self.real = self.real.max(Some(offset));
        self.acknowledged = self.acknowledged.max(offset).max(self.protected);
        Some(self.acknowledged)
    }

    /// The offset acknowledged to the primary, if it is beyond what the replica has acknowledged itself.
    pub(super) fn early_position(&self) -> Option<u64> {
        self.real.filter(|real| self.acknowledged > *real).map(|_| self.acknowledged)
    }

    /// Whether the replica has acknowledged anything itself.
    pub(super) fn has_acknowledged(&self) -> bool {
        self.real.is_some()
    }

    /// Everything up to `offset` may be acknowledged. Returns the offset to send to the primary now, if it is higher
    /// than the last.
    ///
    /// None before the replica's first own acknowledgement: until then the replica may still be loading, or refuse what
    /// it receives.
    pub(super) fn on_released(&mut self, offset: u64) -> Option<u64> {
        self.protected = self.protected.max(offset.min(self.sent));
        if self.real.is_none() || self.protected <= self.acknowledged {
            return None;
        }
        self.acknowledged = self.protected;
        Some(self.acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acknowledged_offset_is_the_higher_of_the_two_and_never_falls() {
        let mut stream = Stream::new(100);
        assert_eq!(stream.on_sent(50), 150);
        assert_eq!(stream.on_released(120), None, "before the replica's first acknowledgement");
        assert_eq!(stream.early_position(), None);
        assert_eq!(stream.on_real(100), Some(120), "raised to what is protected");
        assert_eq!(stream.early_position(), Some(120));
        assert_eq!(stream.on_released(120), None, "no news");
        assert_eq!(stream.on_released(140), Some(140));
        assert_eq!(stream.on_released(130), None, "not lower");
        assert_eq!(stream.on_real(110), Some(140), "not lower");
        assert_eq!(stream.on_real(145), Some(145));
        assert_eq!(stream.on_released(u64::MAX), Some(150), "not beyond what was sent");
        assert_eq!(stream.on_real(150), Some(150));
        assert_eq!(stream.early_position(), None, "the replica has acknowledged it itself");
    }

    #[test]
    fn a_real_offset_outside_the_stream_is_refused() {
        for offset in [0, 99, 151, u64::MAX] {
            let mut stream = Stream::new(100);
            stream.on_sent(50);
            assert_eq!(stream.on_real(offset), None, "{offset}");
            assert_eq!(stream.on_released(150), None, "{offset} is no first acknowledgement");
        }
    }
}
