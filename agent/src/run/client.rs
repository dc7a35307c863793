//! The client certificate. perennial rotates it, or only observes it while another program rotates it.

use perennial::Fingerprint;
use perennial_pki::Chain;
use perennial_rotation::clock;
use perennial_rotation::{Loaded, Rotator, Stored};

use super::absence::Absence;
use super::acceptance::Acceptance;
use super::cert_reporter::CertReporter;
use super::context::Context;
use super::prepared::Prepared;
use crate::cli::Run;
use crate::failure::Failure;
use crate::files;
use crate::spans::words;

/// The rotation of the client certificate.
pub(super) struct Client {
    pub(super) reporter: CertReporter,
    /// The checks whether the API server accepts the certificate; `None` if they are off.
    acceptance: Option<Acceptance>,
    /// The externally managed certificate at the last poll.
    found: Option<Fingerprint>,
    absence: Absence,
}

impl Client {
    pub(super) fn start(context: &Context<'_>, config: &Prepared) -> Result<Self, Failure> {
        let (options, settings, access) = (context.options, &config.settings, &config.access);
        let (client, prefix) = (&settings.client, options.wanted.prefix.as_str());
        begin_hook(context, config);
        let rotator = Rotator::new()
            // The log names the rotation only if there are two.
            .name(if config.stores.serving.is_some() { prefix } else { "" })
            .policy(settings.policy.clone())
            .common_name(client.template.common_name())
            .signer_name(options.wanted.signer_name.as_str());
        let rotator = match client.signer(options, access.server.cluster.clone(), access.bootstrap.clone()) {
            Some(signer) => rotator.template(client.template.clone()).signer(signer),
            None => rotator,
        };
        let reporter = context.start(prefix, rotator, &config.stores.client)?;
        let acceptance = start_acceptance(&reporter, context, config)?;
        Ok(Self { reporter, acceptance, found: None, absence: Absence::default() })
    }

    /// Applies the configuration `next` to the running rotation, in the place of `config`. If `next` switches rotation
    /// on, `stored` must be the contents of the directory.
    pub(super) fn reload(
        &mut self,
        context: &Context<'_>,
        config: &Prepared,
        next: &Prepared,
        stored: Option<&Stored>,
    ) {
        if next.requests_like(config) {
            return;
        }
        let (options, client, access) = (context.options, &next.settings.client, &next.access);
        if client.rotated != config.settings.client.rotated {
            begin_hook(context, next);
        }
        let handle = self.reporter.rotation.handle();
        if let Err(error) = handle.set_template(client.rotated.then(|| client.template.clone())) {
            tracing::error!("{error}; continuing with the names requested until now");
        }
        // Before the signer is set, so that no request is submitted if the directory holds a certificate that is not
        // due.
        if let Some(stored) = stored {
            handle.report_replaced(stored.credential.clone());
            stored.waiting.iter().for_each(|waiting| handle.report_replaced(Some(waiting.clone())));
        }
        handle.set_signer(client.signer(options, access.server.cluster.clone(), access.bootstrap.clone()));
        // Again after the signer is set: only a rotation with a signer overwrites a worse pair, or a missing one, with
        // its own.
        stored.iter().for_each(|stored| handle.report_replaced(stored.credential.clone()));
        if stored.is_some_and(|stored| stored.is_misplaced) {
            handle.rotate_now();
        }
        self.acceptance = start_acceptance(&self.reporter, context, next).unwrap_or_else(|why| {
            tracing::warn!("cannot check whether the API server accepts the certificate: {why}");
            None
        });
    }

    /// The client certificate; `None` if there is no valid one.
    pub(super) fn held(&self) -> Option<Chain> {
        self.reporter.rotation.handle().credential().map(|credential| credential.chain().clone())
    }

    /// Polls the directory. If perennial rotates the certificate and its files were removed, makes the rotation write
    /// the certificate again.
    ///
    /// If another program rotates the certificate, reports that program's pair to the rotation. Also releases the lock
    /// of the directory, once the rotation has written every certificate that it accepted before rotation was switched
    /// off.
    pub(super) fn poll_store(&mut self, config: &Prepared) {
        if config.settings.client.rotated {
            self.reporter.restore_missing();
            return;
        }
        // The lock is kept until a certificate that was accepted before rotation was switched off is written.
        if !self.reporter.rotation.handle().snapshot().unwritten {
            config.stores.client.release();
        }
        let Ok(Loaded { credential: Some((found, _)), .. }) = config.stores.client.load(None, clock::now().unix) else {
            return;
        };
        let fingerprint = found.chain().certificate().fingerprint;
        if self.found.replace(fingerprint) != Some(fingerprint) {
            self.reporter.rotation.handle().report_replaced(Some(found));
        }
    }

    /// Checks the limit of `--exit-without-certificate`.
    ///
    /// # Errors
    /// [`Failure::Failed`] once there has been no valid certificate for as long as the flag allows.
    pub(super) fn poll_expiry(&mut self, options: &Run) -> Result<(), Failure> {
        let is_missing = self.reporter.rotation.handle().credential().is_none();
        let most = options.service.exit_without_certificate;
        let Some(since) = self.absence.beyond(most, is_missing, clock::now().instant) else { return Ok(()) };
        let trouble = self.reporter.trouble().map(|trouble| format!("; last error: {trouble}"));
        let since = words(since);
        let why = format!("no valid certificate for {since}{}", trouble.unwrap_or_default());
        Err(Failure::Failed(why))
    }
}

/// Prepares the debt of `--on-rotated`: recorded on disk if perennial rotates the certificate, else kept in memory.
fn begin_hook(context: &Context<'_>, config: &Prepared) {
    let (client, prefix) = (&config.settings.client, context.options.wanted.prefix.as_str());
    if client.rotated {
        files::sweep(context.options.kubeconfig());
        context.begin_hook(prefix, &config.stores.client, client.template.common_name());
    } else {
        context.hooks.forget_record(prefix);
    }
}

fn start_acceptance(
    reporter: &CertReporter,
    context: &Context<'_>,
    config: &Prepared,
) -> Result<Option<Acceptance>, Failure> {
    let options = context.options;
    let (client, interval) = (&config.settings.client, options.certificate_check_interval);
    if !client.rotated || !client.is_identity || options.once || interval.is_zero() {
        return Ok(None);
    }
    let (cluster, handle) = (config.access.server.cluster.clone(), reporter.rotation.handle().clone());
    context.checks.add(client.template.common_name(), interval, cluster, handle).map(Some)
}
