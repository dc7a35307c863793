//! When the next attempt may be made: backoff after failures, spacing, and the submission budget.

#[cfg(feature = "hash-at")]
use core::hash::{Hash, Hasher};
use core::time::Duration;

use crate::event::Failure;
use crate::pending_key::PendingKey;
use crate::policy::Policy;
use crate::setup::{Pending, Refusal};
use crate::state::Reason;
use crate::time::{Instant, Now, UnixTime, millis};

/// The past of this identity's requests, as far as it slows the next one down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestPacing {
    /// Failures of the same kind in a row.
    pub failures: u32,
    /// The last failure, unless it is forgotten.
    pub last_failure: Option<Failure>,
    /// Backoff: no attempt before.
    pub retry_at: Instant,
    /// Spacing: no submission before. Zero: none was made.
    pub spaced_at: Instant,
    /// Budget: when the bucket is whole again. Each submission moves it by one refill.
    pub budget_whole_at: Instant,
}

/// How urgent a submission is. This is not how good a certificate is, which [`Judge`](crate::judge::Judge) grades: a refused
/// certificate may be flawless, and is replaced urgently.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The certificate itself is in danger: the last token may go.
    Urgent,
    /// The certificate serves for now: the last token is kept for when it is in danger.
    Normal,
}

impl Priority {
    pub(crate) const fn of(reason: Reason) -> Self {
        match reason {
            Reason::TemplateNotSatisfied | Reason::Asked => Self::Normal,
            Reason::NoCertificate | Reason::Expired | Reason::Provisional | Reason::Refused | Reason::RotationPoint => {
                Self::Urgent
            }
        }
    }
}

impl RequestPacing {
    /// When spacing and budget allow a submission, backoff aside.
    pub(crate) fn allowed_at(&self, policy: &Policy, priority: Priority) -> Instant {
        self.affordable_at(policy, priority).max(self.spaced_at)
    }

    /// When the budget alone allows it.
    fn affordable_at(&self, policy: &Policy, priority: Priority) -> Instant {
        let tokens = match priority {
            Priority::Urgent => 1,
            Priority::Normal => 2,
        };
        let ahead = policy.budget.refill_of(policy.budget.size().saturating_sub(tokens));
        Instant::from_millis(self.budget_whole_at.as_millis().saturating_sub(millis(ahead)))
    }

    /// When the next attempt may be made.
    pub(crate) fn next_at(&self, policy: &Policy, priority: Priority) -> Instant {
        self.allowed_at(policy, priority).max(self.retry_at)
    }

    /// Hashes the part of the past that still slows the next request down at `now`.
    #[cfg(feature = "hash-at")]
    pub(crate) fn hash_at<H: Hasher>(&self, policy: &Policy, now: Instant, state: &mut H) {
        let Self { failures, last_failure, retry_at, spaced_at, budget_whole_at } = self;
        let refusal = last_failure.map(Failure::is_refusal);
        (refusal, policy.backoff(self.is_refused()).no_longer_after(*failures)).hash(state);
        [retry_at, spaced_at, budget_whole_at].map(|at| at.since(now)).hash(state);
    }

    pub(crate) fn submitted(&mut self, policy: &Policy, now: Instant) {
        self.spaced_at = now.after(policy.spacing());
        self.budget_whole_at = self.budget_whole_at.max(now).after(policy.budget.refill());
    }

    /// Backs off after a failed attempt that `took` so long. While no valid certificate is held, a server's Retry-After
    /// counts up to the cap of the backoff for outages: a server that asks for an hour may be back in a minute.
    pub(crate) fn failed(&mut self, policy: &Policy, failed: Failed, draw: u64, now: Instant) {
        let Failed { failure, retry_after, took, is_valid } = failed;
        let is_same_kind = self.last_failure.is_some_and(|last| last.is_refusal() == failure.is_refusal());
        self.failures = if is_same_kind { self.failures.saturating_add(1) } else { 1 };
        self.last_failure = Some(failure);

        // Jitter comes on top of Retry-After: clients that were throttled together must not return together.
        let patience = if is_valid { Duration::MAX } else { policy.transient.cap() };
        let asked_for = retry_after.unwrap_or_default().min(policy.refused.cap()).min(patience);
        let wait = policy.backoff(failure.is_refusal()).wait(self.failures, took, draw).saturating_add(asked_for);
        self.retry_at = self.wait_ends_at(policy, wait, now);
    }

    /// Shortens a wait that reaches past expiry. With a certificate that is valid for another `left`, the wait leaves one
    /// more attempt before the certificate expires. Without a valid certificate, which a step of the wall clock may lead
    /// to in the middle of a wait, the wait is at most as long as [`failed`](Self::failed) would make it, except after a
    /// refusal.
    pub(crate) fn shorten(&mut self, policy: &Policy, left: Option<Duration>, now: Instant) {
        let latest = match left {
            Some(left) => now.after(left / 2),
            None if self.is_refused() => return,
            None => self.wait_ends_at(policy, policy.transient.cap().saturating_add(policy.transient.longest()), now),
        };
        self.retry_at = self.retry_at.min(latest);
    }

    /// Goes on under another policy, see [`Event::PolicyChanged`](crate::Event::PolicyChanged).
    pub(crate) fn change_policy(&mut self, old: &Policy, new: &Policy, now: Instant) {
        if self.spaced_at > Instant::default() {
            let submitted = self.spaced_at.as_millis().saturating_sub(millis(old.spacing()));
            self.spaced_at = Instant::from_millis(submitted).after(new.spacing());
        }
        // Tokens are carried over, not the time until the bucket is whole: under a slower refill the same time is worth
        // fewer tokens, and the bucket would look fuller than it is.
        let tokens = old.budget.whole().saturating_sub(self.budget_whole_at.since(now));
        let left = new.budget.carried_over(tokens, &old.budget);
        self.budget_whole_at = now.after(new.budget.whole().saturating_sub(left));
        let longest = new.backoff(self.is_refused()).longest().saturating_add(new.refused.cap());
        self.retry_at = self.retry_at.min(self.wait_ends_at(new, longest, now));
    }

    /// When a wait is over that begins `now`. It counts from when the budget allows a request: the budget has no jitter and
    /// would re-synchronise a fleet.
    fn wait_ends_at(&self, policy: &Policy, wait: Duration, now: Instant) -> Instant {
        self.affordable_at(policy, Priority::Urgent).max(now).after(wait)
    }

    fn is_refused(&self) -> bool {
        self.last_failure.is_some_and(Failure::is_refusal)
    }

    pub(crate) fn forget_failures(&mut self) {
        self.failures = 0;
        self.last_failure = None;
        self.retry_at = Instant::default();
    }

    pub(crate) fn forget_refusal(&mut self) {
        if self.is_refused() {
            self.forget_failures();
        }
    }

    /// Allows the next attempt at once, as far as spacing and budget do. Failures in a row still count.
    pub(crate) fn end_backoff(&mut self) {
        self.retry_at = Instant::default();
    }

    /// The record that a restart needs of the last request, if there was one. Times are by the wall clock.
    pub(crate) fn remember(&self, policy: &Policy, key: &PendingKey, now: Now) -> Option<Pending> {
        let unix = |at: Instant| now.unix.after(at.since(now.instant)).before(now.instant.since(at));
        let refusal = self.last_failure.filter(|last| last.is_refusal());
        Some(Pending {
            template: key.template()?.clone(),
            key: key.key(),
            submitted: unix(self.spaced_at).before(policy.spacing()),
            budget_whole: unix(self.budget_whole_at),
            refusal: refusal.map(|failure| Refusal { failure, failures: self.failures, retry_at: unix(self.retry_at) }),
        })
    }

    /// The pacing of a start from what [`remember`](Self::remember) left. The wall clock may have been wrong then or may be now:
    /// each wait is at most as long as the policy's longest.
    pub(crate) fn resume(policy: &Policy, pending: &Pending, now: Now) -> Self {
        let later = |at: UnixTime, most: Duration| now.instant.after(at.since(now.unix).min(most));
        let mut pacing = Self {
            spaced_at: later(pending.submitted.after(policy.spacing()), policy.spacing()),
            budget_whole_at: later(pending.budget_whole, policy.budget.whole()),
            ..Self::default()
        };
        if let Some(Refusal { failure, failures, retry_at }) = pending.refusal {
            pacing.failures = failures;
            pacing.last_failure = Some(failure);
            pacing.retry_at = later(retry_at, policy.refused.cap().saturating_mul(2));
        }
        pacing
    }
}

/// An attempt that came to nothing.
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) retry_after: Option<Duration>,
    /// How long it took.
    pub(crate) took: Duration,
    /// Whether a valid certificate is held.
    pub(crate) is_valid: bool,
}
