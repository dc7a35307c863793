//! An externally managed serving certificate: polled and reported, never written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial::UnixTime;
use perennial_pki::Credential;
use perennial_rotation::FileCredential;
use perennial_rotation::clock;
use serde_json::json;

use super::hook::{self, Hooks};
use crate::failure::Failure;
use crate::metrics::Source;
use crate::report::{self, Report};
use crate::spans::words;

/// The files of certificate and key, and what was last reported about them.
pub(super) struct ExternalCert {
    paths: [PathBuf; 2],
    files: FileCredential,
    /// The path of the certificate file, which names the certificate in events and metrics.
    name: String,
    /// The pair that was reported last. Not the certificate alone: another program may mend the chain behind it.
    reported: Option<Arc<Credential>>,
    /// True if the expiry of the reported certificate was logged.
    expired: bool,
}

impl ExternalCert {
    /// Reads the certificate file and the key file.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the files are no pair.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, Failure> {
        let files = FileCredential::open(certificate, key).map_err(Failure::usage)?;
        let name = certificate.display().to_string();
        Ok(Self { paths: [certificate, key].map(Path::to_owned), files, name, reported: None, expired: false })
    }

    /// True if `other` observes the same certificate and key files.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.paths == other.paths
    }

    /// The name and the source of the certificate's state, for metrics.
    pub(super) fn source(&self) -> (String, Source) {
        (self.name.clone(), Source::Files(self.files.clone()))
    }

    /// Reports the certificate at the first poll, then each replacement. Logs if the certificate has expired. After
    /// each replacement, a run of `--on-rotated` is owed for the new certificate.
    pub(super) fn poll(&mut self, report: &Report, hooks: &Hooks) {
        let credential = self.files.credential();
        let (chain, of, now) = (credential.chain(), &self.name, clock::now().unix);
        let end = chain.certificate().validity.not_after();
        let before = self.reported.replace(credential.clone());
        if before.as_ref() != Some(&credential) {
            let fields = report::with(json!({ "of": of }), report::certificate(chain));
            let name = if before.is_some() { "rotated" } else { "kept" };
            report.event(name, fields, &format!("{of}: externally managed, valid until {end}{}", left(end, now)));
            if before.is_some() {
                hooks.run(of, hook::subject(of.into(), chain));
            }
            self.expired = false;
        }
        if !self.expired && chain.certificate().validity.expired(now) {
            tracing::warn!("{of}: expired at {end}, and the program that rotates it has not replaced it");
            self.expired = true;
        }
    }
}

/// The rest of the lifetime as a clause; empty after expiry.
fn left(end: UnixTime, now: UnixTime) -> String {
    let left = end.since(now);
    if left.is_zero() { String::new() } else { format!(", in {}", words(left)) }
}
