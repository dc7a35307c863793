//! Starts and stops a rotation on threads or on smol. The rest of the program uses the same handle for both runtimes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use perennial_rotation::{Handle, Notice, Notices, Rotator, Snapshot};

use crate::cli::Runtime;
use crate::failure::Failure;
use crate::fleet::Inbox;
use crate::reactor;
use crate::threads;

/// A callback for every notice of a rotation. The callback must not block: all observers of a rotation share a thread
/// and a queue, and notices beyond 256 in the queue are dropped.
pub(crate) type Observer = Box<dyn FnMut(&Notice) + Send>;

/// Most notices in a queue. A busy rotation sends far fewer in a second. While the queue is full, further notices are
/// dropped and counted.
const QUEUED: usize = 256;

/// A running rotation. Dropping it ends the rotation.
pub(crate) struct ActiveRotation {
    handle: Handle,
    /// All notices from the first step on, for the report.
    notices: Unreported,
    /// The snapshot before the first step.
    pub(crate) began: Arc<Snapshot>,
    threads: Vec<JoinHandle<()>>,
}

/// The source of notices for the report.
enum Unreported {
    Own(Notices),
    OfFleet(Inbox),
}

impl ActiveRotation {
    /// The rotation of a member of a fleet, which has just been added. `inbox` receives the member's notices.
    pub(crate) fn of_fleet(handle: Handle, inbox: Inbox) -> Self {
        let began = handle.snapshot();
        Self { handle, notices: Unreported::OfFleet(inbox), began, threads: Vec::new() }
    }

    /// The newest snapshot that is not newer than the notices in the report's queue.
    pub(crate) fn noticed(&self) -> Arc<Snapshot> {
        match &self.notices {
            Unreported::Own(_) => self.handle.snapshot(),
            Unreported::OfFleet(inbox) => inbox.last().unwrap_or_else(|| self.began.clone()),
        }
    }

    /// Takes the next notice for the report; `None` if there is none.
    pub(crate) fn next_notice(&mut self) -> Option<Notice> {
        match &mut self.notices {
            Unreported::Own(notices) => notices.try_recv(),
            Unreported::OfFleet(inbox) => inbox.take(),
        }
    }

    /// Starts a rotation and the thread of its observers.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the rotation cannot be prepared, [`Failure::Failed`] if the system refuses a thread or,
    /// for smol, a descriptor.
    pub(crate) fn start(rotator: Rotator, runtime: Runtime, observers: Vec<Observer>) -> Result<Self, Failure> {
        if runtime == Runtime::Smol {
            reactor::start()?;
        }
        let (handle, task) = rotator.prepare().map_err(Failure::usage)?;
        // Two queues: a slow observer must not cost the report a notice. Subscribed before the first step, to miss
        // none.
        let (began, notices, observed) = (handle.snapshot(), handle.notices(QUEUED), handle.notices(QUEUED));
        let mut threads = vec![threads::start("watch", "a certificate's observers", || observe(observed, observers))?];
        match runtime {
            Runtime::Std => perennial_std::spawn(task).map_err(|error| Failure::no_thread("a rotation", &error))?,
            // Programs with an executor of their own would spawn the task there.
            Runtime::Smol => {
                threads.push(threads::start("smol", "a rotation", || smol::block_on(perennial_smol::run(task)))?);
            }
        }
        Ok(Self { handle, notices: Unreported::Own(notices), began, threads })
    }

    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends the rotation. Waits until the rotation's last write has ended, and until its observers have handled the
    /// last notice.
    pub(crate) fn stop(&mut self) {
        self.handle.shutdown().wait();
        // The observers' thread ends once it has received every notice.
        for thread in self.threads.drain(..) {
            // The panic hook has logged a panic already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
impl ActiveRotation {
    /// A rotation that a test steps itself, with a queue for `queued` notices.
    pub(crate) fn prepared(rotator: Rotator, queued: usize) -> (Self, perennial_rotation::Task) {
        let (handle, task) = rotator.prepare().unwrap();
        let (began, notices) = (handle.snapshot(), handle.notices(queued));
        (Self { handle, notices: Unreported::Own(notices), began, threads: Vec::new() }, task)
    }
}

/// Ends the rotation. Unlike [`stop`](ActiveRotation::stop), does not wait until the rotation has ended.
impl Drop for ActiveRotation {
    fn drop(&mut self) {
        // Calling `shutdown` requests the end; the future that it returns only waits.
        drop(self.handle.shutdown());
    }
}

fn observe(mut notices: Notices, mut observers: Vec<Observer>) {
    while let Some(notice) = notices.recv().wait() {
        notify(&mut observers, &notice);
    }
}

/// Passes a notice to each observer. A panic of an observer, which the panic hook logs, costs the other observers
/// nothing.
pub(crate) fn notify(observers: &mut [Observer], notice: &Notice) {
    for observer in observers {
        let _ = catch_unwind(AssertUnwindSafe(|| observer(notice)));
    }
}
