//! [`Watch`]: reads the files of a pair again and again, for a receiver of their replacements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use event_listener::Event;
use perennial::{Instant, Now};
use perennial_pki::Credential;

use super::FileCredential;
use crate::handle::rotations::Published;
use crate::{Rotations, Wait};

/// Watch of the files of a [`FileCredential`], for a runtime to run. The loop of any runtime is: [`step`](Self::step),
/// end if it returns `None`, and wait for [`ended`](Self::ended) until the time that it returned.
///
/// Dropping a watch ends its receiver: [`Rotations::recv`] returns `None`.
#[derive(Debug)]
pub struct Watch {
    files: FileCredential,
    receiver: Weak<Receiver>,
    is_over: Arc<AtomicBool>,
}

/// The source of the [`Rotations`] that belong to one watch.
#[derive(Debug)]
struct Receiver {
    files: FileCredential,
    is_over: Arc<AtomicBool>,
}

impl FileCredential {
    /// Returns a receiver of the replacements of the pair from now on, and the watch that reads the files, for a runtime
    /// to run. A program calls the function `watch` of its runtime instead. Dropping the receiver ends the watch.
    ///
    /// While there is a watch, [`credential`](Self::credential) does not read the files.
    pub fn watch(&self) -> (Rotations, Watch) {
        self.shared.watches.fetch_add(1, Ordering::Relaxed);
        let is_over = Arc::new(AtomicBool::new(false));
        let receiver = Arc::new(Receiver { files: self.clone(), is_over: is_over.clone() });
        let watch = Watch { files: self.clone(), receiver: Arc::downgrade(&receiver), is_over };
        (Rotations::new(receiver), watch)
    }
}

impl Watch {
    /// Reads the files if that is due, and returns the time of the next call; `None` once the receiver is dropped. May
    /// wait for a disk.
    pub fn step(&mut self, now: Now) -> Option<Instant> {
        if self.receiver.strong_count() == 0 {
            return None;
        }
        self.files.check_if_due(self.files.files(), now);
        let files = self.files.files();
        Some(files.followed.next_check(files.every))
    }

    /// Waits until the receiver is dropped.
    pub fn ended(&self) -> Wait<'static, ()> {
        let receiver = self.receiver.clone();
        Wait::new(&self.files.shared.changed, move || (receiver.strong_count() == 0).then_some(()), || ())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.files.shared.watches.fetch_sub(1, Ordering::Relaxed);
        self.files.shared.changed.notify(usize::MAX);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Wakes the watch, which finds its receiver gone.
        self.files.shared.changed.notify(usize::MAX);
    }
}

impl Published for Receiver {
    fn latest(&self) -> Option<Arc<Credential>> {
        Some(self.files.latest().credential.clone())
    }

    fn has_ended(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn changed(&self) -> &Arc<Event> {
        &self.files.shared.changed
    }
}
