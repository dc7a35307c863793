//! Starts a rotation on either runtime; from then on both are used through the same handle.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use perennial_rotation::{Handle, Notice, Notices, Rotator, Snapshot};

use crate::cli::Runtime;
use crate::failure::Failure;
use crate::reactor;

/// Learns of every notice, on a thread of the rotation's own that does nothing else: be quick.
pub(crate) type Observer = Box<dyn FnMut(&Notice) + Send>;

/// Notices that wait for an observer: a busy rotation gives a few a second.
const QUEUED: usize = 256;

/// A rotation that runs.
pub(crate) struct ActiveRotation {
    handle: Handle,
    /// Notices from the first step on, for the report.
    pub(crate) notices: Notices,
    /// The rotation before its first step.
    pub(crate) began: Arc<Snapshot>,
    threads: Vec<JoinHandle<()>>,
}

impl ActiveRotation {
    pub(crate) fn start(rotator: Rotator, runtime: Runtime, observers: Vec<Observer>) -> Result<Self, Failure> {
        if runtime == Runtime::Smol {
            reactor::start()?;
        }
        let (handle, task) = rotator.prepare().map_err(Failure::usage)?;
        let (began, notices, observed) = (handle.snapshot(), handle.notices(QUEUED), handle.notices(QUEUED));
        let observing = thread::Builder::new().name("watch".into()).spawn(|| observe(observed, observers));
        let observing = observing.map_err(|error| Failure::no_thread("a certificate's observers", &error))?;
        let running = match runtime {
            Runtime::Std => perennial_std::spawn(task).map(|()| None),
            // A program with an executor would spawn it there.
            Runtime::Smol => {
                let run = || smol::block_on(perennial_smol::run(task));
                thread::Builder::new().name("smol".into()).spawn(run).map(Some)
            }
        };
        let running = running.map_err(|error| Failure::no_thread("a rotation", &error))?;
        Ok(Self { handle, notices, began, threads: running.into_iter().chain([observing]).collect() })
    }

    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends it, and waits until it has ended.
    pub(crate) fn stop(&mut self) {
        self.handle.shutdown().wait();
        // The observers have learnt of everything then.
        for thread in self.threads.drain(..) {
            // A panic has been told on stderr already.
            let _ = thread.join();
        }
    }
}

/// A rotation that nobody holds any more ends, and lets its directory go.
impl Drop for ActiveRotation {
    fn drop(&mut self) {
        // The call alone ends it.
        drop(self.handle.shutdown());
    }
}

fn observe(mut notices: Notices, mut observers: Vec<Observer>) {
    while let Some(notice) = notices.recv().wait() {
        observers.iter_mut().for_each(|observer| observer(&notice));
    }
}
