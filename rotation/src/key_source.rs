//! [`KeySource`]: makes and finds the keys of a rotation, which stay elsewhere, such as in an HSM.

use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial::{Template, printable};
use perennial_pki::{CertificateRequest, ExternalKey, ExternalKeyError, KeyAlgorithm, KeyPair, certificate_request};

use crate::exchange::text_of;

/// Makes and finds the keys of a rotation, which stay elsewhere: in an HSM (PKCS#11), a TPM or a key management
/// service. [`Rotator::keys`](crate::Rotator::keys) sets the key source; without one, the rotation generates keys in
/// memory.
///
/// [`make`](Self::make) and the signatures of CSRs may block: a runtime waits for them on a thread of its own. TLS
/// handshakes sign on the thread of their connection. A call that never returns would keep all later requests from
/// their keys, and [`Handle::shutdown`](crate::Handle::shutdown) from its end: give the device a time limit.
///
/// The store keeps [references](ExternalKey::reference) in place of keys. Of the stores of this crate, only
/// [`Directory`](crate::Directory) refuses references, since kubelet and kubectl read its files.
#[auto_impl::auto_impl(Arc)]
pub trait KeySource: Debug + Send + Sync {
    /// Makes a key of this kind, for a new request. A retry of a request uses the key of that request, and calls this
    /// method only if that key cannot sign and [`find`](Self::find) does not find it.
    ///
    /// `in_use` are the references of the keys of all certificates that are stored, served or waiting. A source may
    /// destroy every other key that it has made for the same rotation. No other call names keys that are out of use,
    /// such as those of refused requests and of replaced certificates.
    ///
    /// # Errors
    /// The key cannot be made. The request fails with this error, and is retried with a backoff.
    fn make(&self, algorithm: KeyAlgorithm, in_use: &[String]) -> Result<Arc<dyn ExternalKey>, ExternalKeyError>;

    /// Finds the key with this reference, which an earlier [`make`](Self::make) has returned. Called at the start of a
    /// rotation, for the stored certificate and for the pending record, and later if the key of a retried request
    /// cannot sign.
    ///
    /// # Errors
    /// There is no such key, or its device is absent. If the key is that of the stored certificate, the rotation does
    /// not start. If the key is that of the pending record, the next request is a new one. If the key is that of a
    /// retried request, [`make`](Self::make) is called for a new one.
    fn find(&self, reference: &str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError>;

    /// True if [`make`](Self::make) may return a key that is in use, for devices with a fixed number of keys. False by
    /// default: a request with such a key then fails, since each certificate should have a new key.
    ///
    /// With a Kubernetes signer, a reused key delays rotations. The name of a request object is made from key and
    /// template, so that a request with the key of the last one finds the object of the last one. The new request fails
    /// until that object is removed, about an hour after its approval.
    fn reuses_keys(&self) -> bool {
        false
    }
}

/// A call of a [`KeySource`]: makes the key of a request, or uses the pending key again, and signs a CSR with it. A
/// rotation without a key source has such a call for an RSA key, whose generation takes up to seconds.
#[derive(Debug)]
pub struct KeyCall {
    /// `None`: the key is generated in memory.
    pub(crate) source: Option<Arc<dyn KeySource>>,
    pub(crate) algorithm: KeyAlgorithm,
    /// The key of the request that is retried; `None`: make a new key.
    pub(crate) pending: Option<Arc<KeyPair>>,
    pub(crate) in_use: Vec<Arc<KeyPair>>,
    pub(crate) template: Arc<Template>,
}

/// The result of a [`KeyCall`]: the key and the CSR that it has signed, or an error.
#[derive(Debug)]
pub struct Keyed(pub(crate) Result<(Arc<KeyPair>, CertificateRequest), Unkeyed>);

/// The error of a [`KeyCall`], for people. If the call has a key in spite of the error, a retry uses that key.
#[derive(Debug)]
pub(crate) struct Unkeyed {
    pub(crate) key: Option<Arc<KeyPair>>,
    pub(crate) error: String,
}

impl KeyCall {
    /// Makes the call, which may block. If the source panics, returns the panic as an error.
    pub fn run(&self) -> Keyed {
        let made = || contain(|| self.make());
        let Some(pending) = &self.pending else {
            return Keyed(made().map_err(|error| Unkeyed { key: None, error }).and_then(|key| self.sign(key)));
        };
        let signed = self.sign(pending.clone());
        if signed.is_ok() {
            return Keyed(signed);
        }
        // The key may need a new session with its device. If the device has lost the key, no retry with it can succeed.
        // If the device is absent, neither call succeeds, and the key stays pending.
        let again = contain(|| self.find(pending)).or_else(|_| made());
        Keyed(again.map_or(signed, |key| self.sign(key)))
    }

    fn sign(&self, key: Arc<KeyPair>) -> Result<(Arc<KeyPair>, CertificateRequest), Unkeyed> {
        match contain(|| certificate_request(&self.template, &key).map_err(|error| error.to_string())) {
            Ok(csr) => Ok((key, csr)),
            Err(error) => Err(Unkeyed { key: Some(key), error }),
        }
    }

    fn find(&self, key: &KeyPair) -> Result<Arc<KeyPair>, String> {
        let source = self.source.as_ref().ok_or("there is no key source")?;
        let found = KeyPair::from_pem_with(&*key.to_pem(), |reference| source.find(reference));
        found.map(Arc::new).map_err(|error| error.to_string())
    }

    fn make(&self) -> Result<Arc<KeyPair>, String> {
        let Some(source) = &self.source else {
            return KeyPair::generate(self.algorithm).map(Arc::new).map_err(|error| error.to_string());
        };
        let references: Vec<String> = self.in_use.iter().filter_map(|key| key.reference()).map(str::to_owned).collect();
        let made = source.make(self.algorithm, &references);
        let made = made.map_err(|error| format!("cannot make a key: {}", printable(&error.to_string())))?;
        let key = KeyPair::external(made).map_err(|error| error.to_string())?;
        let is_used = |used: &Arc<KeyPair>| used.public_key_der() == key.public_key_der();
        let reference = key.reference().map(printable).unwrap_or_default();
        if !self.algorithm.admits(key.algorithm()) {
            let (made, wanted) = (key.algorithm(), self.algorithm);
            return Err(format!("the key source made the {made} key {reference}; the signer's profile wants {wanted}"));
        }
        if self.in_use.iter().any(is_used) && !source.reuses_keys() {
            return Err(format!("the key source returned {reference}, which is in use: a certificate needs a new key"));
        }
        Ok(Arc::new(key))
    }
}

/// Calls code of the key source. If the code panics, returns the panic as an error.
fn contain<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let panicked = |panic: Box<dyn Any + Send>| format!("the key source panicked{}", text_of(&*panic));
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(panic)))
}
