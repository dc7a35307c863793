//! What goes over from one session to the next.

use std::collections::BTreeMap;

use perennial::{Fingerprint, Instant};
use perennial_rotation::Left;

use super::external_cert::ExternalCert;
use super::watch::Watch;

/// What a session left, by certificate.
#[derive(Default)]
pub(super) struct Carried {
    left: BTreeMap<String, Left>,
    told: BTreeMap<String, Fingerprint>,
    /// There has been no valid first certificate.
    pub(super) missing_since: Option<Instant>,
}

impl Carried {
    /// Of rotations that have ended, and files that were looked at.
    pub(super) fn of(watches: &[Watch], kept: Option<&ExternalCert>, missing_since: Option<Instant>) -> Self {
        let left = watches.iter().map(|watch| (watch.of.clone(), watch.running.handle().left()));
        let told = watches.iter().filter_map(|watch| Some((watch.of.clone(), watch.told()?)));
        let told = told.chain(kept.and_then(ExternalCert::told));
        Self { left: left.collect(), told: told.collect(), missing_since }
    }

    /// How the rotation of this certificate ended.
    pub(super) fn left(&self, of: &str) -> Option<Left> {
        self.left.get(of).cloned()
    }

    /// The certificate of this name that was told of last.
    pub(super) fn told(&self, of: &str) -> Option<Fingerprint> {
        self.told.get(of).copied()
    }
}
