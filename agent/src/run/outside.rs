//! What the rotations of a run are connected to: flags, signals, the report, observers, the command of the operator.

use std::sync::Arc;

use perennial_rotation::{Directory, Rotator, clock};

use super::cert_reporter::CertReporter;
use super::hook::{self, Hook};
use super::service::Service;
use super::wake::Wakes;
use crate::cli::Run;
use crate::failure::Failure;
use crate::hook_debt;
use crate::observers::Observers;
use crate::report::Report;
use crate::rotation::ActiveRotation;

/// The surroundings of the rotations, which are the same from the start to the end.
pub(super) struct Outside<'a> {
    pub(super) options: &'a Run,
    pub(super) report: &'a mut Report,
    pub(super) observers: Observers,
    pub(super) hook: Hook,
    pub(super) service: Service,
    pub(super) wakes: Wakes,
}

impl Outside<'_> {
    /// Starts a rotation that keeps its certificate in `store`, in files that begin with `prefix`.
    pub(super) fn start(
        &self,
        prefix: &str,
        rotator: Rotator,
        store: &Arc<Directory>,
    ) -> Result<CertReporter, Failure> {
        let current = std::path::absolute(store.current()).map_err(Failure::usage)?;
        let observers = self.observers.of(prefix).into_iter().chain([self.wakes.observer()]).collect();
        let rotation = ActiveRotation::start(rotator.store(store.clone()), self.options.runtime, observers)?;
        Ok(CertReporter::new(prefix, rotation, current))
    }

    /// Makes the record of what `--on-rotated` owes, or goes on from it, before anything is rotated.
    pub(super) fn begin_hook(&self, prefix: &str, store: &Directory, common_name: &str) {
        let now = clock::now().unix;
        // What cannot be read owes nothing until it is replaced.
        let file = std::path::absolute(store.current()).unwrap_or_else(|_| store.current());
        let in_use = store.load_of(Some(common_name), now).ok().and_then(|loaded| loaded.credential);
        let in_use = in_use.filter(|(credential, _)| !credential.chain().certificate().validity.expired(now));
        let in_use = in_use.map(|(credential, _)| hook::subject(file, credential.chain()));
        self.hook.begin(prefix, hook_debt::place(&self.options.cert_dir, prefix), in_use);
    }
}
