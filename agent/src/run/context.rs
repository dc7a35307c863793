//! The environment of the rotations: flags, signals, report, observers, systemd and hooks.

use std::sync::Arc;

use perennial_rotation::{Directory, Rotator, clock};

use super::acceptance::Checks;
use super::cert_reporter::CertReporter;
use super::hook::{self, Hooks};
use super::service::Systemd;
use super::wake::{self, Wakes};
use crate::cli::Run;
use crate::control::Control;
use crate::failure::Failure;
use crate::hook_debt;
use crate::observers::Observers;
use crate::report::Report;
use crate::rotation::ActiveRotation;

/// The values that all rotations of a run share. A reload does not replace them.
pub(super) struct Context<'a> {
    pub(super) options: &'a Run,
    pub(super) report: &'a Report,
    pub(super) observers: Observers,
    pub(super) hooks: Hooks,
    pub(super) service: Systemd,
    pub(super) wakes: Wakes,
    pub(super) checks: Checks,
    /// The socket of `--control`; `None` without the flag.
    pub(super) control: Option<Control>,
}

impl Context<'_> {
    /// Starts a rotation whose files are in `store` and begin with `prefix`.
    ///
    /// # Errors
    /// The errors of [`ActiveRotation::start`].
    pub(super) fn start(
        &self,
        prefix: &str,
        rotator: Rotator,
        store: &Arc<Directory>,
    ) -> Result<CertReporter, Failure> {
        let current = std::path::absolute(store.current()).map_err(Failure::usage)?;
        let observers =
            self.observers.watchers.of(prefix).into_iter().chain([wake::observer(self.wakes.waker())]).collect();
        let rotation = ActiveRotation::start(rotator.store(store.clone()), self.options.runtime, observers)?;
        Ok(CertReporter::new(prefix, rotation, current))
    }

    /// Reads or creates the hook record of the certificate with the prefix `prefix`. Must be called before the rotation
    /// of the certificate starts.
    pub(super) fn begin_hook(&self, prefix: &str, store: &Directory, common_name: &str) {
        let now = clock::now().unix;
        // An unreadable or expired pair owes no run; its replacement will.
        let file = std::path::absolute(store.current()).unwrap_or_else(|_| store.current());
        let in_use = store.load(Some(common_name), now).ok().and_then(|loaded| loaded.credential);
        let in_use = in_use.filter(|(credential, _)| !credential.chain().certificate().validity.expired(now));
        let in_use = in_use.map(|(credential, _)| hook::subject(file, credential.chain()));
        let path = hook_debt::record_path(&self.options.cert_dir, prefix);
        self.hooks.begin(prefix, self.hooks.common().cloned(), path, in_use);
    }
}
