//! [`SourceSigner`]: the signer of a source, with the digest of this source.

use std::sync::Arc;

use perennial::{Instant, Now, Template};
use perennial_rotation::{Authentication, Exchange, Profile, SignError, SignRequest, Signer};

use super::PodCertificateSource;
use crate::PodIdentity;
use crate::pod_signer::request_digest;

/// The signer of a source. A changed pod or source has another digest, also if the signer itself has none.
#[derive(Debug)]
pub(super) struct SourceSigner {
    signer: Arc<dyn Signer>,
    request_digest: String,
}

impl SourceSigner {
    pub(super) fn new(signer: Arc<dyn Signer>, pod: &PodIdentity, source: &PodCertificateSource) -> Self {
        // The paths of the files are not part of a request.
        let PodCertificateSource { signer_name, key_type, max_expiration, projection: _, user_annotations } = source;
        let request_digest = request_digest(pod, signer_name, *key_type, *max_expiration, user_annotations);
        Self { signer, request_digest }
    }
}

impl Signer for SourceSigner {
    fn name(&self) -> &str {
        self.signer.name()
    }

    fn endpoint(&self) -> Option<String> {
        self.signer.endpoint()
    }

    fn profile(&self) -> &Profile {
        self.signer.profile()
    }

    fn authentication(&self) -> &Authentication {
        self.signer.authentication()
    }

    fn request_name(&self, template: &Template, public_key_der: &[u8]) -> String {
        self.signer.request_name(template, public_key_der)
    }

    fn chooses_names(&self) -> bool {
        self.signer.chooses_names()
    }

    fn request_digest(&self) -> Option<String> {
        Some(self.request_digest.clone())
    }

    fn begin(&self, request: SignRequest, now: Now) -> Result<Exchange, SignError> {
        self.signer.begin(request, now)
    }

    fn kept_until(&self) -> Option<Instant> {
        self.signer.kept_until()
    }

    fn close_kept(&self, now: Now) {
        self.signer.close_kept(now);
    }
}
