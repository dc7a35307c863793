//! Settling: the actions that follow from the facts, whichever event changed them.

use core::time::Duration;

use super::RotationMachine;
use crate::action::Actions;
use crate::checkpoint::Checkpoint;
use crate::event::Failure;
use crate::jitter::mix;
use crate::outcome::{Outcome, Slot};
use crate::pacing::{Failed, Priority};
use crate::pending_key::PendingKey;
use crate::state::Reason;
use crate::time::{Instant, Now};

impl RotationMachine {
    /// Adds the actions that follow from the facts, and sets the next deadline. `was_due` is the reason why a
    /// certificate was due before the event. `has_turn`: with a shared signer, this step may submit a request.
    ///
    /// The order matters. A request that has timed out ends before the next one can be submitted. The waiting
    /// certificate takes its turn before the served certificate is judged. Waits are shortened before a request is
    /// considered.
    pub(super) fn settle(&mut self, was_due: Option<Reason>, has_turn: bool, now: Now, actions: &mut Actions) {
        self.time_out(now, actions);
        if self.facts.waiting.is_some() {
            actions.outcomes.turn = self.take_turn(now);
        }
        self.shorten_wait(now);
        self.write(now, actions);
        // Computed once, for the reason and for the deadline.
        let clocks = self.both_clocks(now);
        let due = if self.is_enabled() { self.due_by(clocks).or_else(|| self.still_rotating()) } else { None };
        self.facts.due = due;
        self.facts.queued = false;
        if due.is_none() {
            // No certificate is due any more, or template or signer is gone.
            if let Some((id, _)) = self.facts.in_flight.take() {
                actions.cancel(id, Outcome::Withdrawn { id });
            }
        } else if self.next_submission().is_some_and(|at| at <= now.instant) {
            self.submit_in_turn(has_turn, now, actions);
        }
        if due != was_due {
            actions.outcomes.due = Some(due.map_or(Outcome::NoLongerDue, Outcome::BecameDue));
        }
        let deadline = self.next_deadline(clocks, now);
        if deadline != self.facts.deadline {
            self.facts.deadline = deadline;
            actions.timer = Some(deadline);
        }
    }

    /// `RotationPoint` if a request is in flight for that reason, otherwise `None`. With this reason the machine keeps
    /// the request, even if the rotation point lies in the future again after a step of the wall clock or a change of
    /// the policy.
    fn still_rotating(&self) -> Option<Reason> {
        self.facts.due.filter(|due| *due == Reason::RotationPoint && self.facts.in_flight.is_some())
    }

    /// Cancels a request that was not answered within the request timeout, and counts it as failed.
    fn time_out(&mut self, now: Now, actions: &mut Actions) {
        if self.facts.in_flight.is_none() {
            return;
        }
        let timeout = self.request_timeout();
        if let Some((id, since)) = self.facts.in_flight.take_if(|(_, since)| since.after(timeout) <= now.instant) {
            actions.cancel(id, Outcome::TimedOut { id });
            self.failed(Failure::TimedOut, None, since, now);
        }
    }

    /// Serves the waiting certificate from its notBefore on, or earlier if the served one has expired or was refused:
    /// the local clock may be wrong. Drops a waiting certificate that has become worse than the served one, as after a
    /// change of the template. `None`: no certificate waits, or it continues to wait.
    fn take_turn(&mut self, now: Now) -> Option<Outcome> {
        let waiting = self.facts.waiting.as_ref()?;
        let is_needed = self.facts.refused || self.certificate_at(now.unix).is_none();
        // The waiting certificate is the newest one.
        let rotation_point = self.facts.rotate_at;
        if !self.judge(now).is_no_worse(waiting, rotation_point) {
            self.facts.waiting = None;
            self.plan_rotation(None);
            self.facts.unwritten.take_if(|write| write.slot == Slot::Waiting);
            Some(Outcome::Dropped)
        } else if is_needed || self.judge(now).has_begun(waiting) {
            // A rotation that was requested while this certificate waited is for its successor, and a hint about it stays
            // true: `take` must clear neither.
            let Checkpoint { rotate_now, hinted, .. } = self.facts;
            let replaced = self.take(waiting.clone(), rotation_point, Slot::Served);
            (self.facts.rotate_now, self.facts.hinted) = (rotate_now, hinted);
            let id = self.take_id();
            self.owe_write(id, Slot::Served, now);
            Some(Outcome::TookTurn { replaced })
        } else {
            None
        }
    }

    /// Lets a backoff end halfway to the served certificate's expiry at the latest, even if another certificate was
    /// served or the wall clock was another one when the backoff began. If no valid certificate is served, limits a
    /// backoff to the longest that a failure sets while none is served, unless the backoff follows a refusal.
    fn shorten_wait(&mut self, now: Now) {
        if self.facts.pacing.retry_at <= now.instant {
            return;
        }
        let left = self.certificate_at(now.unix).map(|served| served.validity.not_after().since(now.unix));
        self.facts.pacing.shorten(&self.facts.policy, left, now.instant);
    }

    /// When pacing allows the next request. `None` if no request is wanted: no certificate is due, the signer is not
    /// ready, or a request for the current template is in flight.
    pub(super) fn next_submission(&self) -> Option<Instant> {
        let Checkpoint { due, signer, in_flight, pacing, policy, .. } = &self.facts;
        let reason = due.filter(|_| signer.is_ready())?;
        match in_flight {
            None => Some(pacing.next_at(policy, Priority::of(reason))),
            // Normal priority whatever the reason: the request in flight serves the urgent need.
            Some(_) => self.is_superseded().then(|| pacing.allowed_at(policy, Priority::Normal)),
        }
    }

    /// Submits a request for the template now, in the place of a request in flight. With a shared signer and without
    /// the turn, queues for the turn instead.
    fn submit_in_turn(&mut self, has_turn: bool, now: Now, actions: &mut Actions) {
        if self.facts.signer.is_shared() && !has_turn {
            // A request in flight for another template goes on until the turn comes, as it does without budget.
            self.facts.queued = true;
            return;
        }
        if let Some((id, _)) = self.facts.in_flight {
            actions.cancel(id, Outcome::Superseded { id });
        }
        self.submit(now, actions);
    }

    /// Submits a request for the template now.
    fn submit(&mut self, now: Now, actions: &mut Actions) {
        let Some(wanted) = self.facts.template.clone() else { return };
        let id = self.take_id();
        let key = self.facts.pending_key.key_for(&wanted);
        actions.submit = Some((id, wanted.clone(), key));
        self.facts.in_flight = Some((id, now.instant));
        self.facts.pending_key = PendingKey::used_for(wanted, !self.facts.policy.new_key_per_attempt);
        self.facts.pacing.submitted(&self.facts.policy, now.instant);
    }

    /// Records that a request failed: starts a backoff, and requires a new key if the failure spends the old one.
    pub(super) fn failed(&mut self, failure: Failure, retry_after: Option<Duration>, since: Instant, now: Now) {
        if failure.spends_key() {
            self.facts.pending_key.spend();
        }
        let took = now.instant.since(since);
        let is_valid = self.certificate_at(now.unix).is_some();
        let certificate = self.facts.certificate.as_ref().map_or(0, |served| served.fingerprint.prefix());
        // The next id differs for each attempt, so that each wait has its own jitter.
        let draw = mix(self.facts.seed, certificate, self.facts.next_id.get());
        let failed = Failed { failure, retry_after, took, is_valid };
        self.facts.pacing.failed(&self.facts.policy, failed, draw, now.instant);
        self.reconsider_refusal();
    }
}
