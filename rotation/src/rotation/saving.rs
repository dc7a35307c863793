//! [`Saving`]: decides when the pending record is saved: after each change of the record, and after a backoff if a save
//! failed.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Pending, Policy, Renewal, RequestId, mix};

use super::record::Record;

/// The state of saving: which record the runtime got last, and the backoff after a failed save.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// The id of the last submission.
    pub(super) submission: Option<RequestId>,
    /// The [`Mark`] of the record that the runtime was last commanded to save. `None`: save the record whatever its
    /// mark.
    pub(super) given: Option<Mark>,
    /// `None` once a save succeeds.
    failed: Option<Box<Failed>>,
}

/// The failure of the last save.
#[derive(Debug)]
struct Failed {
    /// Number of failed saves in a row.
    failures: u32,
    /// When to save again; `None` once the runtime was commanded to.
    again_at: Option<Instant>,
    error: Arc<str>,
}

/// The fields of a record whose change makes a save necessary. Times are not among them: times follow from these
/// fields, and differ a little whenever they are computed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mark {
    submission: Option<RequestId>,
    key: bool,
    refusal: Option<(Failure, u32)>,
    turned_down: Option<Failure>,
    /// The rotation point that a hint of the signer has set. Boxed, since most certificates have none.
    renewal: Option<Box<Renewal>>,
}

impl Mark {
    pub(super) fn of(pending: &Pending, renewal: Option<Renewal>, turned_down: Option<Failure>, key: bool) -> Self {
        let refusal = pending.refusal.map(|refusal| (refusal.failure, refusal.failures));
        Self { submission: None, key, refusal, turned_down, renewal: renewal.map(Box::new) }
    }
}

impl Saving {
    /// Makes the state for a rotation that starts from the record `kept`. The record is not saved again until it
    /// changes.
    pub(super) fn new(kept: Option<&Record>) -> Self {
        let mark =
            |record: &Record| Mark::of(&record.pending, record.renewal, record.turned_down, record.key.is_some());
        Self { given: kept.map(mark), ..Self::default() }
    }

    /// When to save again after a failed save.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.failed.as_ref()?.again_at
    }

    /// Error of the last save; `None` once a save succeeds.
    pub(super) fn error(&self) -> Option<&Arc<str>> {
        self.failed.as_ref().map(|failed| &failed.error)
    }

    /// Returns true if the record with this mark is to be saved now, and then counts the record as saved, until
    /// [`saved`](Self::saved) reports a failure.
    pub(super) fn wants(&mut self, mark: Mark, now: Instant) -> bool {
        let mark = Some(Mark { submission: self.submission, ..mark });
        let wanted = self.given != mark || self.again_at().is_some_and(|at| at <= now);
        if wanted {
            self.given = mark;
            self.failed.iter_mut().for_each(|failed| failed.again_at = None);
        }
        wanted
    }

    pub(super) fn saved(&mut self, result: Result<(), String>, policy: &Policy, seed: u64, now: Instant) {
        let Err(why) = result else {
            self.failed = None;
            return;
        };
        let failures = self.failed.as_ref().map_or(0, |failed| failed.failures).saturating_add(1);
        // The seed instead of a random number: the members of a fleet differ by their seeds.
        let draw = mix(seed, 0, failures.into());
        let wait = policy.write.wait(failures, Duration::ZERO, draw);
        // Later than `now`: with a wait of zero, a save that fails at once would be repeated without end.
        let again_at = Some(now.after(wait.max(Duration::from_millis(1))));
        self.failed = Some(Box::new(Failed { failures, again_at, error: why.into() }));
    }

    /// If the last save failed, stops repeating it. The next record is then saved even if it equals the last one.
    pub(super) fn give_up(&mut self) {
        if self.failed.take_if(|failed| failed.again_at.is_some()).is_some() {
            self.given = None;
        }
    }
}
