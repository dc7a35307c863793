//! What is asked of a signer, and how to tell that an object is that very request.

use std::collections::BTreeSet;
use std::time::Duration;

use perennial_pki::{CertificateRequest, Roots, Usage, read_request};

use crate::objects::{API_VERSION, CertificateSigningRequest, CsrSpec, ObjectMeta};

/// One request to a signer and what its certificate must be good for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Name of the request object; derive it with [`csr_name`](crate::naming::csr_name), so that asking
    /// again finds the same object.
    pub name: String,
    /// The PKCS#10 request.
    pub request: CertificateRequest,
    /// The key asked for, as SubjectPublicKeyInfo DER.
    pub public_key_der: Vec<u8>,
    /// Who is to sign, for example `kubernetes.io/kube-apiserver-client-kubelet`.
    pub signer_name: String,
    /// Key usages, in Kubernetes' words.
    pub usages: Vec<String>,
    /// The lifetime wished for; the API refuses less than 600.
    pub expiration_seconds: Option<i32>,
    /// What the certificate is to be used for.
    pub usage: Usage,
    /// How far its `notBefore` may lie in the future: the allowance for clocks that differ.
    pub skew: Duration,
    /// The CAs it must chain up to, if they are known.
    pub roots: Option<Roots>,
}

impl Ask {
    /// The object to create.
    pub(crate) fn object(&self) -> CertificateSigningRequest {
        CertificateSigningRequest {
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
        }
    }

    /// Whether `spec` asks for the same: key, subject and names, signer and usages. The bytes may differ
    /// (signatures are random), and so may the lifetime. The error says what is different.
    pub(crate) fn matches(&self, spec: &CsrSpec) -> Result<(), &'static str> {
        if spec.signer_name != self.signer_name {
            return Err("another signer");
        }
        if set(&spec.usages) != set(&self.usages) {
            return Err("other usages");
        }
        if spec.request == self.request.pem.as_bytes() {
            return Ok(());
        }
        let theirs = read_request(&spec.request).map_err(|_| "a request that cannot be read")?;
        let ours =
            read_request(self.request.pem.as_bytes()).map_err(|_| "something, but our own request cannot be read")?;
        if theirs.public_key_der != ours.public_key_der {
            return Err("another key");
        }
        if theirs.common_name != ours.common_name || set(&theirs.organizations) != set(&ours.organizations) {
            return Err("another subject");
        }
        if theirs.names.dns != ours.names.dns {
            return Err("other subject alternative names");
        }
        Ok(())
    }
}

fn set<T: Ord>(items: &[T]) -> BTreeSet<&T> {
    items.iter().collect()
}
