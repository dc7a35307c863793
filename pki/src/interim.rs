//! The [`interim`] certificate of a server: made by the server, and served until the first serving certificate arrives.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial::{Template, UnixTime, Validity};

use crate::credential::Credential;
use crate::issue::{IssueError, Issuer, Terms, self_signed};
use crate::key::{KeyAlgorithm, KeyPair};
use crate::{KeyUsage, Usage, certificate_request, read_request, sha256};

/// The lifetime of an interim certificate.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// How long before the expiry of an interim certificate a new one replaces it.
const MARGIN: Duration = Duration::from_secs(6 * 3600);

/// Provides a server with [`interim`] certificates until its first serving certificate arrives: makes a new interim
/// certificate before the previous one expires.
#[derive(Debug)]
pub struct Interim {
    template: Template,
    current: Mutex<Arc<Credential>>,
}

impl Interim {
    /// Makes the first interim certificate, for the names of `template`.
    ///
    /// # Errors
    /// The errors of [`interim`].
    pub fn new(template: Template, now: UnixTime) -> Result<Self, IssueError> {
        let current = Mutex::new(Arc::new(interim(&template, now)?));
        Ok(Self { template, current })
    }

    /// The interim credential to serve at `now`. Makes a new credential if the previous one expires within 6 hours, or
    /// if the clock was set back to a time before its notBefore. If no new one can be made, returns the previous one,
    /// since verifying clients reject every interim certificate anyway.
    pub fn credential(&self, now: UnixTime) -> Arc<Credential> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let validity = current.chain().certificate().validity;
        let is_due = now < validity.not_before() || validity.expired(now.after(MARGIN));
        if is_due && let Ok(another) = interim(&self.template, now) {
            *current = Arc::new(another);
        }
        current.clone()
    }
}

/// Makes an interim serving credential for the names of `template`, valid for 24 hours from 5 minutes before `now`.
///
/// With this credential, clients that do not verify the server, such as liveness probes, can connect before the first
/// certificate is issued. Clients that verify the server reject the certificate: it is signed by a CA that is made for
/// this one signature, and that no client trusts.
///
/// # Errors
/// [`IssueError::Interim`] if no key can be generated, or a CSR cannot carry the names; also the errors of
/// [`Issuer::issue`].
pub fn interim(template: &Template, now: UnixTime) -> Result<Credential, IssueError> {
    let failed = |error: &dyn std::error::Error| IssueError::Interim(error.to_string());
    let generate = || KeyPair::generate(KeyAlgorithm::default()).map_err(|error| failed(&error)).map(Arc::new);
    // Backdated for clients whose clocks are behind.
    let begin = UnixTime::from_secs(now.as_secs()).before(Duration::from_secs(300));
    let validity = Validity::new(begin, begin.after(LIFETIME)).map_err(|error| failed(&error))?;

    let authority = generate()?;
    let serial = serial(&authority);
    let chain = self_signed("perennial interim", &authority, &serial, validity)?;
    let issuer = Issuer::new(Credential::new(chain, authority).map_err(|error| failed(&error))?)?;

    let key = generate()?;
    let request = certificate_request(template, &key).map_err(|error| failed(&error))?;
    let request = read_request(request.pem.as_bytes()).map_err(|error| failed(&error))?;
    let (key_usages, extended_key_usages) = (&[KeyUsage::DigitalSignature], &[Usage::ServerAuth]);
    let serial = self::serial(&key);
    let chain = issuer.issue(&request, &Terms { serial: &serial, validity, key_usages, extended_key_usages })?;
    Credential::new(chain, key).map_err(|error| failed(&error))
}

/// A serial number made of 16 octets of the key's digest, positive and without a leading zero (RFC 5280 §4.1.2.2).
/// Unique as long as the issuer issues one certificate per key.
fn serial(key: &KeyPair) -> [u8; 16] {
    let digest = sha256(key.public_key_der());
    let mut serial = [0; 16];
    serial.copy_from_slice(&digest[..16]);
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}
