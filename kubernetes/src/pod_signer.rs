//! The signer that submits PodCertificateRequest objects.

mod digest;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Now, Template};
use perennial_rotation::{Authentication, Exchange, IdentitySource, Profile, SignError, SignRequest, Signer};

use crate::client::{DesiredPodCertificate, Issuance, Limits, pod_certificate_name};
use crate::cluster::Cluster;
use crate::names;
use crate::objects::PodCertificateSpec;

pub(crate) use digest::request_digest;

/// The pod that a certificate is for, with its service account and its node. The API server compares these names and
/// UIDs with its own objects: a node gets certificates only for pods that are bound to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodIdentity {
    /// The namespace of the pod.
    pub namespace: String,
    /// The name of the pod.
    pub name: String,
    /// The UID of the pod.
    pub uid: String,
    /// The name of the pod's service account.
    pub service_account_name: String,
    /// The UID of the pod's service account.
    pub service_account_uid: String,
    /// The name of the node that the pod is bound to.
    pub node_name: String,
    /// The UID of the node that the pod is bound to.
    pub node_uid: String,
}

impl PodIdentity {
    /// Checks the names and UIDs by the rules of the API, as each request does.
    ///
    /// # Errors
    /// The first name or UID that the API server would refuse, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let Self { namespace, name, uid, service_account_name, service_account_uid, node_name, node_uid } = self;
        rules::pod(namespace, [name, service_account_name, node_name], [uid, service_account_uid, node_uid])
    }
}

/// Requests the certificate of one pod with PodCertificateRequest objects of `certificates.k8s.io/v1beta1` (KEP-4317), which
/// need Kubernetes 1.36 or newer. For all pods of a node, see [`PodCertificates`](crate::pods::PodCertificates).
///
/// The signer derives the names of the certificate from the pod, so the rotation has a template without names,
/// `Template::default()`. The signer may give a hint when to rotate the certificate (`status.beginRefreshAt`).
#[derive(Clone, Debug)]
pub struct PodCertificateSigner {
    /// The API server.
    pub cluster: Arc<Cluster>,
    /// The identity with which requests authenticate: that of the node, never that of the pod.
    pub authentication: Authentication,
    /// The signer, `spec.signerName`, such as `example.com/mesh`.
    pub signer_name: String,
    /// The pod.
    pub pod: PodIdentity,
    /// Information of the pod's author for the signer, `spec.unverifiedUserAnnotations`. Each key has a domain as its
    /// prefix: `example.com/name`.
    pub unverified_user_annotations: BTreeMap<String, String>,
    /// The requirements for each certificate. The lifetime in the profile is requested as `spec.maxExpirationSeconds`,
    /// which is 24 hours without one; a certificate that lives longer is refused. The usages in the profile are not
    /// requested, since the signer chooses them, but a certificate must have them.
    pub profile: Profile,
    /// The timeouts and the greatest number of HTTP requests of one submission.
    pub limits: Limits,
}

/// The `maxExpirationSeconds` that an API server sets if there is none.
const DAY: Duration = Duration::from_secs(86_400);

impl PodCertificateSigner {
    /// Requests certificates of `pod` from the signer `signer_name`. Requests authenticate as `node`, for example with the
    /// node's client certificate. The profile requires no usages.
    pub fn new(
        cluster: Arc<Cluster>,
        node: Arc<dyn IdentitySource>,
        signer_name: impl Into<String>,
        pod: PodIdentity,
    ) -> Self {
        Self {
            cluster,
            authentication: Authentication::Other(node),
            signer_name: signer_name.into(),
            pod,
            unverified_user_annotations: BTreeMap::new(),
            profile: Profile::new([]),
            limits: Limits::default(),
        }
    }

    /// Checks signer name, pod, lifetime and annotations by the rules of the API
    /// (`ValidatePodCertificateRequestCreate`), as each request does.
    ///
    /// # Errors
    /// The first rule by which an API server would refuse the request, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        rules::check(&self.pod.namespace, &self.spec(), self.lifetime())
    }

    /// Checks the name of a signer by the rules of the API.
    ///
    /// # Errors
    /// The rule that the name breaks, as a sentence.
    pub fn check_signer_name(signer_name: &str) -> Result<(), String> {
        names::signer_name(signer_name)
    }

    /// Checks the lifetime to request from a signer: at least one hour, and at most 91 days, or 24 hours of a signer at
    /// `kubernetes.io`.
    ///
    /// # Errors
    /// The bounds, as a sentence.
    pub fn check_lifetime(signer_name: &str, lifetime: Duration) -> Result<(), String> {
        rules::lifetime(signer_name, lifetime)
    }

    /// Checks annotations for the signer: each key has a domain as its prefix, and all together have at most 256 KiB.
    ///
    /// # Errors
    /// The first rule that an annotation breaks, as a sentence.
    pub fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), String> {
        rules::annotations(annotations)
    }

    fn lifetime(&self) -> Duration {
        self.profile.lifetime.unwrap_or(DAY)
    }

    /// The content of a request, without its CSR.
    fn spec(&self) -> PodCertificateSpec {
        let PodIdentity { name, uid, service_account_name, service_account_uid, node_name, node_uid, .. } =
            self.pod.clone();
        PodCertificateSpec {
            signer_name: self.signer_name.clone(),
            pod_name: name,
            pod_uid: uid,
            service_account_name,
            service_account_uid,
            node_name,
            node_uid,
            // `rules` refuses a lifetime that does not fit before a request is made.
            max_expiration_seconds: Some(i32::try_from(self.lifetime().as_secs()).unwrap_or(i32::MAX)),
            unverified_user_annotations: self.unverified_user_annotations.clone(),
            ..PodCertificateSpec::default()
        }
    }
}

impl Signer for PodCertificateSigner {
    fn name(&self) -> &str {
        &self.signer_name
    }

    /// The configured URL of the API server.
    fn endpoint(&self) -> Option<String> {
        Some(self.cluster.to_string())
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    /// A digest of the pod, the signer, the kind of the key, the lifetime and the annotations.
    fn request_digest(&self) -> Option<String> {
        let Self { pod, signer_name, unverified_user_annotations, profile, .. } = self;
        let Profile { key_algorithm, lifetime, .. } = profile;
        Some(request_digest(pod, signer_name, *key_algorithm, *lifetime, unverified_user_annotations))
    }

    fn request_name(&self, _template: &Template, public_key_der: &[u8]) -> String {
        pod_certificate_name(public_key_der, &self.spec())
    }

    /// True: the signer derives the names from the pod.
    fn chooses_names(&self) -> bool {
        true
    }

    /// Fails with [`Failure::Rejected`], before a request object is created, if [`check`](Self::check) fails, or if the
    /// template has names: a PodCertificateRequest cannot request names.
    fn begin(&self, request: SignRequest, _now: Now) -> Result<Exchange, SignError> {
        let rejected = |why| SignError::new(Failure::Rejected, why);
        self.check().map_err(rejected)?;
        if !request.template.is_empty() {
            return Err(rejected(format!(
                "a request for the certificate of a pod has no names, and the template has {}: remove them, since the \
                 signer chooses the names",
                request.template
            )));
        }
        let desired = DesiredPodCertificate {
            name: request.name,
            namespace: self.pod.namespace.clone(),
            spec: PodCertificateSpec { stub_pkcs10_request: request.csr.der, ..self.spec() },
            skew: request.skew,
        };
        let limits = Limits { needed_by: request.needed_by, ..self.limits }.lasting(request.timeout);
        let issuance = Issuance::of_pod(desired, self.cluster.clone(), request.identity, limits, request.seed);
        Ok(Exchange::conversation(issuance.sharing_connections()))
    }

    fn kept_until(&self) -> Option<Instant> {
        self.cluster.connections()?.until()
    }

    fn close_kept(&self, now: Now) {
        self.cluster.connections().into_iter().for_each(|connections| connections.close(now.instant));
    }
}
