//! The signer that submits CertificateSigningRequest objects.

mod rules;

use std::sync::Arc;

use perennial::{Failure, Instant, Now, Template};
use perennial_pki::Usage;
use perennial_rotation::{Authentication, Exchange, Identity, IdentitySource, Profile, SignError, SignRequest, Signer};

use crate::client::{DesiredCsr, Issuance, Limits, csr_name};
use crate::cluster::Cluster;
use crate::objects::{KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER};

/// A signer of `certificates.k8s.io/v1`: the API server, the identity to use with it, and the kind of certificate.
#[derive(Clone, Debug)]
pub struct CsrSigner {
    /// The API server.
    pub cluster: Arc<Cluster>,
    /// The identity with which requests authenticate.
    pub authentication: Authentication,
    /// The signer, `spec.signerName`, such as `kubernetes.io/kube-apiserver-client-kubelet`.
    pub signer_name: String,
    /// The usages to request, `spec.usages`. `None`: `digital signature`, the usages of the profile, and
    /// `key encipherment` for an RSA key.
    pub usages: Option<Vec<String>>,
    /// The requirements for each certificate. The lifetime in the profile is requested as `spec.expirationSeconds`.
    pub profile: Profile,
    /// The timeouts and the greatest number of HTTP requests of one submission.
    pub limits: Limits,
}

impl CsrSigner {
    /// The signer of kubelet client certificates. Requests authenticate with the current certificate while it is valid
    /// and no server has rejected it, otherwise with the identity of `bootstrap`.
    pub fn kubelet_client(cluster: Arc<Cluster>, bootstrap: Option<Arc<dyn IdentitySource>>) -> Self {
        Self {
            cluster,
            authentication: Authentication::Own { bootstrap },
            signer_name: KUBELET_CLIENT_SIGNER.into(),
            usages: None,
            profile: Profile::new([Usage::ClientAuth]),
            limits: Limits::default(),
        }
    }

    /// The signer of kubelet serving certificates. Requests authenticate as `node`, such as with the node's client
    /// certificate.
    pub fn kubelet_serving(cluster: Arc<Cluster>, node: Arc<dyn IdentitySource>) -> Self {
        Self {
            authentication: Authentication::Other(node),
            signer_name: KUBELET_SERVING_SIGNER.into(),
            profile: Profile::new([Usage::ServerAuth]),
            ..Self::kubelet_client(cluster, None)
        }
    }

    /// Checks the names of a template by Kubernetes' rules for the signer `signer_name`, as each request does. Accepts
    /// all names for a signer of another controller than Kubernetes' own, which decides.
    ///
    /// # Errors
    /// The rule by which the signer would refuse the request, as a sentence.
    pub fn check_names(signer_name: &str, template: &Template) -> Result<(), String> {
        rules::check(signer_name, template)
    }

    /// Checks usages, `spec.usages`, by Kubernetes' rules for the signer `signer_name`. Accepts all usages for a signer of
    /// another controller than Kubernetes' own, which decides.
    ///
    /// # Errors
    /// The rule by which the signer would refuse the request, as a sentence.
    pub fn check_usages(signer_name: &str, usages: &[String]) -> Result<(), String> {
        rules::check_usages(signer_name, usages)
    }

    /// The usages that a signer with this profile and without [`usages`](field@Self::usages) requests.
    pub fn default_usages(profile: &Profile) -> Vec<String> {
        // kubelet's usages for an RSA key, which TLS 1.2 may encrypt with.
        let more = profile.key_algorithm.is_rsa().then(|| "key encipherment".to_owned());
        ["digital signature".to_owned()]
            .into_iter()
            .chain(more)
            .chain(profile.usages.iter().map(Usage::to_string))
            .collect()
    }

    fn usages(&self) -> Vec<String> {
        self.usages.clone().unwrap_or_else(|| Self::default_usages(&self.profile))
    }
}

impl Signer for CsrSigner {
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

    fn request_name(&self, template: &Template, public_key_der: &[u8]) -> String {
        csr_name(public_key_der, template.common_name(), template.organizations(), &self.usages())
    }

    /// Fails with [`Failure::Rejected`], before a request object is created, if Kubernetes' rules for the signer
    /// exclude a name of the template. An object with such names would wait for an approver, and then fail.
    fn begin(&self, request: SignRequest, _now: Now) -> Result<Exchange, SignError> {
        rules::check(&self.signer_name, &request.template).map_err(|why| SignError::new(Failure::Rejected, why))?;
        let limits = Limits { needed_by: request.needed_by, ..self.limits }.lasting(request.timeout);
        let desired_csr = DesiredCsr {
            name: request.name,
            request: request.csr,
            signer_name: self.signer_name.clone(),
            usages: self.usages(),
            // An int32 in the API: a longer lifetime is the longest that the field can hold.
            expiration_seconds: request.lifetime.map(|span| i32::try_from(span.as_secs()).unwrap_or(i32::MAX)),
            skew: request.skew,
        };
        // A certificate that this submission is to replace authenticates no other submission.
        let is_replaced = matches!(self.authentication, Authentication::Own { .. })
            && matches!(request.identity, Identity::Certificate(_));
        let issuance = Issuance::new(desired_csr, self.cluster.clone(), request.identity, limits, request.seed);
        Ok(Exchange::conversation(if is_replaced { issuance } else { issuance.sharing_connections() }))
    }

    fn kept_until(&self) -> Option<Instant> {
        self.cluster.connections()?.until()
    }

    fn close_kept(&self, now: Now) {
        self.cluster.connections().into_iter().for_each(|connections| connections.close(now.instant));
    }
}

#[cfg(test)]
mod tests {
    use perennial_pki::KeyAlgorithm;

    use super::*;

    #[test]
    fn usages_follow_from_profile_and_key_algorithm() {
        let cluster = Arc::new(Cluster::from_url("https://api.example").unwrap());
        let client = CsrSigner::kubelet_client(cluster.clone(), None);
        assert_eq!(client.usages(), ["digital signature", "client auth"]);
        let rsa = CsrSigner {
            profile: Profile { key_algorithm: KeyAlgorithm::Rsa, ..client.profile.clone() },
            ..client.clone()
        };
        assert_eq!(rsa.usages(), ["digital signature", "key encipherment", "client auth"]);
        let serving = CsrSigner::kubelet_serving(cluster, Arc::new(Identity::Anonymous));
        assert_eq!(serving.usages(), ["digital signature", "server auth"]);
        let explicit = CsrSigner { usages: Some(vec!["client auth".into()]), ..client };
        assert_eq!(explicit.usages(), ["client auth"]);
    }
}
