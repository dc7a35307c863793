//! Starts a rotation on either runtime; from then on both are used through the same handle.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use perennial::{Policy, Template};
use perennial_kubernetes::CsrSigner;
use perennial_pki::Credential;
use perennial_rotation::{Directory, Handle, Left, Observer, Rotator};

use crate::cli::Runtime;
use crate::failure::Failure;
use crate::patience;
use crate::reactor;

/// The prefix of kubelet's client certificate files.
pub(crate) const PREFIX: &str = "kubelet-client";

/// The prefix of kubelet's serving certificate files.
pub(crate) const SERVING_PREFIX: &str = "kubelet-server";

/// What is to be rotated, and how.
pub(crate) struct Plan {
    /// What it is called in logs.
    pub(crate) name: String,
    pub(crate) policy: Policy,
    /// `None`: whoever keeps the certificate decides whose it is.
    pub(crate) common_name: Option<String>,
    /// `None`: it is not known yet.
    pub(crate) template: Option<Template>,
    /// `None`: rotation is not enabled, what is there is kept an eye on.
    pub(crate) signer: Option<CsrSigner>,
    pub(crate) store: Arc<Directory>,
    /// How the rotation before this one ended, in this process.
    pub(crate) left: Option<Left>,
    pub(crate) observers: Vec<Observer>,
}

/// A rotation that runs.
pub(crate) struct ActiveRotation {
    handle: Handle,
    /// What it began with, expired or not.
    began_with: Option<Arc<Credential>>,
    thread: Option<JoinHandle<()>>,
}

impl Plan {
    pub(crate) fn start(self, runtime: Runtime) -> Result<ActiveRotation, Failure> {
        let Self { name, policy, common_name, template, signer, store, left, observers } = self;
        let mut rotator = Rotator::new().name(name).policy(policy).store(store);
        if let Some(common_name) = common_name {
            rotator = rotator.common_name(common_name);
        }
        if let Some(template) = template {
            rotator = rotator.template(template);
        }
        if let Some(signer) = signer {
            rotator = rotator.signer(patience::bounded(signer));
        }
        for observer in observers {
            rotator = rotator.observer(observer);
        }
        if let Some(left) = left {
            rotator = rotator.resume(left);
        }
        if runtime == Runtime::Smol {
            reactor::start()?;
        }
        let (handle, task) = rotator.prepare().map_err(Failure::usage)?;
        let began_with = handle.snapshot().credential.clone();
        let thread = match runtime {
            Runtime::Std => perennial_std::spawn(task).map(|()| None),
            // A program with an executor would spawn it there.
            Runtime::Smol => {
                let run = || smol::block_on(perennial_smol::run(task));
                thread::Builder::new().name("smol".into()).spawn(run).map(Some)
            }
        };
        let thread = thread.map_err(|error| Failure::no_thread("a rotation", &error))?;
        Ok(ActiveRotation { handle, began_with, thread })
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
        if let Some(thread) = self.thread.take() {
            // A panic has been told on stderr already.
            let _ = thread.join();
        }
    }
}
