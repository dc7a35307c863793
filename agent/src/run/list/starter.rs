//! Starts members on threads of their own: a disk that does not answer, or a pair that cannot be read, delays its own
//! member, and others for seconds only.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use super::member::Active;
use super::workers::Workers;
use crate::certificates::Member;

/// Most members that start at the same time, without those whose start hangs.
const THREADS: usize = 8;

/// The number of a start: a member that was removed and added again has another one.
pub(super) type StartId = u64;

/// The end of a start.
pub(super) struct Outcome {
    pub(super) name: String,
    /// True if a reload has removed the member during the start.
    pub(super) is_late: bool,
    /// True if the list was read again during the start: the member or the files that it names may have changed.
    pub(super) is_outdated: bool,
    /// The running member or the reason why it cannot start.
    pub(super) result: Result<Active, String>,
}

/// Starts members.
pub(super) struct Starter {
    workers: Workers,
    sender: Sender<(StartId, Result<Active, String>)>,
    results: Receiver<(StartId, Result<Active, String>)>,
    /// Wakes the main loop.
    wake: Arc<dyn Fn() + Send + Sync>,
    /// The members of all starts without an outcome.
    unfinished: BTreeMap<StartId, Member>,
    /// The starts without an outcome whose member a reload has removed.
    late: BTreeSet<StartId>,
    /// The number of the next start.
    next: StartId,
    /// The number of the first start after the last reload.
    first_after_reload: StartId,
}

impl Starter {
    /// Creates a starter, which calls `wake` after each outcome.
    pub(super) fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let (sender, results) = mpsc::channel();
        let workers = Workers::new("starter", "the start of a certificate", THREADS);
        Self {
            workers,
            sender,
            results,
            wake,
            unfinished: BTreeMap::new(),
            late: BTreeSet::new(),
            next: 0,
            first_after_reload: 0,
        }
    }

    /// Begins a start of this member. If the system refuses a thread, and no other thread would carry out the start, the
    /// start fails.
    pub(super) fn begin(
        &mut self,
        member: Member,
        start: impl FnOnce() -> Result<Active, String> + Send + 'static,
    ) -> StartId {
        let id = self.next;
        self.next += 1;
        self.unfinished.insert(id, member);
        let (sender, wake) = (self.sender.clone(), self.wake.clone());
        let end = move |result| {
            // The receiver is gone if the process is ending.
            let _ = sender.send((id, result));
            wake();
        };
        let ended = end.clone();
        let job = move || {
            let result = catch_unwind(AssertUnwindSafe(start));
            ended(result.unwrap_or_else(|_| Err("the start panicked; please report this as a bug".into())));
        };
        if let Err(error) = self.workers.begin(&id.to_string(), job) {
            end(Err(error.to_string()));
        }
        id
    }

    /// Notes that a reload has removed the member of this start.
    pub(super) fn give_up(&mut self, start: StartId) {
        self.late.insert(start);
    }

    /// Notes that the list was read again.
    pub(super) const fn note_reload(&mut self) {
        self.first_after_reload = self.next;
    }

    /// True if the start of a removed member, with the name or the files of this member, has not ended.
    pub(super) fn delays(&self, member: &Member) -> bool {
        self.late.iter().filter_map(|start| self.unfinished.get(start)).any(|other| other.conflicts_with(member))
    }

    /// Returns the next outcome; `None` if there is none at present.
    pub(super) fn outcome(&mut self) -> Option<Outcome> {
        let (start, result) = self.results.try_recv().ok()?;
        let name = self.unfinished.remove(&start).map(|member| member.name).unwrap_or_default();
        let is_outdated = start < self.first_after_reload;
        Some(Outcome { name, is_late: self.late.remove(&start), is_outdated, result })
    }

    /// The threads that start members.
    pub(super) const fn workers(&self) -> &Workers {
        &self.workers
    }
}
