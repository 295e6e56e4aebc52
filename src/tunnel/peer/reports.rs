//! What a peer and we tell each other of the other's blocks: reports out, reports in.
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
        let report = Report::parse(opened).ok_or(DropReason::BadPayload)?;
        if !self.reporting.handle_report(&report, now) {
            return Ok(());
        }
        let news = self.train_watch.handle_report(&report, &self.sent, self.reporting.sent_at(), now);
        self.train_news = news.or(self.train_news);
        let acknowledged = self.reporting.acknowledged();
        self.receivers.iter_mut().flatten().for_each(|receiver| receiver.on_acknowledged(acknowledged));
        let feedback = self.feedback.get_or_insert_default();
        feedback.proven_at = self.reporting.proven_at();
        feedback.least_rtt = self.reporting.least_rtt();
        let from = |profile: u8| self.sent_from.get(usize::from(profile)).copied().unwrap_or(0);
        report.lost.iter().for_each(|&run| feedback.on_lost(run, from(run.profile)));
        report.progress.iter().for_each(|&told| feedback.on_progress(told, from(told.profile)));
        let mut outcome = Ok(());
        for &told in &report.sent {
            let taken =
                self.with_ingress(told.profile, code, now, |receiver, ingress| receiver.handle_sent(told, ingress));
            outcome = outcome.and(taken);
        }
        outcome
    }

    /// What has changed of how full-sized datagrams arrive; told once.
    pub fn poll_train_news(&mut self) -> Option<TrainNews> {
        self.train_news.take()
    }

    /// Whether trains arrive at this peer.
    pub fn train_watch(&self) -> &TrainWatch {
        &self.train_watch
    }

    /// What reports told of our blocks since the last time.
    pub fn poll_feedback(&mut self) -> Option<Feedback> {
        self.feedback.take()
    }

    pub(super) fn report(&mut self, code: &mut Code, now: Instant) {
        let confirmed = self.sessions.is_confirmed();
        let reception = self.reception();
        if self.sessions.sealing(now).is_none() {
            return;
        }
        let mut report = self.reporting.begin(confirmed, now);
        report.reception = reception;
        self.tell_fates(&mut report, now);
        let Some(session) = self.sessions.sealing(now) else { return };
        self.scratch.clear();
        report.emit(&mut self.scratch);
        let mut egress = Egress { session, outbox: &mut self.outbox, code, sent: &mut self.sent, events: None };
        // A report travels alone, so that it arrives even where trains do not.
        egress.outbox.end_train();
        egress.seal(DatagramType::Report, &[], &self.scratch);
        egress.outbox.end_train();
    }

    /// Puts in what became of the peer's blocks and which of ours it should have.
    fn tell_fates(&mut self, report: &mut Report, now: Instant) {
        let capacity = Capacity::of(self.settings.symbol_size + PAYLOAD_ID_LEN);
        let turn = self.report_turn;
        self.report_turn = turn.wrapping_add(1);
        let named: usize = self.receivers.iter().flatten().map(|receiver| receiver.given_up().named()).sum();
        let mut room = capacity.lost.saturating_sub(named);
        let mut unsettled = false;
        let first = turn % self.receivers.len().max(1);
        let (behind, front) = self.receivers.split_at_mut(first);
        for receiver in front.iter_mut().chain(behind).flatten() {
            receiver.name_given_up(report.sent_at, &mut room, &mut report.lost);
            // Only now it is known what is named.
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
        // The peer should hear soon of what is still to be told, and we of its having feedback.
        let unsettled = unsettled && !self.reporting.is_silent(now);
        report.wants_reply |= unsettled;
        if unsettled || self.senders.iter().flatten().any(|sender| sender.is_open()) {
            self.reporting.on_news(now);
        }
    }
}
