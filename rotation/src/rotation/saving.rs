//! [`Saving`]: decides when the pending record is saved: after each change of the record, and after a backoff if a save
//! failed.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Budget, Failure, Instant, Pending, Policy, RequestId, mix};

use super::record::Record;

/// The state of saving: which record the runtime got last, and the backoff after a failed save.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// The id of the last submission.
    pub(super) submission: Option<RequestId>,
    /// The [`Mark`] of the record that the runtime was last commanded to save.
    pub(super) given: Option<Mark>,
    /// Number of failed saves in a row.
    failures: u32,
    /// When to save again after a failed save.
    pub(super) again_at: Option<Instant>,
    /// Error of the last save; `None` once a save succeeds.
    pub(super) error: Option<Arc<str>>,
}

/// The fields of a record whose change makes a save necessary. Times are not among them: times follow from these
/// fields, and differ a little whenever they are computed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mark {
    submission: Option<RequestId>,
    /// The submission budget, since a change of the budget changes the meaning of `budget_whole` in the record.
    budget: Budget,
    key: bool,
    refusal: Option<(Failure, u32)>,
    turned_down: Option<Failure>,
}

impl Mark {
    pub(super) fn of(pending: &Pending, policy: &Policy, turned_down: Option<Failure>, key: bool) -> Self {
        let refusal = pending.refusal.map(|refusal| (refusal.failure, refusal.failures));
        Self { submission: None, budget: policy.budget, key, refusal, turned_down }
    }
}

impl Saving {
    /// Makes the state for a rotation that starts from the record `kept`. The record is not saved again until it
    /// changes.
    pub(super) fn new(policy: &Policy, kept: Option<&Record>) -> Self {
        let mark = |record: &Record| Mark::of(&record.pending, policy, record.turned_down, record.key.is_some());
        Self { given: kept.map(mark), ..Self::default() }
    }

    /// Returns true if the record with this mark is to be saved now, and then counts the record as saved, until
    /// [`saved`](Self::saved) reports a failure.
    pub(super) fn wants(&mut self, mark: Mark, now: Instant) -> bool {
        let mark = Some(Mark { submission: self.submission, ..mark });
        let wanted = self.given != mark || self.again_at.is_some_and(|at| at <= now);
        if wanted {
            self.given = mark;
            self.again_at = None;
        }
        wanted
    }

    pub(super) fn saved(&mut self, result: Result<(), String>, policy: &Policy, seed: u64, now: Instant) {
        let Err(why) = result else {
            (self.failures, self.again_at, self.error) = (0, None, None);
            return;
        };
        self.failures = self.failures.saturating_add(1);
        // The seed instead of a random number: the members of a fleet differ by their seeds.
        let draw = mix(seed, 0, self.failures.into());
        let wait = policy.write.wait(self.failures, Duration::ZERO, draw);
        // Later than `now`: with a wait of zero, a save that fails at once would be repeated without end.
        self.again_at = Some(now.after(wait.max(Duration::from_millis(1))));
        self.error = Some(why.into());
    }

    /// If the last save failed, stops repeating it. The next record is then saved even if it equals the last one.
    pub(super) fn give_up(&mut self) {
        if self.again_at.take().is_some() {
            (self.given, self.failures, self.error) = (None, 0, None);
        }
    }
}
