//! When the next request may be submitted: backoff after failures, spacing, and the submission budget.

#[cfg(feature = "hash-at")]
use core::hash::{Hash, Hasher};
use core::time::Duration;

use crate::event::Failure;
use crate::pending_key::PendingKey;
use crate::policy::Policy;
use crate::setup::{Pending, Refusal};
use crate::state::Reason;
use crate::time::{Instant, Now, UnixTime};

/// How the earlier requests of this identity delay the next one: by backoff, spacing and submission budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestPacing {
    /// The number of failures in a row that are of one kind: refusals if `last_failure` is a refusal, otherwise
    /// failures that are no refusals.
    pub failures: u32,
    /// The last failure. `None` after a success, and after a change that makes the failure irrelevant, such as another
    /// signer.
    pub last_failure: Option<Failure>,
    /// Backoff: no request is submitted before this instant.
    pub retry_at: Instant,
    /// Spacing: no request is submitted before this instant. Zero: no request was submitted yet.
    pub spaced_at: Instant,
    /// Budget: when the bucket is full again (GCRA's theoretical arrival time). Each submission moves this instant one
    /// refill time later.
    pub budget_whole_at: Instant,
}

/// How urgent a submission is. The quality of the served certificate, which [`Judge`](crate::judge::Judge) grades, is
/// another matter: a flawless certificate that a server refused is replaced urgently.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The certificate is missing, expired, provisional, refused by a server or past its rotation point: the submission
    /// may take the last token.
    Urgent,
    /// The certificate lacks names, or a rotation was requested: the last token is reserved for urgent submissions.
    Normal,
}

impl Priority {
    pub(crate) const fn of(reason: Reason) -> Self {
        match reason {
            Reason::TemplateNotSatisfied | Reason::RotateNow => Self::Normal,
            Reason::NoCertificate | Reason::Expired | Reason::Provisional | Reason::Refused | Reason::RotationPoint => {
                Self::Urgent
            }
        }
    }
}

impl RequestPacing {
    /// When spacing and budget allow a submission. Ignores backoff.
    pub(crate) fn allowed_at(&self, policy: &Policy, priority: Priority) -> Instant {
        self.affordable_at(policy, priority).max(self.spaced_at)
    }

    /// When the budget alone allows a submission.
    fn affordable_at(&self, policy: &Policy, priority: Priority) -> Instant {
        let tokens = match priority {
            Priority::Urgent => 1,
            Priority::Normal => 2,
        };
        self.budget_whole_at.before(policy.budget.time_to_fill_from(tokens))
    }

    /// When backoff, spacing and budget allow the next submission.
    pub(crate) fn next_at(&self, policy: &Policy, priority: Priority) -> Instant {
        self.allowed_at(policy, priority).max(self.retry_at)
    }

    /// Hashes backoff, spacing and budget as far as they still delay the next request at `now`.
    #[cfg(feature = "hash-at")]
    pub(crate) fn hash_at<H: Hasher>(&self, policy: &Policy, now: Instant, state: &mut H) {
        let Self { failures, last_failure, retry_at, spaced_at, budget_whole_at } = self;
        let refusal = last_failure.map(Failure::is_refusal);
        (refusal, policy.backoff(self.is_refused()).clamp_failures(*failures)).hash(state);
        [retry_at, spaced_at, budget_whole_at].map(|at| at.since(now)).hash(state);
    }

    /// Takes a token for a submission, and starts the spacing.
    pub(crate) fn submitted(&mut self, policy: &Policy, now: Instant) {
        self.spaced_at = now.after(policy.spacing());
        self.budget_whole_at = policy.budget.whole_after_taking(self.budget_whole_at, now);
    }

    /// Backs off after a failed request. While no valid certificate is served, a server's Retry-After counts only up to
    /// the cap of the transient backoff, since a server that sends an hour may be available again in a minute.
    pub(crate) fn failed(&mut self, policy: &Policy, failed: Failed, draw: u64, now: Instant) {
        let Failed { failure, retry_after, took, is_valid } = failed;
        let is_same_kind = self.last_failure.is_some_and(|last| last.is_refusal() == failure.is_refusal());
        self.failures = if is_same_kind { self.failures.saturating_add(1) } else { 1 };
        self.last_failure = Some(failure);

        // Retry-After is added to the jittered wait: clients that were throttled together must not return together.
        let cap = if is_valid { Duration::MAX } else { policy.transient.cap() };
        // Capped even with a valid certificate: no server may silence a node for years.
        let honoured = retry_after.unwrap_or_default().min(policy.refused.cap()).min(cap);
        let wait = policy.backoff(failure.is_refusal()).wait(self.failures, took, draw).saturating_add(honoured);
        self.retry_at = self.wait_ends_at(policy, wait, now);
    }

    /// Shortens a backoff. `left` is the time until the served certificate expires: the backoff ends after half of
    /// `left` at the latest, so that there is time for one more request.
    ///
    /// `None`: no valid certificate is served, perhaps since the wall clock stepped during the backoff. Then the
    /// backoff lasts no longer than the longest that [`failed`](Self::failed) sets while no valid certificate is
    /// served. A backoff after a refusal stays.
    pub(crate) fn shorten(&mut self, policy: &Policy, left: Option<Duration>, now: Instant) {
        let latest = match left {
            Some(left) => now.after(left / 2),
            None if self.is_refused() => return,
            None => self.wait_ends_at(policy, policy.transient.cap().saturating_add(policy.transient.longest()), now),
        };
        self.retry_at = self.retry_at.min(latest);
    }

    /// Adapts backoff, spacing and budget to another policy, as
    /// [`Event::PolicyChanged`](crate::Event::PolicyChanged) promises.
    pub(crate) fn change_policy(&mut self, old: &Policy, new: &Policy, now: Instant) {
        // Zero means that no request was submitted yet, so that there is no spacing to adapt.
        if self.spaced_at > Instant::default() {
            // Add before subtracting: the submission may lie before instant zero, if it was made before a boot.
            self.spaced_at = self.spaced_at.after(new.spacing()).before(old.spacing());
        }
        // Tokens are carried over, not the time until the bucket is whole: under a slower refill the same time is worth
        // fewer tokens, and the bucket would look fuller than it is.
        let tokens = old.budget.time_to_fill().saturating_sub(self.budget_whole_at.since(now));
        let left = new.budget.carried_over(tokens, &old.budget);
        self.budget_whole_at = now.after(new.budget.time_to_fill().saturating_sub(left));
        // The longest wait that `failed` sets under the new policy: the backoff, and a `Retry-After` of up to the cap
        // of refusals.
        let longest = new.backoff(self.is_refused()).longest().saturating_add(new.refused.cap());
        self.retry_at = self.retry_at.min(self.wait_ends_at(new, longest, now));
    }

    /// The end of a backoff of length `wait` that begins `now`. If the budget does not allow a request yet, `wait`
    /// counts from when it does: the budget has no jitter, so a fleet that waits for the budget alone would submit its
    /// requests all at once.
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

    /// Ends a backoff. Spacing, budget and the count of failures in a row stay as they are.
    pub(crate) fn end_backoff(&mut self) {
        self.retry_at = Instant::default();
    }

    /// The record of the last request, from which a restart continues; `None` before the first request. Times are by
    /// the wall clock.
    pub(crate) fn remember(&self, policy: &Policy, key: &PendingKey, now: Now) -> Option<Pending> {
        // One of the two spans is zero, since `at` lies either after `now` or before.
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

    /// The pacing after a restart, from a record by [`remember`](Self::remember). Limits each wait to the longest that
    /// the policy allows, since the wall clock may have been wrong when the record was made, or may be wrong now.
    pub(crate) fn resume(policy: &Policy, pending: &Pending, now: Now) -> Self {
        let later = |at: UnixTime, most: Duration| now.instant.after(at.since(now.unix).min(most));
        let mut pacing = Self {
            spaced_at: later(pending.submitted.after(policy.spacing()), policy.spacing()),
            budget_whole_at: later(pending.budget_whole, policy.budget.time_to_fill()),
            ..Self::default()
        };
        if let Some(Refusal { failure, failures, retry_at }) = pending.refusal {
            pacing.failures = failures;
            pacing.last_failure = Some(failure);
            // Twice the cap: the backoff and a `Retry-After` may each have been that long.
            pacing.retry_at = later(retry_at, policy.refused.cap().saturating_mul(2));
        }
        pacing
    }
}

/// A failed attempt: the facts on which its backoff depends.
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) retry_after: Option<Duration>,
    /// How long the attempt took.
    pub(crate) took: Duration,
    /// Whether a valid certificate is served.
    pub(crate) is_valid: bool,
}
