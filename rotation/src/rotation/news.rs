//! The news of a rotation, made from the machine's outcomes and from facts that the machine does not know.

use std::sync::Arc;

use perennial::{Certificate, Event, Now, Outcome, Slot, State, UnixTime};
use perennial_pki::Credential;

use super::shortfall::{shortfall, too_short};
use super::snapshot::{reminder_after, reminders_at};
use super::{ClockOffset, News, Rotation, Transition};

impl Rotation {
    /// Removes and returns the news of the last input, in order; before the first input, the news of the start. Call
    /// this after each input: the next input drops news that was not taken.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// True if there is news that was not taken: before the first input, the news of the start.
    pub(crate) const fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Adds the news of a step, and sets the error texts of its failures.
    pub(super) fn take_decisions(&mut self, step: &Arc<Transition>) {
        self.news.push(News::Stepped(step.clone()));
        self.note_in_place();
        let outcomes = step.actions.outcomes();
        outcomes.iter().for_each(|outcome| self.explain(outcome, step));
        let is_issued = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Accepted { .. }));
        self.issued += u64::from(is_issued);
        for mut news in step.news() {
            // The error of the signer, or of `explain`, is more specific than the description of the failure.
            if let (News::Failed { error, .. }, Some(known)) = (&mut news, &self.request_error) {
                error.clone_from(known);
            }
            let is_in_use = matches!(news, News::Issued { slot: Slot::Served, .. } | News::TookTurn { .. });
            self.news.push(news);
            // Reported once only: the signer will issue the same lifetime next time.
            if is_in_use && self.issued == 1 {
                self.note_lifetime(step.now);
            }
        }
        if is_issued {
            self.note_short_lived(step);
        }
    }

    /// Sets `served` and `waiting` to the pairs of the machine's served and waiting certificates. One of them may be
    /// `candidate`, if the machine has just accepted it.
    pub(super) fn hold_decided(&mut self, candidate: &mut Option<Arc<Credential>>) {
        let is = |pair: &Arc<Credential>, certificate: Option<&Arc<Certificate>>| {
            certificate.is_some_and(|certificate| certificate.fingerprint == pair.chain().certificate().fingerprint)
        };
        let (held, waits) = (self.machine.certificate(), self.machine.waiting());
        let accepted = candidate.take_if(|new| is(new, held) || is(new, waits));
        // The waiting pair may be served from now on.
        let known = [accepted, self.served.take(), self.waiting.take()];
        let pair_of = |certificate| known.iter().flatten().find(|pair| is(pair, certificate)).cloned();
        (self.served, self.waiting) = (pair_of(held), pair_of(waits));
    }

    /// Adds [`News::InPlace`] if the served certificate is durable, and was not reported as in place before.
    fn note_in_place(&mut self) {
        let served = self.machine.certificate().filter(|_| !self.machine.is_unwritten());
        if let Some(new) = served.filter(|served| self.in_place.as_ref() != Some(*served)).cloned() {
            self.news.push(News::InPlace { replaced: self.in_place.replace(new) });
        }
    }

    /// Sets the error text of a failure that the machine itself found: what is wrong with an issued certificate, or how
    /// far a request came that timed out. The text of any other failure comes from the signer or the driver.
    fn explain(&mut self, outcome: &Outcome, step: &Transition) {
        let Some(failure) = outcome.failure() else { return };
        self.request_error = Some(match (outcome, &step.event) {
            (Outcome::TimedOut { id }, _) => {
                let in_flight = self.in_flight.as_ref().filter(|in_flight| in_flight.id == *id);
                let progress = in_flight.and_then(|in_flight| in_flight.progress.as_ref());
                let stuck = match progress {
                    Some(progress) => format!("; last progress: {progress}"),
                    None if self.keying.is_some() => "; the key source has not returned".to_owned(),
                    None => String::new(),
                };
                format!("{}{stuck}", failure.describe()).into()
            }
            (_, Event::CsrIssued { certificate, .. }) => {
                let requested = self.machine.pending(step.now).map(|pending| pending.template);
                shortfall(failure, certificate, requested.as_deref(), step.now.unix).into()
            }
            // The signer or the driver has described the failure already.
            _ => return,
        });
    }

    fn note_short_lived(&mut self, step: &Transition) {
        let Event::CsrIssued { certificate, .. } = &step.event else { return };
        let error = too_short(self.machine.policy(), certificate.validity, step.now.unix).map(Arc::from);
        let before = std::mem::replace(&mut self.short_lived, error);
        let error = self.short_lived.as_ref().filter(|_| before.is_none());
        self.news.extend(error.map(|error| News::ShortLived { error: error.clone() }));
    }

    fn note_lifetime(&mut self, now: Now) {
        let snapshot = self.snapshot(now);
        if let (Some(issued), Some(requested)) = (snapshot.differing_lifetime(), snapshot.requested_lifetime) {
            self.news.push(News::LifetimeDiffers { issued, requested });
        }
    }

    /// Adds [`News::Requesting`] if `step` began a request. `bootstrapped` is true if the previous request
    /// authenticated with the bootstrap identity.
    pub(super) fn note_request(&mut self, step: &Transition, bootstrapped: bool) {
        let State::Requesting { reason, .. } = step.after.state() else { return };
        let is_retry = matches!(
            step.before.state(),
            State::BackingOff { reason: before, .. } | State::Requesting { reason: before, .. } if before == reason
        );
        let bootstrap = self.bootstrapping;
        // The first request with the bootstrap identity is news, even as a retry.
        self.news.push(News::Requesting { reason, bootstrap, is_retry: is_retry && (bootstrapped || !bootstrap) });
    }

    /// Replaces the error about a foreign certificate in the store; `foreign` is `None` if the store has no such
    /// certificate. Adds [`News::Foreign`] if the error is a new one.
    pub(super) fn note_foreign(&mut self, foreign: Option<Arc<str>>) {
        let before = std::mem::replace(&mut self.foreign, foreign);
        let error = self.foreign.as_ref().filter(|error| before.as_ref() != Some(error));
        self.news.extend(error.map(|error| News::Foreign { error: error.clone() }));
    }

    pub(super) fn note_unwritten(&mut self, error: String) {
        if self.machine.is_unwritten() && self.write_error.as_deref() != Some(&*error) {
            self.news.push(News::Unwritten { error: error.as_str().into() });
        }
        self.write_error = Some(error.into());
    }

    pub(super) fn note_clock(&mut self, now: Now) {
        let is_wrong = |offset: Option<ClockOffset>| offset.is_some_and(ClockOffset::is_large);
        let (before, after) = (self.clock_offset, self.clock_offset(now));
        self.clock_offset = after;
        self.news.extend(after.and_then(|offset| match (is_wrong(before), is_wrong(after)) {
            (false, true) => Some(News::ClockDiffers(offset)),
            (true, false) => Some(News::ClockAgrees(offset)),
            _ => None,
        }));
    }

    /// Adds [`News::Expired`] if a reminder of an expired certificate is due.
    pub(super) fn remind(&mut self, now: Now) {
        let held = self.served.as_ref().filter(|_| self.machine.state() != State::NotEnabled);
        let not_after = held.map(|held| held.chain().certificate().validity.not_after());
        let reminders = not_after.map_or(0, |not_after| reminders_at(not_after, now.unix));
        if reminders > self.reminders {
            // Before the other news of this input, which is about attempts to replace the expired certificate.
            self.news.insert(0, News::Expired);
        }
        self.reminders = reminders;
        // The machine's own deadlines contain the first reminder, which is the expiry.
        let is_expired = |_: &UnixTime| self.is_shared && reminders > 0;
        self.reminds_at = not_after.filter(is_expired).map(|not_after| {
            let next = reminder_after(not_after, now.unix);
            now.instant.after(next.since(now.unix))
        });
    }
}
