//! The numbers of the laws, computed from the policy.

use std::time::Duration;

use perennial::{Now, Policy};

/// The longest wait after a failure: the longer backoff on top of the longest `Retry-After` that is honoured, which is
/// while a valid certificate is held.
pub(super) fn longest_wait(policy: &Policy) -> Duration {
    let (transient, refused) = (policy.transient.longest(), policy.refused.longest());
    transient.max(refused) + policy.refused.cap()
}

/// The longest time from one submission to the next when a certificate is due and no reply ever comes:
/// the timeout, then the backoff from when the budget has a token, if nothing else is slower: spacing, or the
/// budget of a wish, which waits for two tokens.
pub(super) fn longest_silence(policy: &Policy) -> Duration {
    let budget = policy.budget.refill() * 2;
    let millisecond = Duration::from_millis(1);
    policy.request_timeout.max(millisecond)
        + (longest_wait(policy) + policy.budget.refill()).max(budget).max(policy.spacing)
        + millisecond
}

/// So much later, by clocks that agree.
pub(super) fn later(now: Now, span: Duration) -> Now {
    Now { instant: now.instant.after(span), unix: now.unix.after(span) }
}
