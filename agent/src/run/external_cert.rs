//! A serving certificate that somebody else keeps: looked at, and reported on.

use std::path::Path;
use std::sync::Arc;

use perennial::{Fingerprint, UnixTime};
use perennial_rotation::{FileCredential, clock};
use serde_json::json;

use super::carried::Carried;
use super::hook::{self, Hook};
use crate::failure::Failure;
use crate::metrics::Source;
use crate::report::{self, Report};
use crate::spans::words;

/// Two files, and what was told of them.
pub(super) struct ExternalCert {
    files: Arc<FileCredential>,
    certificate: String,
    /// The certificate that was told of last.
    told: Option<Fingerprint>,
    /// That it is looked at.
    said: bool,
    expired: bool,
}

impl ExternalCert {
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, Failure> {
        let files = FileCredential::open(certificate, key).map_err(Failure::usage)?;
        let files = Arc::new(files);
        Ok(Self { files, certificate: certificate.display().to_string(), told: None, said: false, expired: false })
    }

    /// For those who look on.
    pub(super) fn source(&self) -> (String, Source) {
        (self.certificate.clone(), Source::Files(self.files.clone()))
    }

    /// What an earlier session told of is no news.
    pub(super) fn resume(&mut self, carried: &Carried) {
        self.told = carried.told(&self.certificate);
    }

    /// The certificate that was told of last.
    pub(super) fn told(&self) -> Option<(String, Fingerprint)> {
        self.told.map(|told| (self.certificate.clone(), told))
    }

    /// Tells what is new.
    pub(super) fn look(&mut self, report: &mut Report, hook: &Hook) {
        let credential = self.files.credential();
        let (chain, of, now) = (credential.chain(), &self.certificate, clock::now().unix);
        let end = chain.certificate().validity.not_after();
        let fingerprint = chain.certificate().fingerprint;
        let is_another = self.told.is_some_and(|told| told != fingerprint);
        if is_another || !self.said {
            let fields = report::with(json!({ "of": of }), report::certificate(chain));
            let name = if is_another { "rotated" } else { "kept" };
            report.event(name, fields, &format!("{of}: kept by somebody else, valid until {end}{}", left(end, now)));
            if is_another {
                hook.run(of, hook::subject(of.into(), chain));
            }
            (self.told, self.said, self.expired) = (Some(fingerprint), true, false);
        }
        if !self.expired && chain.certificate().validity.expired(now) {
            tracing::warn!("{of}: expired at {end}, and nobody has put another one there");
            self.expired = true;
        }
    }
}

fn left(end: UnixTime, now: UnixTime) -> String {
    let left = end.since(now);
    if left.is_zero() { String::new() } else { format!(", for {}", words(left)) }
}
