//! Starts a rotation on either runtime; from then on both are used through the same handle.

use std::thread::{self, JoinHandle};

use perennial::{Certificate, Policy, Template};
use perennial_kubernetes::objects::KUBELET_CLIENT_SIGNER;
use perennial_kubernetes::rotation::Signer;
use perennial_std::{Directory, Handle};

use crate::cli::Runtime;
use crate::failure::Failure;

/// The prefix of kubelet's client certificate files.
pub(crate) const PREFIX: &str = "kubelet-client";

/// The seed a rotation that holds this certificate goes by.
pub(crate) fn seed_of(certificate: &Certificate) -> u64 {
    perennial::seed(KUBELET_CLIENT_SIGNER, &certificate.common_name)
}

/// What is to be rotated, and how.
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    pub(crate) template: Template,
    pub(crate) signer: Signer,
    pub(crate) store: Directory,
}

/// A rotation that runs.
pub(crate) struct Running {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Plan {
    pub(crate) fn start(self, runtime: Runtime) -> Result<Running, Failure> {
        let Self { policy, template, signer, store } = self;
        match runtime {
            Runtime::Std => {
                let rotator = perennial_std::Rotator::new().policy(policy).template(template).signer(signer);
                let handle = rotator.store(store).map_err(Failure::usage)?.start().map_err(Failure::failed)?;
                Ok(Running { handle, thread: None })
            }
            Runtime::Smol => {
                let rotator = perennial_smol::Rotator::new().policy(policy).template(template).signer(signer);
                let (handle, rotation) = rotator.store(store).map_err(Failure::usage)?.start();
                // A program with an executor would spawn it there.
                let thread = thread::Builder::new().name("smol".into()).spawn(|| smol::block_on(rotation));
                Ok(Running { handle: handle.blocking().clone(), thread: Some(thread.map_err(Failure::failed)?) })
            }
        }
    }
}

impl Running {
    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends it, and waits until it has ended.
    pub(crate) fn stop(self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread {
            // A panic has been told on stderr already.
            let _ = thread.join();
        }
    }
}
