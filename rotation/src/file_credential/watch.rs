//! [`Watch`]: reads the files of a pair again and again, and reports each replacement of the pair to a receiver.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_listener::Event;
use perennial::{Instant, Now};
use perennial_pki::Credential;

use super::FileCredential;
use crate::handle::rotations::Published;
use crate::{Rotations, Wait};

/// Shortest interval of a watch, which would take a whole CPU with an interval of zero.
const SHORTEST: Duration = Duration::from_millis(10);

/// Reads the files of a [`FileCredential`] again and again, in a loop of a runtime. The loop calls
/// [`step`](Self::step), and ends if `step` returns `None`. Otherwise the loop waits for [`ended`](Self::ended), at
/// most until the time that `step` returned, and begins again.
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
    /// Begins a watch of the files. Returns the receiver, which gets each later replacement of the pair, and the
    /// [`Watch`], which reads the files and needs a runtime to run it. Programs call the function `watch` of their
    /// runtime instead. Dropping the receiver ends the watch.
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
    /// Reads the files if a check is due. Returns the time of the next check, or `None` once the receiver is dropped.
    /// May wait for a disk.
    pub fn step(&mut self, now: Now) -> Option<Instant> {
        if self.receiver.strong_count() == 0 {
            return None;
        }
        self.files.check_if_due(self.files.files(), now);
        let files = self.files.files();
        Some(files.followed.next_check(files.every.max(SHORTEST)))
    }

    /// Waits until the receiver is dropped.
    pub fn ended(&self) -> Wait<'static, ()> {
        let (receiver, shared) = (self.receiver.clone(), self.files.shared.clone());
        Wait::new(move || shared.changed.listen(), move || (receiver.strong_count() == 0).then_some(()), || ())
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

    fn changed(&self) -> &Event {
        &self.files.shared.changed
    }
}
