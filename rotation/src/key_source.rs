//! [`KeySource`]: makes and finds the keys of a rotation that stay elsewhere, such as in an HSM.

use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial::{Template, printable};
use perennial_pki::{CertificateRequest, ExternalKey, ExternalKeyError, KeyAlgorithm, KeyPair, certificate_request};

use crate::exchange::text_of;

/// Makes and finds the keys of a rotation, for keys that stay elsewhere: in an HSM (PKCS#11), a TPM or a key management
/// service. [`Rotator::keys`](crate::Rotator::keys) sets it; without a source, keys are generated in memory.
///
/// [`make`](Self::make) and the signatures of CSRs may block: a runtime waits for them on a thread of its own. TLS
/// handshakes sign on the thread of their connection.
///
/// The store keeps [references](ExternalKey::reference) in place of keys. Every store can hold them but
/// [`Directory`](crate::Directory), whose files kubelet and kubectl read.
#[auto_impl::auto_impl(Arc)]
pub trait KeySource: Debug + Send + Sync {
    /// Makes a key of this kind, for a new request. A retry of the same request uses the same key without this call.
    ///
    /// `in_use` are the references of the keys of all certificates that are stored, served or waiting. A source may
    /// destroy every other key that it has made for the same rotation: keys of refused requests and of replaced
    /// certificates are found by nothing else.
    ///
    /// # Errors
    /// The key cannot be made. The request fails with this error, and is retried with a backoff.
    fn make(&self, algorithm: KeyAlgorithm, in_use: &[String]) -> Result<Arc<dyn ExternalKey>, ExternalKeyError>;

    /// Finds the key with this reference, of an earlier [`make`](Self::make). Called at the start of a rotation, for
    /// the stored certificate and for the pending record.
    ///
    /// # Errors
    /// There is no such key, or its device is absent. If the key is that of the stored certificate, the rotation does
    /// not start; if it is that of the pending record, the next request is a new one.
    fn find(&self, reference: &str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError>;

    /// True if [`make`](Self::make) may return a key that is in use, for devices with a fixed number of keys. False by
    /// default: the request then fails, since each certificate is to have a new key.
    ///
    /// A Kubernetes signer finds requests by their keys: with a reused key, a request within an hour of the last one
    /// finds the object of the last one, and fails until the API server has removed that object.
    fn reuses_keys(&self) -> bool {
        false
    }
}

/// A call of a [`KeySource`]: makes the key of a request, or uses the pending key again, and signs a CSR with it.
#[derive(Debug)]
pub struct KeyCall {
    pub(crate) source: Arc<dyn KeySource>,
    pub(crate) algorithm: KeyAlgorithm,
    /// The key of the request that is retried; `None`: make a new key.
    pub(crate) pending: Option<Arc<KeyPair>>,
    pub(crate) in_use: Vec<Arc<KeyPair>>,
    pub(crate) template: Arc<Template>,
}

/// The result of a [`KeyCall`]: the key and the CSR that it has signed, or an error.
#[derive(Debug)]
pub struct Keyed(pub(crate) Result<(Arc<KeyPair>, CertificateRequest), Unkeyed>);

/// The error of a [`KeyCall`], for people, with the key if there is one: a retry uses it.
#[derive(Debug)]
pub(crate) struct Unkeyed {
    pub(crate) key: Option<Arc<KeyPair>>,
    pub(crate) error: String,
}

impl KeyCall {
    /// Makes the call, which may block. A panic of the source is an error.
    pub fn run(&self) -> Keyed {
        let key = match &self.pending {
            Some(pending) => Ok(pending.clone()),
            None => contain(|| self.make()).map(Arc::new),
        };
        let key = match key {
            Ok(key) => key,
            Err(error) => return Keyed(Err(Unkeyed { key: None, error })),
        };
        let csr = contain(|| certificate_request(&self.template, &key).map_err(|error| error.to_string()));
        Keyed(match csr {
            Ok(csr) => Ok((key, csr)),
            Err(error) => Err(Unkeyed { key: Some(key), error }),
        })
    }

    fn make(&self) -> Result<KeyPair, String> {
        let references: Vec<String> = self.in_use.iter().filter_map(|key| key.reference()).map(str::to_owned).collect();
        let made = self.source.make(self.algorithm, &references);
        let made = made.map_err(|error| format!("cannot make a key: {}", printable(&error.to_string())))?;
        let key = KeyPair::external(made).map_err(|error| error.to_string())?;
        let is_used = |used: &Arc<KeyPair>| used.public_key_der() == key.public_key_der();
        let reference = key.reference().map(printable).unwrap_or_default();
        if key.algorithm() != self.algorithm {
            let (made, wanted) = (key.algorithm(), self.algorithm);
            return Err(format!("the key source made the {made} key {reference}; the signer's profile wants {wanted}"));
        }
        if self.in_use.iter().any(is_used) && !self.source.reuses_keys() {
            return Err(format!("the key source returned {reference}, which is in use: a certificate needs a new key"));
        }
        Ok(key)
    }
}

/// Calls code of the key source, which may panic.
fn contain<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let panicked = |panic: Box<dyn Any + Send>| format!("the key source panicked{}", text_of(&*panic));
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(panic)))
}
