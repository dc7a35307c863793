//! Starts members on threads of their own: a disk that does not answer, or a pair that cannot be read, delays its own
//! member only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::member::Active;
use crate::certificates::Member;
use crate::failure::Failure;
use crate::threads;

/// Most members that start at the same time.
const THREADS: usize = 8;

/// The start of one member: returns the running member or the reason why it cannot start.
type Job = Box<dyn FnOnce() -> Result<Active, String> + Send>;

/// The number of a start: a member that was removed and added again has another one.
pub(super) type StartId = u64;

/// The result of a start.
type Outcome = (StartId, Result<Active, String>);

/// Starts members, at most [`THREADS`] at once.
pub(super) struct Starter {
    shared: Arc<Shared>,
    outcomes: Receiver<Outcome>,
    /// The members of all starts without an outcome.
    unfinished: BTreeMap<StartId, Member>,
    /// The number of the next start.
    next: StartId,
}

struct Shared {
    waiting: Mutex<Waiting>,
    sender: Sender<Outcome>,
    /// Wakes the main loop.
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(StartId, Job)>,
    threads: usize,
}

impl Starter {
    /// Creates a starter, which calls `wake` after each outcome.
    pub(super) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let (sender, outcomes) = mpsc::channel();
        let shared = Arc::new(Shared { waiting: Mutex::default(), sender, wake: Box::new(wake) });
        Self { shared, outcomes, unfinished: BTreeMap::new(), next: 0 }
    }

    /// Begins a start of this member.
    ///
    /// # Errors
    /// If the system refuses a thread, and no other thread would carry out the start.
    pub(super) fn begin(&mut self, member: Member, job: Job) -> Result<StartId, Failure> {
        let id = self.next;
        self.shared.begin(id, job)?;
        self.next += 1;
        self.unfinished.insert(id, member);
        Ok(id)
    }

    /// True if an unfinished start has the name or the files of this member. A reload may have removed or changed the
    /// member of that start.
    pub(super) fn is_starting(&self, member: &Member) -> bool {
        self.unfinished.values().any(|other| other.conflicts_with(member))
    }

    /// Returns the next outcome, with the name of its member; `None` if there is none at present.
    pub(super) fn outcome(&mut self) -> Option<(StartId, String, Result<Active, String>)> {
        let (id, result) = self.outcomes.try_recv().ok()?;
        let name = self.unfinished.remove(&id).map(|member| member.name).unwrap_or_default();
        Some((id, name, result))
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, id: StartId, job: Job) -> Result<(), Failure> {
        let mut waiting = self.waiting();
        waiting.jobs.push_back((id, job));
        if waiting.threads >= THREADS {
            return Ok(());
        }
        let shared = self.clone();
        match threads::start("starter", "the start of a certificate", move || shared.run()) {
            Ok(_) => waiting.threads += 1,
            Err(_) if waiting.threads > 0 => {}
            Err(error) => {
                waiting.jobs.pop_back();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Carries out starts until none is waiting.
    fn run(&self) {
        loop {
            let mut waiting = self.waiting();
            let Some((id, job)) = waiting.jobs.pop_front() else {
                waiting.threads -= 1;
                return;
            };
            drop(waiting);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let result = result.unwrap_or_else(|_| Err("the start panicked; please report this as a bug".into()));
            // The receiver is gone if the process is ending.
            let _ = self.sender.send((id, result));
            (self.wake)();
        }
    }
}
