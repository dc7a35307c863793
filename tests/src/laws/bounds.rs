//! Bounds that the laws use, computed from the policy.

use std::time::Duration;

use perennial::{Now, Policy};

/// The longest wait after a failure: the longer of the two backoffs, plus the longest `Retry-After` that the machine
/// honours. The cap of the backoff after refusals limits a `Retry-After`.
pub(super) fn longest_wait(policy: &Policy) -> Duration {
    let (transient, refused) = (policy.transient.longest(), policy.refused.longest());
    transient.max(refused) + policy.refused.cap()
}

/// The longest time between two submissions while a certificate is due and no reply ever comes: the request timeout,
/// then the longest of three waits. The first is the time until the budget has a token, plus a backoff. The second is
/// the spacing. The third is the refill of two tokens, which a request of normal priority needs.
pub(super) fn longest_silence(policy: &Policy) -> Duration {
    let budget = policy.budget.refill() * 2;
    let millisecond = Duration::from_millis(1);
    policy.request_timeout.max(millisecond)
        + (longest_wait(policy) + policy.budget.refill()).max(budget).max(policy.spacing)
        + millisecond
}

/// The time that is `span` after `now`, by both clocks.
pub(super) fn later(now: Now, span: Duration) -> Now {
    Now { instant: now.instant.after(span), unix: now.unix.after(span) }
}
