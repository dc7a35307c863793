//! The client certificate: kept rotated, or watched while another program rotates it.

use perennial::{Fingerprint, Instant};
use perennial_pki::Chain;
use perennial_rotation::clock;
use perennial_rotation::{Loaded, Rotator, Stored};

use super::acceptance::Acceptance;
use super::cert_reporter::CertReporter;
use super::outside::Outside;
use super::prepared::Prepared;
use crate::cli::Run;
use crate::failure::Failure;
use crate::files;
use crate::spans::words;

/// The rotation of the client certificate.
pub(super) struct Client {
    pub(super) reporter: CertReporter,
    /// Asks the API server whether it accepts the certificate.
    acceptance: Option<Acceptance>,
    /// The certificate that another program keeps, when last looked at.
    found: Option<Fingerprint>,
    /// Since when there has been no valid certificate, on a clock that goes on in suspend.
    missing_since: Option<Instant>,
}

impl Client {
    pub(super) fn start(outside: &Outside<'_>, config: &Prepared) -> Result<Self, Failure> {
        let (options, settings, access) = (outside.options, &config.settings, &config.access);
        let (client, prefix) = (&settings.client, options.wanted.prefix.as_str());
        begin_hook(outside, config);
        let rotator = Rotator::new()
            .name(if config.stores.serving.is_some() { prefix } else { "" })
            .policy(settings.policy.clone())
            .common_name(client.template.common_name())
            .signer_name(options.wanted.signer_name.as_str());
        let rotator = match client.signer(options, access.server.cluster.clone(), access.bootstrap.clone()) {
            Some(signer) => rotator.template(client.template.clone()).signer(signer),
            None => rotator,
        };
        let reporter = outside.start(prefix, rotator, &config.stores.client)?;
        let acceptance = start_acceptance(&reporter, options, config)?;
        Ok(Self { reporter, acceptance, found: None, missing_since: None })
    }

    /// Goes on with the next configuration. `stored`: what the directory holds, if rotation is switched on by that.
    pub(super) fn reload(
        &mut self,
        outside: &Outside<'_>,
        config: &Prepared,
        next: &Prepared,
        stored: Option<&Stored>,
    ) {
        if next.asks_like(config) {
            return;
        }
        let (options, client, access) = (outside.options, &next.settings.client, &next.access);
        if client.rotated != config.settings.client.rotated {
            begin_hook(outside, next);
        }
        let handle = self.reporter.rotation.handle();
        handle.set_template(client.rotated.then(|| client.template.clone()));
        // Before the signer: what another program has put there may leave nothing to request.
        if let Some(stored) = stored {
            handle.report_replaced(stored.credential.clone());
            stored.waiting.iter().for_each(|waiting| handle.report_replaced(Some(waiting.clone())));
        }
        handle.set_signer(client.signer(options, access.server.cluster.clone(), access.bootstrap.clone()));
        // And after it: only with a signer is a worse pair, or none, overwritten.
        stored.iter().for_each(|stored| handle.report_replaced(stored.credential.clone()));
        if stored.is_some_and(|stored| stored.is_misplaced) {
            handle.rotate_now();
        }
        self.acceptance = start_acceptance(&self.reporter, options, next).unwrap_or_else(|why| {
            tracing::warn!("cannot check whether the API server accepts the certificate: {why}");
            None
        });
    }

    /// The certificate, if it is valid.
    pub(super) fn held(&self) -> Option<Chain> {
        self.reporter.rotation.handle().credential().map(|credential| credential.chain().clone())
    }

    /// Takes note of what another program has put into the directory, and of files of ours that are gone.
    pub(super) fn poll_store(&mut self, config: &Prepared) {
        if config.settings.client.rotated {
            self.reporter.put_back();
            return;
        }
        // What was accepted before rotation was switched off is still written.
        if !self.reporter.rotation.handle().snapshot().unwritten {
            config.stores.client.release();
        }
        let Ok(Loaded { credential: Some((found, _)), .. }) = config.stores.client.load(clock::now().unix) else {
            return;
        };
        let fingerprint = found.chain().certificate().fingerprint;
        if self.found.replace(fingerprint) != Some(fingerprint) {
            self.reporter.rotation.handle().report_replaced(Some(found));
        }
    }

    /// Fails once there has been no valid certificate for as long as `--exit-without-certificate` says.
    pub(super) fn poll_expiry(&mut self, options: &Run) -> Result<(), Failure> {
        let missing = self.reporter.rotation.handle().credential().is_none();
        let now = clock::now().instant;
        self.missing_since = missing.then(|| self.missing_since.unwrap_or(now));
        let since = self.missing_since.map(|since| now.since(since));
        match (since, options.service.exit_without_certificate) {
            (Some(since), Some(most)) if since >= most => {
                let trouble = self.reporter.trouble().map(|trouble| format!("; the last trouble: {trouble}"));
                let since = words(since);
                let why = format!("no valid certificate for {since}{}", trouble.unwrap_or_default());
                Err(Failure::Failed(why))
            }
            _ => Ok(()),
        }
    }
}

/// Owes runs of `--on-rotated` on disk while the certificate is rotated, else in memory.
fn begin_hook(outside: &Outside<'_>, config: &Prepared) {
    let (client, prefix) = (&config.settings.client, outside.options.wanted.prefix.as_str());
    if client.rotated {
        files::sweep(&outside.options.kubeconfig);
        outside.begin_hook(prefix, &config.stores.client, client.template.common_name());
    } else {
        outside.hook.forget_record(prefix);
    }
}

fn start_acceptance(reporter: &CertReporter, options: &Run, config: &Prepared) -> Result<Option<Acceptance>, Failure> {
    let (client, interval) = (&config.settings.client, options.numbers.certificate_check_interval);
    if !client.rotated || !client.renews_itself || options.once || interval.is_zero() {
        return Ok(None);
    }
    let (cluster, handle) = (config.access.server.cluster.clone(), reporter.rotation.handle().clone());
    Acceptance::start(client.template.common_name(), interval, cluster, handle).map(Some)
}
