//! [`Pool`]: threads that stay a few seconds after their work, for the next work.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a thread stays without work.
const LINGER: Duration = Duration::from_secs(3);

type Work = Box<dyn FnOnce() + Send>;

/// Threads for work that may block. Work begins on an idle thread, or on a new one; with the most threads busy, it
/// waits. Dropping the pool ends idle threads at once, and the others after the work that has been given to them.
pub(crate) struct Pool {
    name: &'static str,
    most: usize,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<PoolState>,
    changed: Condvar,
}

#[derive(Default)]
struct PoolState {
    waiting: VecDeque<Work>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

impl Pool {
    /// Makes a pool without threads, for at most `most` of them.
    pub(crate) fn new(name: &'static str, most: usize) -> Self {
        Self { name, most, shared: Arc::default() }
    }

    /// Begins the work, or queues it for the first thread that is free.
    ///
    /// # Errors
    /// There is no thread, and the operating system cannot start one. The work is dropped.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.shared.state();
        state.waiting.push_back(Box::new(work));
        if state.waiting.len() <= state.idle {
            self.shared.changed.notify_one();
            return Ok(());
        }
        if state.threads >= self.most {
            return Ok(());
        }
        let shared = self.shared.clone();
        match thread::Builder::new().name(self.name.into()).spawn(move || shared.serve()) {
            Ok(_) => {
                state.threads += 1;
                Ok(())
            }
            // The threads that exist will come to the work.
            Err(_) if state.threads > 0 => Ok(()),
            Err(error) => {
                state.waiting.pop_back();
                Err(error)
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Does work until none has come for [`LINGER`], or the pool is closed.
    fn serve(&self) {
        let mut state = self.state();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                drop(state);
                // The panic hook has reported the panic; the other members of the fleet need this thread.
                let _ = catch_unwind(AssertUnwindSafe(work));
                state = self.state();
                continue;
            }
            if state.is_closed {
                break;
            }
            state.idle += 1;
            let (woken, waited) = self.changed.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.waiting.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
