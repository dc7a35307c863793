//! A certificate for the time before there is one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial::{Template, UnixTime, Validity};

use crate::credential::Credential;
use crate::issue::{IssueError, Issuer, Terms, self_signed};
use crate::key::{KeyAlgorithm, KeyPair};
use crate::{KeyUsage, Usage, certificate_request, read_request, sha256};

/// How long one is good for, and how long before its end another takes its place.
const LIFETIME: Duration = Duration::from_secs(86_400);
const MARGIN: Duration = Duration::from_secs(6 * 3600);

/// An [`interim`] certificate for as long as one is needed: before it ends, another is made.
#[derive(Debug)]
pub struct Interim {
    template: Template,
    held: Mutex<Arc<Credential>>,
}

impl Interim {
    /// For the names of `template`, from `now` on.
    ///
    /// # Errors
    /// As [`interim`].
    pub fn new(template: Template, now: UnixTime) -> Result<Self, IssueError> {
        let held = Mutex::new(Arc::new(interim(&template, now)?));
        Ok(Self { template, held })
    }

    /// The one to show now. Should making another fail, it is the one before, which nobody trusts any less.
    pub fn credential(&self, now: UnixTime) -> Arc<Credential> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let validity = held.chain().certificate().validity;
        let is_due = now < validity.not_before() || validity.expired(now.after(MARGIN));
        if is_due && let Ok(another) = interim(&self.template, now) {
            *held = Arc::new(another);
        }
        held.clone()
    }
}

/// A serving certificate for the names of `template` that nobody trusts, good for a day from `now`: so that who
/// does not verify, or wants to know whether anybody is there, can connect before the first real one is issued. Its
/// authority existed for that one signature.
///
/// # Errors
/// [`IssueError`]: no key could be made, or the names cannot be written.
pub fn interim(template: &Template, now: UnixTime) -> Result<Credential, IssueError> {
    let failed = |error: &dyn std::error::Error| IssueError::Interim(error.to_string());
    let generate = || KeyPair::generate(KeyAlgorithm::default()).map_err(|error| failed(&error)).map(Arc::new);
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

/// Of a key that is used once: as random as the key is, positive and not too long.
fn serial(key: &KeyPair) -> [u8; 16] {
    let digest = sha256(key.public_key_der());
    let mut serial = [0; 16];
    serial.copy_from_slice(&digest[..16]);
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}
