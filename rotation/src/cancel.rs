//! The end of an exchange before its time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, Listener as _};

type Hook = Box<dyn FnOnce() + Send>;

/// Cancellation of blocking code: its result is no longer wanted.
#[derive(derive_more::Debug, Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    #[debug(skip)]
    hook: Mutex<Option<Hook>>,
    #[debug(skip)]
    event: Event,
}

impl Cancel {
    /// Cancels: runs the hook, if there is one, and wakes sleepers.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.event.notify(usize::MAX);
        self.run_hook();
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Runs `hook` when it is cancelled, at once if it has been: to close a socket that is waited for, for example. Takes the
    /// place of the hook before.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        *self.lock() = Some(Box::new(hook));
        if self.is_cancelled() {
            self.run_hook();
        }
    }

    /// Drops the hook.
    pub fn drop_hook(&self) {
        drop(self.lock().take());
    }

    /// Sleeps for this long, or until it is cancelled.
    pub fn sleep(&self, span: Duration) {
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
        // Not under the lock: the hook may come back here.
        let hook = self.lock().take();
        if let Some(hook) = hook {
            hook();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Hook>> {
        self.hook.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cancels on drop.
#[derive(Debug)]
pub struct CancelOnDrop(pub Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
