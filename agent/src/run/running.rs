//! The main loop of `perennial run`: starts, reloads, observes and stops the rotations.

use std::sync::Arc;
use std::time::Duration;

use perennial_rotation::clock;
use perennial_rotation::{LoadRequest, Store as _};
use serde_json::json;

use super::bundles::{Bundles, Connect};
use super::cert_reporter::{CertReporter, report_replacement};
use super::client::Client;
use super::context::Context;
use super::external_cert::ExternalCert;
use super::node::{self, NodeIdentity};
use super::prepared::Prepared;
use super::serving::Serving;
use super::settings::ServingSettings;
use crate::bundle_file::BundleFile;
use crate::failure::Failure;
use crate::kubeconfigs;

/// Interval between polls of files that other programs replace. Also the longest time between two checks of the limit
/// of `--exit-without-certificate`.
const EXTERNAL_POLL: Duration = Duration::from_secs(5);
/// Interval between checks that the files of rotated certificates still exist.
const STORE_POLL: Duration = Duration::from_secs(30);
/// Interval between attempts to write the kubeconfig.
const KUBECONFIG_RETRY: Duration = Duration::from_secs(30);

/// The successful end of a run.
pub(super) enum Ended {
    /// A signal ended a run without `--once`.
    Stopped,
    /// With `--once`: all certificates are in place.
    InPlace,
}

/// The running rotations, and the configuration that they follow.
pub(super) struct Running<'a> {
    pub(super) context: Context<'a>,
    /// The configuration that was applied last.
    config: Prepared,
    client: Client,
    /// The rotation of the serving certificate; `None` unless perennial rotates one.
    serving: Option<Serving>,
    /// The identity that authenticates requests for the serving certificate and reads of the Node object.
    node: NodeIdentity,
    /// The files of `--trust-bundle`.
    bundles: Bundles,
    /// True if the kubeconfig has to be written once the client certificate is in place.
    to_write: bool,
}

impl<'a> Running<'a> {
    /// Starts the rotations. Reports `started` first.
    ///
    /// # Errors
    /// If a rotation cannot be prepared, or the system refuses a thread or descriptor.
    pub(super) fn start(
        context: Context<'a>,
        config: Prepared,
        bundles: Vec<Arc<BundleFile>>,
    ) -> Result<Self, Failure> {
        let (fields, does) = config.describe(context.options);
        context.report.event("started", fields, &format!("started: {does}"));
        let client = Client::start(&context, &config)?;
        let is_own = config.settings.client.is_identity;
        let first = is_own.then(|| client.reporter.rotation.handle().clone());
        let node = NodeIdentity::new(first, context.options.kubeconfig().to_owned());
        let serving = Serving::start(&context, &config, &node)?;
        let mut followed = Bundles::new(config.settings.client.template.common_name(), context.wakes.waker());
        let connect = connect(&config, &node);
        followed.follow(bundles.into_iter().map(|file| (file, connect.clone())).collect())?;
        let to_write = config.access.write;
        let running = Self { context, config, client, serving, node, bundles: followed, to_write };
        running.observe();
        Ok(running)
    }

    /// Runs the main loop until a signal or, with `--once`, until all certificates are in place.
    ///
    /// # Errors
    /// [`Failure::Failed`] if there was no valid certificate for as long as `--exit-without-certificate` allows, or if
    /// a rotation has ended by itself. With `--once`, also if a signal has come before all certificates are in place,
    /// or if the kubeconfig cannot be written.
    pub(super) fn until_ended(&mut self) -> Result<Ended, Failure> {
        loop {
            self.context.observers.serve(self.context.report);
            // First: `is_in_place` below refers to the snapshot that this takes.
            self.report();
            self.write_kubeconfig()?;
            if let Some(serving) = &mut self.serving {
                serving.poll_addresses(&self.config, self.context.report);
            }
            self.client.poll_store(&self.config);
            if let Some(serving) = self.serving.as_mut().filter(|_| self.config.settings.client.rotated) {
                serving.reporter.restore_missing();
            }
            self.notify_service();
            self.client.poll_expiry(self.context.options)?;
            let is_once = self.context.options.once;
            if is_once && self.reporters().all(CertReporter::is_in_place) && self.bundles.are_settled() {
                return self.bundles.troubles().next().map_or(Ok(Ended::InPlace), |why| Err(Failure::Failed(why)));
            }
            if self.reporters().any(|reporter| reporter.rotation.handle().has_ended()) {
                return Err(Failure::Failed("a rotation has ended by itself; please report this as a bug".into()));
            }
            self.context.wait(self.next_poll());
            // Checked first: a reload that arrived as well must not delay the end.
            if self.context.wakes.is_stopping() {
                return self.stopped();
            }
            let certificates = self.reporters().map(|reporter| (&*reporter.of, Some(reporter.rotation.handle())));
            self.context.rotate_demanded(certificates);
            if self.context.wakes.is_to_reload()
                && let Err(why) = self.reload()
            {
                let why = format!("reload failed, keeping the current configuration: {why}");
                tracing::warn!("{why}");
                self.context.report.event("trouble", json!({ "reason": why }), "");
            }
        }
    }

    /// Stops the rotations, and reports their last notices. Stops the serving certificate's rotation first: its
    /// requests authenticate with the client certificate.
    pub(super) fn stop(&mut self) {
        let reporters = self.serving.iter_mut().map(|serving| &mut serving.reporter).chain([&mut self.client.reporter]);
        reporters.for_each(|reporter| reporter.rotation.stop());
        self.report();
    }

    /// Reads the configuration again, and sends changes to the running rotations. Stops a rotation only if the new
    /// configuration does not want its certificate.
    ///
    /// # Errors
    /// If the new configuration cannot be used. The present one stays in force.
    fn reload(&mut self) -> Result<(), Failure> {
        let (config, context) = (&self.config, &self.context);
        let mut next = config.read_again(context.options, self.client.held())?;
        next.claim()?;
        let is_switched_on = next.settings.client.rotated && !config.settings.client.rotated;
        let stored = is_switched_on.then(|| {
            // Loaded as at a start: another program has managed the files until now.
            let common_name = Some(next.settings.client.template.common_name());
            let request =
                LoadRequest { common_name, has_signer: true, now: clock::now().unix, keys: None, request_digest: None };
            next.stores.client.load(&request).map_err(|error| Failure::Usage(error.to_string()))
        });
        let stored = stored.transpose()?;
        match &mut self.serving {
            Some(serving) if next.stores.serving.is_some() => serving.reload(context, config, &next)?,
            Some(_) => {}
            None => self.serving = Serving::start(context, &next, &self.node)?,
        }
        // Nothing below can fail, so a failed reload has changed no rotation of the client certificate.
        self.client.reload(context, config, &next, stored.as_ref());
        // A rotation that was switched on has received the contents of the directory already.
        if next.settings.client.rotated && !is_switched_on {
            let common_name = next.settings.client.template.common_name();
            let Client { reporter, .. } = &self.client;
            report_replacement(&reporter.of, reporter.rotation.handle(), &*next.stores.client, Some(common_name));
        }
        if let (Some(serving), Some(store), ServingSettings::Rotated { node, .. }) =
            (&self.serving, &next.stores.serving, &next.settings.serving)
        {
            let reporter = &serving.reporter;
            report_replacement(&reporter.of, reporter.rotation.handle(), &**store, Some(&node::common_name(node)));
        }
        if next.settings.policy != config.settings.policy {
            let handles = self.reporters().map(|reporter| reporter.rotation.handle());
            handles.for_each(|handle| handle.set_policy(next.settings.policy.clone()));
        }
        if let Some(mut ended) = self.serving.take_if(|_| next.stores.serving.is_none()) {
            ended.reporter.rotation.stop();
            ended.reporter.poll(self.context.report, &self.context.hooks);
        }
        let is_kept = |now: &mut ExternalCert| next.external.as_ref().is_some_and(|next| next.is_of(now));
        if let Some(kept) = self.config.external.take_if(is_kept) {
            next.external = Some(kept);
        }
        // Only a successful reload is announced to systemd. The loop sends READY=1 next.
        self.context.service.reloading();
        if next.access.endpoint != self.config.access.endpoint {
            let connect = connect(&next, &self.node);
            let files = self.bundles.files().into_iter().map(|file| (file, connect.clone())).collect();
            if let Err(why) = self.bundles.follow(files) {
                tracing::error!("cannot follow the trust bundles of the new API server: {why}; keeping their files");
            }
        }
        (self.to_write, self.config) = (next.access.write, next);
        self.observe();
        let (fields, does) = self.config.describe(self.context.options);
        self.context.report.event("reloaded", fields, &format!("configuration read again: {does}"));
        Ok(())
    }

    /// Passes the certificates and the API server of the configuration to the observers.
    fn observe(&self) {
        let rotated = self.reporters().map(|reporter| (reporter.of.clone(), reporter.source(None)));
        let external = self.config.external.iter().map(ExternalCert::source);
        self.context.observers.watch(rotated.chain(external), vec![self.config.access.server.clone()]);
        self.context.observers.set_bundles(self.bundles.files());
    }

    /// The reporters of all rotated certificates, the client certificate's first.
    fn reporters(&self) -> impl Iterator<Item = &CertReporter> + Clone {
        [&self.client.reporter].into_iter().chain(self.serving.iter().map(|serving| &serving.reporter))
    }

    /// Reports what is new about each certificate.
    fn report(&mut self) {
        let Context { report, hooks, .. } = &mut self.context;
        self.client.reporter.poll(report, hooks);
        self.serving.iter_mut().for_each(|serving| serving.reporter.poll(report, hooks));
        self.config.external.iter_mut().for_each(|external| external.poll(report, hooks));
        self.bundles.report(report);
    }

    fn notify_service(&mut self) {
        // Ready means on disk: units that are ordered after this one read the files.
        let ready = !self.config.settings.client.rotated || self.client.reporter.is_on_disk();
        let status: Vec<_> = self.reporters().map(CertReporter::status).chain(self.bundles.troubles()).collect();
        self.context.notify_service(ready, status);
    }

    fn stopped(&self) -> Result<Ended, Failure> {
        if !self.context.options.once {
            return Ok(Ended::Stopped);
        }
        let trouble = self.reporters().find_map(CertReporter::trouble);
        let trouble = trouble.map(|trouble| format!("; last error: {trouble}"));
        let why = format!("interrupted before a certificate was in place{}", trouble.unwrap_or_default());
        Err(Failure::Failed(why))
    }

    fn write_kubeconfig(&mut self) -> Result<(), Failure> {
        if !self.to_write || !self.client.reporter.is_in_place() {
            return Ok(());
        }
        let Context { options, report, .. } = &mut self.context;
        let path = options.kubeconfig();
        match kubeconfigs::write(path, &self.config.access.endpoint, &self.config.current) {
            Ok(()) => {
                self.to_write = false;
                let sentence = format!("wrote the kubeconfig {}", path.display());
                report.event("kubeconfig", json!({ "path": path }), &sentence);
            }
            Err(why) if options.once => return Err(Failure::Failed(why)),
            Err(why) => tracing::warn!("{why}; will try again"),
        }
        Ok(())
    }

    /// Time until the main loop must poll files, check the limit of `--exit-without-certificate`, or try to write the
    /// kubeconfig: no event wakes the loop for these tasks. Never `None`.
    fn next_poll(&self) -> Option<Duration> {
        let kubeconfig = (self.to_write && self.client.reporter.is_in_place()).then_some(KUBECONFIG_RETRY);
        let files = match &self.config.settings.serving {
            ServingSettings::None => false,
            ServingSettings::Rotated { addresses, .. } => addresses.may_change(),
            ServingSettings::Files { .. } => true,
        };
        let expiry = self.context.options.service.exit_without_certificate.map(|most| most.min(EXTERNAL_POLL));
        let files = files || !self.config.settings.client.rotated;
        [kubeconfig, Some(if files { EXTERNAL_POLL } else { STORE_POLL }), expiry].into_iter().flatten().min()
    }
}

/// The API server of the configuration, with the identity of the node.
fn connect(config: &Prepared, node: &NodeIdentity) -> Connect {
    let (cluster, node) = (config.access.server.cluster.clone(), node.clone());
    Arc::new(move || Ok((cluster.clone(), Arc::new(node.clone()) as _)))
}
