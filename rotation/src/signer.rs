//! [`Signer`]: the interface to an issuer of certificates.

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
    /// without need: rotation points are computed from the name, and a pending record with another signer name is
    /// ignored.
    fn name(&self) -> &str;

    /// The endpoint of the signer, for example the URL of an API server; `None` if the name alone identifies the
    /// signer. A rotation ignores a pending record with another endpoint.
    fn endpoint(&self) -> Option<String> {
        None
    }

    /// The requirements on every certificate of this signer.
    fn profile(&self) -> &Profile;

    /// The source of the identity that requests to this signer authenticate with.
    fn authentication(&self) -> &Authentication;

    /// The name of the request for this template and key, by which people find the request at the signer; empty if
    /// requests have no names. `public_key_der` is a SubjectPublicKeyInfo. If a request is repeated with the same
    /// template and key, its name must be the same.
    fn request_name(&self, template: &Template, public_key_der: &[u8]) -> String {
        let _ = (template, public_key_der);
        String::new()
    }

    /// True if the signer chooses the names of a certificate by other means than the request, such as by the pod that the
    /// request is for. The template of a rotation may be [empty](Template::is_empty) then. False by default: a request
    /// without names is an error.
    fn chooses_names(&self) -> bool {
        false
    }

    /// A digest of everything that requests to this signer ask for beside the template and the key, such as the pod that a
    /// certificate is for; `None` if the template says all. If the digest of a rotation's signer changes, by
    /// [`Handle::set_signer`](crate::Handle::set_signer) or between two runs, the certificate is replaced at once, and the last
    /// request with its refusal is forgotten. The digest is in the pending record, so it must not change between versions.
    fn request_digest(&self) -> Option<String> {
        None
    }

    /// Begins a request, and returns the exchange that carries it out. Must not block: the loop of the rotation makes
    /// this call.
    ///
    /// # Errors
    /// [`SignError`]: the request cannot begin. The rotation counts it as a failed request, and backs off.
    fn begin(&self, request: SignRequest, now: Now) -> Result<Exchange, SignError>;

    /// When to close the connection that was [kept](crate::KeptConnection) last; `None` if no connection is kept. A
    /// rotation calls this after an exchange, and [`close_kept`](Self::close_kept) at that time.
    fn kept_until(&self) -> Option<Instant> {
        None
    }

    /// Closes the kept connections whose time is over at `now`. A rotation that ends or gets another signer calls this
    /// early, with the time from [`kept_until`](Self::kept_until).
    fn close_kept(&self, now: Now) {
        let _ = now;
    }
}

/// The requirements of a rotation on every certificate of a signer.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The extended key usages to request. An issued certificate must allow each of them.
    pub usages: Vec<Usage>,
    /// The algorithm of the keys to generate.
    pub key_algorithm: KeyAlgorithm,
    /// The algorithms of keys that a request may have instead, if the signer refuses a key and names one of these
    /// ([`SignError::accepts_key`](crate::SignError::accepts_key)). Empty by default.
    pub other_key_algorithms: Vec<KeyAlgorithm>,
    /// The lifetime to request; `None`: the signer decides.
    pub lifetime: Option<Duration>,
    /// How long after its notAfter an issued certificate is still accepted, in case the local clock is ahead of the
    /// signer's. One hour by default. For a local clock that is behind, no tolerance is needed: an issued certificate
    /// that is not valid yet waits for its notBefore.
    pub skew: Duration,
    /// The CA certificates that the chain of an issued certificate must lead to; `None`: any issuer is accepted.
    pub issuers: Option<Roots>,
    /// If false, as by default, the rotation rejects a certificate with URIs that were not requested, and a client
    /// certificate with organizations that were not requested: in Kubernetes an organization is a group, and a group
    /// has rights. If true, such certificates are accepted. Set this for signers that add names of their own.
    pub accepts_extra_rights: bool,
}

impl Profile {
    /// True if a request may have a key of this algorithm.
    pub(crate) fn allows(&self, algorithm: KeyAlgorithm) -> bool {
        [self.key_algorithm].iter().chain(&self.other_key_algorithms).any(|allowed| allowed.admits(algorithm))
    }

    /// Makes a profile with these usages, and the defaults for the other fields.
    pub fn new(usages: impl IntoIterator<Item = Usage>) -> Self {
        Self {
            usages: usages.into_iter().collect(),
            key_algorithm: KeyAlgorithm::default(),
            other_key_algorithms: Vec::new(),
            lifetime: None,
            skew: Duration::from_secs(3600),
            issuers: None,
            accepts_extra_rights: false,
        }
    }
}

/// The source of the identity that requests to a signer authenticate with.
#[derive(Clone, derive_more::Debug)]
pub enum Authentication {
    /// No identity: the signer needs none, or its code authenticates by its own means.
    None,
    /// The certificate being rotated, while it is valid and no server has rejected it; else a bootstrap identity.
    Own {
        /// The identity for the first request, and for requests after the own certificate has expired or a server has
        /// rejected it.
        #[debug("{:?}", bootstrap.as_ref().map(|_| ".."))]
        bootstrap: Option<Arc<dyn IdentitySource>>,
    },
    /// Always the identity of this source, for example for certificates that cannot authenticate a client. If the
    /// source is the [`Handle`](crate::Handle) of another certificate, requests wait until that certificate is valid.
    #[debug("Other(..)")]
    Other(Arc<dyn IdentitySource>),
}

impl Authentication {
    /// Makes [`Authentication::Own`]: requests authenticate with the certificate being rotated, and the first one with
    /// the identity of `bootstrap`.
    pub fn own(bootstrap: impl IdentitySource + 'static) -> Self {
        Self::Own { bootstrap: Some(Arc::new(bootstrap)) }
    }

    /// Makes [`Authentication::Other`]: always the identity of `source`.
    pub fn other(source: impl IdentitySource + 'static) -> Self {
        Self::Other(Arc::new(source))
    }
}

/// One request for a certificate, for a signer to submit. Contains no private key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SignRequest {
    /// The name of this request, from [`Signer::request_name`]; may be empty.
    pub name: String,
    /// The names that the certificate must have.
    pub template: Arc<Template>,
    /// The CSR (PKCS#10) for `template`, signed with the key of the request.
    pub csr: CertificateRequest,
    /// The public key of the request, as SubjectPublicKeyInfo DER.
    pub public_key_der: Vec<u8>,
    /// The identity that the request must authenticate with.
    pub identity: Identity,
    /// The extended key usages to request.
    pub usages: Vec<Usage>,
    /// The lifetime to request; `None`: the signer decides.
    pub lifetime: Option<Duration>,
    /// How long after its notAfter an issued certificate is still accepted: [`Profile::skew`] plus the known lead of
    /// the local clock over the signer's clock.
    pub skew: Duration,
    /// The time at which the certificate to replace expires. If there is no certificate, the time of this request.
    pub needed_by: Instant,
    /// The time limit for this request, after which the rotation gives the request up.
    pub timeout: Duration,
    /// A seed from which an exchange derives the jitter of its pauses, in place of random numbers. Differs between the
    /// requests of a rotation and between the members of a fleet.
    pub seed: u64,
}
