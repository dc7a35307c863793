//! A serving certificate that somebody else keeps: looked at, and reported on.

use std::path::Path;
use std::sync::Arc;

use perennial::UnixTime;
use perennial_std::{FileCredential, clock};
use serde_json::json;

use super::hook::Hook;
use crate::failure::Failure;
use crate::metrics::Source;
use crate::report::{self, Report};
use crate::spans::words;

/// Two files, and what was told of them.
pub(super) struct Kept {
    files: Arc<FileCredential>,
    certificate: String,
    told: Option<String>,
    expired: bool,
}

impl Kept {
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, Failure> {
        let files = FileCredential::open(certificate, key).map_err(Failure::usage)?;
        let files = Arc::new(files);
        Ok(Self { files, certificate: certificate.display().to_string(), told: None, expired: false })
    }

    /// For those who look on.
    pub(super) fn source(&self) -> (String, Source) {
        (self.certificate.clone(), Source::Files(self.files.clone()))
    }

    /// Tells what is new.
    pub(super) fn look(&mut self, report: &mut Report, hook: &mut Hook) {
        let credential = self.files.credential();
        let (chain, of, now) = (credential.chain(), &self.certificate, clock::now().unix);
        let end = chain.certificate().validity.not_after();
        if self.told.as_deref() != Some(chain.serial()) {
            let fields = report::with(json!({ "of": of }), report::certificate(chain));
            let name = if self.told.is_some() { "rotated" } else { "kept" };
            report.event(name, fields, &format!("{of}: kept by somebody else, valid until {end}{}", left(end, now)));
            if self.told.is_some() {
                hook.run(of, Path::new(of), chain.serial());
            }
            (self.told, self.expired) = (Some(chain.serial().to_owned()), false);
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
