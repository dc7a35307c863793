//! [`DesiredCsr`]: a CertificateSigningRequest to create, and its comparison with an existing one.

use std::collections::BTreeSet;
use std::time::Duration;

use perennial::UnixTime;
use perennial_pki::{CertificateRequest, read_request};

use super::desired::{Desired, Resource};
use super::verdict::Judged;
use crate::objects::{API_VERSION, CSR_PATH, CertificateSigningRequest, CsrSpec, ObjectMeta};

/// A certificate request for a signer of the Kubernetes API.
#[derive(Clone, Debug)]
pub struct DesiredCsr {
    /// The name of the request object. Derive it with [`csr_name`](super::naming::csr_name), so that submitting again
    /// finds the same object.
    pub name: String,
    /// The PKCS#10 request.
    pub request: CertificateRequest,
    /// The signer, `spec.signerName`, such as `kubernetes.io/kube-apiserver-client-kubelet`.
    pub signer_name: String,
    /// The usages by their names in Kubernetes, `spec.usages`, such as `client auth`.
    pub usages: Vec<String>,
    /// The requested lifetime in seconds, `spec.expirationSeconds`. The API refuses less than 600.
    pub expiration_seconds: Option<i32>,
    /// How far this host's clock may be ahead of the true time. If the object existed before this submission, its
    /// certificate may have expired in the meantime. The certificate counts as expired only once `skew` has passed
    /// since its notAfter.
    pub skew: Duration,
}

impl DesiredCsr {
    /// Checks that an existing object's `spec` requests the same key, subject, names, signer and usages as `self`. The
    /// bytes of the PKCS#10 request may differ (ECDSA signatures are random), and so may the lifetime.
    ///
    /// # Errors
    /// The first difference, as a noun phrase.
    pub(crate) fn matches(&self, spec: &CsrSpec) -> Result<(), &'static str> {
        if spec.signer_name != self.signer_name {
            return Err("another signer");
        }
        // The API gives the order of usages no meaning.
        if set(&spec.usages) != set(&self.usages) {
            return Err("other usages");
        }
        if spec.request == self.request.pem.as_bytes() {
            return Ok(());
        }
        let theirs = read_request(&spec.request).map_err(|_| "an unreadable CSR")?;
        let ours = read_request(self.request.pem.as_bytes())
            .map_err(|_| "a CSR that cannot be compared with this one, which is unreadable")?;
        if theirs.public_key_der != ours.public_key_der {
            return Err("another key");
        }
        if !theirs.same_identity(&ours) {
            return Err("another subject or other names");
        }
        Ok(())
    }
}

const RESOURCE: Resource = Resource {
    kind: "CSR",
    version: "v1",
    name: "certificatesigningrequests",
    since: "1.19",
    settings: "",
    former_field: None,
    grant: "the credential must be allowed to create, get, list and watch certificatesigningrequests: bind its user or \
            group to the ClusterRole system:node-bootstrapper (kubectl create clusterrolebinding), and check that it may \
            request this name",
    admission: "change the names, usages or signer of the request, or the policy of the cluster",
};

impl Desired for DesiredCsr {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> String {
        CSR_PATH.to_owned()
    }

    fn object(&self) -> Vec<u8> {
        let object = CertificateSigningRequest {
            api_version: API_VERSION.to_owned(),
            kind: "CertificateSigningRequest".to_owned(),
            metadata: ObjectMeta { name: self.name.clone(), ..ObjectMeta::default() },
            spec: CsrSpec {
                request: self.request.pem.clone().into_bytes(),
                signer_name: self.signer_name.clone(),
                expiration_seconds: self.expiration_seconds,
                usages: self.usages.clone(),
                ..CsrSpec::default()
            },
            ..CertificateSigningRequest::default()
        };
        // Strings, numbers and lists always serialize.
        serde_json::to_vec(&object).unwrap_or_default()
    }

    fn judge(&self, object: &[u8], found: bool, now: UnixTime) -> serde_json::Result<Judged> {
        let object: CertificateSigningRequest = serde_json::from_slice(object)?;
        let verdict = self.verdict(&object, found, now);
        Ok(Judged { metadata: object.metadata, verdict })
    }
}

fn set(items: &[String]) -> BTreeSet<&String> {
    items.iter().collect()
}
