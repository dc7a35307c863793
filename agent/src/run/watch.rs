//! Looks on while the certificate is kept rotated, tells, and writes the kubeconfig.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use perennial::State;
use perennial_kubernetes::client::Progress;
use perennial_kubernetes::rotation::Snapshot;
use perennial_std::Handle;
use serde_json::json;

use crate::cli;
use crate::failure::Failure;
use crate::kubeconfigs::{self, Access};
use crate::report::{self, Report};
use crate::spans::words;

/// How often a kubeconfig that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Who looks on.
pub(super) struct Watch<'a> {
    handle: &'a Handle,
    report: &'a mut Report,
    /// There is a certificate: the next one is a rotation.
    held: bool,
    /// How many of the issued certificates were told.
    told: u64,
    seen: Seen,
}

/// What was told last.
#[derive(Default, PartialEq)]
struct Seen {
    issued: u64,
    unwritten: bool,
    /// A certificate that is not due is in use and on disk.
    in_place: bool,
    /// `None` while the certificate is not on disk: when it will be rotated is told after that it was issued.
    state: Option<State>,
    trouble: Option<Arc<str>>,
    progress: Option<Progress>,
}

impl Seen {
    fn of(now: &Snapshot) -> Self {
        Self {
            issued: now.issued,
            unwritten: now.unwritten,
            in_place: now.credential.is_some() && now.due.is_none() && !now.unwritten,
            state: (!now.unwritten).then_some(now.state),
            trouble: now.last_error.clone(),
            progress: now.progress.clone(),
        }
    }
}

impl<'a> Watch<'a> {
    pub(super) fn new(handle: &'a Handle, report: &'a mut Report, held: bool) -> Self {
        Self { handle, report, held, told: 0, seen: Seen::default() }
    }

    /// Until a signal or, if that is all that was asked for, until a certificate that is not due is in place.
    pub(super) fn until_stopped(
        &mut self,
        options: &cli::Run,
        access: &Access,
        current: &Path,
        stopping: &AtomicBool,
    ) -> Result<(), Failure> {
        let mut to_write = access.write;
        loop {
            self.look();
            if to_write && self.seen.in_place {
                match kubeconfigs::write(&options.kubeconfig, &access.endpoint, current) {
                    Ok(()) => {
                        to_write = false;
                        let sentence = format!("wrote {}", options.kubeconfig.display());
                        self.report.event("kubeconfig", json!({ "path": options.kubeconfig }), &sentence);
                    }
                    Err(why) if options.once => return Err(Failure::Failed(why)),
                    Err(why) => tracing::warn!("{why}; will try again"),
                }
            }
            if options.once && self.seen.in_place {
                return Ok(());
            }
            let retry = (to_write && self.seen.in_place).then_some(RETRY);
            let changed = self.handle.wait_for(retry, |now| Seen::of(now) != self.seen);
            if changed.is_none() && self.handle.link().has_ended() {
                return match (stopping.load(Ordering::SeqCst), options.once) {
                    (true, false) => Ok(()),
                    (true, true) => Err(Failure::Failed(self.interrupted())),
                    (false, _) => {
                        Err(Failure::Failed("the rotation has ended by itself; please report this as a bug".into()))
                    }
                };
            }
        }
    }

    fn interrupted(&self) -> String {
        let trouble = self.seen.trouble.as_deref().map(|error| format!("; the last trouble: {error}"));
        format!("interrupted before a certificate was in place{}", trouble.unwrap_or_default())
    }

    /// Tells what is new. What has no sentence here is logged by the runtime.
    fn look(&mut self) {
        let now = self.handle.snapshot();
        let new = Seen::of(&now);
        if let (Some(credential), true) = (&now.credential, now.issued > self.told && !now.unwritten) {
            let name = if self.held { "rotated" } else { "issued" };
            self.report.event(name, report::certificate(credential.chain()), "");
            (self.held, self.told) = (true, now.issued);
        }
        if let (Some(Progress::WaitingForApproval { csr_name }), true) =
            (&new.progress, new.progress != self.seen.progress)
        {
            self.report.event("waiting_for_approval", json!({ "csr": csr_name }), "");
        }
        if let (Some(trouble), true) = (&new.trouble, new.trouble != self.seen.trouble) {
            self.report.event("trouble", json!({ "reason": &**trouble }), "");
        }
        if let (Some(State::Resting { rotate_at }), true) = (new.state, new.state != self.seen.state) {
            let sentence = format!("next rotation at {rotate_at}, in {}", words(rotate_at.since(now.at.unix)));
            self.report.event("resting", json!({ "rotate_at": rotate_at.to_string() }), &sentence);
        }
        self.seen = new;
    }
}
