//! The seam to whatever issues certificates.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now, Template};
use perennial_pki::{CertificateRequest, KeyAlgorithm, Roots, Usage};

use crate::exchange::Exchange;
use crate::identity::Identity;
use crate::identity_source::IdentitySource;
use crate::sign_error::SignError;

/// Issues certificates on request: a Kubernetes API server, a CA, a tool.
///
/// A signer brings a request to an end. Keys, pacing, the store and the checks of what was issued are the rotation's.
#[auto_impl::auto_impl(Arc)]
pub trait Signer: fmt::Debug + Send + Sync {
    /// The name of the signer, for example `kubernetes.io/kube-apiserver-client-kubelet`. Rotation points are drawn from
    /// the name, and the record of a request to a signer of another name is disregarded: never change it without need.
    fn name(&self) -> &str;

    /// Where the signer is asked, for example the URL of an API server; `None` if there is but one place. The record of a
    /// request to another endpoint is disregarded.
    fn endpoint(&self) -> Option<String> {
        None
    }

    /// What every certificate of this signer must be.
    fn profile(&self) -> &Profile;

    /// The identity that requests show.
    fn authentication(&self) -> &Authentication;

    /// The name of a request for this identity and key, as people find it at the signer; empty if requests have none.
    /// `public_key_der` is a SubjectPublicKeyInfo. A request that is repeated with the same key must have the same name.
    fn request_name(&self, template: &Template, public_key_der: &[u8]) -> String {
        let _ = (template, public_key_der);
        String::new()
    }

    /// Begins a request. Called on the loop of the rotation: the work is done by what is returned.
    ///
    /// # Errors
    /// [`SignError`]: the request cannot be begun. It counts as one that failed.
    fn begin(&self, request: SignRequest, now: Now) -> Result<Exchange, SignError>;
}

/// What every certificate of a signer must be.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What the certificate is for. It must be good for each of these.
    pub usages: Vec<Usage>,
    /// The kind of keys to generate.
    pub key_algorithm: KeyAlgorithm,
    /// The lifetime wished for; `None`: the signer decides.
    pub lifetime: Option<Duration>,
    /// How far our clock may be ahead before an issued certificate counts as expired. An hour: the servers it is for go by
    /// the signer's clock, more or less. A certificate that is not valid yet is kept until it is.
    pub skew: Duration,
    /// If set, an issued certificate must lead to one of these.
    pub issuers: Option<Roots>,
    /// Accepts a certificate with URIs or, if it is good for [`Usage::ClientAuth`], organizations that were not requested.
    /// Off: in Kubernetes an organization is a group, and a group has rights. For signers that add their own.
    pub accepts_extra_rights: bool,
}

impl Profile {
    /// Certificates for these usages, with everything else by default.
    pub fn new(usages: impl IntoIterator<Item = Usage>) -> Self {
        Self {
            usages: usages.into_iter().collect(),
            key_algorithm: KeyAlgorithm::default(),
            lifetime: None,
            skew: Duration::from_secs(3600),
            issuers: None,
            accepts_extra_rights: false,
        }
    }
}

/// The identity that requests to a signer show.
#[derive(Clone, derive_more::Debug)]
pub enum Authentication {
    /// None: the signer asks for no identity, or has its own way.
    None,
    /// The certificate being rotated, while it is valid and accepted; else a bootstrap identity.
    Own {
        /// For the first certificate, and when our own is of no use any more.
        #[debug("{:?}", bootstrap.as_ref().map(|_| ".."))]
        bootstrap: Option<Arc<dyn IdentitySource>>,
    },
    /// Always this one: for certificates that are not client certificates themselves. With the [`Handle`](crate::Handle) of
    /// another certificate, the first request waits until there is that certificate.
    #[debug("Other(..)")]
    Other(Arc<dyn IdentitySource>),
}

impl Authentication {
    /// The certificate being rotated, with this identity for the first one.
    pub fn own(bootstrap: impl IdentitySource + 'static) -> Self {
        Self::Own { bootstrap: Some(Arc::new(bootstrap)) }
    }

    /// Always this identity.
    pub fn other(source: impl IdentitySource + 'static) -> Self {
        Self::Other(Arc::new(source))
    }
}

/// One request for a certificate, complete but for the signer's part. Holds no private key.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// [`Signer::request_name`] of this request.
    pub name: String,
    /// The identity wanted.
    pub template: Arc<Template>,
    /// The PKCS#10 request, signed with the key.
    pub csr: CertificateRequest,
    /// The key of the request, as SubjectPublicKeyInfo DER.
    pub public_key_der: Vec<u8>,
    /// The identity to show.
    pub identity: Identity,
    /// What the certificate is for.
    pub usages: Vec<Usage>,
    /// The lifetime wished for.
    pub lifetime: Option<Duration>,
    /// How far our clock may be ahead before an issued certificate counts as expired, by the profile and by what the
    /// signer's clock showed.
    pub skew: Duration,
    /// When the certificate that is to be replaced expires; in the past if there is none.
    pub needed_by: Instant,
    /// How long the rotation waits for the end of the request.
    pub timeout: Duration,
    /// Differs between requests and between the members of a fleet: spreads pauses without a random number.
    pub seed: u64,
}
