//! The HTTP requests that create, read, list and watch a request object, and the comparison with an existing object.

use std::collections::BTreeSet;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use perennial_pki::{CertificateRequest, read_request};

use super::http::Request;
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
    /// The HTTP request that creates the object. The server answers 409 if an object of this name exists.
    pub(crate) fn create(&self) -> Request {
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
        Request::post(CSR_PATH, serde_json::to_vec(&object).unwrap_or_default())
    }

    /// The HTTP request that reads the object by its name.
    pub(crate) fn read(&self) -> Request {
        Request::get(format!("{CSR_PATH}/{}", encoded(&self.name)))
    }

    /// The HTTP request that lists only this object. The answer has the server's current resource version, from which a
    /// watch can begin.
    pub(crate) fn list(&self) -> Request {
        Request::get(format!("{CSR_PATH}?fieldSelector=metadata.name%3D{}", encoded(&self.name)))
    }

    /// The HTTP request that watches the object for changes after `resource_version`. The server ends the watch after
    /// `seconds`.
    pub(crate) fn watch(&self, resource_version: &str, seconds: u64) -> Request {
        Request::get(format!(
            "{CSR_PATH}?watch=true&fieldSelector=metadata.name%3D{}&resourceVersion={}&allowWatchBookmarks=true\
             &timeoutSeconds={seconds}",
            encoded(&self.name),
            encoded(resource_version),
        ))
    }

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

fn set(items: &[String]) -> BTreeSet<&String> {
    items.iter().collect()
}

/// Percent-encodes a value for a query or a path segment. Only unreserved characters stay as they are (RFC 3986 §2.3).
fn encoded(text: &str) -> PercentEncode<'_> {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, ESCAPED)
}
