//! When to save the pending record: after each change of it, and after a backoff if a save failed.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Backoff, Budget, Failure, Instant, Pending, Policy, RequestId};

use super::record::Record;

/// The record saved last, and the backoff of saves that fail.
#[derive(Debug)]
pub(super) struct Saving {
    backoff: Backoff,
    budget: Budget,
    seed: u64,
    submission: Option<RequestId>,
    /// Mark of the record that the runtime was last commanded to save.
    given: Option<Mark>,
    /// Failures to save in a row.
    failures: u32,
    /// When to save again after a failed save.
    pub(super) again_at: Option<Instant>,
    /// Error of the last save; `None` once a save succeeds.
    pub(super) error: Option<Arc<str>>,
}

/// The fields by which one record differs from another. Times are not among them: they follow from these fields, and
/// differ a little whenever they are computed.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    submission: Option<RequestId>,
    /// A change of the budget changes the meaning of the record's `budget_whole`.
    budget: Budget,
    key: bool,
    refusal: Option<(Failure, u32)>,
    turned_down: Option<Failure>,
}

impl Saving {
    /// For a rotation that starts from the record `kept`, which is not saved again before it changes.
    pub(super) fn new(policy: &Policy, seed: u64, kept: Option<&Record>) -> Self {
        let Policy { write: backoff, budget, .. } = *policy;
        let mut saving =
            Self { backoff, budget, seed, submission: None, given: None, failures: 0, again_at: None, error: None };
        saving.given = kept.map(|record| saving.mark(&record.pending, record.turned_down, record.key.is_some()));
        saving
    }

    /// Takes the backoff of failed saves from this policy. If the budget differs, the record is saved again.
    pub(super) const fn set_policy(&mut self, policy: &Policy) {
        self.backoff = policy.write;
        self.budget = policy.budget;
    }

    pub(super) fn submitted(&mut self, id: RequestId) {
        self.submission = Some(id);
    }

    /// True if the record with these fields is to be saved now. Notes the record as saved: a failure is reported to
    /// [`saved`](Self::saved).
    pub(super) fn wants(&mut self, pending: &Pending, turned_down: Option<Failure>, key: bool, now: Instant) -> bool {
        let mark = Some(self.mark(pending, turned_down, key));
        let wanted = self.given != mark || self.again_at.is_some_and(|at| at <= now);
        if wanted {
            self.given = mark;
            self.again_at = None;
        }
        wanted
    }

    pub(super) fn saved(&mut self, result: Result<(), String>, now: Instant) {
        let Err(why) = result else {
            (self.failures, self.again_at, self.error) = (0, None, None);
            return;
        };
        self.failures = self.failures.saturating_add(1);
        // The seed instead of a random number: the members of a fleet differ by their seeds.
        let draw = draw(self.seed ^ u64::from(self.failures));
        let wait = self.backoff.wait(self.failures, Duration::ZERO, draw);
        // Later than `now`: with a wait of zero, a save that fails at once would be repeated without end.
        self.again_at = Some(now.after(wait.max(Duration::from_millis(1))));
        self.error = Some(why.into());
    }

    /// Stops repeating a failed save. The next record is saved in any case.
    pub(super) fn give_up(&mut self) {
        if self.again_at.take().is_some() {
            (self.given, self.failures, self.error) = (None, 0, None);
        }
    }

    /// Has the next record given away in any case: the one before may be lost.
    pub(super) fn forget_given(&mut self) {
        self.given = None;
    }

    fn mark(&self, pending: &Pending, turned_down: Option<Failure>, key: bool) -> Mark {
        let refusal = pending.refusal.map(|refusal| (refusal.failure, refusal.failures));
        Mark { submission: self.submission, budget: self.budget, key, refusal, turned_down }
    }
}

/// The first number of SplitMix64 (Steele, Lea, Flood 2014) with this seed.
const fn draw(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
