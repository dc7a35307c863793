//! What runs from one reading of the configuration to the next, and when it ends.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use perennial::{Fingerprint, Instant, Template};
use perennial_pki::Chain;
use perennial_rotation::{Loaded, clock};
use serde_json::json;

use super::acceptance::Acceptance;
use super::carried::Carried;
use super::external_cert::ExternalCert;
use super::hook::Hook;
use super::node_object::NodeObject;
use super::prepared::{Prepared, Stores};
use super::service::Service;
use super::settings::{Serving, Settings};
use super::wake::{Wake, Wakes};
use super::watch::Watch;
use crate::cli::Run;
use crate::failure::Failure;
use crate::kubeconfigs::{self, Access};
use crate::observers::Observers;
use crate::report::Report;
use crate::rotation::SERVING_PREFIX;
use crate::spans::words;

/// How often what cannot tell of its changes is looked at: files of others, and clocks.
const LOOK: Duration = Duration::from_secs(5);
/// How often a certificate that is rotated is looked for on disk.
const STORE: Duration = Duration::from_secs(30);
/// How often a kubeconfig that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// How a session ended.
pub(super) enum Ended<'a> {
    /// By a signal.
    Stopped,
    /// All that was wanted is in place.
    InPlace,
    /// There is another configuration.
    Reloaded(Box<Prepared<'a>>),
}

/// Rotations that run.
pub(super) struct Running<'a> {
    pub(super) options: &'a Run,
    pub(super) settings: Settings,
    pub(super) access: Access,
    pub(super) stores: Stores,
    /// The file that always leads to the first certificate.
    pub(super) current: PathBuf,
    /// The first certificate, then the serving one.
    pub(super) watches: Vec<Watch>,
    /// The serving one, if somebody else keeps it.
    pub(super) kept: Option<ExternalCert>,
    /// Where the node is, if its cluster is asked.
    pub(super) object: Option<NodeObject>,
    /// Asks the API server whether it accepts the first certificate.
    pub(super) _acceptance: Option<Acceptance>,
    /// The kubeconfig is yet to be written.
    pub(super) to_write: bool,
    /// What the serving certificate is for, and what was wrong with that, when last looked at.
    pub(super) checked: (Option<Template>, String),
    /// What somebody else keeps, when last looked at.
    pub(super) found: Option<Fingerprint>,
    /// Since when there has been no valid first certificate, on a clock that goes on in suspend.
    pub(super) missing_since: Option<Instant>,
}

impl<'a> Running<'a> {
    /// Looks on until a signal or, if that is all that was asked for, until everything is in place.
    pub(super) fn until_ended(
        &mut self,
        wakes: &Wakes,
        observers: &mut Observers,
        report: &mut Report,
        hook: &Hook,
        service: &mut Service,
    ) -> Result<Ended<'a>, Failure> {
        loop {
            observers.serve(report);
            self.watches.iter_mut().for_each(|watch| watch.look(report, hook));
            self.kept.iter_mut().for_each(|kept| kept.look(report, hook));
            self.write_kubeconfig(report)?;
            self.look_at_addresses(report);
            self.look_at_store();
            // Whoever is started after us looks for files.
            let ready = !self.settings.first.rotated || self.watches[0].is_on_disk();
            let status = self.watches.iter().map(Watch::status).chain(hook.troubles()).chain(observers.troubles());
            service.tell(ready, &status.collect::<Vec<_>>().join("; "));
            self.look_at_expiry()?;
            if self.options.once && self.watches.iter().all(Watch::is_in_place) {
                return Ok(Ended::InPlace);
            }
            if self.watches.iter().any(|watch| watch.running.handle().has_ended()) {
                return Err(Failure::Failed("a rotation has ended by itself; please report this as a bug".into()));
            }
            let wake = match [self.next_look(), observers.retry()].into_iter().flatten().min() {
                Some(span) => wakes.arrived.recv_timeout(span),
                None => wakes.arrived.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match wake {
                _ if wakes.stopping.load(Ordering::SeqCst) => return self.stopped(),
                Ok(Wake::Changed) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stopped(),
                Ok(Wake::Renew) => self.watches.iter().for_each(|watch| watch.running.handle().rotate_now()),
                Ok(Wake::Reload) => match self.read_again() {
                    Ok(next) => return Ok(Ended::Reloaded(Box::new(next))),
                    Err(why) => {
                        report.event("trouble", json!({ "reason": format!("not read again: {why}") }), "");
                        tracing::warn!("what there was goes on: {why}");
                    }
                },
            }
        }
    }

    /// Ends every rotation; the serving one first, which depends on the other. What happened until then is told.
    pub(super) fn stop(mut self, report: &mut Report, hook: &Hook) -> Carried {
        self.watches.iter_mut().rev().for_each(|watch| watch.running.stop());
        self.watches.iter_mut().for_each(|watch| watch.look(report, hook));
        self.kept.iter_mut().for_each(|kept| kept.look(report, hook));
        Carried::of(&self.watches, self.kept.as_ref(), self.missing_since)
    }

    /// The first certificate, if it is valid.
    pub(super) fn held(&self) -> Option<Chain> {
        self.watches[0].running.handle().credential().map(|credential| credential.chain().clone())
    }

    fn stopped(&self) -> Result<Ended<'a>, Failure> {
        if !self.options.once {
            return Ok(Ended::Stopped);
        }
        let trouble = self.watches.iter().find_map(Watch::trouble);
        let trouble = trouble.map(|trouble| format!("; the last trouble: {trouble}"));
        let why = format!("interrupted before a certificate was in place{}", trouble.unwrap_or_default());
        Err(Failure::Failed(why))
    }

    /// Another configuration, if it can be used.
    fn read_again(&self) -> Result<Prepared<'a>, Failure> {
        let next = Prepared::prepare(self.options, Settings::read(self.options)?, Some(self))?;
        next.claim().map(|()| next)
    }

    fn write_kubeconfig(&mut self, report: &mut Report) -> Result<(), Failure> {
        if !self.to_write || !self.watches[0].is_in_place() {
            return Ok(());
        }
        let path = &self.options.kubeconfig;
        match kubeconfigs::write(path, &self.access.endpoint, &self.current) {
            Ok(()) => {
                self.to_write = false;
                report.event("kubeconfig", json!({ "path": path }), &format!("wrote {}", path.display()));
            }
            Err(why) if self.options.once => return Err(Failure::Failed(why)),
            Err(why) => tracing::warn!("{why}; will try again"),
        }
        Ok(())
    }

    /// The serving certificate is asked for once there is somebody to ask as, and again when addresses change.
    fn look_at_addresses(&mut self, report: &mut Report) {
        let Settings { first: wanted, serving, .. } = &self.settings;
        let (Serving::Rotated { node, addresses }, [first, serving]) = (serving, &mut *self.watches) else {
            return;
        };
        if wanted.rotated && wanted.renews_itself && first.running.handle().credential().is_none() {
            return;
        }
        // Before the first look at the Node object, nothing is wrong yet.
        if self.object.as_ref().is_some_and(|object| object.addresses().is_none()) {
            return;
        }
        let (template, trouble) = match addresses.template(node, self.object.as_ref()) {
            Ok(Some(template)) => (Some(template), String::new()),
            Ok(None) => (None, "there is no IP address to ask for".into()),
            // What was read before is still the best that is known.
            Err(why) => (self.checked.0.clone(), why),
        };
        if !trouble.is_empty() && trouble != self.checked.1 {
            tracing::warn!("{SERVING_PREFIX}: {trouble}");
        }
        if template != self.checked.0 {
            let what = template.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            tracing::info!("{SERVING_PREFIX}: certificates are requested for {what}");
            serving.running.handle().set_template(template.clone());
        }
        serving.lacks(if template.is_none() { &trouble } else { "" }, report);
        self.checked = (template, trouble);
    }

    /// Whoever keeps what we do not rotate may have put another pair there.
    /// Follows a directory that another program keeps, and notices when a file of ours is gone.
    fn look_at_store(&mut self) {
        if self.settings.first.rotated {
            return self.watches.iter_mut().for_each(Watch::put_back);
        }
        let Ok(Loaded { credential: Some((found, _)), .. }) = self.stores.first.load(clock::now().unix) else { return };
        let fingerprint = found.chain().certificate().fingerprint;
        if self.found.replace(fingerprint) != Some(fingerprint) {
            self.watches[0].running.handle().replaced(Some(found));
        }
    }

    fn look_at_expiry(&mut self) -> Result<(), Failure> {
        let missing = self.watches[0].running.handle().credential().is_none();
        let now = clock::now().instant;
        self.missing_since = missing.then(|| self.missing_since.unwrap_or(now));
        let since = self.missing_since.map(|since| now.since(since));
        match (since, self.options.service.exit_without_certificate) {
            (Some(since), Some(most)) if since >= most => {
                let trouble = self.watches[0].trouble().map(|trouble| format!("; the last trouble: {trouble}"));
                let since = words(since);
                let why = format!("no valid certificate for {since}{}", trouble.unwrap_or_default());
                Err(Failure::Failed(why))
            }
            _ => Ok(()),
        }
    }

    /// What changes without telling us is looked at now and then.
    fn next_look(&self) -> Option<Duration> {
        let kubeconfig = (self.to_write && self.watches[0].is_in_place()).then_some(RETRY);
        let files = match &self.settings.serving {
            Serving::None => false,
            Serving::Rotated { addresses, .. } => addresses.may_change(),
            Serving::Files { .. } => true,
        };
        let expiry = self.options.service.exit_without_certificate.map(|most| most.min(LOOK));
        let files = files || !self.settings.first.rotated;
        [kubeconfig, Some(if files { LOOK } else { STORE }), expiry].into_iter().flatten().min()
    }
}
