//! The environment of the rotations: flags, signals, report, observers, systemd and hooks.

use std::sync::Arc;
use std::time::Duration;

use perennial_rotation::{Directory, Handle, Rotator, clock};

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

    /// Waits for a wake, for at most `most`, and at most until the metrics server tries again to listen.
    pub(super) fn wait(&self, most: Option<Duration>) {
        self.wakes.wait([most, self.observers.retry()].into_iter().flatten().min());
    }

    /// Requests the rotations that were demanded since the last call, by SIGUSR1 and at the socket of `--control`.
    /// `certificates` are the names of all certificates, each with its rotation, or `None` while the certificate could
    /// not start.
    pub(super) fn rotate_demanded<'a>(
        &self,
        certificates: impl Iterator<Item = (&'a str, Option<&'a Handle>)> + Clone,
    ) {
        if self.wakes.is_to_rotate() {
            certificates.clone().filter_map(|(_, handle)| handle).for_each(Handle::rotate_now);
        }
        if let Some(control) = &self.control {
            control.serve(certificates);
        }
    }

    /// Notifies systemd whether the service is ready, and of its status: `status`, which describes the certificates, and
    /// the errors of hooks and observers.
    pub(super) fn notify_service(&mut self, ready: bool, mut status: Vec<String>) {
        status.extend(self.hooks.troubles());
        status.extend(self.observers.troubles());
        self.service.update(ready, &status.join("; "));
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
        self.hooks.run_owed(prefix);
    }
}
