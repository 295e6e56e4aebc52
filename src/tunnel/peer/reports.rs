//! Reports to and from a peer: what became of the blocks of both sides.
//!
//! When a report is due is decided in [`super::super::reporting`].

use std::time::Instant;

use super::Peer;
use crate::fec::code::Code;
use crate::tunnel::drop_reason::DropReason;
use crate::tunnel::feedback::Feedback;
use crate::tunnel::sender::Egress;
use crate::tunnel::train_watch::{TrainNews, TrainWatch};
use crate::wire::datagram::DatagramType;
use crate::wire::payload_id::PAYLOAD_ID_LEN;
use crate::wire::report::{Capacity, Report, SentBelow};

impl Peer {
    /// Takes a report.
    pub fn handle_report(&mut self, opened: &[u8], code: &mut Code, now: Instant) -> Result<(), DropReason> {
        let mut report = Report::parse(opened).ok_or(DropReason::BadPayload)?;
        if !self.reporting.handle_report(&report, now) {
            return Ok(());
        }
        self.learn_link(&mut report, now);
        let news = self.train_watch.handle_report(&report, &self.sent, self.reporting.sent_at(), now);
        self.train_news = news.or(self.train_news);
        let spread = self.reporting.peer_late_spread().unwrap_or_default();
        self.receivers.iter_mut().flatten().for_each(|receiver| receiver.set_late_spread(spread));
        self.set_marks_rebuilt(self.reporting.peer_congested());
        let acknowledged = self.reporting.acknowledged();
        self.receivers.iter_mut().flatten().for_each(|receiver| receiver.on_acknowledged(acknowledged));
        let feedback = self.feedback.get_or_insert_default();
        feedback.proven_at = self.reporting.proven_at();
        feedback.least_rtt = self.reporting.least_rtt();
        let from = |profile: u8| self.sent_from.get(usize::from(profile)).copied().unwrap_or(0);
        report.lost.iter().for_each(|&run| feedback.on_lost(run, from(run.profile)));
        report.progress.iter().for_each(|&entry| feedback.on_progress(entry, from(entry.profile)));
        let mut outcome = Ok(());
        for &entry in &report.sent {
            let taken =
                self.with_ingress(entry.profile, code, now, |receiver, ingress| receiver.handle_sent(entry, ingress));
            outcome = outcome.and(taken);
        }
        outcome
    }

    /// A change in how full-sized datagrams arrive; returned once.
    pub fn poll_train_news(&mut self) -> Option<TrainNews> {
        self.train_news.take()
    }

    /// The watch on whether trains arrive at this peer.
    pub fn train_watch(&self) -> &TrainWatch {
        &self.train_watch
    }

    /// What the peer has reported about our blocks since the last call.
    pub fn poll_feedback(&mut self) -> Option<Feedback> {
        self.feedback.take()
    }

    pub(super) fn report(&mut self, code: &mut Code, now: Instant) {
        let confirmed = self.sessions.is_confirmed();
        let reception = self.reception();
        if self.sessions.sealing(now).is_none() {
            return;
        }
        self.reporting.set_congested(self.estimator.is_congested(now));
        let mut report = self.reporting.begin(confirmed, now);
        report.reception = reception;
        self.tell_fates(&mut report, now);
        let capacity = self.report_capacity();
        let Some(session) = self.sessions.sealing(now) else { return };
        if let Some(extension) = &mut report.extension {
            // Counts are those of one session. The reader looks for these in the session that seals the report.
            session.tell_runs(capacity.runs, &mut extension.runs, now);
        }
        self.scratch.clear();
        report.emit(&mut self.scratch);
        let mut egress = Egress { session, outbox: &mut self.outbox, code, sent: &mut self.sent, events: None, now };
        // A report travels alone, so that it arrives even where trains do not.
        egress.outbox.end_train();
        egress.seal(DatagramType::Report, self.settings.outer.plain(), &[], &self.scratch);
        egress.outbox.end_train();
    }

    fn report_capacity(&self) -> Capacity {
        Capacity::of(self.settings.symbol_size + PAYLOAD_ID_LEN)
    }

    /// Adds the fate of the peer's blocks, and which of our blocks the peer should have.
    fn tell_fates(&mut self, report: &mut Report, now: Instant) {
        let capacity = self.report_capacity();
        let turn = self.report_turn;
        self.report_turn = turn.wrapping_add(1);
        let named: usize = self.receivers.iter().flatten().map(|receiver| receiver.given_up().named()).sum();
        let mut room = capacity.lost.saturating_sub(named);
        let mut unsettled = false;
        let first = turn % self.receivers.len().max(1);
        let (behind, front) = self.receivers.split_at_mut(first);
        for receiver in front.iter_mut().chain(behind).flatten() {
            receiver.name_given_up(report.sent_at, &mut room, &mut report.lost);
            // Only after naming: the progress depends on which blocks are named.
            if report.progress.len() < capacity.progress {
                report.progress.extend(receiver.progress());
            }
            unsettled |= !receiver.given_up().is_empty();
        }
        let senders = self.senders.len();
        let rotated = (0..senders).map(|step| (turn + step) % senders);
        report.sent = rotated
            .filter_map(|profile| {
                let (below, symbols) = self.senders[profile].as_ref()?.closed_below();
                let from = self.sent_from.get(profile).copied().unwrap_or(0);
                (below > from).then_some(SentBelow { profile: profile as u8, from, below, symbols })
            })
            .take(capacity.sent)
            .collect();
        // Report again soon while a loss is not acknowledged or a block is open; a loss also asks for a reply.
        let unsettled = unsettled && !self.reporting.is_silent(now);
        report.wants_reply |= unsettled;
        if unsettled || self.senders.iter().flatten().any(|sender| sender.is_open()) {
            self.reporting.on_news(now);
        }
    }
}
