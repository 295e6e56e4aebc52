//! A candidate is followed as in a reload, and goes back unless it is confirmed: the requests of the control socket.
//!
//! Nothing is written here. The caller replaces the file, with the rights of its user, between [`Request::Confirm`] and
//! [`Request::Saved`]; until then a restart runs the configuration of before.

use std::time::{Duration, Instant};

use super::Control;
use super::confirmation::{Back, Candidate, Due, SAVED_WITHIN};
use super::reload::{Followed, Reloading};
use super::request::{Answer, Request};
use crate::appliance::status::candidate::ConfigurationStatus;
use crate::config::reload::{Failure, words};
use crate::config::{Source, sha256};

/// The longest time until a candidate goes back.
const CONFIRMED_WITHIN_MAX: Duration = Duration::from_secs(24 * 3600);

impl Reloading {
    /// For status.
    pub(super) fn configuration(&self, now: Instant) -> ConfigurationStatus {
        ConfigurationStatus {
            file: self.file.display().to_string(),
            sha256: sha256(&self.text),
            candidate: self.confirmation.status(now),
        }
    }

    /// When a candidate goes back, or a caller has been slow for too long.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let callers = self.requests.as_ref().and_then(|requests| requests.poll_timeout());
        callers.into_iter().chain(self.confirmation.poll_timeout()).min()
    }

    /// The appliance stops.
    pub(super) fn on_stop(&self) {
        match self.file_is_followed() {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(
                    "what is followed is not in {}: the next start runs what the file has",
                    self.file.display()
                );
            }
            Err(error) => tracing::warn!("whether the next start runs the same is not known: {error}"),
        }
    }

    /// Whether the file has what is followed.
    fn file_is_followed(&self) -> Result<bool, String> {
        let source = Source::open(&self.file).map_err(|errors| errors.to_string().trim_end().to_owned())?;
        Ok(source.text == self.text)
    }
}

impl Control {
    /// Does what is due, and what callers of the control socket ask.
    pub(super) fn handle_requests(&mut self) {
        loop {
            // What is due comes first: a confirmation that comes too late is too late.
            let now = Instant::now();
            self.follow_confirmation(now);
            let (registry, requests) = (self.poll.registry(), self.reloading.requests.as_mut());
            let Some((caller, line)) = requests.and_then(|it| it.poll_request(registry, now)) else { break };
            let request = Request::parse(&line);
            let shows = matches!(request, Ok(Request::Show));
            let (is_good, text) = match request.and_then(|request| self.handle_request(request, now)) {
                Ok(text) => (true, text),
                Err(text) => (false, text),
            };
            let followed = if shows { self.reloading.text.clone() } else { String::new() };
            let now = Instant::now();
            let answer = Answer { is_good, text, configuration: self.reloading.configuration(now), followed };
            let line = serde_json::to_vec(&answer).expect("an answer is plain values");
            if let Some(requests) = &mut self.reloading.requests {
                requests.answer(caller, line, now);
            }
        }
    }

    /// Returns what was done, or why nothing was.
    fn handle_request(&mut self, request: Request, now: Instant) -> Result<String, String> {
        match request {
            Request::Show => Ok(String::new()),
            Request::Apply { text, replaces, confirm_within_ms } => {
                self.apply(text, replaces, Duration::from_millis(confirm_within_ms))
            }
            Request::Confirm { sha256 } => {
                self.reloading.confirmation.confirm(&sha256, now)?;
                tracing::info!("the candidate is confirmed");
                Ok("confirmed".to_owned())
            }
            Request::Saved { sha256 } => self.on_saved(&sha256),
            Request::Drained { peers, waited_s } => self.on_drained(&peers, waited_s),
            Request::Reject => {
                self.reloading.confirmation.reject(now)?;
                self.follow_confirmation(now);
                match self.reloading.confirmation.before() {
                    None => Ok("went back".to_owned()),
                    Some(_) => Err("cannot go back yet, and tries again each second: the log says why".to_owned()),
                }
            }
        }
    }

    fn apply(&mut self, text: String, replaces: String, within: Duration) -> Result<String, String> {
        let refused = |text: String| format!("{}\nit is not followed; nothing has changed", text.trim_end());
        // The time for a confirmation begins with the answer.
        let now = Instant::now();
        if let Some(refusal) = self.reloading.confirmation.refusal(now) {
            return Err(refused(refusal));
        }
        if within.is_zero() || within > CONFIRMED_WITHIN_MAX {
            return Err(refused(format!("the time for a confirmation is at most {CONFIRMED_WITHIN_MAX:?}, and not 0")));
        }
        let file = self.reloading.file.clone();
        if sha256(&self.reloading.text) != replaces {
            let file = file.display();
            return Err(refused(format!(
                "what the appliance follows has changed in between, or is not what {file} has: look again"
            )));
        }
        let source = Source::of(text, &file).map_err(|errors| refused(errors.to_string()))?;
        let new = source.parse().map_err(|errors| refused(self.explain(&errors, &file)))?;
        let warnings = new.warnings.clone();
        let candidate = |changes| Candidate { digest: sha256(&source.text), before: replaces, changes };
        let before = Followed { text: self.reloading.text.clone(), config: self.written.clone() };
        match self.follow(new, now) {
            Ok(changes) => {
                let (changes, now) = (words(&changes), Instant::now());
                self.reloading.confirmation.on_followed(candidate(changes.clone()), before, within, now);
                self.reloading.text = source.text;
                tracing::warn!("a candidate is followed, unconfirmed, and goes back in {within:?}: {changes}");
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                Ok(warnings
                    .iter()
                    .map(|warning| format!("\n{warning}"))
                    .fold(changes, |text, more| text + more.trim_end()))
            }
            Err(Failure::Refused(text) | Failure::Unchanged(text)) => Err(refused(text)),
            Err(Failure::HalfDone(text)) => {
                tracing::error!("some lanes follow a candidate and some do not; all go back: {text}");
                self.reloading.confirmation.on_half_done(candidate(String::new()), before, Instant::now());
                Err(format!("{text}; the way back is tried each second"))
            }
        }
    }

    /// The file is said to have what was confirmed.
    fn on_saved(&mut self, digest: &str) -> Result<String, String> {
        let file = self.reloading.file.display().to_string();
        let is_followed = self.reloading.file_is_followed();
        if !is_followed
            .map_err(|error| format!("the appliance cannot read {file} any more, and a restart could not: {error}"))?
        {
            return Err(format!(
                "the appliance finds something else in {file} than what it follows: was the file replaced in another mount \
                 namespace? Write it there and run `onwire reload`"
            ));
        }
        self.reloading.confirmation.on_saved(digest)?;
        tracing::info!("the confirmed candidate is in {file}");
        Ok(format!("{file} is replaced"))
    }

    /// Goes back where that is due.
    fn follow_confirmation(&mut self, now: Instant) {
        match self.reloading.confirmation.poll_due(now) {
            Some(Due::GoBack) => self.go_back(now),
            Some(Due::NotSaved) => tracing::warn!(
                "the confirmed candidate is not in {} after {SAVED_WITHIN:?}: a restart would run the one before; run `onwire \
                 confirm` again",
                self.reloading.file.display()
            ),
            None => {}
        }
    }

    fn go_back(&mut self, now: Instant) {
        let Some(before) = self.reloading.confirmation.before().cloned() else { return };
        let outcome = match self.change_to(before.config, now) {
            Ok(_) => {
                self.metrics_go_back();
                Ok(())
            }
            Err(Failure::Refused(text) | Failure::Unchanged(text) | Failure::HalfDone(text)) => Err(text),
        };
        let error = outcome.as_ref().err().cloned().unwrap_or_default();
        match self.reloading.confirmation.on_back(outcome, Instant::now()) {
            Some(Back::Done(why)) => {
                self.reloading.text = before.text;
                tracing::warn!("went back to what was followed before the candidate: {}", why.text());
            }
            Some(Back::Failed) => {
                tracing::error!(
                    "cannot go back to what was followed before the candidate; trying each second: {error}"
                );
            }
            Some(Back::FailedAgain) | None => {}
        }
    }
}
