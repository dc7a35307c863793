//! The interface to issuers of certificates.

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
/// A signer submits a request and returns the issued chain or an error. The rotation generates keys, paces requests,
/// checks issued chains and stores them.
#[auto_impl::auto_impl(Arc)]
pub trait Signer: fmt::Debug + Send + Sync {
    /// The name of the signer, for example `kubernetes.io/kube-apiserver-client-kubelet`. Do not change the name
    /// without need: rotation points are drawn from it, and a pending record of another signer name is ignored.
    fn name(&self) -> &str;

    /// The endpoint of the signer, for example the URL of an API server; `None` if the name alone identifies the
    /// signer. A pending record of another endpoint is ignored.
    fn endpoint(&self) -> Option<String> {
        None
    }

    /// Requirements on every certificate of this signer.
    fn profile(&self) -> &Profile;

    /// The identity that requests show.
    fn authentication(&self) -> &Authentication;

    /// The name of a request for this identity and key, as people find it at the signer; empty if requests have none.
    /// `public_key_der` is a SubjectPublicKeyInfo. A request that is repeated with the same key must have the same
    /// name.
    fn request_name(&self, template: &Template, public_key_der: &[u8]) -> String {
        let _ = (template, public_key_der);
        String::new()
    }

    /// Begins a request, and returns the exchange that carries it out. Must not block: the loop of the rotation makes
    /// this call.
    ///
    /// # Errors
    /// [`SignError`]: the request cannot begin. The rotation counts it as a failed request, and backs off.
    fn begin(&self, request: SignRequest, now: Now) -> Result<Exchange, SignError>;
}

/// Requirements on every certificate of a signer.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Extended key usages to request. An issued certificate must allow each of them.
    pub usages: Vec<Usage>,
    /// Algorithm of the keys to generate.
    pub key_algorithm: KeyAlgorithm,
    /// Lifetime to request; `None`: the signer decides.
    pub lifetime: Option<Duration>,
    /// How long after its notAfter an issued certificate is still accepted, in case the local clock is ahead of the
    /// signer's. An hour by default. An issued certificate that is not valid yet waits until it is.
    pub skew: Duration,
    /// Roots that the chain of an issued certificate must lead to; `None`: the chain is not checked against roots.
    pub issuers: Option<Roots>,
    /// Accepts a certificate with URIs or, if it is good for [`Usage::ClientAuth`], organizations that were not
    /// requested. Off by default: in Kubernetes an organization is a group, and a group has rights. Set this for
    /// signers that add their own names.
    pub accepts_extra_rights: bool,
}

impl Profile {
    /// A profile with these usages, and the defaults for the rest.
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
    /// No identity: the signer needs none, or authenticates by its own means.
    None,
    /// The certificate being rotated, while it is valid and accepted; else a bootstrap identity.
    Own {
        /// Identity for the first request, and for requests after the own certificate has expired or was rejected.
        #[debug("{:?}", bootstrap.as_ref().map(|_| ".."))]
        bootstrap: Option<Arc<dyn IdentitySource>>,
    },
    /// Always the identity of this source: for certificates that are not client certificates themselves. If the source
    /// is the [`Handle`](crate::Handle) of another certificate, requests wait until that certificate is valid.
    #[debug("Other(..)")]
    Other(Arc<dyn IdentitySource>),
}

impl Authentication {
    /// The certificate being rotated; the identity of `bootstrap` for the first request.
    pub fn own(bootstrap: impl IdentitySource + 'static) -> Self {
        Self::Own { bootstrap: Some(Arc::new(bootstrap)) }
    }

    /// Always the identity of `source`.
    pub fn other(source: impl IdentitySource + 'static) -> Self {
        Self::Other(Arc::new(source))
    }
}

/// One request for a certificate, for a signer to submit. Contains no private key.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// [`Signer::request_name`] of this request.
    pub name: String,
    /// The names requested.
    pub template: Arc<Template>,
    /// The CSR (PKCS#10), signed with the key.
    pub csr: CertificateRequest,
    /// The key of the request, as SubjectPublicKeyInfo DER.
    pub public_key_der: Vec<u8>,
    /// The identity to authenticate with.
    pub identity: Identity,
    /// The extended key usages requested.
    pub usages: Vec<Usage>,
    /// The lifetime requested; `None`: the signer decides.
    pub lifetime: Option<Duration>,
    /// How long after its notAfter an issued certificate is still accepted: [`Profile::skew`] and the known lead of the
    /// local clock over the signer's.
    pub skew: Duration,
    /// When the certificate to replace expires; the time of this request if there is none.
    pub needed_by: Instant,
    /// Time after which the rotation gives the request up.
    pub timeout: Duration,
    /// Seed for pauses, instead of a random number. Differs between the requests of a rotation and the members of a
    /// fleet.
    pub seed: u64,
}
