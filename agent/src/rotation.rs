//! Starts a rotation on either runtime; from then on both are used through the same handle.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use perennial::{Policy, Template};
use perennial_pki::Credential;
use perennial_rotation::{Directory, Handle, Notice, Notices, Rotator, Signer};

use crate::cli::Runtime;
use crate::failure::Failure;
use crate::reactor;

/// What is to be rotated, and how.
pub(crate) struct Plan {
    /// What it is called in logs.
    pub(crate) name: String,
    pub(crate) policy: Policy,
    pub(crate) common_name: String,
    /// `None`: it is not known yet.
    pub(crate) template: Option<Template>,
    /// The name of the signer that is there once rotation is enabled.
    pub(crate) signer_name: String,
    /// `None`: rotation is not enabled, what is there is kept an eye on.
    pub(crate) signer: Option<Arc<dyn Signer>>,
    pub(crate) store: Arc<Directory>,
}

/// Learns of every notice, on a thread of the rotation's own that does nothing else: be quick.
pub(crate) type Observer = Box<dyn FnMut(&Notice) + Send>;

/// Notices that wait for an observer: a busy rotation gives a few a second.
const QUEUED: usize = 256;

/// A rotation that runs.
pub(crate) struct ActiveRotation {
    handle: Handle,
    /// Notices from the first step on, for the report.
    pub(crate) notices: Notices,
    observing: Option<JoinHandle<()>>,
    /// What it began with, expired or not.
    began_with: Option<Arc<Credential>>,
    thread: Option<JoinHandle<()>>,
}

impl Plan {
    pub(crate) fn start(self, runtime: Runtime, observers: Vec<Observer>) -> Result<ActiveRotation, Failure> {
        let Self { name, policy, common_name, template, signer_name, signer, store } = self;
        let rotator = Rotator::new().name(name).policy(policy).store(store);
        let mut rotator = rotator.common_name(common_name).signer_name(signer_name);
        if let Some(template) = template {
            rotator = rotator.template(template);
        }
        if let Some(signer) = signer {
            rotator = rotator.signer(signer);
        }
        if runtime == Runtime::Smol {
            reactor::start()?;
        }
        let (handle, task) = rotator.prepare().map_err(Failure::usage)?;
        let began_with = handle.snapshot().credential.clone();
        let (notices, observed) = (handle.notices(QUEUED), handle.notices(QUEUED));
        let observing = thread::Builder::new().name("watch".into()).spawn(|| observe(observed, observers));
        let observing = observing.map_err(|error| Failure::no_thread("a certificate's observers", &error))?;
        let thread = match runtime {
            Runtime::Std => perennial_std::spawn(task).map(|()| None),
            // A program with an executor would spawn it there.
            Runtime::Smol => {
                let run = || smol::block_on(perennial_smol::run(task));
                thread::Builder::new().name("smol".into()).spawn(run).map(Some)
            }
        };
        let thread = thread.map_err(|error| Failure::no_thread("a rotation", &error))?;
        Ok(ActiveRotation { handle, notices, observing: Some(observing), began_with, thread })
    }
}

impl ActiveRotation {
    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) const fn began_with(&self) -> Option<&Arc<Credential>> {
        self.began_with.as_ref()
    }

    /// Ends it, and waits until it has ended.
    pub(crate) fn stop(&mut self) {
        self.handle.shutdown().wait();
        // The observers have learnt of everything then.
        for thread in [self.thread.take(), self.observing.take()].into_iter().flatten() {
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
