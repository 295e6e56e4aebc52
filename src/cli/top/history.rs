//! The curves of a peer: what happened in each interval, from the differences of counters. Has no clock: a status says
//! how long its process has run.

use std::collections::VecDeque;

use crate::appliance::status::PeerStatus;

/// Columns kept: more than a screen has.
const COLUMNS: usize = 400;

/// What happened in one interval; `None` where nothing was sent, or an answer is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Column {
    /// The share of datagrams lost on the way there.
    pub loss: Option<f64>,
    /// Symbols that the peer rebuilt, a second.
    pub rebuilt: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    uptime_s: f64,
    came: u64,
    lost: u64,
    rebuilt: u64,
}

/// The curves of one peer of one run of an appliance.
#[derive(Debug, Default)]
pub(super) struct History {
    epoch: String,
    last: Option<Counts>,
    columns: VecDeque<Column>,
}

impl History {
    /// The appliance of this run has said so after this time.
    pub fn on_status(&mut self, peer: &PeerStatus, epoch: &str, uptime_s: f64) {
        if self.epoch != epoch {
            // Counters begin again.
            (self.epoch, self.last) = (epoch.to_owned(), None);
        }
        let counts = peer.peer_report.as_ref().map(|report| Counts {
            uptime_s,
            came: report.received.datagrams,
            lost: report.received.lost,
            rebuilt: report.received.recovered_symbols,
        });
        let column = match (self.last, counts) {
            // Counters that fall are those of another session with another peer.
            (Some(before), Some(now)) if now.came >= before.came && now.uptime_s > before.uptime_s => {
                let (came, lost) = (now.came - before.came, now.lost.saturating_sub(before.lost));
                let seconds = now.uptime_s - before.uptime_s;
                Column {
                    loss: (came + lost > 0).then(|| lost as f64 / (came + lost) as f64),
                    rebuilt: Some(now.rebuilt.saturating_sub(before.rebuilt) as f64 / seconds),
                }
            }
            _ => Column::default(),
        };
        self.last = counts;
        self.push(column);
    }

    /// The process did not answer.
    pub fn on_silence(&mut self) {
        self.push(Column::default());
    }

    fn push(&mut self, column: Column) {
        if self.columns.len() == COLUMNS {
            self.columns.pop_front();
        }
        self.columns.push_back(column);
    }

    /// The newest columns, at most `width`, the newest last.
    pub fn newest(&self, width: usize) -> impl Iterator<Item = &Column> + Clone {
        self.columns.iter().skip(self.columns.len().saturating_sub(width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(datagrams: u64, lost: u64, recovered_symbols: u64) -> PeerStatus {
        serde_json::from_value(serde_json::json!({
            "peer_report": { "datagrams": datagrams, "lost": lost, "recovered_symbols": recovered_symbols },
        }))
        .unwrap()
    }

    #[test]
    fn a_column_is_what_happened_between_two_answers() {
        let mut history = History::default();
        history.on_status(&peer(1000, 100, 7), "a", 10.0);
        history.on_status(&peer(1090, 110, 9), "a", 10.5);
        history.on_status(&peer(1090, 110, 9), "a", 11.5);
        history.on_silence();
        history.on_status(&PeerStatus::default(), "a", 13.0);
        let nothing = Column::default();
        let rests = Column { loss: None, rebuilt: Some(0.0) };
        let columns: Vec<Column> = history.newest(99).copied().collect();
        assert_eq!(columns, [nothing, Column { loss: Some(0.1), rebuilt: Some(4.0) }, rests, nothing, nothing]);
        assert_eq!(history.newest(2).count(), 2);
    }

    #[test]
    fn another_run_begins_again_and_old_columns_are_forgotten() {
        let mut history = History::default();
        history.on_status(&peer(1000, 0, 0), "a", 10.0);
        history.on_status(&peer(2000, 0, 0), "b", 11.0);
        history.on_status(&peer(5, 0, 0), "b", 12.0);
        assert!(history.newest(9).all(|column| *column == Column::default()));
        (0..2 * COLUMNS).for_each(|_| history.on_silence());
        assert_eq!(history.newest(usize::MAX).count(), COLUMNS);
    }
}
