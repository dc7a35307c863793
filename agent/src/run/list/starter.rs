//! Starts members on threads of their own: a disk that does not answer, or a pair that cannot be read, delays its own
//! member only.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::member::Active;
use crate::failure::Failure;
use crate::threads;

/// Most members that start at the same time.
const THREADS: usize = 8;

/// The start of one member: returns the running member or the reason why it cannot start.
type Job = Box<dyn FnOnce() -> Result<Active, String> + Send>;

/// The result of a start, with the name of the member.
pub(super) type Outcome = (String, Result<Active, String>);

/// Starts members, at most [`THREADS`] at once.
pub(super) struct Starter {
    shared: Arc<Shared>,
    outcomes: Receiver<Outcome>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    sender: Sender<Outcome>,
    /// Wakes the main loop.
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(String, Job)>,
    threads: usize,
}

impl Starter {
    /// Creates a starter, which calls `wake` after each outcome.
    pub(super) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let (sender, outcomes) = mpsc::channel();
        Self { shared: Arc::new(Shared { waiting: Mutex::default(), sender, wake: Box::new(wake) }), outcomes }
    }

    /// Begins the start of member `name`.
    ///
    /// # Errors
    /// If the system refuses a thread, and no other thread would carry out the start.
    pub(super) fn begin(&self, name: &str, job: Job) -> Result<(), Failure> {
        let mut waiting = self.shared.waiting();
        waiting.jobs.push_back((name.to_owned(), job));
        if waiting.threads >= THREADS {
            return Ok(());
        }
        let shared = self.shared.clone();
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

    /// Returns the next outcome; `None` if there is none at present.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out starts until none is waiting.
    fn run(&self) {
        loop {
            let mut waiting = self.waiting();
            let Some((name, job)) = waiting.jobs.pop_front() else {
                waiting.threads -= 1;
                return;
            };
            drop(waiting);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let result = result.unwrap_or_else(|_| Err("the start panicked; please report this as a bug".into()));
            // The receiver is gone if the process is ending.
            let _ = self.sender.send((name, result));
            (self.wake)();
        }
    }
}
