//! Cancellation of an exchange that blocks a thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, Listener as _};

use crate::handle::link::contain;

type Hook = Box<dyn FnOnce() + Send>;

/// Cancels the blocking code of an exchange when the rotation does not want the result any more. The blocking code
/// checks [`is_cancelled`](Self::is_cancelled), sleeps with [`sleep`](Self::sleep), and sets a hook
/// ([`on_cancel`](Self::on_cancel)) that interrupts its other blocking calls.
#[derive(derive_more::Debug, Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    #[debug(skip)]
    hook: Mutex<Option<Hook>>,
    #[debug(skip)]
    event: Event,
}

impl Cancel {
    /// Cancels the blocking code: ends its [`sleep`](Self::sleep), and runs its hook, if there is one, on the thread
    /// that calls `cancel`. Ignores a panic of the hook.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.event.notify(usize::MAX);
        self.run_hook();
    }

    /// True once [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Sets the hook that [`cancel`](Self::cancel) runs once, for example to shut down a socket that the code reads
    /// from. Replaces the previous hook. If the code is cancelled already, runs the hook at once.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        *self.lock() = Some(Box::new(hook));
        // Checked after the hook is set: a cancellation that came before had no hook to run.
        if self.is_cancelled() {
            self.run_hook();
        }
    }

    /// Drops the hook of [`on_cancel`](Self::on_cancel) without running it.
    pub fn drop_hook(&self) {
        drop(self.lock().take());
    }

    /// Sleeps for `span`, or until [`cancel`](Self::cancel) is called.
    pub fn sleep(&self, span: Duration) {
        // Listen before checking: a cancellation in between is not missed.
        let listener = self.event.listen();
        if self.is_cancelled() {
            return;
        }
        match Instant::now().checked_add(span) {
            Some(until) => drop(listener.wait_deadline(until)),
            None => listener.wait(),
        }
    }

    fn run_hook(&self) {
        // The lock is released first: the hook is foreign code and may call this `Cancel`.
        let hook = self.lock().take();
        if let Some(hook) = hook {
            // The thread may be the loop of all members of a fleet.
            contain(hook);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Hook>> {
        self.hook.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls [`Cancel::cancel`] on drop.
#[derive(Debug)]
pub struct CancelOnDrop(pub Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
