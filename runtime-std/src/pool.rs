//! [`Pool`]: threads that stay a few seconds after their work, for the next work.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a thread stays without work.
const LINGER: Duration = Duration::from_secs(3);

/// How long work may run before it counts as hanging: from then on, another thread may take its place.
const HANGS: Duration = Duration::from_secs(3);

/// How often to look for hanging work while other work waits.
const RELIEF: Duration = Duration::from_secs(1);

/// Work for a thread. It may call its argument once all that may block or hang is done, and before it reports the result:
/// its thread then counts as free, so that work that follows from the result needs no other thread.
type Work = Box<dyn FnOnce(&dyn Fn()) + Send>;

/// Threads for work that may block. Work begins on an idle thread, or on a new one; with the most threads busy, it
/// waits. Work that hangs keeps no other work waiting: its thread does not count. Dropping the pool ends idle threads at
/// once, and the others after the work that has been given to them.
pub(crate) struct Pool {
    name: &'static str,
    /// `None`: work never waits.
    most: Option<usize>,
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
    /// When each running work began.
    running: Vec<Instant>,
    threads: usize,
    is_closed: bool,
}

impl Pool {
    /// Makes a pool without threads, for at most `most` of them; `None`: for any number.
    pub(crate) fn new(name: &'static str, most: Option<usize>) -> Self {
        Self { name, most, shared: Arc::default() }
    }

    /// Begins the work, or queues it for the first thread that is free.
    ///
    /// # Errors
    /// The operating system cannot start a thread, and either there is none, or work of this pool never waits. The work
    /// is dropped.
    pub(crate) fn run(&self, work: impl FnOnce(&dyn Fn()) + Send + 'static) -> io::Result<()> {
        let mut state = self.shared.state();
        state.waiting.push_back(Box::new(work));
        self.shared.changed.notify_one();
        match self.grow(&mut state) {
            // The threads that exist will come to the work.
            Err(_) if self.most.is_some() && state.threads > 0 => Ok(()),
            Err(error) => {
                state.waiting.pop_back();
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Starts threads for work that waits behind hanging work. Returns after which time to call this again; `None`: no
    /// work waits.
    pub(crate) fn relieve(&self) -> Option<Duration> {
        let mut state = self.shared.state();
        if state.waiting.is_empty() {
            return None;
        }
        // The next call tries again to start a thread.
        let _ = self.grow(&mut state);
        Some(RELIEF)
    }

    /// Starts a thread for each waiting work, up to the most that may be busy.
    fn grow(&self, state: &mut PoolState) -> io::Result<()> {
        let most = self.most.unwrap_or(usize::MAX);
        while state.waiting.len() > state.free() && state.threads - state.hanging() < most {
            let shared = self.shared.clone();
            thread::Builder::new().name(self.name.into()).spawn(move || shared.serve())?;
            state.threads += 1;
        }
        Ok(())
    }
}

impl PoolState {
    /// The number of threads that are about to take waiting work.
    fn free(&self) -> usize {
        self.threads - self.running.len()
    }

    /// Notes the end of work that began at this instant.
    fn note_end(&mut self, begun: Instant) {
        // Of two that began at one instant, either may go.
        let index = self.running.iter().position(|other| *other == begun);
        index.map(|index| self.running.swap_remove(index));
    }

    /// The number of threads whose work hangs.
    fn hanging(&self) -> usize {
        self.running.iter().filter(|begun| begun.elapsed() >= HANGS).count()
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
                let begun = Instant::now();
                state.running.push(begun);
                drop(state);
                let is_free = Cell::new(false);
                let freed = || {
                    if !is_free.replace(true) {
                        self.state().note_end(begun);
                    }
                };
                // The panic hook has reported the panic; the other members of the fleet need this thread.
                let _ = catch_unwind(AssertUnwindSafe(|| work(&freed)));
                freed();
                state = self.state();
                continue;
            }
            if state.is_closed {
                break;
            }
            let (woken, waited) = self.changed.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner);
            state = woken;
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
